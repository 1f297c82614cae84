"""When an instance spoke last, and when it was in trouble: whether a failure means anything."""

from __future__ import annotations

import math
from collections.abc import Callable

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.circuit_breaker import CircuitBreaker

BREAKS_WINDOW_S = 1.0
"""Seconds after a strike for a connection that broke in which others that break are no strikes:
they broke together, by one fault of a network or of a process."""
LIFE_INTERVAL_S = 1.0
"""Seconds between two checks that an instance gets because it speaks although its circuit is open;
what it says in between asks for none."""
ALIVE_WINDOW_S = 2.0
"""Seconds for which a frame proves that the instance lives: a check that fails meanwhile is no
strike, because ComfyUI's event loop stands still while it loads a model (PROTOCOL.md trap 8)."""


class Signs:
    """The signs of life and of trouble of one instance. It judges; strikes are ``instance.py``'s.

    ``breaker`` is told that a check would be worth while, and ``doubt`` asks for that check.
    """

    def __init__(self, breaker: CircuitBreaker, *, clock: Clock, doubt: Callable[[], None]) -> None:
        self._breaker = breaker
        self._clock = clock
        self._doubt = doubt
        self._last_frame_at: float | None = None
        self.heard_at = clock.monotonic()
        """When it spoke last in any way (monotonic seconds); until it has, when it was made."""
        self._troubled_at: float | None = None
        self._last_strike_of_breaks_at = -math.inf
        self._last_life_at = -math.inf
        self._sockets_away = False

    def __repr__(self) -> str:
        return f"<Signs last_frame_at={self._last_frame_at} troubled_at={self._troubled_at}>"

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

    # --- life ----------------------------------------------------------------------------

    def frame_seen(self) -> float:
        """A frame has come from it, on whichever socket (a job's or a client's). Returns the time
        (monotonic seconds)."""
        now = self._last_frame_at = self.heard_at = self._clock.monotonic()
        if not self._breaker.closed:
            self.answered()
        return now

    def answered(self) -> None:
        """It has spoken: if its circuit is open ask for a check, which may close it.

        At most one in LIFE_INTERVAL_S.
        """
        self.heard_at = self._clock.monotonic()
        if self._breaker.closed or self._clock.monotonic() - self._last_life_at < LIFE_INTERVAL_S:
            return
        self._last_life_at = self._clock.monotonic()
        self._breaker.sign_of_life()
        self._doubt()

    def background_socket(self, *, works: bool) -> None:
        """A socket that no prompt waits for opened or failed: ask for checks if that is news.

        News is the first failure while the circuit is closed, and the first success after failures
        or while it is open.
        """
        if not works:
            self.troubled()
        was_away, self._sockets_away = self._sockets_away, not works
        closed = self._breaker.closed
        news = (was_away or not closed) if works else (closed and not was_away)
        if works:
            self._breaker.sign_of_life()
        if news:
            self._doubt()

    # --- trouble -------------------------------------------------------------------------

    def troubled(self) -> None:
        """A connection to it broke or a request failed, at this moment."""
        self._troubled_at = self._clock.monotonic()

    def missed(self) -> None:
        """It did not answer when it was asked: have it checked until that is clear."""
        self._doubt()

    def socket_ended(self) -> None:
        """Frames from before this moment prove no life any more."""
        self._last_frame_at = None

    def breaks_anew(self) -> bool:
        """A connection broke: True if that is a strike, False within BREAKS_WINDOW_S of the last.

        Else one fault of the network would open the circuit by the number of connections it cut.
        """
        now = self._clock.monotonic()
        if now - self._last_strike_of_breaks_at < BREAKS_WINDOW_S:
            return False
        self._last_strike_of_breaks_at = now
        return True
