"""The figures with the two forms in which ``/metrics`` tells them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from comfy_proxy.clock import Clock
from comfy_proxy.metrics.exposition import Exposition
from comfy_proxy.metrics.figures import Figures
from comfy_proxy.metrics.live import LiveState
from comfy_proxy.metrics.stats import statistics


class Metrics(Figures):
    """One for each application: JSON is :meth:`get_stats`, Prometheus' text ``exposition``."""

    def __init__(
        self,
        *,
        clock: Clock,
        instances: Iterable[str],
        job_types: Iterable[str],
        live: Callable[[], LiveState],
    ) -> None:
        super().__init__(clock=clock, instances=instances, job_types=job_types, live=live)
        self.exposition = Exposition(self)

    def leave(self, host: str) -> None:
        """As of :class:`Figures`; the text of its lines is not kept either."""
        super().leave(host)
        self.exposition.forget_lines()

    def get_stats(self) -> dict[str, Any]:
        """All figures, as the JSON of ``/metrics``; from memory, without waiting."""
        return statistics(self)
