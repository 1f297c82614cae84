"""Exchanges with an instance that accepts connections and answers nothing do not wait for it.

A process that is stopped, swaps or waits for a dead disk still has a kernel that accepts. Nothing
breaks then, so an exchange would wait until its own limit, which for some is ten minutes. While one
waits for an answer the instance is checked. An exchange that another instance can have as well, or
whose answer can be left out of a list, gives up with the first check that fails (within SILENCE_S
and the time of a check). An exchange that this instance alone can answer waits longer, as the
instance may only be busy: ComfyUI's event loop stands still while it loads a model (PROTOCOL.md
trap 8).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Final, Self

from comfy_proxy.cancel_scope import CancelScope
from comfy_proxy.clock import Clock, Timer, sleep
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance, Roster
from comfy_proxy.errors import InstanceTimeoutError
from comfy_proxy.tracing import untraced

SILENCE_S: Final = 0.3
"""Seconds without an answer after which an instance is checked; at once if its last check failed.
Together with a check (HEALTH_CHECK_TIMEOUT, 0.3 s) it leaves 0.4 s of a second for others."""
LONGEST_PAUSE_S: Final = 5.0
"""Seconds between two checks at most, while one exchange goes on for long at an instance that
answers: each pause is twice as long as the one before it."""
FAILING_PAUSE_S: Final = 1.0
"""Seconds between two checks of an instance that fails them."""


class InstanceHangsError(InstanceTimeoutError):
    """The instance does not answer at the moment, and did not answer a check either."""


class HangWatch:
    """Watches over ``instances``; ``check`` is :meth:`HealthChecker.check`, and ``timeout_s``
    HANG_TIMEOUT in seconds, 0 for never."""

    def __init__(
        self,
        instances: Iterable[Instance],
        check: Callable[[Instance], Awaitable[bool]],
        *,
        clock: Clock,
        timeout_s: float,
    ) -> None:
        self._instances = Roster.of(instances)
        self._check = check
        self._clock = clock
        self.timeout_s = timeout_s
        self._doubted = ByInstance[float]()  # when an instance that was doubted was heard last

    def over(self, instance: Instance, *, replaceable: bool) -> Watched:
        """To be entered around an exchange with ``instance``, its ``attempt`` included. Until
        :meth:`Watched.answered` it raises InstanceHangsError if the instance hangs. That is no
        strike: the check that failed was one.

        ``replaceable``: another instance can answer instead, or nobody has to. Then the exchange
        ends as soon as a check fails while another instance is well; else after HANG_TIMEOUT
        without any sign of life.
        """
        return Watched(self, instance, replaceable=replaceable)

    def hangs(self, instance: Instance) -> bool:
        """Whether nothing was heard from ``instance`` for HANG_TIMEOUT, and it fails its checks."""
        silent_s = self._clock.monotonic() - instance.signs.heard_at
        return 0 < self.timeout_s <= silent_s and instance.failing

    def begin(self, instance: Instance, callback: Callable[[float], None]) -> Timer:
        """Call ``callback`` with the present moment when the first check for an exchange that
        begins now is due: after SILENCE_S, or at once if the last check failed."""
        delay_s = 0.0 if instance.failing else SILENCE_S
        return self._clock.call_later(delay_s, partial(callback, self._clock.monotonic()))

    async def until_hung(self, instance: Instance, since: float, *, replaceable: bool) -> None:
        """Check ``instance`` again and again; return when the exchange that began at ``since`` is
        to be given up."""
        pause_s = SILENCE_S
        while True:
            heard, since = instance.signs.heard_at > since, self._clock.monotonic()
            if heard and not instance.failing:
                pass  # a frame, or the answer to somebody else, is as good as a check
            elif not await self._check(instance):
                self._doubt(instance)
                if self._gives_up(instance, replaceable=replaceable):
                    return
                await sleep(self._clock, FAILING_PAUSE_S)
                continue
            await sleep(self._clock, pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _doubt(self, instance: Instance) -> None:
        """Report a missed answer once for each silence: a second report would begin the series of
        checks anew (``HealthChecker.look``)."""
        if self._doubted.get(instance) != instance.signs.heard_at:
            self._doubted[instance] = instance.signs.heard_at
            instance.signs.missed()

    def _gives_up(self, instance: Instance, *, replaceable: bool) -> bool:
        if not replaceable:
            return self.hangs(instance)
        others = (one for one in self._instances if one is not instance)
        return any(one.healthy and not one.failing for one in others)


class Watched(CancelScope):
    """See :meth:`HangWatch.over`. An exchange that ends within SILENCE_S costs a timer, and no
    check unless the last one failed."""

    __slots__ = ("_checks", "_instance", "_replaceable", "_timer", "_watch")

    def __init__(self, watch: HangWatch, instance: Instance, *, replaceable: bool) -> None:
        super().__init__()
        self._watch = watch
        self._instance = instance
        self._replaceable = replaceable
        self._timer: Timer | None = None
        self._checks: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self.enter()
        self._timer = self._watch.begin(self._instance, self._begin)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.answered()
        if self.left(kind):
            message = f"ComfyUI instance {self._instance.id} does not answer at the moment."
            raise InstanceHangsError(message) from error

    def answered(self) -> None:
        """The answer has begun: how long the rest of it takes is of no interest."""
        if self._timer is not None:
            self._timer.cancel()
        if self._checks is not None:
            self._checks.cancel()

    def _begin(self, since: float) -> None:
        watching = self._watch.until_hung(self._instance, since, replaceable=self._replaceable)
        self._checks = asyncio.create_task(watching, context=untraced())
        self._checks.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is None:
            self.cancel()
