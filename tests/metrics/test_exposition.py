"""The figures for Prometheus: its text formats, its names, its negotiation."""

from __future__ import annotations

import re
from typing import Any

import pytest
from figures import HOSTS, TYPES, attempt, fill, job, made_metrics, request
from manual_clock import ManualClock
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from comfy_proxy.metrics import Metrics
from comfy_proxy.metrics.exposition import prometheus_format

PLAIN = "text/plain;version=0.0.4"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"
PLAIN_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
"""What Prometheus 3 sends."""
NAMES = (
    "build_info", "start_time_seconds", "jobs_accepted_total", "jobs_finished_total",
    "job_errors_total", "job_duration_seconds", "job_wait_seconds", "job_retries_total",
    "job_moves_total", "job_estimate_error_ratio", "jobs", "prompts_forwarded_total",
    "prompts_moved_total",
    "prompts_passed_over_total", "prompts_finished_total", "prompt_duration_seconds",
    "prompt_wait_seconds", "http_requests_total", "http_time_to_first_byte_seconds",
    "http_received_bytes_total", "http_sent_bytes_total", "static_text_answers_total",
    "static_text_saved_bytes_total", "websocket_clients",
    "websocket_frames_total", "websocket_previews_dropped_total", "websocket_slow_clients_total",
    "instance_up", "instance_info", "instance_draining", "instance_stands_still",
    "instance_circuit_state", "instance_circuit_changes_total",
    "instance_active_jobs", "instance_load", "instance_check_duration_seconds",
    "instance_requests_total", "instance_request_duration_seconds", "pool_connections",
    "model_loads_total", "model_loads_avoided_total", "model_load_seconds_total", "models_loaded",
    "pool_waiting", "pool_wait_seconds", "log_lines_dropped_total", "log_lines_total",
    "event_loop_lag_seconds", "webhooks_finished_total", "webhook_retries_total",
    "webhooks_pending",
)  # fmt: skip


@pytest.fixture
def metrics(clock: ManualClock) -> Metrics:
    filled = made_metrics(clock)
    fill(filled)
    return filled


def text_of(metrics: Metrics, content_type: str = PLAIN_TYPE) -> str:
    return metrics.exposition.render(content_type).decode()


def samples(families: Any) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_every_metric_of_the_plan_is_there(metrics: Metrics) -> None:
    """Dashboards and alerts are written against these names."""
    told = set(re.findall(r"^# TYPE (\S+)", text_of(metrics), re.MULTILINE))
    assert told == {f"comfy_proxy_{name}" for name in NAMES}


def test_what_is_written_is_what_the_library_would_write(metrics: Metrics) -> None:
    """Sample by sample, type by type, help by help, in both formats, read by its own parsers."""
    registry = metrics.exposition.registry
    for content_type, parse, generate in (
        (PLAIN_TYPE, parse_plain, generate_latest),
        (OPENMETRICS_TYPE, parse_openmetrics, openmetrics.generate_latest),
    ):
        ours = list(parse(text_of(metrics, content_type)))
        theirs = list(parse(generate(registry).decode()))
        assert samples(ours) == samples(theirs)
        assert len(samples(ours)) > 150
        assert [(f.name, f.type, f.unit, f.documentation) for f in ours] == [
            (f.name, f.type, f.unit, f.documentation) for f in theirs
        ]


def test_it_is_the_same_text_the_second_time(metrics: Metrics) -> None:
    """What is kept of a line is what stands before its value; new values are told."""
    first = text_of(metrics)
    assert text_of(metrics) == first
    metrics.record_accepted_job(TYPES[0])
    assert len(set(text_of(metrics).splitlines()) - set(first.splitlines())) == 1


def test_labels_are_escaped(clock: ManualClock) -> None:
    """A workflow's name is a file's name: it may have quotes in it."""
    metrics = made_metrics(clock)
    metrics.record_job(job(type='a "quoted\\one\n'))
    told = samples(parse_plain(text_of(metrics)))
    assert any(("type", 'a "quoted\\one\n') in labels for _, labels in told)


