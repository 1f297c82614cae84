"""Metrics on a manual clock, over a cluster that is only said to be."""

from __future__ import annotations

import random
from typing import Any

from manual_clock import ManualClock
from request_example import request_record as request

from comfy_proxy.metrics import Metrics
from comfy_proxy.metrics.live import InstanceState, LiveState, SocketTotals
from comfy_proxy.metrics.records import (
    Attempt,
    CircuitRecord,
    JobRecord,
    ModelUse,
    Outcome,
    PoolWait,
    PromptEnd,
    PromptEvent,
    PromptRecord,
    Verdict,
)

HOSTS = ("gpu:8188", "gpu:8189")
TYPES = ("remove-background", "upscale-image")


def instance_state(host: str, **changes: Any) -> InstanceState:
    state = {
        "id": str(HOSTS.index(host) + 1), "host": host, "healthy": True, "circuit": "closed",
        "consecutive_failures": 0, "last_error": None, "last_error_at": None,
        "active_jobs": 1, "load": 2, "client_prompts": 1, "last_check": None, "last_success": None,
        "response_time_s": 0.004, "pool_open": 2, "pool_in_use": 1, "pool_waiting": 0,
    }  # fmt: skip
    return InstanceState(**{**state, **changes})


def live_state(**changes: Any) -> LiveState:
    state = {
        "uptime_s": 12.5, "pending_jobs": 3, "processing_jobs": 2, "max_concurrent_jobs": 6,
        "instances": tuple(instance_state(host) for host in HOSTS), "sockets": SocketTotals(),
    }  # fmt: skip
    return LiveState(**{**state, **changes})


def made_metrics(clock: ManualClock, **live: Any) -> Metrics:
    return Metrics(clock=clock, instances=HOSTS, job_types=TYPES, live=lambda: live_state(**live))


def job(outcome: Outcome = Outcome.COMPLETED, **changes: Any) -> JobRecord:
    record = {
        "id": "an-id", "type": TYPES[0], "outcome": outcome, "instance": HOSTS[0], "attempts": 1,
        "waiting_s": 0.5, "processing_s": 2.0,
        "code": "timeout" if outcome is Outcome.FAILED else None,
    }  # fmt: skip
    return JobRecord(**{**record, **changes})


def attempt(**changes: Any) -> Attempt:
    record = {
        "instance": HOSTS[0], "kind": "forward", "duration_s": 0.01, "verdict": Verdict.OK,
        "error": None,
    }  # fmt: skip
    return Attempt(**{**record, **changes})


def prompt(event: PromptEvent, **changes: Any) -> PromptRecord:
    return PromptRecord(**{"event": event, "instance": HOSTS[0], "prompt_id": "p", **changes})


def prompt_end(outcome: Outcome = Outcome.COMPLETED, **changes: Any) -> PromptEnd:
    record = {
        "prompt_id": "p", "outcome": outcome, "instance": HOSTS[0], "waiting_s": 0.5,
        "processing_s": 2.0,
    }  # fmt: skip
    return PromptEnd(**{**record, **changes})


def fill(metrics: Metrics, count: int = 200) -> None:
    """Something of everything; the same each time."""
    some = random.Random(7)
    for _ in range(count):
        metrics.record_accepted_job(some.choice(TYPES))
        metrics.record_job(
            job(
                some.choice(list(Outcome)),
                type=some.choice(TYPES),
                instance=some.choice((*HOSTS, None)),
                processing_s=some.random() * 700,
                waiting_s=some.random() * 3,
                attempts=some.choice((0, 1, 3)),
                told_s=some.choice((None, 2.0, 300.0)),
            )
        )
        metrics.record_request(
            request(
                policy=some.choice(("ours", "other", "primary")),
                status=some.choice((101, 200, 404, 503)),
                duration_s=some.random() * 70,
            )
        )
        metrics.record_attempt(
            attempt(
                instance=some.choice(HOSTS),
                verdict=some.choice(list(Verdict)),
                duration_s=some.random(),
            )
        )
        metrics.record_prompt(prompt(some.choice(list(PromptEvent)), instance=some.choice(HOSTS)))
        metrics.record_prompt_end(
            prompt_end(some.choice(list(Outcome)), instance=some.choice(HOSTS))
        )
        metrics.loads.record(
            ModelUse(instance=some.choice(HOSTS), loaded=some.random() < 0.5, load_s=some.random())
        )
    metrics.record_circuit(CircuitRecord(instance=HOSTS[1], old="closed", new="open", reason="x"))
    metrics.record_pool_wait(PoolWait(instance=HOSTS[1], duration_s=0.7))
