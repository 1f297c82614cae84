"""Asks instances what became of prompts whose end nobody has heard, and tells the ledger.

Of a client that listens the frames tell how its prompts end. Of one that only asks, has left, or
has missed a frame, the newest entries of ``/history`` are looked at whenever its instance's queue
has changed: ComfyUI tells such events to nobody. Only what was deleted, what has an id that was in
use before, and what is left where nothing waits any more, is asked for by id, in the queue first:
what a look costs does not depend on how much waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_lists import history_path
from comfy_proxy.cluster.prompt_outcomes import told_by
from comfy_proxy.dispatch.second_tries import SecondTries
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.exchange.scanned import ask_history, ask_queue
from comfy_proxy.gateway.files.made_files import MadeFiles
from comfy_proxy.ledger import events
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import End, Prompt
from comfy_proxy.ledger.states import Ending, State
from comfy_proxy.tracing import untraced

NEWEST = 2
"""So many entries of the history are looked at, four times as many while ends are among them."""
MAX_NEWEST = 2048
"""Entries of the history that one look reads at most; what ended before is asked for by id."""
MAX_BY_ID = 100
"""So many prompts are looked for one by one where nothing waits or runs any more; the others at the
next look."""


class Reconciler:
    """``listens`` tells whether a client of some clientId has a socket here."""

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        *,
        made_files: MadeFiles,
        listens: Callable[[str], bool],
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._made_files = made_files
        self._listens = listens
        self._second_tries = SecondTries.of(cluster, ledger)
        self._remaining: dict[Instance, int] = {}
        self._news: set[Instance] = set()
        self._lookers: dict[Instance, asyncio.Task[None]] = {}
        self._closed = False
        ledger.observers.append(self._observe)

    def load_changed(self, instance: Instance) -> None:
        """A ``status`` frame of ``instance`` has come, perhaps one of many that tell the same."""
        if self._remaining.get(instance) != instance.prompts.queue_remaining:
            self._remaining[instance] = instance.prompts.queue_remaining
            self._look_at(instance)

    async def close(self) -> None:
        """Look no more."""
        self._closed = True
        for looker in self._lookers.values():
            looker.cancel()
        await asyncio.gather(*self._lookers.values(), return_exceptions=True)

    def _observe(self, change: Change) -> None:
        prompt, instance = change.prompt, change.prompt.instance
        if instance is None or prompt.job is not None:
            return
        attempt = prompt.attempts[-1]
        match change.event:
            case events.Accepted():
                self._remaining.pop(instance, None)  # it may end before a frame tells of it
                # Or has ended before its answer came, and no other frame is to come: as far as is
                # known it is alone there.
                if instance.prompts.queue_remaining <= 1:
                    self._look_at(instance)
            case events.Deleted() | events.EndTold() | events.Began() | events.Stayed() if (
                prompt.deleted or attempt.end is not None or attempt.presumed_over
            ):
                self._look_at(instance)

    def _look_at(self, instance: Instance) -> None:
        if self._closed or not self._followed(instance):
            return
        self._news.add(instance)
        looker = self._lookers.get(instance)
        if looker is None or looker.done():
            self._lookers[instance] = asyncio.create_task(
                self._look(instance), name=f"ends at {instance.host}", context=untraced()
            )

    def _followed(self, instance: Instance) -> list[Prompt]:
        """Those at ``instance`` that nobody else follows, as a job's prompt is."""
        return [prompt for prompt in self._ledger.at(instance) if prompt.job is None]

    async def _look(self, instance: Instance) -> None:
        while instance in self._news:
            self._news.discard(instance)
            try:
                if any(self._is_unheard(prompt) for prompt in self._followed(instance)):
                    await self._look_at_newest(instance)
                left = self._followed(instance)
                if instance.load > 0:
                    by_id = [one for one in left if one.deleted or one.reused]
                    left = [one for one in by_id if self._is_unheard(one)]
                if left:
                    await self.look_for(left[:MAX_BY_ID], instance)
            except InstanceError as error:  # the next frame, or check, comes back here
                logger.debug("no ends can be looked for at {}: {}", instance.host, error.message)
            except Exception as error:
                logger.opt(exception=error).error("looking for ends at {} broke", instance.host)

    def _is_unheard(self, prompt: Prompt) -> bool:
        attempt = prompt.attempts[-1]
        if attempt.end is not None or attempt.presumed_over or prompt.deleted:
            return True
        return prompt.client_id is None or not self._listens(prompt.client_id)

    async def _look_at_newest(self, instance: Instance) -> None:
        """Entries that ended last, more of them as long as all or some are news."""
        size = NEWEST
        while size <= MAX_NEWEST:
            entries = await self._history(f"/history?max_items={size}", instance)
            news = [
                key
                for key, entry in entries.items()
                if not self._is_reused(key, instance) and self._settle(key, entry, instance)
            ]
            if not news or len(entries) < size:
                return
            size *= 4

    def _is_reused(self, prompt_id: str, instance: Instance) -> bool:
        """The entry of that id may be an earlier prompt's."""
        prompt = self._ledger.find_at(prompt_id, instance)
        return prompt is not None and prompt.reused

    async def look_for(self, prompts: Sequence[Prompt], instance: Instance) -> None:
        """One by one: each is in the history, or still in the queue, or gone. Books those that have
        ended. Raises InstanceError."""
        if (queue := await ask_queue(instance, self._cluster)) is None:
            return
        there = queue.view()
        for prompt in prompts:
            if prompt.prompt_id in there:
                if prompt.deleted and prompt.at(instance):
                    self._ledger.apply(events.DeletionUndone(prompt=prompt))
            elif self._must_be_there(prompt, instance):
                history = await self._history(history_path(prompt.prompt_id), instance)
                entry = history.get(prompt.prompt_id)
                if not self._settle(prompt.prompt_id, entry, instance):
                    self._is_gone(prompt, instance)

    def _must_be_there(self, prompt: Prompt, instance: Instance) -> bool:
        """If ``instance`` does not have it, it has ended."""
        moves = prompt.state is State.MOVING
        return prompt.at(instance) and not moves and not self._ledger.doubtful(instance)

    def _is_gone(self, prompt: Prompt, instance: Instance) -> None:
        """Neither queue nor history has it."""
        if not self._must_be_there(prompt, instance):
            return
        if prompt.deleted:
            end = End(ending=Ending.CANCELLED)
            self._ledger.apply(events.Finished(prompt=prompt, end=end))
        elif instance.signs.troubled_since(prompt.attempts[-1].sent_at):
            self._ledger.apply(events.Doubted(instance=instance))
        else:
            self._ledger.apply(events.Finished(prompt=prompt, end=End(ending=Ending.VANISHED)))
            with prompt.context():
                logger.info("prompt {} has left no history", prompt.prompt_id)

    async def _history(self, path: str, instance: Instance) -> dict[str, Any]:
        return await ask_history(instance, self._cluster, path) or {}

    def _settle(self, prompt_id: str, entry: Any, instance: Instance) -> bool:
        """True if that was news: the end of a prompt that is followed there."""
        prompt = self._ledger.find_at(prompt_id, instance)
        if prompt is None or prompt.job is not None or (told := told_by(entry)) is None:
            return False
        if self._second_tries.goes_on(prompt_id, instance, told.error):
            return True
        self._made_files.entries_read({prompt_id: entry}, instance)
        self._ledger.apply(events.Finished(prompt=prompt, end=End.of(told)))
        return True
