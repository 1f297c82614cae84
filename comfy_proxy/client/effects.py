"""What an operation asks of whoever does its I/O.

An operation is a generator that does no I/O itself: it yields effects, gets their outcomes back,
and returns its value. ``synchronous.py`` and ``asynchronous.py`` perform the effects; so each rule
of the protocol stands once, in ``operations.py``, and holds for both clients.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from comfy_proxy.client.uploads import Upload

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Call:
    """One HTTP request; ``path`` is relative to the proxy's address and begins without a slash.

    ``repeatable``: it may be sent again if the connection breaks. ``wait_s``: for so long the
    proxy may let us wait, beyond the usual time for an answer.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    form: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Upload] = field(default_factory=dict)
    repeatable: bool = True
    wait_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An HTTP answer; names of ``headers`` are lower case. ``body`` is empty while it is
    streamed."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Send:
    """Send the request; the outcome is its Answer. Fails with UnreachableError."""

    call: Call


@dataclass(frozen=True)
class Open:
    """Send the request and leave its body to be read by NextChunk or NextEvent; the outcome is the
    Answer, with its body if that is an error's. An earlier open answer is closed."""

    call: Call


class NextChunk:
    """The outcome is the next bytes of the open answer, None at its end."""


class NextEvent:
    """The outcome is the next Server-Sent Event of the open answer, None at its end."""


@dataclass(frozen=True)
class Sleep:
    seconds: float


@dataclass(frozen=True)
class Do:
    """Call the function, which uses the disk; the outcome is what it returns."""

    function: Callable[[], Any]


@dataclass(frozen=True)
class Emit:
    """Give ``value`` to whoever iterates."""

    value: Any


Effect = Send | Open | NextChunk | NextEvent | Sleep | Do | Emit
Operation = Generator[Effect, Any, T]


class Steps(Generic[T]):
    """An operation, one step after the other: ``effect`` is to be performed until ``done``."""

    def __init__(self, operation: Operation[T]) -> None:
        self._operation = operation
        self.done = False
        self._value: list[T] = []
        self.effect: Effect = Sleep(0)
        self.feed(None)

    @property
    def value(self) -> T:
        """What the operation returned; to be asked once it is done."""
        return self._value[0]

    def feed(self, outcome: Any) -> None:
        """Go on with the outcome of ``effect``."""
        try:
            self.effect = self._operation.send(outcome)
        except StopIteration as end:
            self._end(end.value)

    def fail(self, error: Exception) -> None:
        """Go on with the error by which ``effect`` failed; raises what the operation raises."""
        try:
            self.effect = self._operation.throw(error)
        except StopIteration as end:
            self._end(end.value)

    def close(self) -> None:
        """Let the operation put away what it holds; for one that is left before its end."""
        self._operation.close()

    def _end(self, value: T) -> None:
        self.done = True
        self._value = [value]
