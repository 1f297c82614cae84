"""Values that come from outside, made few: a label is never what a client chose."""

from __future__ import annotations

from http import HTTPStatus

OTHER = "other"
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_STATUSES = {status.value: str(status.value) for status in HTTPStatus} | {499: "499"}


def method_label(method: str) -> str:
    """The method if it is one that is used, else ``OTHER``."""
    return method if method in _METHODS else "OTHER"


def status_label(status: int) -> str:
    """The status if it is a known one, else its class, as ``5xx``."""
    return _STATUSES.get(status) or f"{status // 100 % 10}xx"


class Bounded:
    """Lets the first ``limit`` different values through; what comes later is ``other``."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        if value not in self._known:
            if len(self._known) >= self._limit:
                return OTHER
            self._known.add(value)
        return value
