"""The circuit breaker of one instance: three states, one table, no I/O.

* CLOSED: the instance is used. ``failure_threshold`` CONSECUTIVE failures open it; one success in
  between starts the count anew.
* OPEN: the instance is left out, requests fail fast. After ``cooldown_s``, or as soon as there is
  a sign of its return, one trial may begin.
* HALF_OPEN: one trial (a health check) is under way. Its success closes the circuit, its failure
  opens it again; nothing else does.

Whatever else ends while the circuit is not CLOSED changes nothing: it belongs to a request that
began before the circuit opened. Time comes from the clock that is passed in; every change is told
once, with its reason, to ``on_change``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum

from comfy_proxy.clock import Clock

COOLDOWN_S = 0.95
"""Seconds from one failed trial to the next: an instance that is away is dialled about once a
second, however many ask. Less than the second after which checks are repeated while somebody waits,
or each of those would come a moment too early and be put off for another second."""


class CircuitState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


OnChange = Callable[[CircuitState, CircuitState, str], None]


class CircuitBreaker:
    """Counts consecutive failures of one instance and says whether it may be used."""

    def __init__(
        self,
        *,
        clock: Clock,
        failure_threshold: int = 3,
        cooldown_s: float = COOLDOWN_S,
        on_change: OnChange = lambda old, new, reason: None,
    ) -> None:
        self._clock = clock
        self._failure_threshold = failure_threshold
        self._cooldown_s = cooldown_s
        self._on_change = on_change
        self._opened_at = 0.0
        self.state = CircuitState.CLOSED
        self.consecutive_failures = 0

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.state} failures={self.consecutive_failures}>"

    @property
    def closed(self) -> bool:
        return self.state is CircuitState.CLOSED

    def begin_trial(self) -> bool:
        """True if a check may be made now; an OPEN circuit past its cooldown becomes HALF_OPEN."""
        if self.state is CircuitState.CLOSED:
            return True
        cooled = self._clock.monotonic() - self._opened_at >= self._cooldown_s
        if self.state is CircuitState.OPEN and cooled:
            self._change(CircuitState.HALF_OPEN, "trying again")
            return True
        return False

    def record_success(self, *, trial: bool = False) -> None:
        """``trial``: it was a check for which :meth:`begin_trial` said yes."""
        if self.closed:
            self.consecutive_failures = 0
        elif trial and self.state is CircuitState.HALF_OPEN:
            self.consecutive_failures = 0
            self._change(CircuitState.CLOSED, "a check succeeded")

    def record_failure(self, reason: str, *, trial: bool = False) -> None:
        self.consecutive_failures += 1
        if self.state is CircuitState.HALF_OPEN and trial:
            self._open(reason)
        elif self.closed and self.consecutive_failures >= self._failure_threshold:
            self._open(f"{self.consecutive_failures} consecutive failures, the last: {reason}")

    def sign_of_life(self) -> None:
        """It may have returned: the next trial need not wait."""
        self._opened_at = -math.inf

    def abandon_trial(self) -> None:
        """The trial ended without a verdict (cancelled): OPEN again, no failure is counted."""
        if self.state is CircuitState.HALF_OPEN:
            self._open("the trial was abandoned")

    def _open(self, reason: str) -> None:
        self._opened_at = self._clock.monotonic()
        self._change(CircuitState.OPEN, reason)

    def _change(self, new: CircuitState, reason: str) -> None:
        old, self.state = self.state, new
        self._on_change(old, new, reason)
