"""The record of one prompt, and of each time that an instance was sent it.

Only :meth:`Ledger.apply` writes these fields, ``body`` and ``graph`` apart (see
``gateway/prompts/spool.py``). Times are monotonic seconds where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.slot import Standing
from comfy_proxy.cluster.planning.work import Work
from comfy_proxy.cluster.prompt_outcomes import Told
from comfy_proxy.cluster.retry_law import Tries
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.errors import ComfyProxyError
from comfy_proxy.ledger.states import TRANSITIONS, Ending, IllegalTransitionError, State
from comfy_proxy.metrics.records import Outcome
from comfy_proxy.tracing import TRACE, Trace, about, traced

_ENDINGS: Mapping[Outcome, Ending] = {
    Outcome.COMPLETED: Ending.SUCCESS,
    Outcome.FAILED: Ending.ERROR,
    Outcome.CANCELLED: Ending.INTERRUPTED,
}


_NONE: ByInstance[Mapping[str, str]] = ByInstance()


class PostHeaders:
    """The headers of a client's post for each instance: ``common``, and its ``own`` for one that
    differs. One that joins later is sent the common ones."""

    __slots__ = ("common", "own")

    def __init__(
        self, common: Mapping[str, str], own: Mapping[Instance, Mapping[str, str]] = _NONE
    ) -> None:
        self.common = common
        self.own = ByInstance[Mapping[str, str]]() if own else _NONE
        for instance, headers in own.items():
            self.own[instance] = headers

    def __getitem__(self, instance: Instance) -> Mapping[str, str]:
        return self.own.get(instance, self.common)


@dataclass(kw_only=True, slots=True, eq=False)
class ClientPost:
    """The ``POST /prompt`` of a client, as it is sent to instances.

    ``path`` is the client's own, encoded, with its query; ``headers`` differ where an instance has
    credentials, or knows the user by another id. ``body`` is in ``charset``. ``placed``: the client
    chose its place in the queue, by ``number`` or ``front``. Both ``body`` and ``graph`` are empty
    while the body is in a file.
    """

    path: str
    client_id: str | None
    headers: PostHeaders = field(repr=False)
    body: bytes = field(repr=False)
    charset: str = "utf-8"
    placed: bool = False
    graph: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRef:
    """The job of our own API for which a prompt is an attempt."""

    job_id: str
    job_type: str


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How a prompt ended, and what was told of it.

    ``execution_s`` and ``began_time`` (seconds since the epoch) are ComfyUI's own figures, None
    where they are not told. ``worked`` is False if every node came from ComfyUI's cache; ``cached``
    are the nodes that did as ``/history`` tells, None if it was not asked.
    """

    ending: Ending
    error: ComfyProxyError | None = None
    execution_s: float | None = None
    began_time: float | None = None
    worked: bool = True
    cached: frozenset[str] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, told: Told) -> End:
        """What a frame or an entry of ``/history`` tells."""
        return cls(
            ending=_ENDINGS[told.outcome],
            error=told.error,
            execution_s=told.execution_s,
            began_time=told.began_time,
            worked=told.worked,
            cached=told.cached,
        )


@dataclass(kw_only=True, slots=True, eq=False)
class Attempt:
    """One time that ``instance`` was sent the prompt.

    ``generation`` counts the processes that this instance is known to have had before: an attempt
    of an older generation cannot be there any more. ``accepted_at`` is when the instance answered
    that it took it, ``began_at`` when an event told that it runs, ``ended_at`` when it was there no
    longer, whatever the reason. ``node`` is the last one that the instance told it has come to,
    None if it told of none since the prompt began there. ``cached`` are the nodes whose results it
    took from its cache, None if it told of none.

    ``end`` is what a frame has told of its end before that end could be booked: before the answer
    to its POST, or without that anybody heard it begin (then ``/history`` knows its times).
    ``doubt`` is the number of the latest doubt about its instance, which was found away: the prompt
    may be lost with that process. It is None while there is none. ``lost``: it was lost so.
    ``given_up``: nobody waits for that instance any more; ``hung``: it ran there then.
    ``presumed_over``: it has ended, though nobody has heard how: another
    prompt runs there now, or the length of its instance's queue says so.
    ``out_of_memory``: it ended there for want of memory, and the prompt runs once more.
    ``stays``: the rebalancer has tried to move it and leaves it here.
    """

    instance: Instance
    generation: int
    sent_at: float
    accepted_at: float | None = None
    began_at: float | None = None
    ended_at: float | None = None
    node: str | None = None
    cached: frozenset[str] | None = None
    end: End | None = None
    doubt: int | None = None
    lost: bool = False
    given_up: bool = False
    hung: bool = False
    out_of_memory: bool = False
    presumed_over: bool = False
    stays: bool = False

    @property
    def worked(self) -> bool:
        """True once a node ran; until then all may have come from ComfyUI's cache."""
        return self.node is not None


