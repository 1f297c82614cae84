"""The job API as a table: its routes, and what OpenAPI says of them and of each workflow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from aiohttp import web

from comfy_proxy.jobs import api, result_api, workflow_operations
from comfy_proxy.jobs.model import JobStatus
from comfy_proxy.jobs.view_types import (
    Cancelled,
    JobInfo,
    JobList,
    JobResult,
    JobState,
    Message,
    Result,
)
from comfy_proxy.jobs.workflow_operations import FLAG
from comfy_proxy.jobs.workflows.workflow import Workflow
from comfy_proxy.openapi.operation import (
    ANY_BYTES,
    WAIT,
    Answer,
    Operation,
    Parameter,
    get,
    json,
    routes_of,
)

_JOB: Final = "jobs"
_WORKFLOW: Final = "workflows"
_BYTES: Final = Answer(
    description="what the workflow has made",
    content={ANY_BYTES: None},
    headers={"ETag": "of it", "Accept-Ranges": "`bytes`"},
)
_PART: Final = Answer(
    description="the bytes that `Range` asks for",
    content={ANY_BYTES: None},
    headers={"ETag": "of all of it", "Content-Range": "which they are, and of how many"},
)
_RANGE: Final = (
    Parameter(
        name="Range",
        place="header",
        description="a part of the bytes, as `bytes=0-1023`; of several parts all bytes come",
    ),
    Parameter(
        name="If-Range",
        place="header",
        description="the `ETag` that the part must be of; else all bytes come",
    ),
)
_COMFYUI: Final = Answer(description="ComfyUI does not know it either", content={ANY_BYTES: None})
_STATUS: Final = Parameter(
    name="status", description="of the jobs", schema={"enum": [str(one) for one in JobStatus]}
)


def described(workflows: Iterable[Workflow]) -> list[Operation]:
    """The operations, and those of each workflow with its own parameters: what OpenAPI shows."""
    rest = OPERATIONS[len(workflow_operations.OPERATIONS) :]
    return [*workflow_operations.described(workflows), *rest]


def routes() -> list[web.RouteDef]:
    """All routes of the job API, to be registered after the host's own."""
    return routes_of(OPERATIONS)


OPERATIONS: Final[tuple[Operation, ...]] = (
    *workflow_operations.OPERATIONS,
    get(
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
    get("/api/jobs/stats", api.stats, "Figures of jobs", dict[str, Any], tag=_JOB),
    get(
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
    get(
        "/api/jobs/{job_id}/result",
        result_api.result,
        "What a job has made",
        None,
        tag=_JOB,
        description="One result as it is; several as a list, or as a ZIP if `Accept` asks for it.",
        parameters=(WAIT, *_RANGE),
        answers={
            200: Answer(
                description="the result, or the results",
                content={
                    "application/json": JobResult | list[Result],
                    "application/zip": None,
                    ANY_BYTES: None,
                },
                headers={"ETag": "of bytes", "Accept-Ranges": "of bytes: `bytes`"},
            ),
            206: _PART,
        },
        errors=(404, 409, 410, 416, 503),
    ),
    get(
        "/api/jobs/{job_id}/result/{n}",
        result_api.one_result,
        "One of several results; the first has the number 0",
        None,
        tag=_JOB,
        parameters=(WAIT, *_RANGE),
        answers={200: _BYTES, 206: _PART},
        errors=(404, 409, 410, 416, 503),
    ),
    get(
        "/api/jobs/{job_id}/events",
        api.events,
        "What happens to a job, as Server-Sent Events",
        None,
        tag=_JOB,
        description=(
            "`status`, `progress`, `completed` and `failed` have the JSON of the status; `preview`"
            " has `mime_type` and `image_base64`. `Last-Event-ID` resumes."
        ),
        parameters=(Parameter(name="previews", description="pictures meanwhile", schema=FLAG),),
        answers={
            200: Answer(description="until the job ends", content={"text/event-stream": None}),
            204: Answer(description="its end was told before"),
        },
        errors=(404,),
        allow_head=False,
    ),
    get(
        "/api/jobs/{job_id}/info",
        api.info,
        "The status of a job, and what it was given and has made",
        JobInfo,
        tag=_JOB,
        errors=(404,),
    ),
    get(
        "/api/jobs/{job_id}",
        api.info_if_ours,
        "The same; of an id that is not ours ComfyUI's own answer",
        None,
        tag=_JOB,
        answers={
            200: json(dict[str, Any], "the job, or ComfyUI's of that id"),
            404: _COMFYUI,
        },
        errors=(503,),
    ),
    Operation(
        method="POST",
        path="/api/jobs/{job_id}/cancel",
        handler=api.cancel_if_ours,
        tag=_JOB,
        summary="End a job and forget it; of an id that is not ours ComfyUI's own answer",
        answers={
            200: json(Cancelled, "whether it had not ended before"),
            404: _COMFYUI,
            405: _COMFYUI,
        },
        errors=(503,),
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
