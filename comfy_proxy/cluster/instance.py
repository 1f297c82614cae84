"""One ComfyUI instance: its address and how it is at this moment.

*healthy*: its circuit is closed. *full*: it has as many prompts of this proxy as pooled connections
(MAX_CONNECTIONS_PER_INSTANCE). *available*: healthy and not full. *load*: the prompts that wait or
run there, whoever gave them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Protocol
from weakref import WeakValueDictionary

from loguru import logger
from yarl import URL

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.circuit_breaker import CircuitBreaker, CircuitState
from comfy_proxy.cluster.exchanges import Exchanges
from comfy_proxy.cluster.prompts_there import PromptsThere
from comfy_proxy.cluster.signs import Signs
from comfy_proxy.errors import ConnectionBrokenError, InstanceError
from comfy_proxy.metrics.records import Attempt, CircuitRecord, Verdict
from comfy_proxy.observers import tell


class Keeper(Protocol):
    """What keeps something of instances (``roster.ByInstance``)."""

    def pop(self, instance: Instance, default: None, /) -> object:
        """Keep nothing of it any more."""


class Instance:
    """An instance's configuration with its live state. Owned by the cluster, shared by all.

    ``id`` is its number in the configuration from 1 on, ``mark`` what the names of its results
    have of it (`@2`; `@2.1` once its disk was emptied), ``name`` what its operator calls it,
    ``capacity`` how many of our prompts it may have at once. ``draining`` counts who waits until it
    has nothing to do, or restarts it; ``drained`` is set by an operator alone (``drains.py``), and
    neither undoes the other. ``stands_still``: it answers and runs nothing (``standstill.py``).
    ``prompts`` is what it has to do, ``signs`` when it spoke last and was
    in trouble. ``leaving``: it is to be removed as soon as it is empty; ``left``: it was removed,
    and is a member no more (``roster.py``). ``is_proxy``: it is this proxy (``self_check.py``).
    ``kept_by`` are all that keep something of it.
    """

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - its name in the JSON of /health
        url: URL,
        clock: Clock,
        name: str | None = None,
        capacity: int = 3,
        failure_threshold: int = 3,
    ) -> None:
        self.id = self.mark = id
        self.name = name
        self.url = url
        self.host = f"{url.host_subcomponent}:{url.port}{url.raw_path.rstrip('/')}"
        self.capacity = capacity
        self.breaker = CircuitBreaker(
            clock=clock, failure_threshold=failure_threshold, on_change=self._circuit_changed
        )
        self.prompts = PromptsThere(clock)
        self.exchanges = Exchanges()
        self.placements = self.prompts.placements
        self.last_check: datetime | None = None
        self.last_success: datetime | None = None
        self.response_time_s: float | None = None
        self.vram_total: int | None = None  # bytes, as its last check told
        self.keeps_several = False  # models of several prompts, as its last check told
        self.check_ok: bool | None = None
        self.last_error: str | None = None
        self.last_error_at: datetime | None = None
        self.draining = 0
        self.drained = self.stands_still = self.leaving = self.left = self.is_proxy = False
        self.kept_by: WeakValueDictionary[int, Keeper] = WeakValueDictionary()
        self.observers: list[Callable[[Attempt], None]] = []
        self.on_circuit: list[Callable[[CircuitRecord], None]] = []
        self.on_output: list[Callable[[Any], None]] = []  # `output` of an `executed` frame
        self.on_history: list[Callable[[dict[str, Any]], None]] = []  # id → entry that was read
        self.on_interruption: list[Callable[[Instance], None]] = []  # forget what is known of it
        self.on_doubt: list[Callable[[Instance], None]] = []  # check it now
        self.signs = Signs(self.breaker, clock=clock, doubt=partial(_call, self.on_doubt, self))
        self._clock = clock

    def __repr__(self) -> str:
        return (
            f"<Instance {self.id} {self.host} {self.breaker.state}"
            f" active={self.active_jobs} external={self.prompts.external_jobs}>"
        )

    # --- questions ---------------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        # Not breaker.closed: hundreds of instances are asked this for each prompt, and it is a
        # property as well.
        return self.breaker.state is CircuitState.CLOSED and not self.left

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
        return self.prompts.total

    @property
    def full(self) -> bool:
        return len(self.placements) >= self.capacity

    @property
    def available(self) -> bool:
        return takes_work(self) and not self.full

    # --- what is learnt ----------------------------------------------------------------

    def frame_seen(self) -> float:
        """A frame has come from it, on whichever socket (a job's or a client's). Returns the time
        (monotonic seconds)."""
        return self.signs.frame_seen()

    def socket_lost(self) -> None:
        """A WebSocket ended: frames from before it prove no life any more."""
        self.signs.socket_ended()
        self._interrupted()

    def check_passed(self, duration_s: float) -> None:
        self.last_check = self.last_success = self._clock.now()
        self.signs.heard_at = self._clock.monotonic()
        self.check_ok, self.is_proxy = True, False
        self.response_time_s = duration_s
        self.last_error = self.last_error_at = None
        self.breaker.record_success(trial=True)

    def check_failed(self, reason: str, *, final: bool = False) -> None:
        """``final``: it is this proxy itself, whatever comes of other requests."""
        self.is_proxy = final
        self.last_check = self._clock.now()
        self.check_ok = False
        self.fault(reason, trial=True, final=final)

    def fault(
        self, reason: str, *, broke: bool = False, trial: bool = False, final: bool = False
    ) -> None:
        """A strike for ``reason``, unless a frame came just now: then the instance is only busy.

        ``broke``: a connection has ended; of those that end together one is a strike
        (``signs.BREAKS_WINDOW_S``). ``trial``: a check has failed.
        """
        if self.left:
            return
        if broke and not self.signs.breaks_anew():
            logger.debug("{}: another connection of those that broke: {}", self.host, reason)
            return
        self.signs.troubled()
        if self.signs.alive_just_now and not final:
            logger.debug("{} is busy, not dead: {}", self.host, reason)
            if trial:
                self.breaker.abandon_trial()
            return
        self.last_error, self.last_error_at = reason, self._clock.now()
        self.breaker.record_failure(reason, trial=trial, final=final)
        if self.healthy:
            strikes = self.breaker.consecutive_failures
            logger.bind(instance=self.host).warning(
                "instance {}: failure {}: {}", self.host, strikes, reason
            )

    def attempt(self, kind: str, *, background: bool = False) -> Attempting:
        """To be entered around one exchange of the sort ``kind``: tells the breaker, then the
        observers.

        An InstanceError raised inside is the instance's fault (if its ``strike`` is set); any other
        end, an error answer of ComfyUI's included, proves that it works. A client that went away
        proves nothing. ``background``: a socket that no prompt waits for. However many of those
        fail, none is a strike: the first one asks for checks (``on_doubt``), and those count.
        """
        return Attempting(self, kind, background, self._clock)

    def _interrupted(self) -> None:
        """What was remembered of it may be wrong: it was away or restarted (PROTOCOL.md trap 5).

        Prompts of others are forgotten, and ``on_interruption`` callbacks forget the rest.
        """
        if self.left:
            return
        self.prompts.external_jobs = 0
        self.signs.troubled()
        _call(self.on_interruption, self)

    def _circuit_changed(self, old: CircuitState, new: CircuitState, reason: str) -> None:
        if self.left:
            return
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


class Attempting:
    """See :meth:`Instance.attempt`."""

    __slots__ = ("_background", "_clock", "_instance", "_kind", "_started")

    def __init__(self, instance: Instance, kind: str, background: bool, clock: Clock) -> None:
        self._instance = instance
        self._kind = kind
        self._background = background
        self._clock = clock

    def __enter__(self) -> None:
        self._instance.exchanges.begun()
        self._started = self._clock.monotonic()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        verdict, message, instance = Verdict.OK, None, self._instance
        if isinstance(error, InstanceError):
            message = error.message
            if error.strike:
                verdict = Verdict.INSTANCE_FAULT
                if not self._background:
                    instance.fault(message, broke=isinstance(error, ConnectionBrokenError))
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            verdict = Verdict.CLIENT_GONE
        instance.exchanges.ended()
        if verdict is Verdict.OK:
            instance.breaker.record_success()
        if self._background and verdict is not Verdict.CLIENT_GONE:
            instance.signs.background_socket(works=verdict is Verdict.OK)
        elif verdict is Verdict.OK:
            instance.signs.answered()
        record = Attempt(
            instance=instance.host,
            kind=self._kind,
            duration_s=self._clock.monotonic() - self._started,
            verdict=verdict,
            error=message,
        )
        tell(instance.observers, record)


def takes_work(instance: Instance) -> bool:
    """Whether prompts may be sent there: it is healthy, and is not to run empty."""
    return instance.healthy and not runs_empty(instance)


def runs_empty(instance: Instance) -> bool:
    """Whether it is to get nothing new, and what waits there is to go elsewhere."""
    return instance.drained or instance.draining > 0 or instance.stands_still


def _call(callbacks: Iterable[Callable[[Instance], None]], instance: Instance) -> None:
    for callback in callbacks:
        callback(instance)
