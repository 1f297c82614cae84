"""A client's request → a checked job: the files, the parameters, and nothing else.

The body is read as a stream and bounded by MAX_UPLOAD_SIZE: aiohttp's ``client_max_size`` (1 MiB by
default) belongs to the application that we may be a part of, so aiohttp's own readers cannot be
used. Whatever goes wrong, the files' spools are closed.
"""

from __future__ import annotations

from concurrent.futures import Executor
from urllib.parse import parse_qsl

from aiohttp import web

from comfy_proxy.errors import InvalidFieldError
from comfy_proxy.jobs.requests.input_file import MEMORY_BYTES
from comfy_proxy.jobs.requests.input_urls import InputUrls
from comfy_proxy.jobs.requests.job_request import JobRequest, fingerprint_of
from comfy_proxy.jobs.requests.request_body import RequestBody, is_unicode
from comfy_proxy.jobs.requests.request_fields import RequestFields, joined
from comfy_proxy.jobs.requests.request_files import RequestFiles
from comfy_proxy.jobs.workflows.parameter import draw_seeds
from comfy_proxy.jobs.workflows.workflow import Workflow


async def read_job_request(
    request: web.Request,
    workflow: Workflow,
    *,
    max_upload_size: int,
    executor: Executor,
    urls: InputUrls,
    memory_bytes: int = MEMORY_BYTES,
    client: str = "",
) -> JobRequest:
    """Read and check the body and query of ``request``.

    The files may have ``max_upload_size`` bytes in sum, and each is kept in memory up to
    ``memory_bytes``; hashing, writing and decoding runs on ``executor``. Raises InvalidFieldError
    (names the field), PayloadTooLargeError, UnsupportedMediaTypeError, or RequestError
    ``broken_body`` if the body is cut off and ``invalid_json`` if it is no JSON object.
    """
    files = RequestFiles(
        workflow, limit=max_upload_size, memory_bytes=memory_bytes, executor=executor, urls=urls
    )
    try:
        query, body = await _read_query(request, workflow, files), RequestFields(workflow)
        usual_name = await RequestBody(request, workflow, body, files, executor).read()
        given = await files.finish(usual_name)
        fields = joined(query, body)
        parameters = workflow.parse_parameters(fields.values)
        workflow.target_size({name: file.info for name, file in given.items()}, parameters)
    except BaseException:  # also cancelled: the client went away
        files.close()
        raise
    options = fields.options
    return JobRequest(
        workflow=workflow.name,
        parameters=draw_seeds(workflow.parameters, parameters),
        options=options,
        files=given,
        fingerprint=fingerprint_of(workflow.name, parameters, given, options),
        client=client,
    )


async def _read_query(
    request: web.Request, workflow: Workflow, files: RequestFiles
) -> RequestFields:
    fields = RequestFields(workflow)
    # Not request.query, in which bytes that are no UTF-8 have become U+FFFD.
    query = parse_qsl(request.rel_url.raw_query_string, True, errors="surrogateescape")
    for name, text in query:
        if not is_unicode(name + text):
            shown = name if is_unicode(name) else "query"
            raise InvalidFieldError(shown, f"{shown} is not UTF-8.")
        if workflow.file_of(name) is None:
            fields.add(name, text)
        else:
            await files.add_text(name, text)
    return fields
