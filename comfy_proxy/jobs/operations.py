"""The job API as a table: its routes, and what OpenAPI says of them and of each workflow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from aiohttp import web

from comfy_proxy.jobs import api, result_api, workflow_api
from comfy_proxy.jobs.model import JobStatus
from comfy_proxy.jobs.view_types import (
    Accepted,
    Cancelled,
    JobInfo,
    JobList,
    JobResult,
    JobState,
    LegacyResult,
    Message,
    Result,
    WorkflowList,
    WorkflowView,
)
from comfy_proxy.jobs.workflows.parameter import schema_of
from comfy_proxy.jobs.workflows.workflow import FILE_ALIASES, Workflow
from comfy_proxy.openapi.operation import (
    ANY_BYTES,
    TRUTH,
    WAIT,
    Answer,
    Operation,
    Parameter,
    Schema,
    json,
    routes_of,
)

_JOB: Final = "jobs"
_WORKFLOW: Final = "workflows"
_MODE: Final = (
    Parameter(name="mode", description="how to answer", schema={"enum": ["async", "sync"]}),
    Parameter(name="async", description="`false`: the result in this answer", schema=TRUTH),
    Parameter(
        name="Idempotency-Key",
        place="header",
        description="the same key with the same request gives the same job",
        schema={"type": "string", "minLength": 1, "maxLength": 255},
    ),
    Parameter(name="Prefer", place="header", description="`wait=N` or `respond-async` (RFC 7240)"),
)
_BYTES: Final = Answer(
    description="what the workflow has made", content={ANY_BYTES: None}, headers={"ETag": "of it"}
)
_CREATED: Final[Mapping[int, Answer]] = {
    200: Answer(
        description="the result, for a client that asked for it in this call",
        content={"application/json": LegacyResult, ANY_BYTES: None},
    ),
    202: json(Accepted, "the job was accepted", Location="where to ask about it"),
}
_CREATE_ERRORS: Final = (404, 408, 413, 415, 422, 502, 503, 504)
_ANY_OBJECT: Final[Schema] = {"type": "object", "additionalProperties": True}
_STATUS: Final = Parameter(
    name="status", description="of the jobs", schema={"enum": [str(one) for one in JobStatus]}
)


def routes() -> list[web.RouteDef]:
    """All routes of the job API, to be registered after the host's own."""
    return routes_of(OPERATIONS)


def described(workflows: Iterable[Workflow]) -> list[Operation]:
    """The operations, and one for each workflow with its own parameters: what OpenAPI shows."""
    by_name = {one.name: one for one in workflows}
    shortcuts = {f"/api{kind}/{name}": name for name in api.SHORTCUTS for kind in ("", "/async")}
    rows = []
    for row in OPERATIONS:
        workflow = by_name.get(shortcuts.get(row.path, ""))
        rows.append(row if workflow is None else _of(workflow, row.path, row.summary))
    own = [_of(one, f"/api/workflows/{name}", one.title) for name, one in by_name.items()]
    return [*rows, *own]


def _get(path: str, handler: Any, summary: str, kind: Any, **options: Any) -> Operation:
    answers = options.pop("answers", None) or {200: json(kind, summary)}
    return Operation(
        method="GET", path=path, handler=handler, summary=summary, answers=answers, **options
    )


def _post(path: str, handler: Any, summary: str, **options: Any) -> Operation:
    return Operation(
        method="POST",
        path=path,
        handler=handler,
        tag=_WORKFLOW,
        summary=summary,
        parameters=_MODE,
        answers=_CREATED,
        errors=_CREATE_ERRORS,
        body_required=False,
        **options,
    )


def _shortcuts() -> Iterator[Operation]:
    body = {"multipart/form-data": _ANY_OBJECT}
    for name in api.SHORTCUTS:
        path = f"/api/{name}"
        yield _post(path, api.creator(name), f"Run {name}", body=body)
    for name in api.SHORTCUTS:
        handler = api.creator(name, always_async=True)
        path = f"/api/async/{name}"
        yield _post(path, handler, f"Run {name}, always answered with 202", body=body)


def _of(workflow: Workflow, path: str, summary: str) -> Operation:
    return _post(
        path,
        api.create_named,
        summary,
        description=workflow.description,
        body=_bodies(workflow),
    )


def _bodies(workflow: Workflow) -> dict[str, Schema]:
    """What a request may look like: as a form, as JSON, and as a bare file if it takes only one."""
    form, text, files = (
        schema_of(workflow.parameters),
        schema_of(workflow.parameters),
        workflow.files,
    )
    for name in files:
        kind = text["properties"][name]["x-kind"]
        told = "base64, a data URL, or the URL of a host that is allowed"
        text["properties"][name] = {"type": "string", "description": told, "x-kind": kind}
    bodies: dict[str, Schema] = {"multipart/form-data": form, "application/json": text}
    if not files:
        bodies["application/x-www-form-urlencoded"] = form
    if len(files) == 1:
        for schema in (form, text):
            _name_otherwise(schema, files[0])
        if (media := _bare(workflow, files[0])) is not None:
            bodies[media] = {}
    return bodies


