"""ComfyUI's ``/api/jobs`` (2026) as far as it must be known: ids, progress, times, files. Pure.

A job is a JSON object; all but what is named here is passed on as it came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from comfy_proxy.cluster.prompt_lists import extra_data, finite
from comfy_proxy.cluster.prompt_outcomes import ENDS, messages_of
from comfy_proxy.json_listing import Listing, Span
from comfy_proxy.json_scanner import TEXT, Shape, Value
from comfy_proxy.lenient_json import TooDeepError, loads_exact

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
ENDED = len(_PROGRESS)
"""The :func:`progress` of a job that has ended, however."""


class JobList:
    """The page in an answer to ``GET /api/jobs``, read a few jobs at a time: it may be of 50 MB.

    After :meth:`steps`, ``total`` is how many jobs there are on all pages. An odd item, which has
    no id or is nested too deeply (a client may choose its ``workflow_id``), hides no other: it is
    left out and not counted.
    """

    def __init__(self, text: bytes) -> None:
        self.total = 0
        self._text = text

    def steps(self) -> Iterator[list[tuple[Job, Span]]]:
        """The jobs of each step, and where each of them stands in the text.

        Raises ValueError, at the end at the latest, if there is no page in it.
        """
        listing, left_out = Listing(self._text, "jobs"), 0
        for spans in listing.steps():
            read = [(_read_item(self._text[start:end]), (start, end)) for start, end in spans]
            jobs = [(one, span) for one, span in read if isinstance(one, dict) and _has_id(one)]
            left_out += len(read) - len(jobs)
            yield jobs
        match listing.rest:
            case {"pagination": {"total": int() as total}} if listing.found:
                self.total = total - left_out
            case _:
                raise ValueError("is no page of jobs")


def _read_item(text: bytes) -> Any:
    try:
        return loads_exact(text)
    except TooDeepError:
        return None


def _has_id(job: Job) -> bool:
    return isinstance(job.get("id"), str)


def pagination(shown: int, *, offset: int, limit: int | None, total: int) -> dict[str, Any]:
    """What an answer to ``GET /api/jobs`` tells of a page of ``shown`` jobs from ``offset`` on."""
    return {
        "offset": offset,
        "limit": limit,
        "total": total,
        "has_more": offset + shown < total,
    }


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
    """A job as ComfyUI makes it of a history's ``entry`` whose only message is its end, which is an
    error or an interruption."""
    ((kind, told),) = entry["status"]["messages"]
    job = {**pending_job(entry["prompt"]), "execution_end_time": told["timestamp"]}
    if kind == "execution_interrupted":
        return {**job, "status": "cancelled"}
    return {**job, "status": "failed", "execution_error": told}


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
    return _PROGRESS.index(status) if status in _PROGRESS else ENDED


def place(job: Job, *, by_duration: bool) -> float:
    """What ComfyUI sorts jobs by: when they were created, or how long they took."""
    return _duration(job) if by_duration else _created(job)


def _created(job: Job) -> float:
    return finite(job.get("create_time"))


def _duration(job: Job) -> float:
    start, end = (finite(job.get(f"execution_{at}_time")) for at in ("start", "end"))
    return end - start if start and end else 0
