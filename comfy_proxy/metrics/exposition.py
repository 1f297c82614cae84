"""``/metrics`` for Prometheus: who wants it, in which format, and the text.

Each application has a prometheus_client registry of its own: two applications in one process do not
collide, and the host's registry is left alone, unless the host registers our collector there. The
figures are counted once, in ``figures.py``; the collector makes families of them when it is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from comfy_proxy.accept import Accept, highest
from comfy_proxy.metrics.durations import Histogram
from comfy_proxy.metrics.families import families
from comfy_proxy.metrics.family import COUNTER, HISTOGRAM, Family
from comfy_proxy.metrics.figures import Figures
from comfy_proxy.metrics.text import TextWriter, bound_text

_OPENMETRICS = "application/openmetrics-text"
_FINISHED = re.compile(r"[1-9][0-9]*(\.[0-9]+)*")
"""A version from 1.0.0 on."""


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

    def render(self, content_type: str) -> bytes:
        """The text in the format of ``content_type``, which :func:`prometheus_format` gave."""
        openmetrics = content_type == CONTENT_TYPE_LATEST
        return self._writer.write(families(self._figures), openmetrics=openmetrics).encode()


def prometheus_format(accept: str) -> str | None:
    """The content type of the text for a client with this ``Accept``; None if it gets JSON.

    * It names OpenMetrics, or ``text/plain`` with a version, and names JSON with no higher q: the
      one of both with the higher q, as a Prometheus server means it. OpenMetrics before its 1.0.0
      is not written; ``text/plain`` is 0.0.4, whichever version was asked for.
    * It names a bare ``text/plain`` with a higher q than JSON has, ``*/*`` included: 0.0.4. HTTP
      libraries name both in one breath (axios: ``application/json, text/plain, */*``), for JSON.
    """
    taken = Accept(accept)
    openmetrics, plain = tuple(taken.naming(_OPENMETRICS)), tuple(taken.naming("text/plain"))
    versioned_q = highest(one for one in plain if "version" in one.parameters)
    bare_q = highest(one for one in plain if "version" not in one.parameters)
    wanted_q = max(versioned_q, highest(openmetrics))
    if wanted_q > 0 and wanted_q >= highest(taken.naming("application/json")):
        written_q = highest(one for one in openmetrics if _is_written(one.parameters))
        is_best = written_q > 0 and written_q >= versioned_q
        return CONTENT_TYPE_LATEST if is_best else CONTENT_TYPE_PLAIN_0_0_4
    if bare_q > taken.quality("application/json"):
        return CONTENT_TYPE_PLAIN_0_0_4
    return None


def _is_written(parameters: Mapping[str, str]) -> bool:
    """OpenMetrics 1.0.0, which is written, or later, or in any version."""
    return _FINISHED.fullmatch(parameters.get("version", "1")) is not None


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
