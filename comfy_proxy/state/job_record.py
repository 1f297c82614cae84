"""A job as it stands in the file, and back. Pure.

Moments are wall time, in seconds since the epoch: monotonic ones mean nothing to another process.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.planning.decision import Candidate, Decision
from comfy_proxy.jobs.intake import JobRequest
from comfy_proxy.jobs.model import Job, JobFailure, JobStatus
from comfy_proxy.jobs.pictures import Picture, PictureInfo
from comfy_proxy.jobs.spooled_picture import SpooledPicture
from comfy_proxy.lenient_json import dumps, loads
from comfy_proxy.tracing import Trace

VERSIONS = 1_000_000
"""Added to the version of an unfinished job, which is written less often than it changes. No job
changes so often between two writes, so no version that a client has seen is used again."""
_PLAIN = (
    "id",
    "type",
    "processing_time_s",
    "waiting_time_s",
    "execution_time_s",
    "told_s",
    "instance",
    "prompt_id",
    "attempts",
    "percentage",
    "result_dropped",
    "etag",
    "idempotency_key",
    "version",
)
"""Fields of a job that are JSON by themselves."""
_OF_RESULT = ("media_type", "extension", "width", "height")
_TIMES = ("created_at", "updated_at", "started_at", "completed_at")


def written(job: Job) -> bytes:
    """``job`` without the bytes of its pictures, and without the options of its request: those were
    for the answer to that request, and may hold a key."""
    request, result = job.request, job.result
    record = {
        **{name: getattr(job, name) for name in _PLAIN},
        **{name: _epoch(getattr(job, name)) for name in _TIMES},
        "status": str(job.status),
        "error": None if job.error is None else asdict(job.error),
        "placement": None if job.placement is None else asdict(job.placement),
        "trace": None if job.trace is None else job.trace._asdict(),
        "request": {
            "workflow": request.workflow,
            "parameters": request.parameters,
            "fingerprint": request.fingerprint,
            "picture": asdict(request.picture.info),
        },
        "digest": request.picture.digest,
        "result": None if result is None else {one: getattr(result, one) for one in _OF_RESULT},
    }
    return dumps(record)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadJob:
    """A job as it was; the bytes of its pictures are kept elsewhere.

    ``digest`` is the SHA-256 of the picture that it was given. ``result`` describes the picture
    that it has made (type and size), None if there is none. ``began_at`` is the host of the
    instance that had its prompt ``prompt_id``; both are None if the job had ended, or waited for a
    place.
    """

    job: Job
    digest: str
    result: dict[str, Any] | None
    began_at: str | None = None
    prompt_id: str | None = None


def read(data: bytes, picture: SpooledPicture, clock: Clock) -> ReadJob:
    """The job, whose picture is to be in ``picture``.

    One that had a place at an instance waits for one again. Raises ValueError, KeyError, TypeError
    for what :func:`written` has not written.
    """
    record = loads(data)
    picture.known(PictureInfo(**record["request"].pop("picture")))
    job = _new(record, picture, clock)
    for name in _PLAIN:
        setattr(job, name, record[name])
    for name in _TIMES[1:]:
        setattr(job, name, _moment(record[name]))
    job.error = None if record["error"] is None else JobFailure(**record["error"])
    job.placement = _decision(record["placement"])
    job.status = JobStatus(record["status"])
    began_at, prompt_id = None, None
    if not job.finished:
        began_at, prompt_id = job.instance, job.prompt_id
        job.version += VERSIONS
        job.placement = None
        job.status = JobStatus.PENDING
        job.instance = job.prompt_id = job.started_at = None
        job.percentage = 0.0
    return ReadJob(
        job=job,
        digest=record["digest"],
        result=record["result"],
        began_at=began_at,
        prompt_id=prompt_id,
    )


def _new(record: dict[str, Any], picture: SpooledPicture, clock: Clock) -> Job:
    created_at = _moment(record["created_at"])
    if created_at is None:
        raise ValueError("The job has no time of creation.")
    age_s = max(0.0, (clock.now() - created_at).total_seconds())
    return Job(
        type=record["type"],
        request=JobRequest(options={}, picture=picture, **record["request"]),
        created_at=created_at,
        created_monotonic=clock.monotonic() - age_s,
        trace=None if record["trace"] is None else Trace(**record["trace"]),
    )


def _decision(record: dict[str, Any] | None) -> Decision | None:
    if record is None:
        return None
    chosen, others = record.pop("chosen"), record.pop("alternatives")
    return Decision(
        chosen=None if chosen is None else Candidate(**chosen),
        alternatives=tuple(Candidate(**one) for one in others),
        **record,
    )


def picture_of(result: dict[str, Any], data: bytes) -> Picture:
    """The result of a job with its bytes."""
    return Picture(data=data, **result)


def _epoch(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
