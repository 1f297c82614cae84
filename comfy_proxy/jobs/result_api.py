"""The results of jobs: one as it is, several as a list or a ZIP, and in the synchronous answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

from aiohttp import web

from comfy_proxy.errors import ComfyProxyError, JobError, JobNotReadyError, NotFoundError
from comfy_proxy.jobs import views
from comfy_proxy.jobs.answers import find, header_of, json_answer, root_of
from comfy_proxy.jobs.model import Job
from comfy_proxy.jobs.requests.negotiation import (
    prefers_json,
    prefers_media,
    wait_seconds,
    wants_zip,
)
from comfy_proxy.jobs.results.byte_range import asked_range, content_range
from comfy_proxy.jobs.results.result_file import ResultFile, Results
from comfy_proxy.jobs.results.result_zip import zip_chunks, zip_etag, zip_size
from comfy_proxy.jobs.results.streamed_json import Base64Json, StreamedJson, TextJson
from comfy_proxy.lenient_json import dumps
from comfy_proxy.stored_bytes import StoredBytes
from comfy_proxy.stored_files import is_harmless

_LONG_BYTES: Final = 2**20
"""Bytes of a result from which on it comes into its JSON piece by piece: 20 MB take 40 ms."""


async def synchronous_answer(
    request: web.Request, job: Job, headers: dict[str, str]
) -> web.StreamResponse:
    """The answer to the POST that made ``job``, which has ended; ``headers`` are added to it.

    The result itself if it is the only one and the client prefers it, else the legacy JSON. Raises
    what the job has failed of.
    """
    results = _results_or_raise(job)
    if len(results) == 1 and prefers_media(header_of(request, "Accept")):
        return await _bytes(request, results[0], headers)
    shown = next((one for one in results if one.media_type.startswith("image/")), results[0])
    root = root_of(request)
    return await _with_data(
        shown, lambda data: views.legacy_result(job, shown, data, root), headers
    )


async def result(request: web.Request) -> web.StreamResponse:
    """``GET /api/jobs/{job_id}/result``: bytes, JSON, a list or a ZIP, by ``Accept``."""
    job, results = await _finished_results(request)
    accept = header_of(request, "Accept")
    headers = {"Vary": "Accept"}
    root = root_of(request)
    if wants_zip(accept):
        return _zip(request, job, results)
    if len(results) > 1:
        return json_answer(views.results(job, root), headers=headers)
    made = results[0]
    if prefers_json(accept, made.media_type):
        as_text = made.type == "text"
        return await _with_data(
            made, lambda data: views.result(job, made, data, root), headers, as_text=as_text
        )
    return await _bytes(request, made, headers)


async def one_result(request: web.Request) -> web.StreamResponse:
    """``GET /api/jobs/{job_id}/result/{n}``: the bytes of one. Raises NotFoundError."""
    _, results = await _finished_results(request)
    text = request.match_info["n"]
    at = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else len(results)
    if at >= len(results):
        message = f"There is no result {text[:20]!r}; the job has {len(results)}, from 0 on."
        raise NotFoundError(message, code="result_not_found")
    return await _bytes(request, results[at], {})


async def _finished_results(request: web.Request) -> tuple[Job, Results]:
    """The job of the path and its results, for which ``?wait=N`` waits.

    Raises JobNotReadyError if it has not ended, or has failed; what ``_results_or_raise`` raises.
    """
    service, job = find(request)
    wait_s = wait_seconds(request.query.get("wait"))
    status_url = views.urls(job, root_of(request))["status_url"]
    if not await job.wait_until(lambda job: job.finished, service.clock, wait_s):
        raise JobNotReadyError(
            "The job is not finished yet.",
            details={"status": str(job.status), "status_url": status_url},
            retry_after_s=1,
        )
    if job.error is not None:
        raise JobNotReadyError(
            f"The job failed: {job.error.message}",
            code="job_failed",
            details={
                "status": str(job.status),
                "status_url": status_url,
                "job_error": views.error(job),
            },
        )
    return job, _results_or_raise(job)


class _FailedJobError(JobError):
    """The error for a synchronous caller; its status is that of the reason (502, 503, 504)."""

    def __init__(self, job: Job) -> None:
        failure = job.error
        assert failure is not None
        super().__init__(failure.message, code=failure.code, details={"job_id": job.id})
        self.status = failure.status


class _ResultGoneError(ComfyProxyError):
    status = 410
    code = "result_dropped"


def _results_or_raise(job: Job) -> Results:
    if job.error is not None:
        raise _FailedJobError(job)
    if job.results is None:
        raise _ResultGoneError(
            "The result was dropped to bound the memory (MAX_RESULTS_SIZE); run the job again."
        )
    return job.results


async def _with_data(
    made: ResultFile,
    view: Callable[[bytes], Mapping[str, Any]],
    headers: dict[str, str],
    *,
    as_text: bool = False,
) -> web.Response:
    """JSON of which the bytes of ``made`` are a part: ``as_text``, or as a data URL."""
    if made.size < _LONG_BYTES:
        return json_answer(view(await made.body.read()), headers=headers)
    document = dumps(view(b""))
    told: StreamedJson
    if as_text:
        told = TextJson(document, b'"text":""', made.body)
    else:
        told = Base64Json(document, dumps(views.data_url(made, b"")), made.body)
    if told.size is not None:
        headers = {**headers, "Content-Length": str(told.size)}
    return web.Response(body=told.chunks(), headers=headers, content_type="application/json")


async def _bytes(
    request: web.Request, made: ResultFile, headers: dict[str, str]
) -> web.StreamResponse:
    headers = _headers(made.etag, made.media_type, made.name, headers)
    if _is_known(request, made.etag):
        return web.Response(status=304, headers=headers)
    if request.method == "POST":
        return await _body(made.body, made.media_type, headers)
    headers["Accept-Ranges"] = "bytes"
    places = None
    if request.method == "GET":  # for no other method a range means anything (RFC 9110, 14.2)
        given, condition = request.headers.get("Range"), request.headers.get("If-Range")
        places = asked_range(given, condition, etag=made.etag, size=made.size)
    return await _body(made.body, made.media_type, headers, places)


def _zip(request: web.Request, job: Job, results: Results) -> web.StreamResponse:
    etag = zip_etag(results)
    name = f"{job.type}-{job.id[:8]}.zip"
    headers = _headers(etag, "application/zip", name, {"Vary": "Accept"})
    if _is_known(request, etag):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = "application/zip"
    if (size := zip_size(results)) is not None:
        headers["Content-Length"] = str(size)
    return web.Response(body=zip_chunks(results), headers=headers)


def _headers(etag: str, media_type: str, name: str, headers: dict[str, str]) -> dict[str, str]:
    return {
        **headers,
        "ETag": etag,
        "Cache-Control": "private, no-cache",
        "Content-Disposition": _disposition(media_type, name),
        "X-Content-Type-Options": "nosniff",
    }


def _is_known(request: web.Request, etag: str) -> bool:
    """The client has it already, by the weak comparison of RFC 9110, 13.1.2."""
    known = (request.if_none_match or ()) if request.method != "POST" else ()
    return any(one.value == "*" or f'"{one.value}"' == etag for one in known)


async def _body(
    body: StoredBytes, media_type: str, headers: dict[str, str], places: range | None = None
) -> web.Response:
    headers, status = {**headers, "Content-Type": media_type}, 200
    if places is not None:
        headers["Content-Range"], status = content_range(places, body.size), 206
    if body.in_memory:
        return web.Response(status=status, body=await body.read(places), headers=headers)
    headers["Content-Length"] = str(body.size if places is None else len(places))
    return web.Response(status=status, body=body.chunks(places), headers=headers)


def _disposition(media_type: str, name: str) -> str:
    """``Content-Disposition`` with a name of any characters (RFC 6266, 4.3).

    A page or an SVG is only saved: opened here its scripts would have our own pages' rights, and a
    workflow may have got it from anywhere.
    """
    kind = "inline" if is_harmless(media_type) else "attachment"
    plain = "".join(one if one.isascii() and one.isprintable() else "_" for one in name)
    plain = plain.replace("\\", "_").replace('"', "_")
    if plain == name:
        return f'{kind}; filename="{name}"'
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
