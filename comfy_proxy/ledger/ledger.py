"""The one owner of what has become of each prompt."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.ledger import events, loss_steps, steps
from comfy_proxy.ledger.books import MAX_OWNERS, Books
from comfy_proxy.ledger.changes import Now
from comfy_proxy.ledger.events import Change, Event
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.states import IllegalTransitionError, State
from comfy_proxy.ledger.transit import Transit
from comfy_proxy.observers import tell

Observer = Callable[[Change], None]

_STEPS: Final[Mapping[type[Any], Callable[[Books, Any, Now], Iterable[Change]]]] = {
    events.Received: steps.received,
    events.Sent: steps.sent,
    events.Refused: steps.refused,
    events.Accepted: steps.accepted,
    events.Began: steps.began,
    events.NodesCached: steps.nodes_cached,
    events.NodeReached: steps.node_reached,
    events.EndTold: steps.end_told,
    events.Finished: steps.finished,
    events.Deleted: steps.deleted,
    events.DeletionUndone: steps.deletion_undone,
    events.MoveBegan: steps.move_began,
    events.TakenAway: steps.taken_away,
    events.Stayed: steps.stayed,
    events.Doubted: loss_steps.doubted,
    events.Cleared: loss_steps.cleared,
    events.Lost: loss_steps.lost,
    events.GivenUp: loss_steps.given_up,
    events.RanOutOfMemory: loss_steps.ran_out_of_memory,
    events.BeginsAnew: loss_steps.begins_anew,
    events.Restarted: loss_steps.restarted,
    events.Found: steps.found,
    events.Removed: loss_steps.removed,
}

_FIRST: Final = (events.Received, events.BeginsAnew)
"""Events of prompts that the ledger does not know yet."""


class Ledger:
    """Every prompt that was received and has not ended, and the owners of those that ended.

    :meth:`apply` alone writes. ``observers`` hear of each change right after it, in the order in
    which they were added; they may read, and begin tasks, but must not apply anything themselves.
    """

    def __init__(self, clock: Clock, *, max_owners: int = MAX_OWNERS) -> None:
        self._clock = clock
        self._books = Books(max_owners)
        self._telling = False
        self.observers: list[Observer] = []

    def __repr__(self) -> str:
        return f"<Ledger {sum(1 for _ in self._books.live())} prompts>"

    def apply(self, event: Event) -> bool:
        """Book what has happened; True if it changed anything.

        Raises IllegalTransitionError, and nothing has changed, if the prompt of the event cannot
        go there; RuntimeError if an observer calls it.
        """
        if self._telling:
            raise RuntimeError("An observer of the ledger must not write to it.")
        prompt = getattr(event, "prompt", None)
        if prompt is not None and not isinstance(event, _FIRST):
            self._require(prompt)
        now = Now(self._clock.monotonic(), self._clock.now().timestamp())
        changes = list(_STEPS[type(event)](self._books, event, now))
        self._telling = True
        try:
            for change in changes:
                tell(self.observers, change)
        finally:
            self._telling = False
        return bool(changes)

    def _require(self, prompt: Prompt) -> None:
        if not self._books.lists(prompt):
            raise IllegalTransitionError(
                f"The prompt {prompt.prompt_id} has ended, or was never received."
            )

    # --- questions ---------------------------------------------------------------------------

    def find(self, prompt_id: str) -> Prompt | None:
        """The accepted prompt of that id that has not ended; of several the newest."""
        return self._books.find(prompt_id)

    def __contains__(self, prompt_id: object) -> bool:
        """True if an accepted prompt of that id has not ended."""
        return isinstance(prompt_id, str) and self.find(prompt_id) is not None

    def find_at(self, prompt_id: str, instance: Instance) -> Prompt | None:
        """The prompt of that id that waits or runs at ``instance``."""
        prompt = self._books.at(instance, prompt_id)
        return prompt if prompt is not None and prompt.at(instance) else None

    def at(self, instance: Instance) -> list[Prompt]:
        """Those that wait or run there, in the order in which they came."""
        return self._books.places[instance]

    def running(self, instance: Instance) -> Prompt | None:
        """Which of them runs there, as far as is known: the one that an event named last."""
        return self._books.places.running(instance)

    @property
    def transit(self) -> Transit:
        """Those that were accepted and are at no instance."""
        return self._books.transit

    def submitting(self, instance: Instance | None = None) -> list[Prompt]:
        """Those that ``instance``, or any, is being sent and has not answered for."""
        return [one for one in self._books.submitting if instance in (None, one.target)]

    def owner(self, prompt_id: str) -> Instance | None:
        """Which instance has that prompt, or had it when it ended; None if nobody knows."""
        return self._books.owner(prompt_id)

    @property
    def doubt(self) -> int:
        """The number of the latest doubt about any instance."""
        return self._books.doubts

    def doubtful(self, instance: Instance) -> list[Prompt]:
        """Those of which nobody knows yet whether they were lost with its process."""
        return [one for one in self.at(instance) if one.attempts[-1].doubt is not None]

    def suspect(self, instance: Instance) -> Prompt | None:
        """Who ran there when it was first found away; None if nobody of ours, or no doubt is."""
        return self._books.suspects.get(instance)

    def live(self) -> Collection[Prompt]:
        """Every prompt that has not ended."""
        return list(self._books.live())


def is_elsewhere(ledger: Ledger, prompt_id: str, instance: Instance) -> bool:
    """Whether that prompt is, or ended, somewhere else: what ``instance`` tells of it is of an
    attempt that counts no more. False for one that nobody knows."""
    prompt = ledger.find(prompt_id)
    if prompt is None:
        return ledger.owner(prompt_id) not in (None, instance)
    return not prompt.at(instance) and prompt.target is not instance


def probable_runner(ledger: Ledger, instance: Instance) -> Prompt | None:
    """The prompt that runs at ``instance``, of a client or a job: the one of which an event has
    told; if none has (nobody listens, say) the first in the order in which ComfyUI runs them."""
    running = ledger.running(instance)
    if running is not None and running.state is State.RUNNING:
        return running
    there = [one for one in ledger.at(instance) if not one.attempts[-1].presumed_over]
    return min(there, key=lambda one: one.number, default=None)
