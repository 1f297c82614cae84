"""Clients' prompts that have ended, and whose results are gone with the process of their instance.

A process may end a moment after a prompt of it has, and come back with an empty history or an empty
disk. Whoever heard of the end is not told a second one, so nothing runs twice for a client:

* a success of which nobody was told (its client only polls, and has asked for nothing since) runs
  once more, under its id, as if it had not ended;
* any other prompt gets an entry of our own (``own_history.py``): with its end if that was an error
  or an interruption, else as failed, because what it made cannot be had.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.prompts.hung_prompts import is_paid
from comfy_proxy.gateway.prompts.own_history import OwnHistory, ResultsLostError
from comfy_proxy.ledger import events
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.states import Ending

MAX_UNTOLD: Final = 1_000
"""Prompts whose success nobody was told yet. Beyond them the one that ended first counts as told:
if its results are lost its history is empty, as ComfyUI's own would be."""
MAX_UNTOLD_BYTES: Final = 32 * 2**20
"""Bytes of the bodies with which these were posted; beyond them too the first ones count as
told."""
AGAIN_S: Final = 60.0
"""Seconds after its end in which the files of a prompt are looked for when its instance was in
trouble, and in which it may run once more: a client that polls asks within them. Later they are
looked for when it is asked for, and it has failed then, so that a disk which is emptied has not all
runs of the last hours repeated for clients that never ask."""


@dataclass(frozen=True, slots=True)
class _Untold:
    """A success of which nobody was told. ``again``: the prompt has run once more already."""

    prompt: Prompt
    ended_at: float
    again: bool

    @property
    def size(self) -> int:
        return 0 if self.prompt.post is None else len(self.prompt.post.body)


class Entry(Protocol):
    """``views/kept_entries.py``: of the prompt of that id, kept of that instance."""

    @property
    def prompt_id(self) -> str: ...
    @property
    def instance(self) -> Instance | None: ...


class LostResults:
    """``listens`` tells whether a client of that id has a socket here, and so hears of ends.

    What is told of it: :meth:`observe` the ends, :meth:`shown` what clients were shown,
    :meth:`unread` and :meth:`files_gone` what is lost.
    """

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        own_history: OwnHistory,
        listens: Callable[[str], bool],
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._own_history = own_history
        self._listens = listens
        self._untold: OrderedDict[str, _Untold] = OrderedDict()
        self._bytes = 0
        self._again: set[Prompt] = set()

    def __repr__(self) -> str:
        return f"<LostResults {len(self._untold)} untold>"

    def observe(self, change: Change) -> None:
        """An observer of the ledger: which successes nobody has heard."""
        prompt, end = change.prompt, change.prompt.end
        if change.is_acceptance:
            self.shown([prompt.prompt_id])
        if not change.is_end:
            return
        again = prompt in self._again
        self._again.discard(prompt)
        if prompt.job is not None or end is None or end.ending is not Ending.SUCCESS:
            return
        heard = prompt.client_id is not None and self._listens(prompt.client_id)
        if not heard and not prompt.deleted:
            self._add(_Untold(prompt, self._cluster.clock.monotonic(), again))

    def untold_at(self, instance: Instance) -> list[str]:
        """The ids of those that have ended there within AGAIN_S."""
        return [
            prompt_id
            for prompt_id, one in self._untold.items()
            if one.prompt.instance is instance and self._is_fresh(one)
        ]

    def _is_fresh(self, one: _Untold) -> bool:
        return self._cluster.clock.monotonic() - one.ended_at <= AGAIN_S

    def shown(self, prompt_ids: Iterable[str | None] | None) -> None:
        """A client was shown that these prompts have ended (None: all of them), has deleted them,
        or has posted others under their ids."""
        for prompt_id in tuple(self._untold) if prompt_ids is None else prompt_ids:
            if prompt_id is not None:
                self._take(prompt_id)

    def unread(self, prompt: Prompt, instance: Instance) -> None:
        """``prompt`` has ended at ``instance``, and its entry is gone from there for certain,
        before it was read.

        If the instance was removed a success that was told is forgotten, as if it had been read.
        """
        untold = self._take(prompt.prompt_id)
        if untold is None:
            if not instance.left or prompt.end is None or prompt.end.ending is not Ending.SUCCESS:
                self._fail(prompt, instance)
        elif not self._runs_again(untold, instance):
            self._fail(prompt, instance)

    def files_gone(self, entry: Entry) -> None:
        """Files that a kept ``entry`` names are gone from its instance, so it is forgotten. Whoever
        was told of it has had the time to read them."""
        untold, instance = self._take(entry.prompt_id), entry.instance
        if untold is None or instance is None:
            return
        if not self._is_fresh(untold) or not self._runs_again(untold, instance):
            self._fail(untold.prompt, instance)

    def _add(self, one: _Untold) -> None:
        self._take(one.prompt.prompt_id)
        self._untold[one.prompt.prompt_id] = one
        self._bytes += one.size
        while len(self._untold) > 1 and (
            len(self._untold) > MAX_UNTOLD or self._bytes > MAX_UNTOLD_BYTES
        ):
            self._take(next(iter(self._untold)))

    def _take(self, prompt_id: str) -> _Untold | None:
        untold = self._untold.pop(prompt_id, None)
        self._bytes -= 0 if untold is None else untold.size
        return untold

    def _runs_again(self, untold: _Untold, instance: Instance) -> bool:
        """Have it run once more. False if it may not: it did so before, its body is not in memory
        any more, it uses a paid service, or another prompt lives under its id."""
        old = untold.prompt
        post = old.post
        if untold.again or post is None or not post.body or is_paid(post.body):
            return False
        if self._ledger.find(old.prompt_id) is not None:
            return False
        prompt = Prompt(
            prompt_id=old.prompt_id,
            post=post,
            work=old.work,
            number=old.number,
            accepted_at=old.accepted_at,
            accepted_time=old.accepted_time,
            trace=old.trace,
        )
        self._again.add(prompt)
        self._ledger.apply(events.BeginsAnew(prompt=prompt, instance=instance))
        with prompt.context():
            logger.bind(instance=instance.host).warning(
                "prompt {} runs once more: it had ended at {}, which has lost its results",
                prompt.prompt_id,
                instance.host,
            )
        return True

    def _fail(self, prompt: Prompt, instance: Instance) -> None:
        away = "was removed" if instance.left else "was started again"
        how = "It ran to its end" if prompt.end is not None else "It has ended"
        error = ResultsLostError(f"{how}, but its instance {away} before its results were read.")
        self._own_history.add_ended(prompt, error)
        with prompt.context():
            logger.bind(instance=instance.host).warning(
                "prompt {} has ended at {}, which has lost its entry",
                prompt.prompt_id,
                instance.host,
            )
