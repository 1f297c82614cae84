"""What can happen to prompts: the only arguments of :meth:`Ledger.apply`.

Those with a ``prompt`` come from whoever carries that prompt and must fit its state. Those with a
``prompt_id`` come from instances and clients, which may tell anything at any time: what fits no
living prompt is not news.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.ledger.prompt import End, Prompt
from comfy_proxy.ledger.states import State


@dataclass(frozen=True, kw_only=True, slots=True)
class Received:
    """A request brought ``prompt``."""

    prompt: Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """``instance`` is being sent ``prompt`` now; its events may tell of it before it answers.
    ``number`` is the one that it is sent with, None if the instance is to choose."""

    prompt: Prompt
    instance: Instance
    number: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """``instance``, which was sent ``prompt``, has not taken it. ``died``: its process ended over
    it, which counts as a loss (``cluster/retry_law.py``). ``unsure``: it hangs, and may have it."""

    prompt: Prompt
    instance: Instance
    died: bool = False
    unsure: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """The instance that was sent ``prompt`` has taken it, under an id and a number of its own
    choice; ``number`` is None if it does not tell."""

    prompt: Prompt
    prompt_id: str
    number: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Began:
    """An event of ``instance`` tells that the prompt runs there."""

    prompt_id: str
    instance: Instance


@dataclass(frozen=True, kw_only=True, slots=True)
class NodesCached:
    """An event of ``instance`` tells that the prompt, which runs there, takes the results of
    ``nodes`` from ComfyUI's cache."""

    prompt_id: str
    instance: Instance
    nodes: frozenset[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeReached:
    """An event of ``instance`` tells that the prompt has come to ``node``, so it is not all from
    the cache."""

    prompt_id: str
    instance: Instance
    node: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EndTold:
    """An event of ``instance`` tells how the prompt ended. Whether a node ran, its event does not
    tell: ``end.worked`` is overwritten by what the ledger has heard."""

    prompt_id: str
    instance: Instance
    end: End


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """``prompt`` is over: ``/history`` says so, or whoever carries it."""

    prompt: Prompt
    end: End


@dataclass(frozen=True, kw_only=True, slots=True)
class Deleted:
    """Clients have deleted these prompts as far as they wait; None stands for all.

    ``running``: those that run were interrupted as well, and are not to be submitted again.
    """

    prompt_ids: Collection[str] | None
    running: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class DeletionUndone:
    """``prompt`` is in its instance's queue though a client deleted it: it ran already."""

    prompt: Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class MoveBegan:
    """``prompt`` is about to be taken out of its instance's queue, where ``queue_entry`` is its
    entry."""

    prompt: Prompt
    queue_entry: list[Any] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class TakenAway:
    """It is proven that ``prompt``, which moves, is no longer at its instance and never ran."""

    prompt: Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Stayed:
    """``prompt`` cannot be moved from where it is: it is not tried again."""

    prompt: Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Doubted:
    """``instance`` was away, or is: its process may have ended, and its queue with it.

    ``over`` are those of its prompts that must have ended before, by the length of its queue.
    """

    instance: Instance
    over: Collection[Prompt] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleared:
    """What ``instance`` may have lost has been found out, for all doubts up to the number
    ``doubt``; later ones stay, because it was asked before they arose."""

    instance: Instance
    doubt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """It is proven that ``prompt`` was lost with the process of its instance. ``ran``: it was the
    one that ran there, which counts as a loss (``cluster/retry_law.py``)."""

    prompt: Prompt
    ran: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenUp:
    """The instance of ``prompt`` is away, or hangs, and nobody waits for it any more: the prompt
    goes on elsewhere, though it may be there still. ``ran``: it was the one that ran there; a
    second time that ends it."""

    prompt: Prompt
    ran: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class RanOutOfMemory:
    """``prompt`` has ended at its instance for want of memory. That is not its end: it is to run
    once more, there or elsewhere."""

    prompt: Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class BeginsAnew:
    """``prompt``, a record that nobody has seen yet, takes the place of one that has ended well at
    ``instance``. Nobody was told so, and what it made is gone: it is to run once more."""

    prompt: Prompt
    instance: Instance


@dataclass(frozen=True, kw_only=True, slots=True)
class Restarted:
    """It is proven that the process of ``instance`` has ended since it was last asked."""

    instance: Instance


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """``instance`` has that prompt, which did not come through us or ended long ago."""

    prompt_id: str
    instance: Instance


@dataclass(frozen=True, kw_only=True, slots=True)
class Removed:
    """``instance`` has left for good: what ended there is not to be asked for there any more."""

    instance: Instance


Event = (
    Received
    | Sent
    | Refused
    | Accepted
    | Began
    | NodesCached
    | NodeReached
    | EndTold
    | Finished
    | Deleted
    | DeletionUndone
    | MoveBegan
    | TakenAway
    | Stayed
    | Doubted
    | Cleared
    | Lost
    | GivenUp
    | RanOutOfMemory
    | BeginsAnew
    | Restarted
    | Found
    | Removed
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What an event has changed: the record of ``prompt`` from state ``old`` to ``new``, which are
    the same where only the record's other fields did. ``event`` is the one that was applied."""

    prompt: Prompt
    old: State
    new: State
    event: Event

    @property
    def is_acceptance(self) -> bool:
        """An instance has just taken the prompt."""
        return isinstance(self.event, Accepted) and self.old is State.SUBMITTING

    @property
    def is_end(self) -> bool:
        """The prompt has just ended; that is told once in its life."""
        return self.new is State.ENDED and self.old is not State.ENDED
