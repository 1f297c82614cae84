"""Jobs as a ComfyUI of 2026 lists them: prompts that wait, run or have ended, in one form. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from comfy_proxy.embedded.nodes.node_class import Json

STATUSES = ("pending", "in_progress", "completed", "failed", "cancelled")
SORTS = ("created_at", "execution_duration")
ORDERS = ("asc", "desc")
ENDS = ("execution_success", "execution_error", "execution_interrupted")


def queued_job(row: list[Any], status: str) -> Json:
    """The job of a row of `/queue`."""
    number, prompt_id, _graph, extra_data, _outputs = row
    counts = {"outputs_count": 0, "previewable_outputs_count": 0}
    return _told(_identity(number, prompt_id, status, extra_data) | counts)


def ended_job(entry: Json, *, whole: bool) -> Json:
    """The job of an entry of `/history`; `whole` adds graph, outputs and messages."""
    number, prompt_id, graph, extra_data, _outputs = entry["prompt"]
    messages = {event: data for event, data in entry["status"]["messages"]}
    [end] = [messages[event] for event in ENDS if event in messages] or [{}]
    status = "completed" if entry["status"]["completed"] else "failed"
    shown = list(_shown(entry["outputs"]))
    job = _told(
        _identity(
            number,
            prompt_id,
            "cancelled" if "execution_interrupted" in messages else status,
            extra_data,
        )
        | {
            "execution_start_time": messages.get("execution_start", {}).get("timestamp"),
            "execution_end_time": end.get("timestamp"),
            "execution_error": messages.get("execution_error"),
            "outputs_count": len(shown),
            "previewable_outputs_count": len(shown),
            "preview_output": _preview(shown),
        }
    )
    if whole:
        job["outputs"] = entry["outputs"]
        job["execution_status"] = entry["status"]
        job["workflow"] = {"prompt": graph, "extra_data": extra_data}
    return job


def page_of(jobs: Iterable[Json], query: Mapping[str, str]) -> Json:
    """The body of `GET /api/jobs`. Raises ValueError with ComfyUI's words for a bad query."""
    statuses = _statuses(query)
    sort, descending = _sort(query)
    limit, offset = _limit(query), _offset(query)
    workflow_id = query.get("workflow_id")
    found = [
        job
        for job in jobs
        if job["status"] in statuses and (not workflow_id or job.get("workflow_id") == workflow_id)
    ]
    found.sort(key=sort, reverse=descending)
    page = found[offset:] if limit is None else found[offset : offset + limit]
    pagination = {"offset": offset, "limit": limit, "total": len(found)}
    pagination["has_more"] = offset + len(page) < len(found)
    return {"jobs": page, "pagination": pagination}


def _identity(number: float, prompt_id: str, status: str, extra_data: Json) -> Json:
    workflow = (extra_data.get("extra_pnginfo") or {}).get("workflow") or {}
    return {
        "id": prompt_id,
        "status": status,
        "priority": number,
        "create_time": extra_data.get("create_time"),
        "workflow_id": workflow.get("id"),
    }


def _told(job: Json) -> Json:
    """What is None is left out."""
    return {key: value for key, value in job.items() if value is not None}


def _shown(outputs: Json) -> Iterable[Json]:
    """Every picture, with its node and what kind of output it is."""
    for node_id, output in outputs.items():
        for kind, items in output.items():
            for item in items:
                yield item | {"nodeId": node_id, "mediaType": kind}


def _preview(shown: list[Json]) -> Json | None:
    """What stands for the whole job: the first saved picture, else the first one."""
    saved = [item for item in shown if item["type"] == "output"]
    return next(iter(saved or shown), None)


def _statuses(query: Mapping[str, str]) -> set[str]:
    asked = {one.strip().lower() for one in query.get("status", "").split(",") if one.strip()}
    if unknown := sorted(asked.difference(STATUSES)):
        raise ValueError(
            f"Invalid status value(s): {', '.join(unknown)}. Valid values: {', '.join(STATUSES)}"
        )
    return asked or set(STATUSES)


def _sort(query: Mapping[str, str]) -> tuple[Any, bool]:
    sort, order = query.get("sort_by", SORTS[0]).lower(), query.get("sort_order", "desc").lower()
    if sort not in SORTS:
        raise ValueError(f"sort_by must be {SORTS[0]!r} or {SORTS[1]!r}")
    if order not in ORDERS:
        raise ValueError(f"sort_order must be {ORDERS[0]!r} or {ORDERS[1]!r}")
    return (_created if sort == SORTS[0] else _duration), order == "desc"


def _created(job: Json) -> Any:
    return job.get("create_time", 0)


def _duration(job: Json) -> Any:
    return job.get("execution_end_time", 0) - job.get("execution_start_time", 0)


def _limit(query: Mapping[str, str]) -> int | None:
    limit = _number(query, "limit")
    if limit is not None and limit <= 0:
        raise ValueError("limit must be a positive integer")
    return limit


def _offset(query: Mapping[str, str]) -> int:
    return max(0, _number(query, "offset") or 0)


def _number(query: Mapping[str, str], name: str) -> int | None:
    try:
        return int(query[name]) if name in query else None
    except ValueError:
        raise ValueError(f"{name} must be an integer") from None
