"""Durations in bounded memory."""

from __future__ import annotations

import random
import statistics

import pytest

from comfy_proxy.metrics.durations import REMEMBERED, Durations, Histogram


def test_nothing_is_known_before_the_first() -> None:
    """No mean and no percentile is made up."""
    assert Durations().as_json() == {
        "count": 0,
        "mean_seconds": None,
        "p50_seconds": None,
        "p95_seconds": None,
        "p99_seconds": None,
    }


def test_one_duration_is_every_percentile() -> None:
    """And the mean."""
    durations = Durations()
    durations.record(0.25)
    assert {value for key, value in durations.as_json().items() if key != "count"} == {0.25}


def test_percentiles_are_of_the_durations_themselves() -> None:
    """The nearest rank: of a hundred, the fiftieth, the 95th and the 99th."""
    durations = Durations()
    for value in random.Random(1).sample(range(1, 101), 100):
        durations.record(float(value))
    assert [durations.percentile_s(p) for p in (50, 95, 99, 100)] == [50.0, 95.0, 99.0, 100.0]
    assert durations.mean_s == 50.5


def test_percentiles_are_of_the_last_thousand_and_the_mean_of_all() -> None:
    """Memory is bounded, number and sum are exact; equal durations leave one by one."""
    some = random.Random(2)
    values = [some.choice((0.1, 0.2, round(some.random(), 2))) for _ in range(3 * REMEMBERED + 17)]
    durations = Durations()
    for value in values:
        durations.record(value)
    recent = sorted(values[-REMEMBERED:])
    assert durations._sorted == recent
    assert len(durations._recent) == REMEMBERED
    assert durations.percentile_s(95) == recent[949]
    assert durations.count == len(values)
    assert durations.mean_s == pytest.approx(statistics.fmean(values))


def test_a_bucket_holds_what_does_not_exceed_it() -> None:
    """``le`` means less or equal; buckets are cumulative and the last one has all."""
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.100001, 1.0, 5.0):
        histogram.record(value)
    assert histogram.cumulative() == [(0.1, 2), (1.0, 4), (float("inf"), 5)]
    assert (histogram.count, histogram.total_s) == (5, pytest.approx(6.250001))
