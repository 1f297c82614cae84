"""The JSON of the job API as types: what ``views.py`` makes, and of what OpenAPI is made.

Times are ISO 8601 UTC, durations seconds, sizes bytes or pixels.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from comfy_proxy.jobs.results.result_file import ResultType

Status = Literal["pending", "processing", "completed", "failed"]
Url = Annotated[str, Field(description="a path on this server")]


class Failure(TypedDict):
    """Why a job failed."""

    code: str
    message: str


@with_config(ConfigDict(extra="allow"))
class Accepted(TypedDict):
    """The 202 to a new job. The parameters of the job, random ones included, are keys of it too."""

    job_id: str
    status: Status
    type: str
    message: str
    estimated_completion_time: Annotated[str, Field(description="in words")]
    estimated_completion_seconds: float | None
    status_url: Url
    result_url: Url
    events_url: Url


class OtherPlace(TypedDict):
    """Where the job would have ended later."""

    instance: str
    finish_seconds: float


class Placement(TypedDict):
    """Why a job is where it is; the seconds, as they were foreseen when that was decided, are null
    if nothing was known of its cost."""

    instance: str
    reason: str
    wait_seconds: float | None
    load_seconds: float | None
    run_seconds: float | None
    alternatives: list[OtherPlace]


class Result(TypedDict):
    """One of the things that a job has made."""

    type: ResultType
    name: str
    media_type: str
    size_bytes: int
    width: int | None
    height: int | None
    url: Url
    etag: str


class JobState(TypedDict):
    """``GET /api/jobs/{job_id}/status``, and the data of its events."""

    job_id: str
    status: Status
    type: Annotated[str, Field(description="the workflow")]
    created_time: str | None
    updated_time: str | None
    started_time: str | None
    completed_time: str | None
    processing_time_seconds: float | None
    queue_position: int | None
    progress_percentage: Annotated[float, Field(ge=0, le=100)]
    current_node: str | None
    estimated_remaining_time_seconds: float | None
    comfyui_instance: Annotated[str | None, Field(description="host:port")]
    placement: Placement | None
    prompt_id: str | None
    variant: Annotated[str | None, Field(description="the variant of the workflow that ran")]
    parameters: dict[str, Any]
    attempts: int
    error: Failure | None
    result_url: Url | None
    results: list[Result] | None


class InputFile(TypedDict):
    """A file that a job was given; all but the size is of a picture only, or of another file."""

    parameter: NotRequired[str]
    size_bytes: int
    format: NotRequired[str]
    width: NotRequired[int]
    height: NotRequired[int]
    has_alpha: NotRequired[bool]
    media_type: NotRequired[str]


class MadeFile(TypedDict):
    """The first thing that a job has made."""

    media_type: str
    width: int | None
    height: int | None
    size_bytes: int


class JobInfo(JobState):
    """``GET /api/jobs/{job_id}/info``: the status, and what the job was given and has made.

    ``input`` and ``result`` are the first file of each, as when there was only one.
    """

    input: InputFile | None
    inputs: list[InputFile]
    result: MadeFile | None


class JobList(TypedDict):
    """``GET /api/jobs/list``."""

    jobs: list[JobState]
    total: int


class ResultContent(TypedDict):
    """A result within JSON: a picture or other bytes as a data URL, a text as it is."""

    image_base64: NotRequired[str]
    data_base64: NotRequired[str]
    text: NotRequired[str]
    prompt_id: str | None


class JobResult(TypedDict):
    """The only result of a job, for a client that prefers JSON."""

    job_id: str
    status: Status
    type: str
    completed_time: str | None
    processing_time_seconds: float
    result: ResultContent
    results: list[Result]


class LegacyResult(TypedDict):
    """The synchronous answer; the keys are camelCase because the oldest clients want it."""

    imageBase64: Annotated[str, Field(description="a data URL of the first picture")]
    promptId: str | None
    jobId: str
    format: str | None
    crop: bool
    parameters: dict[str, Any]
    results: list[Result]


class Message(TypedDict):
    """What was done."""

    message: str
    job_id: str


class Cancelled(TypedDict):
    """Whether there was something to cancel."""

    cancelled: bool


class VariantView(TypedDict):
    """One graph of a workflow: which instances can run it, as far as is known, and what the others
    lack."""

    name: str
    runs_on: list[str]
    missing: dict[str, list[str]]


class WorkflowView(TypedDict):
    """What can be run, and with what."""

    name: str
    title: str
    description: str
    url: Url
    parameters: Annotated[dict[str, Any], Field(description="JSON Schema of a request")]
    file_parameters: list[str]
    variants: list[VariantView]


class ProblemView(TypedDict):
    """What is wrong with a template file."""

    file: str
    key: str
    reason: str


class WorkflowList(TypedDict):
    """``GET /api/workflows``."""

    workflows: list[WorkflowView]
    problems: list[ProblemView]
