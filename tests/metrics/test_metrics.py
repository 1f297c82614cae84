"""Records in, figures out: story 3.1."""

from __future__ import annotations

import re
from typing import Any

import pytest
from figures import (
    HOSTS,
    TYPES,
    attempt,
    fill,
    instance_state,
    job,
    made_metrics,
    prompt,
    prompt_end,
    request,
)
from manual_clock import ManualClock
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from comfy_proxy.metrics import Metrics
from comfy_proxy.metrics.live import SocketTotals
from comfy_proxy.metrics.records import CircuitRecord, Outcome, PoolWait, PromptEvent, Verdict
from comfy_proxy.metrics.stats import job_statistics


@pytest.fixture
def metrics(clock: ManualClock) -> Metrics:
    return made_metrics(clock)


def keys_of(document: Any) -> list[str]:
    if isinstance(document, dict):
        return [*document, *(key for value in document.values() for key in keys_of(value))]
    if isinstance(document, list):
        return [key for value in document for key in keys_of(value)]
    return []


def test_the_document_is_whole_before_anything_happened(metrics: Metrics) -> None:
    """All keys are there, rates are null and not nought: nothing has failed or succeeded."""
    stats = metrics.get_stats()
    assert list(stats) == [
        "timestamp", "start_time", "uptime_seconds", "version", "jobs", "errors", "last_hour",
        "instances", "prompts", "http", "websockets", "webhooks", "logs",
    ]  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stats["timestamp"])
    assert stats["start_time"] == stats["timestamp"]
    assert stats["uptime_seconds"] == 12.5
    assert (stats["jobs"]["total"], stats["jobs"]["success_rate"]) == (0, None)
    assert (stats["errors"]["rate"], stats["errors"]["last_hour"]["rate"]) == (None, None)
    assert set(stats["jobs"]["by_type"]) == set(TYPES)
    assert [instance["host"] for instance in stats["instances"]] == list(HOSTS)
    assert stats["logs"] == {"lines": {}, "lines_dropped": 0}


def test_keys_are_snake_case_and_tell_their_unit(metrics: Metrics) -> None:
    """Names of types, kinds and codes apart, every key is one of the contract's manner."""
    fill(metrics)
    names = {*TYPES, "GET"}
    for key in set(keys_of(metrics.get_stats())) - names:
        assert re.fullmatch(r"[a-z][a-z0-9_]*|\d{3}", key), key


def test_jobs_are_counted_by_how_they_end(metrics: Metrics) -> None:
    """Accepted, processed, completed, failed, cancelled; a cancelled job is no failure."""
    for _ in range(8):
        metrics.record_accepted_job(TYPES[0])
    for outcome, count in ((Outcome.COMPLETED, 3), (Outcome.FAILED, 1), (Outcome.CANCELLED, 2)):
        for _ in range(count):
            metrics.record_job(job(outcome))
    jobs = metrics.get_stats()["jobs"]
    assert (jobs["total"], jobs["processed"]) == (8, 4)
    assert (jobs["completed"], jobs["failed"], jobs["cancelled"]) == (3, 1, 2)
    assert jobs["success_rate"] == 0.75
    assert (jobs["pending"], jobs["processing"]) == (3, 2)


def test_times_are_told_in_all_and_for_each_instance_and_type(metrics: Metrics) -> None:
    """Processing times are those of completed jobs, waiting times those of all that began."""
    metrics.record_job(job(processing_s=1.0, waiting_s=0.1))
    metrics.record_job(job(processing_s=3.0, waiting_s=0.3, type=TYPES[1], instance=HOSTS[1]))
    metrics.record_job(job(Outcome.FAILED, processing_s=99.0, waiting_s=0.2))
    metrics.record_job(job(Outcome.CANCELLED, processing_s=None, waiting_s=None, instance=None))
    stats = metrics.get_stats()
    jobs, (one, two) = stats["jobs"], [entry["jobs"] for entry in stats["instances"]]
    assert jobs["processing_time"]["mean_seconds"] == 2.0
    assert jobs["waiting_time"]["mean_seconds"] == 0.2
    first, second = (jobs["by_type"][name] for name in TYPES)
    assert [first["processing_time"]["mean_seconds"], one["processing_time"]["count"]] == [1.0, 1]
    assert [second["processing_time"]["p99_seconds"], two["processing_time"]["p50_seconds"]] == [
        3.0, 3.0,
    ]  # fmt: skip
    assert one["waiting_time"]["mean_seconds"] == 0.15
    assert (one["completed"], one["failed"], one["processed"]) == (1, 1, 2)
    assert (two["completed"], two["failed"], two["success_rate"]) == (1, 0, 1.0)


