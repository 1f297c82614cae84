"""``POST /upload/image`` and ``/upload/mask``: usable wherever a prompt lands, under one name.

The primary gets the request as it came, and its answer is the client's: name, refusal, 413 and all.
Before the client is answered the same bytes are put on the other instances under the name that the
primary gave.

A picture of a MiB or more passes to the primary while it comes, and is hashed and stored on the way
(``upload_body.py``). If the primary dies or hangs meanwhile the next one gets all of it.

Uploads whose names may collide end at the primary one after the other: two at once could end there
in another order than here, and the copies would be of the older bytes. One that is received first
has its turn for all of its body. One that passes has it for the end of its form alone: ComfyUI
writes nothing before, so that a client that sends slowly keeps nobody waiting.

A mask is composed by the instance that has the original, or by one to which that can be brought:
without it ComfyUI answers 200 and saves nothing (PROTOCOL.md trap 19). The result is read back and
put on the others like any upload.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from aiohttp import hdrs, web
from loguru import logger

from comfy_proxy.cluster.hang_watch import InstanceHangsError
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import (
    InstanceError,
    InstanceTimeoutError,
    InstanceUnreachableError,
    NoHealthyInstanceError,
)
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.client_watch import while_connected
from comfy_proxy.gateway.exchange.context import CONTEXT
from comfy_proxy.gateway.exchange.fanout import Answer, ask
from comfy_proxy.gateway.exchange.headers import request_headers
from comfy_proxy.gateway.exchange.target import client_target
from comfy_proxy.gateway.files.client import download, uploaded
from comfy_proxy.gateway.files.file_holders import FileHolders
from comfy_proxy.gateway.files.file_name import RESULT_TYPES, FileName, is_hidden
from comfy_proxy.gateway.files.file_staging import FileStaging
from comfy_proxy.gateway.files.keyed_locks import KeyedLocks
from comfy_proxy.gateway.files.upload_body import PassedBody, UploadBody
from comfy_proxy.gateway.files.upload_form import FileSpan, UploadForm, read_form
from comfy_proxy.gateway.routes import Match
from comfy_proxy.stored_bytes import StoredBytes

T = TypeVar("T")

MASK_PATTERN = "/upload/mask"
SPREAD_PATIENCE_S = 2.0
"""How long the client of an upload waits for the copies at the other instances; then it is answered
and they go on. A prompt that needs one of them waits for it."""


class Uploads:
    """The uploads of one gateway; :meth:`close` at the end.

    ``inputs_changed`` is awaited before a client is answered: its next look at ``/object_info`` is
    to list the file.
    """

    def __init__(
        self,
        files: FileHolders,
        staging: FileStaging,
        inputs_changed: Callable[[str], Awaitable[None]],
    ) -> None:
        self.files = files
        self.staging = staging
        self.locks = KeyedLocks()
        self.inputs_changed = inputs_changed
        self._tasks: set[asyncio.Task[Any]] = set()

    async def answer(self, request: web.Request, match: Match) -> web.StreamResponse:
        """See the module. What the instances were told is finished even if the client leaves."""
        is_mask = match.pattern == MASK_PATTERN
        passed = None if is_mask else PassedBody.of(request)
        body = passed or UploadBody(request)
        upload = _Upload(request, body, self, is_mask=is_mask)
        with while_connected(request):
            if passed is None:
                await body.receive()
            work = upload.run() if passed is None else upload.pass_on(passed)
            posted = await asyncio.shield(self.begin(work))
        self._note_asset(posted)
        file = posted.file
        await self.inputs_changed(file.subfolder if file and file.type == "input" else "")
        return native.relayed(posted.answer)

    def _note_asset(self, posted: _Posted) -> None:
        """An instance with an asset database tells the id of what was uploaded."""
        told = posted.answer.json() if posted.file is not None else None
        asset = told.get("asset") if isinstance(told, dict) else None
        if isinstance(asset, dict):
            self.files.asset_owners.record(asset.get("id"), posted.instance)

    async def spread(self, file: FileName, *, but: Instance) -> None:
        """Put an upload on every other healthy instance; one that fails goes without.

        Returns after ``SPREAD_PATIENCE_S`` at the latest; the copying goes on.
        """
        others = [instance for instance in self.files.healthy() if instance is not but]
        copies = [self.begin(self.staging.stage(file, instance)) for instance in others]
        try:
            async with self.files.cluster.clock.timeout(SPREAD_PATIENCE_S):
                await asyncio.gather(*map(asyncio.shield, copies))
        except TimeoutError:
            slow = [one.host for one, copy in zip(others, copies, strict=True) if not copy.done()]
            logger.info("{} is still being copied to {}", file, ", ".join(slow))

    async def close(self) -> None:
        """End what is still being copied."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start what is to be finished even if the client who waits for it leaves."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits gets it too; nobody may be left


@dataclass(frozen=True, kw_only=True, slots=True)
class _Posted:
    """What ``instance`` answered to the upload; ``life`` is the instance's before it."""

    instance: Instance
    life: int
    answer: Answer
    file: FileName | None
    """What was uploaded; None if nothing was."""


