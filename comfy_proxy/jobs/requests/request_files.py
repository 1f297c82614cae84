"""The files of one request on their way into spools, bounded in sum."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import Executor

from comfy_proxy.errors import InvalidFieldError
from comfy_proxy.jobs.requests.base64_text import LongText, decode_file
from comfy_proxy.jobs.requests.bodies import too_large
from comfy_proxy.jobs.requests.input_file import InputFile
from comfy_proxy.jobs.requests.input_urls import InputUrls, is_url
from comfy_proxy.jobs.workflows.workflow import FILE_ALIASES, Workflow


class RequestFiles:
    """Files by parameter. Together they have ``limit`` bytes at most (MAX_UPLOAD_SIZE).

    ``fields`` says by which field of the request each came: errors name that.
    """

    def __init__(
        self,
        workflow: Workflow,
        *,
        limit: int,
        memory_bytes: int,
        executor: Executor,
        urls: InputUrls,
    ) -> None:
        self.limit = limit
        self.files: dict[str, InputFile] = {}
        self.fields: dict[str, str] = {}
        self._workflow = workflow
        self._memory_bytes = memory_bytes
        self._executor = executor
        self._urls = urls

    @property
    def size(self) -> int:
        """Bytes that have come."""
        return sum(file.size for file in self.files.values())

    def close(self) -> None:
        """Forget all of them."""
        for file in self.files.values():
            file.close()

    async def add(
        self,
        field: str,
        chunks: AsyncIterator[bytes],
        *,
        client_name: str = "",
        may_be_unfilled: bool = False,
    ) -> None:
        """The file of ``field``, which must be one of a file. Raises InvalidFieldError if there
        was one before, PayloadTooLargeError, and what ``chunks`` raises.

        ``may_be_unfilled``: an empty file without a name counts as none. A browser sends that for a
        file input that nobody has filled in.
        """
        name, file = self._new(field, client_name)
        async for chunk in chunks:
            if self.size + len(chunk) > self.limit:
                raise too_large(self.limit)
            await file.write(chunk)
        if may_be_unfilled and file.size == 0 and not client_name:
            del self.files[name], self.fields[name]
            file.close()

    async def add_text(self, field: str, text: str | LongText) -> None:
        """The same for base64, a data URL, or a URL of INPUT_ALLOWED_HOSTS."""
        if isinstance(text, str) and is_url(text):
            _, file = self._new(field, "")
            left = self.limit - self.size
            await self._urls.fetch(text, file, field=field, limit=left)
        else:
            await self.add(field, decode_file(text, field=field, executor=self._executor))

    async def finish(self, usual_name: str) -> dict[str, InputFile]:
        """What each of them is, in the order of the workflow's parameters.

        ``usual_name`` is blamed if the only picture is missing. Raises InvalidFieldError for one
        that is not what it should be, and for one that is missing.
        """
        for file in self.files.values():
            await file.finish()
        for name in self._workflow.files:
            if name not in self.files and self._workflow.parameters[name].is_required:
                raise self._missing(name, usual_name)
        found: dict[str, InputFile] = {}
        for name in (one for one in self._workflow.files if one in self.files):
            kind = self._workflow.parameters[name].kind
            assert kind is not None
            await self.files[name].inspect(kind, field=self.fields[name])
            found[name] = self.files[name]
        return found

    def _missing(self, name: str, usual_name: str) -> InvalidFieldError:
        if len(self._workflow.files) > 1:
            message = f"{name} is missing; send it as a file, as base64 or as a URL."
            return InvalidFieldError(name, message, code="missing_file")
        names = ", ".join(dict.fromkeys((*FILE_ALIASES, name)))
        message = f"There is no picture; send it as {names} or as the body."
        kind = self._workflow.parameters[name].kind
        if kind is None or kind.is_picture:
            return InvalidFieldError(usual_name, message, code="missing_image")
        message = message.replace("picture", str(kind))
        return InvalidFieldError(name, message, code="missing_file")

    def _new(self, field: str, client_name: str) -> tuple[str, InputFile]:
        files = self._workflow.files
        name = files[0] if field == "body" else self._workflow.file_of(field)
        if name is None:
            raise InvalidFieldError(field, f"There is no file field {field!r}.")
        if name in self.files:
            message = f"There is a second file for {name}, in {field}; send one."
            raise InvalidFieldError(field, message, code="several_images")
        self.fields[name] = field
        file = self.files[name] = InputFile(self._executor, self._memory_bytes, client_name)
        return name, file
