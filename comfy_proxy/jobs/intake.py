"""A client's request → a checked job: the picture, the parameters, and nothing else.

The body is read as a stream and bounded by MAX_UPLOAD_SIZE: aiohttp's ``client_max_size`` (1 MiB by
default) belongs to the application that we may be a part of, so aiohttp's own readers cannot be
used. Whatever goes wrong, the picture's spool is closed.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final

import orjson
from aiohttp import BodyPartReader, web

from comfy_proxy.bodies import ClientBody
from comfy_proxy.errors import InvalidFieldError, RequestError, UnsupportedMediaTypeError
from comfy_proxy.jobs.base64_text import decode_picture
from comfy_proxy.jobs.bodies import FormReader, picture_body, too_large
from comfy_proxy.jobs.parameters import MAX_VALUE_LENGTH, Scalar, unknown_parameter
from comfy_proxy.jobs.spooled_picture import MEMORY_BYTES, SpooledPicture
from comfy_proxy.jobs.workflows import Workflow
from comfy_proxy.lenient_json import SORT_KEYS, dumps
from comfy_proxy.stored_bytes import StoredBytes

FILE_FIELDS: Final = ("imageFile", "image", "file")
WEBHOOK_URL: Final = "webhook_url"
OPTIONS: Final = frozenset(("async", "mode", "token", WEBHOOK_URL))
"""Keys of the query or the body that tell how to answer; workflows have no such parameters."""

_ENVELOPE_BYTES: Final = 65_536
"""Bytes that a form or a JSON object may have around a picture of MAX_UPLOAD_SIZE; beyond, 413."""


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """What a client asks for. Whoever gets it owns ``picture`` and closes it.

    ``parameters`` are typed, defaults filled in. ``options`` has those of :data:`OPTIONS` that were
    given, as text, ``async`` and ``mode`` in lower case. ``fingerprint`` is a hash, the same for
    requests with the same workflow, parameters, ``webhook_url`` and bytes of the picture: an
    ``Idempotency-Key`` is held to it. ``client`` is who gets a fair share (``client_identity.py``).
    """

    workflow: str
    parameters: dict[str, Scalar]
    options: dict[str, str]
    picture: SpooledPicture
    fingerprint: str
    client: str = ""


async def read_job_request(
    request: web.Request,
    workflow: Workflow,
    *,
    max_upload_size: int,
    executor: Executor,
    memory_bytes: int = MEMORY_BYTES,
    client: str = "",
) -> JobRequest:
    """Read and check the body and query of ``request``.

    The picture may have ``max_upload_size`` bytes, and is kept in memory up to ``memory_bytes``;
    hashing, writing and decoding it runs on
    ``executor``. Raises InvalidFieldError (names the field), PayloadTooLargeError,
    UnsupportedMediaTypeError, or RequestError ``broken_body`` if the body is cut off and
    ``invalid_json`` if it is no JSON object.
    """
    query = _Fields(workflow)
    for name, text in request.query.items():
        query.add(name, text)
    picture = SpooledPicture(executor, memory_bytes)
    try:
        intake = _Intake(request, workflow, picture, max_upload_size, executor)
        field = await intake.read()
        await picture.finish()
        parameters = workflow.parse_parameters({**query.values, **intake.fields.values})
        workflow.target_size(await picture.inspect(field=field), parameters)
    except BaseException:  # also cancelled: the client went away
        picture.close()
        raise
    options = {**intake.fields.options, **query.options}  # ?async and ?mode win over all
    return JobRequest(
        workflow=workflow.name,
        parameters=parameters,
        options=options,
        picture=picture,
        fingerprint=_fingerprint(workflow.name, parameters, picture.digest, options),
        client=client,
    )


def _fingerprint(
    workflow: str, parameters: Mapping[str, Scalar], sha256: str, options: Mapping[str, str]
) -> str:
    # Who repeats a request with another URL waits for a webhook that the first one's job never
    # sends there: it is to be told so. Without a URL it is as it was before there were webhooks,
    # for the jobs of a STATE_FILE.
    urls = [options[WEBHOOK_URL]] if WEBHOOK_URL in options else []
    document = dumps([workflow, parameters, sha256, *urls], option=SORT_KEYS)
    return hashlib.sha256(document).hexdigest()


class _Fields:
    """Parameters and options from one place (the query, or the body), each at most once."""

    def __init__(self, workflow: Workflow) -> None:
        self._known = workflow.parameters
        self.values: dict[str, Scalar] = {}
        self.options: dict[str, str] = {}

    def check(self, name: str) -> None:
        """Raises InvalidFieldError if ``name`` is unknown or was there before."""
        if name not in self._known and name not in OPTIONS:
            raise unknown_parameter(name, self._known)
        if name in self.values or name in self.options:
            message = f"{name} is given more than once."
            raise InvalidFieldError(name, message, code="duplicate_parameter")

    def add(self, name: str, value: Any) -> None:
        """Take a client's value; raises InvalidFieldError unless it is a text, number or truth."""
        self.check(name)
        if not isinstance(value, str | int | float):
            raise InvalidFieldError(name, f"{name} must be a text, a number, true or false.")
        if isinstance(value, str) and len(value) > MAX_VALUE_LENGTH:
            raise InvalidFieldError(name, f"{name} is longer than {MAX_VALUE_LENGTH} characters.")
        if name in OPTIONS:
            is_a_word = name in ("async", "mode")
            self.options[name] = str(value).strip().lower() if is_a_word else str(value)
        else:
            self.values[name] = value


