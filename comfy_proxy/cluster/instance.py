"""One ComfyUI instance: its address joined with its live state, and the questions asked of it.

*healthy?* the circuit is closed. *full?* as many of our prompts are on it as it has connections.
*available* is both. Load is what waits or runs there, whoever gave it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from loguru import logger
from yarl import URL

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.circuit_breaker import CircuitBreaker, CircuitState
from comfy_proxy.errors import ConnectionBrokenError, InstanceError
from comfy_proxy.metrics.records import Attempt, CircuitRecord, Verdict
from comfy_proxy.observers import tell

if TYPE_CHECKING:
    from comfy_proxy.cluster.placement import Placement

BREAKS_WINDOW_S = 1.0
"""After a strike for a connection that broke, others that break within so long are none: they broke
together, by one fault of a network or of a process."""
LIFE_INTERVAL_S = 1.0
"""An instance whose circuit is open, and which speaks all the same, has a check asked for it at
most once in so long."""
ALIVE_WINDOW_S = 2.0
"""A frame this recent proves life: a check that fails meanwhile is no strike (trap 8)."""


class Instance:
    """An instance's configuration with its live state. Owned by the cluster, shared by all."""

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - the contract's name in /health
        url: URL,
        clock: Clock,
        capacity: int = 3,
        failure_threshold: int = 3,
    ) -> None:
        self.id = id
        self.url = url
        self.host = f"{url.host_subcomponent}:{url.port}{url.raw_path.rstrip('/')}"
        self.capacity = capacity
        self.breaker = CircuitBreaker(
            clock=clock, failure_threshold=failure_threshold, on_change=self._circuit_changed
        )
        self.placements: list[Placement] = []
        self.external_jobs = 0
        self.queue_remaining = 0  # by its last `status`, also after it went away
        self.last_check: datetime | None = None
        self.last_success: datetime | None = None
        self.response_time_s: float | None = None
        self.check_ok: bool | None = None
        self.last_error: str | None = None
        self.last_error_at: datetime | None = None
        self.observers: list[Callable[[Attempt], None]] = []
        self.on_circuit: list[Callable[[CircuitRecord], None]] = []
        self.on_load: list[Callable[[], None]] = []
        self.on_output: list[Callable[[Any], None]] = []
        self.on_history: list[Callable[[dict[str, Any]], None]] = []
        self.on_interruption: list[Callable[[Instance], None]] = []
        self.on_doubt: list[Callable[[Instance], None]] = []
        self._clock = clock
        self._last_frame_at: float | None = None
        self._troubled_at: float | None = None
        self._last_strike_of_breaks_at = -math.inf
        self._last_life_at = -math.inf
        self._sockets_away = False

    def __repr__(self) -> str:
        return (
            f"<Instance {self.id} {self.host} {self.breaker.state}"
            f" active={self.active_jobs} external={self.external_jobs}>"
        )

    # --- questions ---------------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        return self.breaker.closed

    @property
    def failing(self) -> bool:
        """The last check or request failed, whether or not it opened the circuit."""
        return self.check_ok is False or self.breaker.consecutive_failures > 0

    @property
    def active_jobs(self) -> int:
        """Prompts that came through this proxy: placed and not yet ended."""
        return len(self.placements)

    @property
    def load(self) -> int:
        """Everything known to wait or run there, whoever gave it."""
        return len(self.placements) + self.external_jobs

    @property
    def client_prompts(self) -> int:
        """Of the load what is none of our jobs'."""
        return sum(placement.of_client for placement in self.placements) + self.external_jobs

    @property
    def queued(self) -> int:
        """What waits or runs there, as its last ``queue_remaining`` told."""
        return self.external_jobs + self._own_queued()

    @property
    def full(self) -> bool:
        return len(self.placements) >= self.capacity

    @property
    def available(self) -> bool:
        return self.healthy and not self.full

    @property
    def alive_just_now(self) -> bool:
        """True if a frame came from it in the last two seconds: busy, not dead."""
        return (
            self._last_frame_at is not None
            and self._clock.monotonic() - self._last_frame_at <= ALIVE_WINDOW_S
        )

    def troubled_since(self, moment: float) -> bool:
        """True if a connection to it broke or a request failed after ``moment`` (monotonic).

        Without any trouble its process cannot have ended: what it does not have any more was
        taken away by somebody else.
        """
        return self._troubled_at is not None and self._troubled_at >= moment

    # --- what is learnt ----------------------------------------------------------------

    def frame_seen(self) -> None:
        """A frame has come from it, on whichever socket."""
        self._last_frame_at = self._clock.monotonic()
        self._alive()

    def _alive(self) -> None:
        """It has spoken. If it was given up, a check is asked for: that alone takes it back."""
        if self.healthy or self._clock.monotonic() - self._last_life_at < LIFE_INTERVAL_S:
            return
        self._last_life_at = self._clock.monotonic()
        self.breaker.sign_of_life()
        for callback in self.on_doubt:
            callback(self)

    def socket_lost(self) -> None:
        """A WebSocket broke off: earlier frames prove nothing any more."""
        self._last_frame_at = None
        self._interrupted()

    def queue_observed(self, remaining: int) -> None:
        """So many prompts wait or run there: what is above our own was put by others."""
        self.queue_remaining = remaining
        self.external_jobs = max(0, remaining - self._own_queued())
        for callback in self.on_load:
            callback()

    def _own_queued(self) -> int:
        return sum(placement.in_queue for placement in self.placements)

    def check_passed(self, duration_s: float) -> None:
        self.last_check = self.last_success = self._clock.now()
        self.check_ok = True
        self.response_time_s = duration_s
        self.last_error = self.last_error_at = None
        self.breaker.record_success(trial=True)

    def check_failed(self, reason: str) -> None:
        self.last_check = self._clock.now()
        self.check_ok = False
        self._fault(reason, trial=True)

    def fault(self, reason: str, *, broke: bool = False) -> None:
        """A strike, unless a frame came just now and the instance is merely busy.

        ``broke``: a connection has ended. Those that end together count once: a network that drops
        all of them has said one thing about the instance, not as many as were open.
        """
        now = self._clock.monotonic()
        if broke and now - self._last_strike_of_breaks_at < BREAKS_WINDOW_S:
            logger.debug("{}: another connection of those that broke: {}", self.host, reason)
            return
        if broke:
            self._last_strike_of_breaks_at = now
        self._fault(reason, trial=False)

    def _fault(self, reason: str, *, trial: bool) -> None:
        self._troubled_at = self._clock.monotonic()
        if not self.alive_just_now:
            self.last_error, self.last_error_at = reason, self._clock.now()
            self.breaker.record_failure(reason, trial=trial)
            if self.healthy:
                logger.bind(instance=self.host).warning(
                    "instance {}: failure {}: {}",
                    self.host,
                    self.breaker.consecutive_failures,
                    reason,
                )
            return
        logger.debug("{} is busy, not dead: {}", self.host, reason)
        if trial:
            self.breaker.abandon_trial()

    @asynccontextmanager
    async def attempt(self, kind: str, *, background: bool = False) -> AsyncIterator[None]:
        """The single accountant of one exchange: clock, verdict to the breaker, one record.

        An InstanceError raised inside is the instance's fault; any other answer, an error of
        ComfyUI's own included, proves that it works. A client that went away proves nothing.
        ``background``: a socket that nobody's prompt waits for. However many of those fail, none
        is a strike: the first of an outage asks for checks (``on_doubt``), whose verdicts count.
        """
        started = self._clock.monotonic()
        verdict, error = Verdict.OK, None
        try:
            yield
        except InstanceError as caught:
            error = caught.message
            if caught.strike:
                verdict = Verdict.INSTANCE_FAULT
                if not background:
                    self.fault(caught.message, broke=isinstance(caught, ConnectionBrokenError))
            raise
        except (asyncio.CancelledError, GeneratorExit):
            verdict = Verdict.CLIENT_GONE
            raise
        finally:
            if verdict is Verdict.OK:
                self.breaker.record_success()
            if background and verdict is not Verdict.CLIENT_GONE:
                self._socket_told(works=verdict is Verdict.OK)
            elif verdict is Verdict.OK:
                self._alive()
            record = Attempt(
                instance=self.host,
                kind=kind,
                duration_s=self._clock.monotonic() - started,
                verdict=verdict,
                error=error,
            )
            tell(self.observers, record)

    def _socket_told(self, *, works: bool) -> None:
        """Ask for checks where sockets begin to say otherwise than what is known."""
        if not works:
            self._troubled_at = self._clock.monotonic()
        was_away, self._sockets_away = self._sockets_away, not works
        news = (was_away or not self.healthy) if works else (self.healthy and not was_away)
        if works:
            self.breaker.sign_of_life()
        if news:
            for callback in self.on_doubt:
                callback(self)

    def _interrupted(self) -> None:
        """It was away, or may have been restarted: what was known of it may be wrong now."""
        self.external_jobs = 0
        self._troubled_at = self._clock.monotonic()
        for callback in self.on_interruption:
            callback(self)

    def _circuit_changed(self, old: CircuitState, new: CircuitState, reason: str) -> None:
        if new is CircuitState.CLOSED:
            self._interrupted()
        level = "WARNING" if new is CircuitState.OPEN and old is CircuitState.CLOSED else "INFO"
        if {old, new} == {CircuitState.OPEN, CircuitState.HALF_OPEN}:
            level = "DEBUG"  # each failed trial goes there and back; the outage was told already
        logger.bind(instance=self.host).log(
            level, "instance {}: circuit {} -> {}: {}", self.host, old, new, reason
        )
        record = CircuitRecord(instance=self.host, old=old, new=new, reason=reason)
        tell(self.on_circuit, record)
