"""Metric families as Prometheus' text, fast.

``prometheus_client``'s own writers take 2 ms (4 ms for OpenMetrics) for a full answer, twice that
in a busy process, and the event loop stands still meanwhile: the p99 of ``/metrics`` was 5 and 7
times that of an empty route, and three times is our limit. Nearly all of it is spent on names and
labels, which are the same each time; here they are kept. A test compares the text with the
library's, sample by sample.
https://github.com/prometheus/docs/blob/main/docs/instrumenting/exposition_formats.md
https://prometheus.io/docs/specs/om/open_metrics_spec/
"""

from __future__ import annotations

from collections.abc import Iterable

from comfy_proxy.metrics.durations import Histogram
from comfy_proxy.metrics.family import COUNTER, HISTOGRAM, Family, Labels

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class TextWriter:
    """Writes the text, and keeps what each line begins with: all but its value."""

    def __init__(self) -> None:
        self._beginnings: dict[tuple[str, Labels], list[str]] = {}

    def write(self, families: Iterable[Family], *, openmetrics: bool) -> str:
        """The whole text; the two formats differ in the comments about a family and in the end."""
        lines: list[str] = []
        for family in families:
            lines += _about(family, openmetrics=openmetrics)
            for labels, value in family.values:
                beginnings = self._beginnings.get((family.name, labels))
                if beginnings is None:
                    beginnings = _beginnings(family, labels, value)
                    self._beginnings[family.name, labels] = beginnings
                values = _values(value)
                lines += [
                    f"{beginning} {number}"
                    for beginning, number in zip(beginnings, values, strict=True)
                ]
        if openmetrics:
            lines.append("# EOF")
        lines.append("")
        return "\n".join(lines)


def _about(family: Family, *, openmetrics: bool) -> list[str]:
    name = family.name
    if family.kind == COUNTER and not openmetrics:
        name = f"{name}_total"
    lines = [f"# HELP {name} {family.help}", f"# TYPE {name} {family.kind}"]
    if openmetrics and family.unit:
        lines.append(f"# UNIT {name} {family.unit}")
    return lines


def _beginnings(family: Family, labels: Labels, value: float | Histogram) -> list[str]:
    """The beginning of the one line, or of a histogram's lines: buckets, count, sum."""
    pairs = [
        f'{name}="{label.translate(_ESCAPES)}"'
        for name, label in zip(family.labels, labels, strict=True)
    ]
    if family.kind == HISTOGRAM and isinstance(value, Histogram):
        buckets = [
            _sample(f"{family.name}_bucket", [*pairs, f'le="{bound_text(bound)}"'])
            for bound, _ in value.cumulative()
        ]
        ends = [_sample(f"{family.name}_{end}", pairs) for end in ("count", "sum")]
        return [*buckets, *ends]
    return [_sample(f"{family.name}_total" if family.kind == COUNTER else family.name, pairs)]


def _values(value: float | Histogram) -> list[float]:
    """The numbers of the lines, in the order of :func:`_beginnings`."""
    if not isinstance(value, Histogram):
        return [value]
    counts = [count for _, count in value.cumulative()]
    return [*counts, counts[-1], value.total_s]


def _sample(name: str, pairs: list[str]) -> str:
    return f"{name}{{{','.join(pairs)}}}" if pairs else name


def bound_text(bound_s: float) -> str:
    """The ``le`` label of a bucket."""
    return "+Inf" if bound_s == float("inf") else repr(bound_s)
