"""The state of the application at one moment: what is read from its rooms, not counted here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

MAX_LISTED: Final = 16
"""So many of the models that are loaded at an instance are shown by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InstanceState:
    """One instance now.

    ``healthy``: its circuit is closed and a check has passed since the start. ``load`` counts all
    prompts there, ``client_prompts`` those of them that do not belong to our jobs. ``last_error``
    is the last failure since a check passed, else None. ``drained``: an operator takes it out of
    use; ``stands_still``: it answers and runs nothing, so it gets no work; ``leaving``: it is to be
    removed once it is empty. ``models_loaded`` are the models in its
    memory as far as can be told, those used last first.
    """

    id: str
    host: str
    healthy: bool
    circuit: str
    consecutive_failures: int
    last_error: str | None
    last_error_at: datetime | None
    active_jobs: int
    load: int
    client_prompts: int
    last_check: datetime | None
    last_success: datetime | None
    response_time_s: float | None
    pool_open: int
    pool_in_use: int
    pool_waiting: int
    models_loaded: Sequence[str] = ()
    name: str | None = None
    drained: bool = False
    leaving: bool = False
    stands_still: bool = False

    @property
    def models_listed(self) -> list[str]:
        """Those that are shown by name: MAX_LISTED, whatever an instance holds."""
        return list(self.models_loaded[:MAX_LISTED])


@dataclass(frozen=True, kw_only=True, slots=True)
class SocketTotals:
    """The WebSockets of clients: those that are open, and what went through all there ever were."""

    clients: int = 0
    frames_to_client: int = 0
    frames_to_instance: int = 0
    previews_dropped: int = 0
    slow_clients: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class StaticTextTotals:
    """The frontend's text, since the start: bodies that were packed for a request, sent as they
    were kept, left at the client (304), and the bytes that packing has saved."""

    packed: int = 0
    kept: int = 0
    unchanged: int = 0
    saved_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveState:
    """The whole application now."""

    uptime_s: float
    pending_jobs: int
    processing_jobs: int
    max_concurrent_jobs: int
    instances: tuple[InstanceState, ...]
    sockets: SocketTotals
    static_text: StaticTextTotals = StaticTextTotals()
    webhooks_pending: int = 0


class LogCounts(Protocol):
    """What the metrics ask the logs for."""

    @property
    def dropped(self) -> int:
        """Lines lost since the start."""
        ...

    @property
    def written(self) -> Mapping[str, int]:
        """Lines written since the start, by level."""
        ...
