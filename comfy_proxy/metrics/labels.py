"""Label values of what comes from outside, bounded: each value is a time series in Prometheus.

So a label is never a text that a client chose.
"""

from __future__ import annotations

from http import HTTPStatus

OTHER = "other"
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_STATUSES = {status.value: str(status.value) for status in HTTPStatus} | {499: "499"}


def method_label(method: str) -> str:
    """``method`` if it is one of the seven usual ones, else ``OTHER``."""
    return method if method in _METHODS else "OTHER"


def status_label(status: int) -> str:
    """``status`` if it has a name in HTTP (or is 499), else its class, like ``5xx``."""
    return _STATUSES.get(status) or f"{status // 100 % 10}xx"


class Bounded:
    """Lets the first ``limit`` different values through; any other one becomes ``other``."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        if value not in self._known:
            if len(self._known) >= self._limit:
                return OTHER
            self._known.add(value)
        return value
