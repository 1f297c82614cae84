"""``/metrics`` for Prometheus: who wants it, in which format, and the text.

Each application has a prometheus_client registry of its own: two applications in one process do not
collide, and the host's registry is left alone, unless the host registers our collector there. The
figures are counted once, in ``figures.py``; the collector makes families of them when it is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from comfy_proxy.metrics.durations import Histogram
from comfy_proxy.metrics.families import COUNTER, HISTOGRAM, Family, families
from comfy_proxy.metrics.figures import Figures
from comfy_proxy.metrics.text import TextWriter, bound_text


class Exposition(Collector):
    """The figures of one application; ``registry`` holds them for prometheus_client's tools.

    CPU and memory of the process are not among them: their collector reads five files of ``/proc``
    each time, which takes as long as all the rest. A host finds them in prometheus_client's own
    registry.
    """

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._writer = TextWriter()
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """All families as prometheus_client's, as they stand now."""
        for family in families(self._figures):
            yield _metric(family)

    def describe(self) -> Iterable[Metric]:
        """Nothing: then prometheus_client does not look at names when this is registered."""
        return ()

    def forget_lines(self) -> None:
        """An instance has left: make the lines anew of which the text was kept."""
        self._writer = TextWriter()

    def render(self, accept: str) -> tuple[bytes, str]:
        """The text in the format that ``accept`` asks for, and its content type."""
        try:
            _, content_type = choose_encoder(accept)
        except TypeError:  # Accept names a version that is no number
            content_type = CONTENT_TYPE_PLAIN_0_0_4
        openmetrics = content_type.startswith("application/openmetrics-text")
        text = self._writer.write(families(self._figures), openmetrics=openmetrics)
        return text.encode(), CONTENT_TYPE_LATEST if openmetrics else CONTENT_TYPE_PLAIN_0_0_4


def wants_prometheus(accept: str) -> bool:
    """True if ``accept`` names OpenMetrics, or ``text/plain`` with a version, as Prometheus does.

    False if ``application/json`` has a higher q, and for a bare ``text/plain``, which HTTP
    libraries send: those get JSON.
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


def _metric(family: Family) -> Metric:
    if family.kind == HISTOGRAM:
        histograms = HistogramMetricFamily(
            family.name, family.help, labels=family.labels, unit=family.unit
        )
        for labels, value in family.values:
            if isinstance(value, Histogram):
                buckets = [(bound_text(bound), count) for bound, count in value.cumulative()]
                histograms.add_metric(labels, buckets, value.total_s)
        return histograms
    metric: CounterMetricFamily | GaugeMetricFamily
    if family.kind == COUNTER:
        metric = CounterMetricFamily(
            family.name, family.help, labels=family.labels, unit=family.unit
        )
    else:
        metric = GaugeMetricFamily(family.name, family.help, labels=family.labels, unit=family.unit)
    for labels, value in family.values:
        if not isinstance(value, Histogram):
            metric.add_metric(labels, value)
    return metric
