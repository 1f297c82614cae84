"""What can be asked of the proxy once a job is there, without any I/O (``effects.py``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from comfy_proxy.client.answers import NOT_THE_PROXY, read_as, read_event
from comfy_proxy.client.effects import Call, Emit, NextEvent, Operation, Sleep
from comfy_proxy.client.errors import ApiError, InvalidValueError, JobFailedError, UnreachableError
from comfy_proxy.client.exchange import exchange
from comfy_proxy.client.models import ResultInfo, Status, Workflow
from comfy_proxy.client.paths import segment
from comfy_proxy.client.policy import Policy, Tries

T = TypeVar("T")

LONG_POLL_S: Final = 60.0
"""Seconds that one question for a job's end waits at the proxy; then it is asked again."""


def ask(
    path: str,
    make: Callable[[Any], T],
    policy: Policy,
    *,
    query: Mapping[str, str] | None = None,
    wait_s: float = 0.0,
) -> Operation[T]:
    """What ``make`` makes of the JSON at ``path``."""
    call = Call(method="GET", path=path, query=query or {}, wait_s=wait_s)
    answer = yield from exchange(call, policy)
    return read_as(answer, make)


def list_workflows(policy: Policy) -> Operation[list[Workflow]]:
    def read(told: Any) -> list[Workflow]:
        return [Workflow.read(one) for one in told["workflows"]]

    return (yield from ask("api/workflows", read, policy))


def list_jobs(policy: Policy, status: str | None, workflow: str | None) -> Operation[list[Status]]:
    def read(told: Any) -> list[Status]:
        return [Status.read(one) for one in told["jobs"]]

    wanted = {"status": status, "type": workflow}
    query = {name: value for name, value in wanted.items() if value is not None}
    return (yield from ask("api/jobs/list", read, policy, query=query))


def job_status(job_id: str, policy: Policy) -> Operation[Status]:
    return (yield from ask(f"{_job(job_id)}/status", Status.read, policy))


def wait_for_end(job_id: str, policy: Policy, timeout_s: float | None) -> Operation[Status]:
    """The status when the job has ended, or as it is ``timeout_s`` seconds later."""
    if timeout_s is not None and math.isnan(timeout_s):
        raise InvalidValueError("timeout_s is not a number.", field="timeout_s")
    until = math.inf if timeout_s is None else policy.monotonic() + timeout_s
    while True:
        left_s = max(0.0, min(until - policy.monotonic(), LONG_POLL_S))
        status = yield from ask(
            f"{_job(job_id)}/status",
            Status.read,
            policy,
            query={"wait": f"{left_s:.3f}"},
            wait_s=left_s,
        )
        if status.finished or policy.monotonic() >= until:
            return status


def completed(job_id: str, policy: Policy) -> Operation[Status]:
    """The status of the job once it has completed. Raises JobFailedError if it fails."""
    status = yield from wait_for_end(job_id, policy, None)
    raise_if_failed(status)
    return status


def raise_if_failed(status: Status) -> None:
    if status.error is not None:
        message, code = str(status.error["message"]), str(status.error["code"])
        raise JobFailedError(message, code=code, job_id=status.job_id)


def job_results(job_id: str, policy: Policy) -> Operation[list[tuple[ResultInfo, str]]]:
    """Each file of the job, once it has completed, with the path that leads to its bytes."""
    status = yield from completed(job_id, policy)
    found = status.results or ()
    return [(result, f"{_job(job_id)}/result/{number}") for number, result in enumerate(found)]


def cancel_job(job_id: str, policy: Policy) -> Operation[bool]:
    """End the job wherever it is, and forget it; False if there is none (any more)."""
    try:
        yield from exchange(Call(method="DELETE", path=_job(job_id)), policy)
    except ApiError as error:
        if error.status == 404 and error.code != NOT_THE_PROXY:
            return False
        raise
    return True


def follow_job(job_id: str, policy: Policy, *, previews: bool) -> Operation[None]:
    """Emit each Event of the job, to its end. A connection that breaks is opened again where it
    broke (``Last-Event-ID``); raises UnreachableError when the patience is at its end."""
    tries, last_id = Tries(policy), ""
    while True:
        call = Call(
            method="GET",
            path=f"{_job(job_id)}/events",
            query={"previews": "true"} if previews else {},
            headers={"Accept": "text/event-stream"}
            | ({"Last-Event-ID": last_id} if last_id else {}),
        )
        answer = yield from exchange(call, policy, streamed=True, tries=tries)
        if answer.status == 204:  # the end was told already
            return
        broken: UnreachableError | None = None
        try:
            while (heard := (yield NextEvent())) is not None:
                tries.succeeded()
                event = read_event(heard.event, heard.data)
                last_id = heard.id or last_id
                yield Emit(event)
                if event.is_end:
                    return
        except UnreachableError as error:
            broken = error
        pause_s = tries.pause_s()
        if pause_s is None:
            raise broken or UnreachableError("The proxy ends the job's events again and again.")
        yield Sleep(pause_s)


def _job(job_id: str) -> str:
    return f"api/jobs/{segment(job_id, 'the id of a job')}"
