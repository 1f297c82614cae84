"""The circuit breaker of one instance: three states, one table, no I/O.

* CLOSED: the instance is used. ``failure_threshold`` CONSECUTIVE failures open the circuit; one
  success in between sets the count back to 0.
* OPEN: nothing is sent to the instance, requests for it fail at once. After ``cooldown_s`` seconds,
  or as soon as there is a sign of its return, one trial may begin.
* HALF_OPEN: one trial (a health check) is under way. Its success closes the circuit, its failure
  opens it again; nothing else does.

Any other exchange that ends while the circuit is not CLOSED leaves the state as it is: it began
before the circuit opened and tells nothing of now. Time comes from the clock that is passed in;
every change is told once, with its reason, to ``on_change``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum

from comfy_proxy.clock import Clock

COOLDOWN_S = 0.95
"""Seconds after a failed trial in which there is no other: an instance that is away is dialled
about once a second, however many requests ask for it. It is less than the 1 s after which checks
are repeated while somebody waits (``DEMAND_INTERVAL_S`` of ``health_checker.py``): with 1 s here
such a check could come a moment too early, be refused, and cost another second."""


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
        """True if a check may be made now; an OPEN circuit past its cooldown becomes HALF_OPEN.

        Whoever gets True from a circuit that was OPEN owes it the end of the trial: a success, a
        failure or :meth:`abandon_trial`. Until then nobody else may begin one.
        """
        if self.state is CircuitState.CLOSED:
            return True
        cooled = self._clock.monotonic() - self._opened_at >= self._cooldown_s
        if self.state is CircuitState.OPEN and cooled:
            self._change(CircuitState.HALF_OPEN, "trying again")
            return True
        return False

    def record_success(self, *, trial: bool = False) -> None:
        """An exchange succeeded; ``trial``: it was a check for which :meth:`begin_trial` said yes.

        While the circuit is CLOSED this ends a row of failures. Otherwise only the trial counts.
        """
        if self.closed:
            self.consecutive_failures = 0
        elif trial and self.state is CircuitState.HALF_OPEN:
            self.consecutive_failures = 0
            self._change(CircuitState.CLOSED, "a check succeeded")

    def record_failure(self, reason: str, *, trial: bool = False, final: bool = False) -> None:
        """An exchange failed for ``reason`` (words for the log); ``trial`` as above. ``final``: one
        such failure is enough to open the circuit."""
        self.consecutive_failures += 1
        # A late failure of an older request must not end the trial: its success would be ignored.
        if (self.state is CircuitState.HALF_OPEN and trial) or (self.closed and final):
            self._open(reason)
        elif self.closed and self.consecutive_failures >= self._failure_threshold:
            self._open(f"{self.consecutive_failures} consecutive failures, the last: {reason}")

    def begin_open(self) -> None:
        """Nothing is known of the instance yet: it is not used before its first check succeeds,
        which may be made at once. Nobody is told of it, for there was nothing before."""
        self.state = CircuitState.OPEN
        self.sign_of_life()

    def sign_of_life(self) -> None:
        """The instance may have returned: end the cooldown, so that the next check is a trial."""
        self._opened_at = -math.inf

    def abandon_trial(self) -> None:
        """The trial ended without a verdict (cancelled, or the instance is busy): OPEN again.

        No failure is counted. Without this call the circuit would stay HALF_OPEN for good.
        """
        if self.state is CircuitState.HALF_OPEN:
            self._open("the trial was abandoned")

    def _open(self, reason: str) -> None:
        self._opened_at = self._clock.monotonic()
        self._change(CircuitState.OPEN, reason)

    def _change(self, new: CircuitState, reason: str) -> None:
        old, self.state = self.state, new
        self._on_change(old, new, reason)