@dataclass(kw_only=True, slots=True, eq=False)
class Prompt:
    """One prompt from the request that brought it to its end.

    ``post`` is the client's request, or ``job`` the job of ours that it belongs to; a prompt whose
    body we could not read has neither. ``number`` is the one that an instance gave it, by which
    queues are ordered. ``accepted_at`` and ``accepted_time`` (since the epoch) are those of its
    first acceptance. ``deleted``: a client has deleted it, so it is not submitted again.
    ``queue_entry`` is its entry of ``/queue`` while it moves:
    ``[number, id, graph, extra_data, outputs]``. ``renamed``: its instance gave it another id than
    its body has. ``reused``: another prompt had its id before, whose entry may be in an instance's
    history. ``work`` is what it needs and what drives its time, None where nobody could read it.
    ``fatal`` is the error that ends it after one loss too many. ``overtaken_s`` is for how many
    seconds it was overtaken at the instances that it has left; the planner's feed sets it.
    """

    prompt_id: str
    post: ClientPost | None = None
    job: JobRef | None = None
    work: Work | None = field(default=None, repr=False)
    number: float = 0
    state: State = State.RECEIVED
    attempts: list[Attempt] = field(default_factory=list)
    accepted_at: float | None = None
    accepted_time: float | None = None
    renamed: bool = False
    reused: bool = False
    deleted: bool = False
    queue_entry: list[Any] | None = field(default=None, repr=False)
    tries: Tries = field(default_factory=Tries)
    fatal: ComfyProxyError | None = None
    end: End | None = None
    trace: Trace | None = field(default_factory=TRACE.get, repr=False)
    overtaken_s: float = 0.0

    @property
    def client_id(self) -> str | None:
        """The clientId under which its events are sent, None if nobody gets any."""
        return None if self.post is None else self.post.client_id

    @property
    def standing(self) -> Standing:
        """What entitles it to its place among others."""
        placed = self.post is not None and self.post.placed
        return Standing(client=self.client_id, fixed=placed, overtaken_s=self.overtaken_s)

    @property
    def attempt(self) -> Attempt | None:
        """The latest one."""
        return self.attempts[-1] if self.attempts else None

    @property
    def instance(self) -> Instance | None:
        """Where it was accepted last, whether or not it is there still."""
        accepted = (one for one in reversed(self.attempts) if one.accepted_at is not None)
        return next((one.instance for one in accepted), None)

    @property
    def target(self) -> Instance | None:
        """Which instance is being sent it."""
        return self.attempts[-1].instance if self.state is State.SUBMITTING else None

    @property
    def ended(self) -> bool:
        return self.state is State.ENDED

    @property
    def in_transit(self) -> bool:
        """It was accepted and is at no instance: no queue and no history may show it now."""
        return self.state is State.MOVING or (
            self.state is State.SUBMITTING and self.accepted_at is not None
        )

    def at(self, instance: Instance) -> bool:
        """True while it waits or runs at ``instance``, or is just about to be taken away there."""
        last = self.attempt
        return last is not None and last.instance is instance and is_open(last)

    def check(self, new: State, *, only_from: Collection[State] = tuple(State)) -> None:
        """Raises IllegalTransitionError if its state is none of ``only_from`` or does not lead to
        ``new``."""
        if self.state not in only_from or new not in TRANSITIONS[self.state]:
            raise IllegalTransitionError(
                f"The prompt {self.prompt_id} is {self.state} and cannot become {new} so."
            )

    @contextmanager
    def context(self) -> Iterator[None]:
        """Inside the block log lines are about it, and requests are on behalf of its own."""
        with traced(self.trace), about(prompt_id=self.prompt_id):
            yield


def is_open(attempt: Attempt) -> bool:
    """True while the instance has taken it and nothing has ended it there."""
    return attempt.accepted_at is not None and attempt.ended_at is None