class _Intake:
    """One body on its way into a spool; ``read`` returns the name of the picture's field."""

    def __init__(
        self,
        request: web.Request,
        workflow: Workflow,
        picture: SpooledPicture,
        max_upload_size: int,
        executor: Executor,
    ) -> None:
        self.fields = _Fields(workflow)
        self._request = request
        self._picture = picture
        self._limit = max_upload_size
        self._executor = executor

    async def read(self) -> str:
        request = self._request
        # Not request.content_type: its full parser took a third of the time of a small request.
        kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if not request.body_exists:
            raise _no_picture(FILE_FIELDS[0])
        if kind == "multipart/form-data":
            return await self._read_form()
        if kind.startswith("image/"):
            return await self._read_raw()
        if kind == "application/json" or kind.endswith("+json"):
            return await self._read_json()
        found = repr(kind) if kind else "missing"
        raise UnsupportedMediaTypeError(
            f"The Content-Type is {found}; send multipart/form-data, a picture as image/*,"
            " or application/json."
        )

    def _body(self, limit: int) -> ClientBody:
        declared = self._request.content_length
        if declared is not None and declared > limit:
            raise too_large(self._limit)
        return picture_body(self._request.content, limit, told_limit=self._limit)

    async def _store(self, chunk: bytes) -> None:
        if self._picture.size + len(chunk) > self._limit:
            raise too_large(self._limit)
        await self._picture.write(chunk)

    async def _read_raw(self) -> str:
        body = self._body(self._limit)
        async for chunk in body:
            await self._store(chunk)
        return "body"

    async def _read_form(self) -> str:
        form = FormReader(self._request.headers, self._body(self._limit + _ENVELOPE_BYTES))
        field = ""
        async for name, part in form.parts():
            if name in FILE_FIELDS:
                field = await self._read_file(form, name, part, field)
            elif part.filename is not None:
                fields = ", ".join(FILE_FIELDS)
                message = f"There is no file field {name!r}; send the picture as {fields}."
                raise InvalidFieldError(name, message, code="unknown_parameter")
            else:
                self.fields.check(name)
                self.fields.add(name, await form.read_text(name, part, MAX_VALUE_LENGTH))
        if not field:
            raise _no_picture(FILE_FIELDS[0])
        return field

    async def _read_file(
        self, form: FormReader, name: str, part: BodyPartReader, earlier: str
    ) -> str:
        if earlier:
            message = f"There is a second picture, in {name}; send one."
            raise InvalidFieldError(name, message, code="several_images")
        async for chunk in form.chunks(part):
            await self._store(chunk)
        # A browser sends a file input that nobody filled in as an empty file without a name.
        unfilled = self._picture.size == 0 and not part.filename
        return "" if unfilled else name

    async def _read_json(self) -> str:
        document = await self._parse_json()
        field, text = "", ""
        for name, value in document.items():
            if value is None:
                continue
            if name not in FILE_FIELDS:
                self.fields.add(name, value)
            elif field:
                message = f"There is a second picture, in {name}; send one."
                raise InvalidFieldError(name, message, code="several_images")
            elif isinstance(value, str):
                field, text = name, value
            else:
                message = f"{name} must be a text: base64 or a data URL."
                raise InvalidFieldError(name, message, code="invalid_image")
        if not field:
            raise _no_picture("image")
        async for chunk in decode_picture(text, field=field, executor=self._executor):
            await self._store(chunk)
        return field

    async def _parse_json(self) -> dict[str, Any]:
        # base64 takes four bytes for three, and a line break for every 64 or 76 of them.
        limit = self._limit * 4 // 3 + self._limit // 16 + _ENVELOPE_BYTES
        body = self._body(limit)
        stored = StoredBytes(memory_bytes=MEMORY_BYTES, hashed=False, executor=self._executor)
        try:
            async for chunk in body:
                await stored.write(chunk)
            await stored.finish()

            def parse() -> Any:
                with stored.open() as file:
                    return orjson.loads(file.read())

            loop = asyncio.get_running_loop()
            document = await loop.run_in_executor(self._executor, parse)
        except orjson.JSONDecodeError as error:
            message = f"The body is not JSON: {error.msg}."
            raise RequestError(message, code="invalid_json") from None
        finally:
            stored.close()
        if not isinstance(document, dict):
            raise RequestError("The JSON body must be an object.", code="invalid_json")
        return document


def _no_picture(field: str) -> InvalidFieldError:
    message = f"There is no picture; send it as {', '.join(FILE_FIELDS)} or as the body."
    return InvalidFieldError(field, message, code="missing_image")
