"""The list of recent errors: what is news, what is one, what is dropped."""

from __future__ import annotations

from typing import Any

import pytest
from manual_clock import ManualClock
from request_example import request_record

from comfy_proxy.dashboard.recent_errors import MAX_ERRORS, MAX_TEXT, RecentErrors
from comfy_proxy.metrics.records import CircuitRecord, JobRecord, Outcome, RequestRecord


@pytest.fixture
def errors(clock: ManualClock) -> RecentErrors:
    return RecentErrors(clock)


def job(
    number: int, outcome: Outcome = Outcome.FAILED, message: str = "silent for 60 s"
) -> JobRecord:
    return JobRecord(
        id=f"job-{number}", type="upscale-image", outcome=outcome, instance="gpu:1", attempts=1,
        waiting_s=0.0, processing_s=1.0, code="timeout", message=message,
    )  # fmt: skip


def request(status: int, **changes: Any) -> RequestRecord:
    values = {"method": "POST", "path": "/prompt", "policy": "prompt", "instance": "gpu:1"}
    return request_record(**{**values, "status": status, **changes})


def test_a_failed_job_is_told_in_words(errors: RecentErrors, clock: ManualClock) -> None:
    """Which, where, why and when; one that was completed or cancelled is no error."""
    errors.job_ended(job(1, Outcome.COMPLETED))
    errors.job_ended(job(2, Outcome.CANCELLED))
    errors.job_ended(job(3))
    assert errors.newest_first() == [
        {
            "time": "2026-01-01T00:16:40.000Z", "code": "timeout", "where": "gpu:1",
            "message": "silent for 60 s (job job-3)", "count": 1,
        }
    ]  # fmt: skip


def test_an_outage_is_told_once(errors: RecentErrors) -> None:
    """Not each failed trial while it lasts, nor its end."""
    for old, new in (("closed", "open"), ("open", "half_open"), ("half_open", "open")):
        errors.circuit_changed(CircuitRecord(instance="gpu:1", old=old, new=new, reason=new))
    errors.circuit_changed(
        CircuitRecord(instance="gpu:1", old="half_open", new="closed", reason="answers")
    )
    assert [error["message"] for error in errors.newest_first()] == ["open"]


@pytest.mark.parametrize(
    ("answered", "told"),
    [
        (request(502), True),
        (request(500, policy="ours", path="/api/jobs/list"), True),
        (request(503, policy="ours", path="/health"), False),
        (request(504, policy="ours", path="/api/upscale-image"), False),
        (request(404), False),
        (request(499), False),
    ],
    ids=["a fault", "a bug of ours", "health in an outage", "a sync job", "not found", "gone"],
)
def test_which_answers_are_errors(errors: RecentErrors, answered: Any, told: bool) -> None:
    """Faults that a client of ComfyUI saw; of our own answers those that nobody meant."""
    errors.request_answered(answered)
    assert bool(errors.newest_first()) is told


def test_equal_errors_are_one_with_their_number(errors: RecentErrors) -> None:
    """The newest path stands for all of them; another method or instance is another error."""
    for number in range(1000):
        errors.request_answered(request(502, path=f"/prompt/{number}"))
    errors.request_answered(request(502, method="GET"))
    errors.request_answered(request(502, path="/last"))
    shown = [(error["message"], error["count"]) for error in errors.newest_first()]
    assert shown == [
        ("POST /last was answered with 502", 1001),
        ("GET /prompt was answered with 502", 1),
    ]


def test_one_reason_is_one_error(errors: RecentErrors) -> None:
    """However many jobs failed for it: their number, and the last one's id."""
    errors.circuit_changed(CircuitRecord(instance="gpu:1", old="closed", new="open", reason="r"))
    for number in range(40):
        errors.job_ended(job(number))
    failed, outage = errors.newest_first()
    assert (failed["count"], failed["message"]) == (40, "silent for 60 s (job job-39)")
    assert outage["code"] == "circuit_open"


def test_a_stack_trace_is_shortened(errors: RecentErrors) -> None:
    """Each viewer is sent the whole list twice a second; the job's id is still there."""
    errors.job_ended(job(7, message="Traceback " * 10_000))
    (error,) = errors.newest_first()
    assert len(error["message"]) <= MAX_TEXT
    assert error["message"].endswith("… (job job-7)")


def test_the_list_does_not_grow(errors: RecentErrors) -> None:
    """The newest thirty; the page is told of each."""
    told: list[None] = []
    errors.on_change.append(lambda: told.append(None))
    for number in range(100):
        errors.job_ended(job(number, message=f"reason {number}"))
    shown = errors.newest_first()
    assert (len(shown), len(told)) == (MAX_ERRORS, 100)
    assert "job-99" in shown[0]["message"]
    assert "job-70" in shown[-1]["message"]
