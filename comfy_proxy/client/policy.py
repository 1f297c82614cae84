"""For how long the client tries again by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from comfy_proxy.client.errors import InvalidValueError

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class Policy:
    """``patience_s``: seconds of pauses between tries while the proxy cannot be reached or the
    connection breaks; beyond, UnreachableError is raised. 0 tries once.

    ``max_wait_s``: seconds that one call waits at most because the proxy says ``Retry-After``
    (its queue is full, it is being restarted); beyond, its ApiError is raised.
    ``answer_timeout_s``: seconds without a byte of an answer, after which the connection counts as
    broken; what is to wait at the proxy has them on top. ``monotonic`` is the clock.
    """

    patience_s: float = 20.0
    max_wait_s: float = 300.0
    answer_timeout_s: float = 60.0
    monotonic: Callable[[], float] = field(default=time.monotonic, repr=False)

    def __post_init__(self) -> None:
        """Raises InvalidValueError for what is no number of seconds: NaN would be no limit."""
        for name in ("patience_s", "max_wait_s", "answer_timeout_s"):
            if not getattr(self, name) >= 0:
                message = f"{name} is {getattr(self, name)}, not a number of seconds."
                raise InvalidValueError(message, field=name)


class Tries:
    """The pauses of one call: after each failure a longer one, up to two seconds."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._paused_s = 0.0
        self._next_s = _FIRST_PAUSE_S

    def pause_s(self) -> float | None:
        """Seconds to wait before the next try; None if the patience is at its end."""
        pause_s = self._next_s
        if self._paused_s + pause_s > self._policy.patience_s:
            return None
        self._paused_s += pause_s
        self._next_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        return pause_s

    def succeeded(self) -> None:
        """Something came: the patience begins anew."""
        self._paused_s = 0.0
        self._next_s = _FIRST_PAUSE_S