async def test_errors_are_told_by_kind_and_forgotten_after_an_hour(
    metrics: Metrics, clock: ManualClock
) -> None:
    """Number and rate of each kind, since the start and within the last hour."""
    metrics.record_job(job(Outcome.FAILED, code="no_instance"))
    await clock.advance(3600)
    for code in ("timeout", "timeout", "workflow_error"):
        metrics.record_job(job(Outcome.FAILED, code=code))
    metrics.record_job(job())
    errors = metrics.get_stats()["errors"]
    assert (errors["total"], errors["rate"]) == (4, 0.8)
    assert errors["by_kind"]["timeout"] == {"count": 2, "rate": 0.4}
    assert errors["by_kind"]["no_instance"] == {"count": 1, "rate": 0.2}
    assert errors["last_hour"] == {
        "total": 3,
        "rate": 0.75,
        "by_kind": {
            "timeout": {"count": 2, "rate": 0.5},
            "workflow_error": {"count": 1, "rate": 0.25},
        },
    }
    assert metrics.get_stats()["jobs"]["by_type"][TYPES[0]]["errors_by_kind"]["timeout"] == 2


def test_retries_are_attempts_beyond_the_first(metrics: Metrics) -> None:
    """A job that never began has none."""
    for attempts in (0, 1, 3, 2):
        metrics.record_job(job(attempts=attempts))
    assert metrics.get_stats()["jobs"]["retries"] == 3


def test_prompts_of_clients_and_of_jobs_are_kept_apart(metrics: Metrics) -> None:
    """Forwarded, moved and passed over, by instance; a moved job is counted with the jobs."""
    metrics.record_prompt(prompt(PromptEvent.FORWARDED))
    metrics.record_prompt(prompt(PromptEvent.FORWARDED, instance=HOSTS[1]))
    metrics.record_prompt(prompt(PromptEvent.MOVED, instance=HOSTS[1]))
    metrics.record_prompt(prompt(PromptEvent.PASSED_OVER))
    metrics.record_prompt(prompt(PromptEvent.MOVED, job_type=TYPES[0]))
    stats = metrics.get_stats()
    for outcome, seconds in (
        (Outcome.COMPLETED, 2.0),
        (Outcome.COMPLETED, 4.0),
        (Outcome.FAILED, 9),
    ):
        metrics.record_prompt_end(prompt_end(outcome, processing_s=seconds))
    stats = metrics.get_stats()
    durations = {name: stats["prompts"].pop(name) for name in ("processing_time", "waiting_time")}
    assert stats["prompts"] == {
        "forwarded": 2, "moved": 1, "passed_over": 1, "completed": 2, "failed": 1, "cancelled": 0,
    }  # fmt: skip
    assert stats["instances"][1]["prompts"] == {
        "forwarded": 1, "moved": 1, "passed_over": 0, "completed": 0, "failed": 0, "cancelled": 0,
    }  # fmt: skip
    assert durations["processing_time"]["mean_seconds"] == 3.0
    assert durations["waiting_time"]["count"] == 3
    assert stats["jobs"]["moves"] == stats["jobs"]["by_type"][TYPES[0]]["moves"] == 1
    hour = stats["last_hour"]
    assert (hour["prompts"], hour["prompts_completed"], hour["prompts_failed"]) == (2, 2, 1)


