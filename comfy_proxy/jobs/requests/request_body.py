"""The body of a request for a job, in each of its forms: multipart, JSON, a bare file, fields."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson
from aiohttp import BodyPartReader, web

from comfy_proxy.bodies import ClientBody
from comfy_proxy.errors import InvalidFieldError, RequestError, UnsupportedMediaTypeError
from comfy_proxy.jobs.requests.base64_text import LongText
from comfy_proxy.jobs.requests.bodies import FormReader, body_with_files, too_large
from comfy_proxy.jobs.requests.input_file import MEMORY_BYTES
from comfy_proxy.jobs.requests.input_urls import MAX_URL_LENGTH, URL_START, is_url
from comfy_proxy.jobs.requests.request_fields import MAX_FIELDS_BYTES, RequestFields
from comfy_proxy.jobs.requests.request_files import RequestFiles
from comfy_proxy.jobs.workflows.workflow import Workflow
from comfy_proxy.json_signs import count_signs
from comfy_proxy.json_steps import loads_long
from comfy_proxy.lenient_json import loads_exact
from comfy_proxy.stored_bytes import StoredBytes

_BARE: Final = ("image/", "video/", "audio/")
"""Media types of a body that is a file and nothing else."""
_MAX_FIELDS: Final = 10_000
"""Fields of a form; to take a million of them apart would take a second."""
_TOO_MANY: Final = f"The JSON body has more than {MAX_FIELDS_BYTES} commas, colons and brackets."
_LONG_BYTES: Final = 64 * 2**10
"""A body of so many bytes or more is read in steps: one of 50 MB, which is a single base64 text,
held everybody up for 100 ms."""
_ROUNDED: Final = 2**63
"""From here on orjson may have made a float of an integer, which is read again as it was sent."""


class RequestBody:
    """Reads one body into ``fields`` and ``files``; :meth:`read` once."""

    def __init__(
        self,
        request: web.Request,
        workflow: Workflow,
        fields: RequestFields,
        files: RequestFiles,
        executor: Executor,
    ) -> None:
        self._request = request
        self._workflow = workflow
        self._fields = fields
        self._files = files
        self._executor = executor

    async def read(self) -> str:
        """The name by which clients of this form know the file of a workflow that takes one.

        Raises InvalidFieldError, PayloadTooLargeError, UnsupportedMediaTypeError, RequestError.
        Without a body there is nothing to read: parameters may stand in the query.
        """
        request = self._request
        if not request.body_exists:
            return "imageFile"
        # Not request.content_type: its full parser took a third of the time of a small request.
        kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            await self._read_form()
        elif kind.startswith(_BARE) and self._workflow.files:
            await self._read_bare()
        elif kind == "application/json" or kind.endswith("+json"):
            await self._read_json()
            return "image"
        elif kind == "application/x-www-form-urlencoded":
            await self._read_fields()
        else:
            found = repr(kind) if kind else "missing"
            raise UnsupportedMediaTypeError(
                f"The Content-Type is {found}; send multipart/form-data, application/json,"
                " a file as image/*, video/* or audio/*, or fields alone as a form."
            )
        return "imageFile"

    def _body(self, limit: int) -> ClientBody:
        declared = self._request.content_length
        if declared is not None and declared > limit:
            raise too_large(self._files.limit)
        return body_with_files(self._request.content, limit, told_limit=self._files.limit)

    async def _read_bare(self) -> None:
        files = self._workflow.files
        if len(files) > 1:
            message = f"Several files are taken here ({', '.join(files)}); send them as a form."
            raise InvalidFieldError("body", message, code="several_files")
        await self._files.add("body", self._body(self._files.limit))

    async def _read_form(self) -> None:
        body = self._body(self._files.limit + MAX_FIELDS_BYTES)
        form = FormReader(self._request.headers, body)
        async for name, part in form.parts():
            if self._workflow.file_of(name) is not None:
                await self._read_file(form, name, part)
            elif part.filename is not None:
                files = ", ".join(self._workflow.files) or "none"
                message = f"There is no file field {name!r}; files are: {files}."
                raise InvalidFieldError(name, message, code="unknown_parameter")
            else:
                self._fields.check(name)
                limit = self._fields.limit(name)
                self._fields.add(name, await form.read_text(name, part, limit))

    async def _read_file(self, form: FormReader, name: str, part: BodyPartReader) -> None:
        chunks = form.chunks(part)
        first = await _beginning(chunks, URL_START)
        if part.filename is None and is_url(first[:URL_START].decode("latin-1")):
            url = first + await _rest(chunks, MAX_URL_LENGTH)
            await self._files.add_text(name, url.decode("latin-1").strip())
        else:
            name_there = part.filename or ""
            data = _all(first, chunks)
            await self._files.add(name, data, client_name=name_there, may_be_unfilled=True)

    async def _read_json(self) -> None:
        for name, value in (await self._parse_json()).items():
            if value is None:
                continue
            if self._workflow.file_of(name) is None:
                self._fields.add(name, _in_one(value))
            elif isinstance(value, str | LongText):
                await self._files.add_text(name, value)
            else:
                message = f"{name} must be a text: base64, a data URL or a URL."
                raise InvalidFieldError(name, message, code="invalid_image")

    async def _read_fields(self) -> None:
        data = b"".join([piece async for piece in self._body(MAX_FIELDS_BYTES)])
        try:
            pairs = parse_qsl(
                data.decode(),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=_MAX_FIELDS,
            )
        except UnicodeDecodeError:
            raise RequestError("The form is not UTF-8.", code="broken_body") from None
        except ValueError:
            message = f"The form has more than {_MAX_FIELDS} fields."
            raise RequestError(message, code="broken_body") from None
        for name, value in pairs:
            if self._workflow.file_of(name) is None:
                self._fields.add(name, value)
            else:
                await self._files.add_text(name, value)

    async def _parse_json(self) -> dict[str, Any]:
        # base64 takes four bytes for three, and a line break for every 64 or 76 of them.
        limit = self._files.limit * 4 // 3 + self._files.limit // 16 + MAX_FIELDS_BYTES
        body = self._body(limit)
        stored = StoredBytes(memory_bytes=MEMORY_BYTES, hashed=False, executor=self._executor)
        signs = 0
        try:
            async for chunk in body:
                signs += count_signs(chunk)
                if signs > MAX_FIELDS_BYTES:
                    raise RequestError(_TOO_MANY, code="invalid_json")
                await stored.write(chunk)
            await stored.finish()

            loop = asyncio.get_running_loop()
            document = await loop.run_in_executor(self._executor, _parsed, stored)
        except ValueError as error:
            message = f"The body is not JSON: {getattr(error, 'msg', error)}."
            raise RequestError(message, code="invalid_json") from None
        finally:
            stored.close()
        if not isinstance(document, dict):
            raise RequestError("The JSON body must be an object.", code="invalid_json")
        return document


def _parsed(stored: StoredBytes) -> Any:
    """The JSON, each integer exact; of a long one each long text as LongText."""
    with stored.open() as file:
        text = file.read().removeprefix(codecs.BOM_UTF8)
    if len(text) >= _LONG_BYTES:
        return loads_long(text, LongText)
    try:
        document = orjson.loads(text.decode())
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    values = document.values() if isinstance(document, dict) else ()
    if any(isinstance(one, float) and abs(one) >= _ROUNDED for one in values):
        return loads_exact(text)
    return document


def _in_one(value: Any) -> Any:
    """A text that is no file in one. Raises RequestError for one that is no Unicode, which only
    long bodies can bring."""
    text = value.joined() if isinstance(value, LongText) else value
    if isinstance(text, str) and not is_unicode(text):
        message = "The body is not JSON: it is not UTF-8, or has half a surrogate pair."
        raise RequestError(message, code="invalid_json")
    return text


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold ``text``: it has no half of a surrogate pair in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


async def _beginning(chunks: AsyncIterator[bytes], size: int) -> bytes:
    """At least ``size`` bytes, if there are so many: a slow client may send them one by one."""
    data = b""
    while len(data) < size and (piece := await anext(chunks, b"")):
        data += piece
    return data


async def _all(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for chunk in rest:
        yield chunk


async def _rest(chunks: AsyncIterator[bytes], limit: int) -> bytes:
    """What is left of a field, up to ``limit`` bytes and the chunk that goes beyond them."""
    data = b""
    async for chunk in chunks:
        data += chunk
        if len(data) > limit:
            break
    return data
