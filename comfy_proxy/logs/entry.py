"""One thing to be logged, as the event loop hands it over: nothing is formatted yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from comfy_proxy.tracing import Trace

LEVELS = ("error", "warn", "info", "debug")
"""As ``LOG_LEVEL`` names them, the most important first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line before it is formatted; ``time_s`` is in seconds since the epoch.

    ``site`` is the module and line where it was logged: many warnings from one site are written as
    one (``suppressor.py``); None: it is never left out. ``fields`` become keys of the JSON line.
    Raises ValueError for a level that is not one of LEVELS.
    """

    time_s: float
    level: str
    message: str
    logger: str
    site: tuple[str, int] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    exception: BaseException | None = None
    trace: Trace | None = None

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"No such level: {self.level}")

    @property
    def importance(self) -> int:
        """0 for errors, 1 for warnings, 2 for info, 3 for debug."""
        return LEVELS.index(self.level)
