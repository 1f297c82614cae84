"""``/metrics`` for Prometheus: who wants it, in which format, and the text.

A registry of prometheus_client's for each application: two in one process do not collide, and that
of the host is left alone, unless it registers our collector there itself. The figures are counted
once, in ``metrics.py``; the collector turns them into families when it is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.exposition import (
    CONTENT_TYPE_PLAIN_0_0_4,
    choose_encoder,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from comfy_proxy.metrics.families import families

if TYPE_CHECKING:
    from comfy_proxy.metrics.metrics import Metrics


class Exposition(Collector):
    """The figures of one application. ``registry`` has them and those of the process (CPU time,
    memory, open files, garbage collection), by the names that all of Prometheus' clients use."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def collect(self) -> Iterator[Metric]:
        """All families, as they stand now."""
        return families(self._metrics)

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are not looked at when this is registered."""
        return ()

    def render(self, accept: str) -> tuple[bytes, str]:
        """The text in the format that ``accept`` asks for, and its content type."""
        try:
            encode, content_type = choose_encoder(accept)
        except TypeError:  # a version that is no number
            encode, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
        return encode(self.registry), content_type


def wants_prometheus(accept: str) -> bool:
    """True if ``accept`` names OpenMetrics, or ``text/plain`` with a version, as Prometheus does.

    Not if it prefers ``application/json`` by a higher q, and not for a bare ``text/plain``, which
    HTTP libraries send.
    """
    wanted = json = 0.0
    for media_range in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in media_range.split(";"))
        quality = _quality(parameters)
        versioned = any(parameter.startswith("version=") for parameter in parameters)
        if kind == "application/openmetrics-text" or (kind == "text/plain" and versioned):
            wanted = max(wanted, quality)
        elif kind == "application/json":
            json = max(json, quality)
    return wanted > 0 and wanted >= json


def _quality(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
