"""ComfyUI's ``/api/jobs`` (2026) as far as it must be known: ids, progress, times, files. Pure.

A job is a JSON object; all but what is named here is passed on as it came.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from comfy_proxy.cluster.prompt_lists import extra_data, finite
from comfy_proxy.cluster.prompt_outcomes import ENDS, messages_of
from comfy_proxy.json_scanner import TEXT, Shape, Value

Job = dict[str, Any]
_READ = ("id", "execution_end_time", "execution_error", "outputs", "preview_output")
JOB: Shape = {name.encode(): TEXT for name in _READ}
"""What is read of one job: its files, when it ended, and with which error. Its workflow, which may
be any size, is stepped over."""
OUTPUTS = ("preview_output", "outputs")
"""What names files in a job."""
_PREVIEWABLE = frozenset({"images", "video", "audio", "3d"})
"""Kinds of outputs that the frontend can show."""
_PROGRESS = ("pending", "in_progress")
"""Statuses in the order in which a job has them; all others come after these."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobPage:
    """A page of an instance's list, and how many jobs there are on all pages. An odd item, which
    has no id, hides no other: it is left out and not counted."""

    jobs: list[Job]
    total: int


def read_jobs(answer: Any) -> JobPage | None:
    """The page in an answer to ``GET /api/jobs``; None if there is none in it."""
    match answer:
        case {"jobs": [*items], "pagination": {"total": int() as total}}:
            jobs = [one for one in items if isinstance(one, dict) and _has_id(one)]
            return JobPage(jobs=jobs, total=total - len(items) + len(jobs))
    return None


def _has_id(job: Job) -> bool:
    return isinstance(job.get("id"), str)


def jobs_answer(jobs: list[Job], *, offset: int, limit: int | None, total: int) -> dict[str, Any]:
    """The answer to ``GET /api/jobs``: ``jobs`` is the page that begins at ``offset``."""
    pagination = {
        "offset": offset,
        "limit": limit,
        "total": total,
        "has_more": offset + len(jobs) < total,
    }
    return {"jobs": jobs, "pagination": pagination}


def read_job(root: Value | None) -> Job:
    """What a job in an answer scanned for JOB tells of its files and its end."""
    parts = {name: root and root.get(name.encode()) for name in _READ}
    return {name: part.data() for name, part in parts.items() if part is not None}


def pending_job(entry: list[Any]) -> Job:
    """A job as ComfyUI makes it of a waiting ``entry`` of ``/queue``."""
    extra = extra_data(entry)
    match extra:
        case {"extra_pnginfo": {"workflow": {"id": workflow_id}}}:
            pass
        case _:
            workflow_id = None
    job = {
        "id": entry[1],
        "status": "pending",
        "priority": entry[0],
        "create_time": extra.get("create_time"),
        "outputs_count": 0,
        "previewable_outputs_count": 0,
        "workflow_id": workflow_id,
    }
    return {key: value for key, value in job.items() if value is not None}


def failed_job(entry: Mapping[str, Any]) -> Job:
    """A job as ComfyUI makes it of a history's ``entry`` whose only message is the error."""
    ((_, error),) = entry["status"]["messages"]
    return {
        **pending_job(entry["prompt"]),
        "status": "failed",
        "execution_end_time": error["timestamp"],
        "execution_error": error,
    }


def running_job(entry: list[Any]) -> Job:
    """A job as ComfyUI makes it of an ``entry`` of ``/queue`` that runs."""
    return {**pending_job(entry), "status": "in_progress"}


def ended_job(entry: Mapping[str, Any]) -> Job:
    """A job as ComfyUI makes it of a history's ``entry``: ``prompt``, ``outputs``, ``status``.

    Of what is not shaped like ComfyUI's as much as can be read.
    """
    status = entry.get("status")
    status = status if isinstance(status, Mapping) else {}
    told = messages_of({"status": status})
    end = next((told[kind] for kind in ENDS if kind in told), {})
    shown = list(_shown_outputs(entry.get("outputs")))
    name = "completed" if status.get("status_str") == "success" else "failed"
    more = {
        "execution_start_time": told.get("execution_start", {}).get("timestamp"),
        "execution_end_time": end.get("timestamp"),
        "execution_error": told.get("execution_error"),
        "preview_output": next(
            (one for one in shown if one.get("type") == "output"), next(iter(shown), None)
        ),
    }
    return {
        **pending_job(entry["prompt"]),
        "status": "cancelled" if "execution_interrupted" in told else name,
        "outputs_count": len(shown),
        "previewable_outputs_count": sum(one["mediaType"] in _PREVIEWABLE for one in shown),
        **{key: value for key, value in more.items() if value is not None},
    }


def whole_job(job: Job, entry: Mapping[str, Any]) -> Job:
    """``job`` as ComfyUI shows it alone: with outputs, messages and graph of its ``entry``."""
    return {
        **job,
        "outputs": entry.get("outputs"),
        "execution_status": entry.get("status"),
        "workflow": {"prompt": entry["prompt"][2], "extra_data": entry["prompt"][3]},
    }


def _shown_outputs(outputs: Any) -> Iterator[Job]:
    """Every file and text that the nodes gave out, with its node and its kind."""
    for node_id, output in outputs.items() if isinstance(outputs, Mapping) else ():
        for kind, items in output.items() if isinstance(output, Mapping) else ():
            if kind == "animated" or not isinstance(items, list):
                continue
            for item in items:
                named = item if isinstance(item, dict) else {}
                yield {**named, "nodeId": node_id, "mediaType": kind}


def in_turn(job: Job) -> Job:
    """``job`` with a ``priority`` that tells whose turn comes first, over all instances.

    Each instance counts its own prompts. ComfyUI's frontend of 2026 tells of a waiting job how many
    have a lower one: "3 jobs ahead of yours". So it is the time of creation (ms) of a waiting job.
    A number that a client chose, a float in ComfyUI, stays; so does a negative one (in front).
    """
    number, created = job.get("priority"), job.get("create_time")
    counted = isinstance(number, int) and number >= 0
    if job.get("status") == "pending" and counted and isinstance(created, int):
        return {**job, "priority": created}
    return job


def progress(job: Job) -> int:
    """Grows as the job gets on."""
    status = job.get("status")
    return _PROGRESS.index(status) if status in _PROGRESS else len(_PROGRESS)


def in_order(jobs: Iterable[Job], *, by_duration: bool, ascending: bool) -> list[Job]:
    """As ComfyUI sorts them, by creation or by how long they took; ties stay as they are."""
    return sorted(jobs, key=_duration if by_duration else _created, reverse=not ascending)


def _created(job: Job) -> float:
    return finite(job.get("create_time"))


def _duration(job: Job) -> float:
    start, end = (finite(job.get(f"execution_{at}_time")) for at in ("start", "end"))
    return end - start if start and end else 0
