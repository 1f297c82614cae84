"""A job as it stands in the file, and back. Pure.

Moments are wall time, in seconds since the epoch: monotonic ones mean nothing to another process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.planning.decision import Candidate, Decision
from comfy_proxy.jobs.media.file_info import FileInfo, PictureInfo
from comfy_proxy.jobs.model import Job, JobFailure, JobStatus
from comfy_proxy.jobs.requests.input_file import InputFile
from comfy_proxy.jobs.requests.job_request import JobRequest
from comfy_proxy.jobs.results.result_file import ResultFile
from comfy_proxy.lenient_json import dumps, loads_exact
from comfy_proxy.stored_bytes import StoredBytes
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
    "idempotency_key",
    "version",
)
"""Fields of a job that are JSON by themselves."""
_LATER: dict[str, Any] = {"variant": None}
"""Fields that records of earlier versions do not have, and what they are in those."""
_OF_RESULT = ("type", "name", "media_type", "width", "height")
_TIMES = ("created_at", "updated_at", "started_at", "completed_at")


def written(job: Job) -> bytes:
    """``job`` without the bytes of its files, and without the options of its request: those were
    for the answer to that request, and may hold a key."""
    request, results = job.request, job.results
    record = {
        **{name: getattr(job, name) for name in _PLAIN},
        **{name: getattr(job, name) for name in _LATER},
        **{name: _epoch(getattr(job, name)) for name in _TIMES},
        "status": str(job.status),
        "error": None if job.error is None else asdict(job.error),
        "placement": None if job.placement is None else asdict(job.placement),
        "trace": None if job.trace is None else job.trace._asdict(),
        "request": {
            "workflow": request.workflow,
            "parameters": request.parameters,
            "fingerprint": request.fingerprint,
        },
        "files": [
            {"parameter": name, "digest": file.digest, "info": asdict(file.info)}
            for name, file in request.files.items()
        ],
        "results": None
        if results is None
        else [
            {"digest": one.body.digest, **{name: getattr(one, name) for name in _OF_RESULT}}
            for one in results
        ],
    }
    return dumps(record)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadJob:
    """A job as it was; the bytes of its files are kept elsewhere.

    ``digests`` are the SHA-256 of the files that it was given, in their order. ``results`` describe
    what it has made, None if there is nothing. ``began_at`` is the host of the
    instance that had its prompt ``prompt_id``; both are None if the job had ended, or waited for a
    place.
    """

    job: Job
    digests: list[str]
    results: list[dict[str, Any]] | None
    began_at: str | None = None
    prompt_id: str | None = None


def read(data: bytes, new_file: Callable[[], InputFile], clock: Clock) -> ReadJob:
    """The job; each of its files is one of ``new_file``, in which its bytes are to be.

    One that had a place at an instance waits for one again. Raises ValueError, KeyError, TypeError
    for what :func:`written` has not written.
    """
    record = _of_today(loads_exact(data))
    files: dict[str, InputFile] = {}
    for one in record["files"]:
        file = files[one["parameter"]] = new_file()
        file.known(_info(one["info"]))
    job = _new(record, files, clock)
    for name, absent in _LATER.items():
        setattr(job, name, record.get(name, absent))
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
        digests=[one["digest"] for one in record["files"]],
        results=record["results"],
        began_at=began_at,
        prompt_id=prompt_id,
    )


def _of_today(record: dict[str, Any]) -> dict[str, Any]:
    """A record of before jobs had several files and results, as one of today."""
    if "files" in record:
        return record
    info = record["request"].pop("picture")
    record["files"] = [{"parameter": "image", "digest": record["digest"], "info": info}]
    made = record["result"]
    if made is not None:
        name = f"{record['type']}-{record['id'][:8]}{made.pop('extension')}"
        made = [{"digest": None, "type": "image", "name": name, **made}]
    return {**record, "results": made}


def _info(record: dict[str, Any]) -> FileInfo:
    return PictureInfo(**record) if "width" in record else FileInfo(**record)


def _new(record: dict[str, Any], files: dict[str, InputFile], clock: Clock) -> Job:
    created_at = _moment(record["created_at"])
    if created_at is None:
        raise ValueError("The job has no time of creation.")
    age_s = max(0.0, (clock.now() - created_at).total_seconds())
    return Job(
        type=record["type"],
        request=JobRequest(options={}, files=files, **record["request"]),
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


def result_of(record: dict[str, Any], body: StoredBytes) -> ResultFile:
    """A result of a job with its bytes. Raises ValueError if they are not what they were."""
    digest, known = body.digest, record.pop("digest")
    if known not in (None, digest) or (known is None and not body.size):
        raise ValueError("Its result is not what it was.")
    return ResultFile(body=body, **record)


def _epoch(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