def test_counters_begin_at_nought(clock: ManualClock) -> None:
    """The first event of a kind is seen as a rise: the series was there before."""
    metrics = made_metrics(clock)

    def value(name: str, **labels: str) -> float:
        return samples(parse_plain(text_of(metrics)))[
            f"comfy_proxy_{name}", frozenset(labels.items())
        ]

    here = {"comfyui_instance": HOSTS[0]}
    failed = {"type": TYPES[0], "outcome": "failed"}
    for at in ("", *HOSTS):
        assert value("jobs_finished_total", **failed, comfyui_instance=at) == 0
    for code in ("no_instance", "workflow_error", "internal_error", "instance_timeout"):
        assert value("job_errors_total", type=TYPES[0], code=code) == 0
    assert value("prompts_moved_total", **here) == 0
    for name in ("loads", "loads_avoided", "load_seconds"):
        assert value(f"model_{name}_total", **here) == 0
    metrics.record_attempt(attempt(kind="ask"))
    assert value("instance_requests_total", **here, kind="ask", verdict="instance_fault") == 0
    metrics.record_request(request(policy="merged"))
    for status in ("500", "502", "503", "504"):
        assert value("http_requests_total", method="GET", policy="merged", status=status) == 0


@pytest.mark.parametrize(("content_type", "end"), [(PLAIN_TYPE, ""), (OPENMETRICS_TYPE, "# EOF\n")])
def test_the_text_is_what_its_type_says(metrics: Metrics, content_type: str, end: str) -> None:
    """Each sample ends its line; OpenMetrics says where the text ends, plain text does not."""
    text = text_of(metrics, content_type)
    assert text.endswith(end or "\n")
    assert ("# EOF" in text) == bool(end)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", None),
        ("*/*", None),
        ("text/*", None),
        ("application/json", None),
        ("application/json, text/plain, */*", None),
        ("text/plain, application/json", None),
        ("text/plain, */*", None),
        ("text/plain;q=0", None),
        ("text/plain;q=0.5, application/json;q=0.5", None),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", None),
        ("application/openmetrics-text;q=0", None),
        ("application/json, text/plain;version=0.0.4;q=0.1", None),
        ("text/plain;version=0.0.4;q=much", None),
        ("text/plain", PLAIN_TYPE),
        ("Text/Plain;charset=utf-8", PLAIN_TYPE),
        ("text/plain, */*;q=0.01", PLAIN_TYPE),
        ("text/plain;q=0.5, application/json;q=0.4", PLAIN_TYPE),
        (PLAIN, PLAIN_TYPE),
        ("Text/Plain; Version=0.0.4", PLAIN_TYPE),
        ("text/plain;version=new", PLAIN_TYPE),
        ('text/plain;version="1.0.0"', PLAIN_TYPE),
        ("text/plain;version=0.0.4, application/json", PLAIN_TYPE),
        ("application/openmetrics-text;version=0.0.1", PLAIN_TYPE),
        ("application/openmetrics-text;version=new", PLAIN_TYPE),
        ("application/openmetrics-text;q=0, text/plain;version=0.0.4;q=0.1", PLAIN_TYPE),
        ("application/openmetrics-text;q=0.3, text/plain;version=0.0.4;q=0.6", PLAIN_TYPE),
        (PROMETHEUS, OPENMETRICS_TYPE),
        (OPENMETRICS, OPENMETRICS_TYPE),
        ("application/openmetrics-text", OPENMETRICS_TYPE),
        ("application/openmetrics-text;version=2.0.0", OPENMETRICS_TYPE),
        ("application/json;q=0.5, application/openmetrics-text", OPENMETRICS_TYPE),
        ("application/openmetrics-text, text/plain;version=0.0.4", OPENMETRICS_TYPE),
    ],
)
def test_who_gets_which_text(accept: str, content_type: str | None) -> None:
    """JSON (None) unless OpenMetrics or a version is named, or plain text is preferred to JSON."""
    assert prometheus_format(accept) == content_type


def test_the_process_wide_registry_is_left_alone(metrics: Metrics) -> None:
    """A host's own metrics are not mixed with ours, unless it registers ours itself."""
    assert "comfy_proxy" not in generate_latest(REGISTRY).decode()
    hosts = CollectorRegistry()
    hosts.register(metrics.exposition)
    assert "comfy_proxy_jobs_accepted_total" in generate_latest(hosts).decode()
