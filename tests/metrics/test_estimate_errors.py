"""How far what jobs were told at their acceptance was from the truth."""

from __future__ import annotations

import pytest
from figures import TYPES, job, made_metrics
from manual_clock import ManualClock
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from comfy_proxy.metrics import Metrics
from comfy_proxy.metrics.estimate_errors import REMEMBERED
from comfy_proxy.metrics.records import Outcome

NAME = "comfy_proxy_job_estimate_error_ratio"


@pytest.fixture
def metrics(clock: ManualClock) -> Metrics:
    return made_metrics(clock)


def told(metrics: Metrics, *seconds: float | None, **changes: object) -> None:
    """Jobs that took 10 s in all."""
    for told_s in seconds:
        metrics.record_job(job(waiting_s=8.0, processing_s=2.0, told_s=told_s, **changes))


def test_too_much_and_too_little_count_alike(metrics: Metrics) -> None:
    """Half of the jobs were nearer to the truth than the median, nine of ten than p90."""
    told(metrics, 11.0, 8.0, 10.0, 13.0, 6.0)
    told(metrics, 5.0, type=TYPES[1])
    jobs = metrics.get_stats()["jobs"]
    assert jobs["by_type"][TYPES[0]]["estimate_error"] == {"count": 5, "median": 0.2, "p90": 0.4}
    assert jobs["by_type"][TYPES[1]]["estimate_error"] == {"count": 1, "median": 0.5, "p90": 0.5}
    assert jobs["estimate_error"] == {"count": 6, "median": 0.2, "p90": 0.5}


def test_who_was_told_nothing_or_ended_otherwise_does_not_count(metrics: Metrics) -> None:
    """Nor a job that was done in less than half a second: nobody plans by that."""
    told(metrics, None)
    told(metrics, 5.0, outcome=Outcome.FAILED)
    told(metrics, 5.0, outcome=Outcome.CANCELLED)
    metrics.record_job(job(waiting_s=0.1, processing_s=0.3, told_s=5.0))
    metrics.record_job(job(waiting_s=None, processing_s=None, told_s=5.0))
    nothing = {"count": 0, "median": None, "p90": None}
    assert metrics.get_stats()["jobs"]["estimate_error"] == nothing
    assert f"{NAME}{{" not in metrics.exposition.render(CONTENT_TYPE_PLAIN_0_0_4).decode()


def test_only_the_last_ones_count(metrics: Metrics) -> None:
    """What was learnt since shows."""
    told(metrics, *[99.0] * REMEMBERED, *[9.0] * REMEMBERED)
    error = metrics.get_stats()["jobs"]["estimate_error"]
    assert error == {"count": REMEMBERED, "median": 0.1, "p90": 0.1}


def test_prometheus_gets_both_quantiles(metrics: Metrics) -> None:
    """For each type that has any."""
    told(metrics, 11.0, 8.0)
    text = metrics.exposition.render(CONTENT_TYPE_PLAIN_0_0_4).decode()
    assert f'{NAME}{{type="{TYPES[0]}",quantile="0.5"}} 0.1\n' in text
    assert f'{NAME}{{type="{TYPES[0]}",quantile="0.9"}} 0.2\n' in text
    assert f'{NAME}{{type="{TYPES[1]}"' not in text