class _Upload:
    """One upload on its way to the instances."""

    def __init__(
        self, request: web.Request, body: UploadBody, uploads: Uploads, *, is_mask: bool
    ) -> None:
        self._request = request
        self._body = body
        self._uploads = uploads
        self._files = uploads.files
        self._cluster = uploads.files.cluster
        self._is_mask = is_mask
        self._form = UploadForm.nothing()

    async def run(self) -> _Posted:
        """Send what has been received."""
        try:
            if self._body.whole:
                await self._read()
            async with self._uploads.locks(self._form.family):
                posted = await (self._mask() if self._is_mask else self._post_anywhere())
                await self._remember(posted)
        finally:
            self._close()
        return await self._spread(posted)

    async def pass_on(self, body: PassedBody) -> _Posted:
        """Send it while it is received. If an instance answers or fails before the client has sent
        all of it, the rest is received nevertheless, and only then the client is answered."""
        coming, reading = asyncio.create_task(body.receive()), asyncio.create_task(self._read())
        posting = asyncio.create_task(self._post_anywhere())
        try:
            await coming
            await reading
            async with self._uploads.locks(self._form.family):
                if posting.done() and _deserves_another_try(posting):
                    posting = asyncio.create_task(self._post_anywhere())
                body.release()
                posted = await posting
                await self._remember(posted)
        finally:
            for task in (coming, reading, posting):
                task.cancel()
            await asyncio.gather(coming, reading, posting, return_exceptions=True)
            self._close()
        return await self._spread(posted)

    async def _read(self) -> None:
        content_type = self._request.headers.get(hdrs.CONTENT_TYPE, "")
        self._form = await read_form(self._body, content_type)

    def _close(self) -> None:
        self._body.close()
        self._form.close()

    async def _spread(self, posted: _Posted) -> _Posted:
        if posted.file is not None:
            await self._uploads.spread(posted.file, but=posted.instance)
        return posted

    async def _remember(self, posted: _Posted) -> None:
        """The newest bytes of its file: the client's, or what the instance made of them."""
        file = posted.file
        if file is None:
            return
        content, unseen = await self._picture(), is_hidden(file)
        try:
            if content is None:
                content = await download(posted.instance, self._cluster, file)
        except InstanceError as error:
            logger.warning("{} cannot be read back: {}", file, error.message)
            unseen = True
        if content is not None or unseen:
            self._files.received(file, content, posted.instance, life=posted.life)

    async def _picture(self) -> StoredBytes | None:
        """The client's file, taken out of body and form; None if an instance has it otherwise."""
        image = self._form.image
        if self._is_mask or image is None:
            return None
        self._form = UploadForm.nothing()
        return await self._body.take_out(image) if isinstance(image, FileSpan) else image

    async def _mask(self) -> _Posted:
        original = self._form.original
        if original is None:
            return await self._post_anywhere()
        owner = self._files.owner(original.subfolder, original.type)[0]
        is_common = self._files.storage.is_common(original.type)
        portable = owner is not None or is_common or original.type not in RESULT_TYPES
        if not portable and original not in self._files.uploads:
            holder = await self._files.locate(original)
            if holder is not None:
                return await self._post(holder)
        return await self._post_anywhere(original)

    async def _post_anywhere(self, needed: FileName | None = None) -> _Posted:
        """To the primary, or to the next one: to repeat an upload makes no second file. If each
        hangs it goes to the one that was heard last, and waits: they may be busy with it."""
        passed_over, hung = list[Instance](), list[Instance]()
        while True:
            try:
                instance = await self._cluster.primary(passed_over)
            except NoHealthyInstanceError:
                if not hung:
                    raise
                return await self._post(max(hung, key=lambda one: one.signs.heard_at), waits=True)
            try:
                if needed is None or await self._uploads.staging.stage(needed, instance):
                    return await self._post(instance)
            except (InstanceUnreachableError, InstanceTimeoutError) as error:
                if not self._body.repeatable:
                    raise
                logger.debug("instance {} passed over: {}", instance.host, error.message)
                hung += [instance] if isinstance(error, InstanceHangsError) else []
            passed_over.append(instance)  # it failed, or its file of that name is another one

    async def _post(self, instance: Instance, *, waits: bool = False) -> _Posted:
        settings = self._cluster.settings
        life = self._files.holdings.life(instance)
        headers = request_headers(self._request, instance, settings)
        if self._body.size is not None:
            headers[hdrs.CONTENT_LENGTH] = str(self._body.size)
        self._request[CONTEXT].instance = instance.host
        answer = await ask(
            instance,
            self._cluster,
            self._request.method,
            client_target(self._request, settings),
            kind="upload",
            replaceable=self._body.repeatable and not waits,
            timeout_s=None,  # a client may send slowly, and ComfyUI answers when all is there
            client_body=self._body.rest,
            headers=headers,
            data=self._body.chunks(),
        )
        file = uploaded(answer.json()) if answer.status == 200 else None
        return _Posted(instance=instance, life=life, answer=answer, file=file)


def _deserves_another_try(posting: asyncio.Task[_Posted]) -> bool:
    """Whether to send the body once more, all of it at once, though ``posting`` has ended before
    all of the body was here: yes if no instance has answered, or one has answered 408.

    While a client sends for minutes each instance may have its moment in which it does not answer
    (it loads a model), and each is tried once only. And a server in front of an instance may have
    given up (408) because the client sends slowly.
    """
    if posting.exception() is not None:
        return True
    return posting.result().answer.status == HTTPStatus.REQUEST_TIMEOUT