def test_requests_and_their_bytes_are_counted(metrics: Metrics) -> None:
    """By method, policy and status; how long a stream or a WebSocket was open is no answer's time,
    and a client that left before has got none."""
    metrics.record_request(request())
    metrics.record_request(request(method="BREW", status=503, policy="ours", first_byte_s=None))
    metrics.record_request(request(status=101, duration_s=86400.0, policy="events"))
    stats = metrics.get_stats()
    assert stats["http"]["requests"] == 3
    assert stats["http"]["by_method"] == {"GET": 2, "OTHER": 1}
    assert stats["http"]["by_status"] == {"200": 1, "503": 1, "101": 1}
    assert stats["http"]["by_policy"] == {"owner_by_file": 1, "ours": 1, "events": 1}
    assert (stats["http"]["received_bytes"], stats["http"]["sent_bytes"]) == (30, 3000)
    assert stats["http"]["time_to_first_byte"]["p99_seconds"] == 0.01
    assert stats["http"]["time_to_first_byte"]["count"] == 2
    assert (stats["last_hour"]["requests"], stats["last_hour"]["requests_failed"]) == (3, 1)


def test_instances_circuits_and_pools(clock: ManualClock) -> None:
    """What is counted of an instance stands beside how it is now."""
    states = (
        instance_state(HOSTS[0]),
        instance_state(HOSTS[1], healthy=False, circuit="open", last_check=clock.now()),
    )
    metrics = made_metrics(clock, instances=states, sockets=SocketTotals(clients=4))
    metrics.record_attempt(attempt())
    metrics.record_attempt(attempt(verdict=Verdict.INSTANCE_FAULT, duration_s=0.03))
    metrics.record_circuit(CircuitRecord(instance=HOSTS[1], old="closed", new="open", reason="r"))
    metrics.record_pool_wait(PoolWait(instance=HOSTS[0], duration_s=1.5))
    stats = metrics.get_stats()
    one, two = stats["instances"]
    assert one["requests"] == {
        "forward": {"ok": 1, "instance_fault": 1, "client_gone": 0, "mean_seconds": 0.02}
    }
    assert (one["status"], one["circuit"], two["status"], two["circuit"]) == (
        "healthy", "closed", "unhealthy", "open",
    )  # fmt: skip
    assert two["circuit_changes"] == {"closed": 0, "open": 1, "half_open": 0}
    assert two["last_check"].endswith("Z")
    assert two["last_success"] is None
    assert one["connections"]["wait_time"]["mean_seconds"] == 1.5
    assert (one["connections"]["open"], one["connections"]["in_use"]) == (2, 1)
    assert stats["websockets"]["clients"] == 4


def test_the_stats_of_jobs_are_the_same_figures(metrics: Metrics) -> None:
    """``/api/jobs/stats`` counts nothing itself."""
    fill(metrics)
    stats, jobs = metrics.get_stats()["jobs"], job_statistics(metrics)
    assert jobs["total"] == stats["total"] == 200
    for name in ("pending", "processing", "completed", "failed", "cancelled"):
        assert jobs["by_status"][name] == stats[name]
    assert jobs["by_type"] == {name: stats["by_type"][name]["total"] for name in TYPES}
    assert jobs["average_processing_time_seconds"] == stats["processing_time"]["mean_seconds"]
    assert jobs["average_waiting_time_seconds"] == stats["waiting_time"]["mean_seconds"]


def test_lines_of_the_logs_are_read_where_they_are_counted(metrics: Metrics) -> None:
    """Whoever writes logs is asked; until there is somebody nothing was lost."""

    class Logs:
        dropped = 7
        written = {"error": 1, "info": 5}  # noqa: RUF012

    metrics.logs = Logs()
    assert metrics.get_stats()["logs"] == {"lines": {"error": 1, "info": 5}, "lines_dropped": 7}


def test_ten_thousand_paths_methods_and_codes_do_not_make_it_grow(metrics: Metrics) -> None:
    """No label is what a client chose: the number of series is bounded, and so is the memory."""
    fill(metrics)
    sizes = []
    for number in range(10_000):
        metrics.record_request(
            request(method=f"M{number}", path=f"/{number}", status=100 + number % 900)
        )
        metrics.record_job(job(Outcome.FAILED, code=f"code_{number}"))
        metrics.record_attempt(attempt(kind=f"kind_{number}"))
        if number % 5_000 == 4_999:
            sizes.append(metrics.exposition.render(CONTENT_TYPE_PLAIN_0_0_4).count(b"\n"))
    assert sizes[0] == sizes[1] < 1500
    assert len(metrics.http.requests) < 100
    assert len(metrics.jobs.errors) < 100
    assert len(metrics.exposition._writer._beginnings) < 1500