def _name_otherwise(schema: dict[str, Any], name: str) -> None:
    """The one file may have other names, so none of them can be required."""
    aliases = {alias: schema["properties"][name] for alias in FILE_ALIASES}
    schema["properties"] = {**aliases, **schema["properties"]}
    schema["required"] = [one for one in schema.get("required", ()) if one != name]


def _bare(workflow: Workflow, name: str) -> str | None:
    kind = workflow.parameters[name].kind
    if kind is None or kind.is_picture:
        return "image/*"
    return f"{kind}/*" if kind in ("video", "audio") else None


OPERATIONS: Final[tuple[Operation, ...]] = (
    *_shortcuts(),
    _get("/api/workflows", workflow_api.list_all, "What can be run", WorkflowList, tag=_WORKFLOW),
    _get(
        "/api/workflows/{name}",
        workflow_api.one,
        "One workflow, with its parameters as JSON Schema",
        WorkflowView,
        tag=_WORKFLOW,
        errors=(404,),
    ),
    _post(
        "/api/workflows/{name}",
        api.create_named,
        "Run a workflow",
        body={
            "multipart/form-data": _ANY_OBJECT,
            "application/json": _ANY_OBJECT,
            "application/x-www-form-urlencoded": _ANY_OBJECT,
        },
    ),
    _get(
        "/api/jobs/list",
        api.list_jobs,
        "All jobs that are known",
        JobList,
        tag=_JOB,
        parameters=(
            _STATUS,
            Parameter(name="type", description="the workflow"),
            Parameter(name="instance", description="host:port"),
        ),
    ),
    _get("/api/jobs/stats", api.stats, "Figures of jobs", dict[str, Any], tag=_JOB),
    _get(
        "/api/jobs/{job_id}/status",
        api.status,
        "How far a job is",
        JobState,
        tag=_JOB,
        parameters=(
            WAIT,
            Parameter(
                name="until",
                description="what ends the wait: the job's end, or any change of its status",
                schema={"enum": ["end", "change"]},
            ),
        ),
        errors=(404, 503),
    ),
    _get(
        "/api/jobs/{job_id}/result",
        result_api.result,
        "What a job has made",
        None,
        tag=_JOB,
        description="One result as it is; several as a list, or as a ZIP if `Accept` asks for it.",
        parameters=(WAIT,),
        answers={
            200: Answer(
                description="the result, or the results",
                content={
                    "application/json": JobResult | list[Result],
                    "application/zip": None,
                    ANY_BYTES: None,
                },
                headers={"ETag": "of bytes"},
            )
        },
        errors=(404, 409, 410, 503),
    ),
    _get(
        "/api/jobs/{job_id}/result/{n}",
        result_api.one_result,
        "One of several results; the first has the number 0",
        None,
        tag=_JOB,
        parameters=(WAIT,),
        answers={200: _BYTES},
        errors=(404, 409, 410, 503),
    ),
    _get(
        "/api/jobs/{job_id}/events",
        api.events,
        "What happens to a job, as Server-Sent Events",
        None,
        tag=_JOB,
        description=(
            "`status`, `progress`, `completed` and `failed` have the JSON of the status; `preview`"
            " has `mime_type` and `image_base64`. `Last-Event-ID` resumes."
        ),
        parameters=(Parameter(name="previews", description="pictures meanwhile", schema=TRUTH),),
        answers={
            200: Answer(description="until the job ends", content={"text/event-stream": None}),
            204: Answer(description="its end was told before"),
        },
        errors=(404,),
        allow_head=False,
    ),
    _get(
        "/api/jobs/{job_id}/info",
        api.info,
        "The status of a job, and what it was given and has made",
        JobInfo,
        tag=_JOB,
        errors=(404,),
    ),
    _get(
        "/api/jobs/{job_id}",
        api.info_if_ours,
        "The same; of an id that is not ours ComfyUI's own answer",
        dict[str, Any],
        tag=_JOB,
        errors=(404, 503),
    ),
    Operation(
        method="POST",
        path="/api/jobs/{job_id}/cancel",
        handler=api.cancel_if_ours,
        tag=_JOB,
        summary="End a job and forget it; of an id that is not ours ComfyUI's own answer",
        answers={200: json(Cancelled, "whether it had not ended before")},
        errors=(404, 503),
    ),
    Operation(
        method="DELETE",
        path="/api/jobs/{job_id}",
        handler=api.delete,
        tag=_JOB,
        summary="End a job if it has not ended, and forget it",
        answers={200: json(Message, "what was done")},
        errors=(404,),
    ),
)
