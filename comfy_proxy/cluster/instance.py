"""One ComfyUI instance: its address and how it is at this moment.

*healthy*: its circuit is closed. *full*: it has as many prompts of this proxy as pooled connections
(MAX_CONNECTIONS_PER_INSTANCE). *available*: healthy and not full. *load*: the prompts that wait or
run there, whoever gave them.
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
"""Seconds after a strike for a connection that broke in which others that break are no strikes:
they broke together, by one fault of a network or of a process."""
LIFE_INTERVAL_S = 1.0
"""Seconds between two checks that an instance gets because it speaks although its circuit is open;
what it says in between asks for none."""
ALIVE_WINDOW_S = 2.0
"""Seconds for which a frame proves that the instance lives: a check that fails meanwhile is no
strike, because ComfyUI's event loop stands still while it loads a model (PROTOCOL.md trap 8)."""


class Instance:
    """An instance's configuration with its live state. Owned by the cluster, shared by all.

    ``id`` is its number in the configuration from 1 on, ``capacity`` how many of our prompts it may
    have at once. ``external_jobs`` are the prompts there that did not come through the scheduler.
    """

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - its name in the JSON of /health
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
        self.queue_remaining = 0  # as its last `status` told it; kept when the instance goes away
        self.last_check: datetime | None = None
        self.last_success: datetime | None = None
        self.response_time_s: float | None = None
        self.check_ok: bool | None = None
        self.last_error: str | None = None
        self.last_error_at: datetime | None = None
        self.observers: list[Callable[[Attempt], None]] = []
        self.on_circuit: list[Callable[[CircuitRecord], None]] = []
        self.on_load: list[Callable[[], None]] = []  # its queue's length was told
        self.on_output: list[Callable[[Any], None]] = []  # `output` of an `executed` frame
        self.on_history: list[Callable[[dict[str, Any]], None]] = []  # id → entry that was read
        self.on_interruption: list[Callable[[Instance], None]] = []  # forget what is known of it
        self.on_doubt: list[Callable[[Instance], None]] = []  # check it now
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
        """Every prompt known to wait or run there, whoever gave it."""
        return len(self.placements) + self.external_jobs

    @property
    def client_prompts(self) -> int:
        """The part of :attr:`load` that does not belong to our jobs."""
        return sum(placement.of_client for placement in self.placements) + self.external_jobs

    @property
    def queued(self) -> int:
        """Prompts in the instance's own queue: the load less those that are still on their way."""
        return self.external_jobs + self._own_queued()

    @property
    def full(self) -> bool:
        return len(self.placements) >= self.capacity

    @property
    def available(self) -> bool:
        return self.healthy and not self.full

    @property
    def alive_just_now(self) -> bool:
        """True if a frame came from it within ALIVE_WINDOW_S: if it fails checks it is busy."""
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
        """A frame has come from it, on whichever socket (a job's or a client's)."""
        self._last_frame_at = self._clock.monotonic()
        self._alive()

    def _alive(self) -> None:
        """The instance has spoken: if its circuit is open ask for a check, which may close it."""
        if self.healthy or self._clock.monotonic() - self._last_life_at < LIFE_INTERVAL_S:
            return
        self._last_life_at = self._clock.monotonic()
        self.breaker.sign_of_life()
        for callback in self.on_doubt:
            callback(self)

    def socket_lost(self) -> None:
        """A WebSocket ended: frames from before it prove no life any more."""
        self._last_frame_at = None
        self._interrupted()

    def queue_observed(self, remaining: int) -> None:
        """``remaining`` prompts wait or run there; those above our own count were put by others."""
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
        """A strike for ``reason``, unless a frame came just now: then the instance is only busy.

        ``broke``: a connection has ended. Those that end within BREAKS_WINDOW_S are one strike, or
        one fault of the network would open the circuit by the number of connections it cut.
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
        """Around one exchange of the sort ``kind``: tells the breaker, then the observers.

        An InstanceError raised inside is the instance's fault (if its ``strike`` is set); any other
        end, an error answer of ComfyUI's included, proves that it works. A client that went away
        proves nothing. ``background``: a socket that no prompt waits for. However many of those
        fail, none is a strike: the first one asks for checks (``on_doubt``), and those count.
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
        """A background socket opened or failed: ask for checks if that is news.

        News is the first failure while the circuit is closed, and the first success after failures
        or while it is open.
        """
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
        """The instance was away or restarted (trap 5): what was remembered of it may be wrong."""
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
