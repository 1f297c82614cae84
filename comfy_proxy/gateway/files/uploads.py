"""``POST /upload/image`` and ``/upload/mask``: usable wherever a prompt lands, under one name.

The primary gets the request as it came and its answer is the client's: name, refusal, 413 and all.
Before the client hears of it the same bytes are put on the other instances under the name that the
primary gave. Uploads whose names may collide go to the primary one after the other, so that it is
known whose bytes are the newest; a copy always takes the newest, so that all end with the same.

A mask is composed where the original is, or where it can be brought (trap 19), read back and put
on the others like any upload.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import hdrs, web
from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.ownership import FileName
from comfy_proxy.errors import (
    InstanceError,
    InstanceTimeoutError,
    InstanceUnreachableError,
)
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.client_watch import while_connected
from comfy_proxy.gateway.exchange.context import INSTANCE
from comfy_proxy.gateway.exchange.fanout import Answer, ask
from comfy_proxy.gateway.exchange.headers import request_headers
from comfy_proxy.gateway.exchange.target import client_target
from comfy_proxy.gateway.files.client import download, uploaded
from comfy_proxy.gateway.files.copies import FileCopies
from comfy_proxy.gateway.files.marks import (
    FILE_TYPES,
    MARKED_TYPES,
    climbs,
    file_at,
    is_hidden,
    split_annotation,
)
from comfy_proxy.gateway.files.upload_form import UploadBody, UploadForm, read_form
from comfy_proxy.gateway.gateway import Gateway
from comfy_proxy.gateway.routes import Match
from comfy_proxy.lenient_json import loads

MASK_PATTERN = "/upload/mask"


async def upload(request: web.Request, match: Match, gateway: Gateway) -> web.StreamResponse:
    """See the module. What the instances were told is finished even if the client leaves."""
    body = UploadBody(request)
    work = _Upload(request, body, gateway.files, is_mask=match.pattern == MASK_PATTERN)
    async with while_connected(request):
        await body.receive()
        posted = await asyncio.shield(gateway.files.begin(work.run()))
    await gateway.object_info.uploads_changed()
    return native.relayed(posted.answer)


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
        self, request: web.Request, body: UploadBody, files: FileCopies, *, is_mask: bool
    ) -> None:
        self._request = request
        self._body = body
        self._files = files
        self._cluster = files.cluster
        self._is_mask = is_mask

    async def run(self) -> _Posted:
        form = UploadForm.nothing()
        try:
            form = await self._form()
            async with self._files.upload_locks(form.family):
                posted = await (self._mask(form) if self._is_mask else self._post_anywhere())
                if posted.file is not None:
                    form = await self._remember(posted.file, posted, form)
        finally:
            self._body.close()
            form.close()
        if posted.file is not None:
            await self._files.spread(posted.file, but=posted.instance)
        return posted

    async def _form(self) -> UploadForm:
        if not self._body.whole:
            return UploadForm.nothing()
        return await read_form(self._body, self._request.headers.get(hdrs.CONTENT_TYPE, ""))

    async def _remember(self, file: FileName, posted: _Posted, form: UploadForm) -> UploadForm:
        """The newest bytes of ``file``: the client's, or what the instance made of them.

        Returns what is left of the form.
        """
        content, unseen = None if self._is_mask else form.image, is_hidden(file)
        try:
            if content is None:
                content = await download(posted.instance, self._cluster, file)
        except InstanceError as error:
            logger.warning("{} cannot be read back: {}", file, error.message)
            unseen = True
        if content is not None or unseen:
            self._files.received(file, content, posted.instance, life=posted.life)
        return form if content is not form.image else UploadForm.nothing()

    async def _mask(self, form: UploadForm) -> _Posted:
        original = _original(form)
        if original is None:
            return await self._post_anywhere()
        owner = self._files.owner(original.subfolder, original.type)[0]
        portable = owner is not None or original.type not in MARKED_TYPES
        if not portable and original not in self._files.uploads:
            holder = await self._files.locate(original)
            if holder is not None:
                return await self._post(holder)
        return await self._post_anywhere(original)

    async def _post_anywhere(self, needed: FileName | None = None) -> _Posted:
        """To the primary, or to the next one: to repeat an upload makes no second file."""
        passed_over: list[Instance] = []
        while True:
            instance = await self._cluster.primary(passed_over)
            try:
                if needed is None or await self._files.stage(needed, instance):
                    return await self._post(instance)
                passed_over.append(instance)  # its file of that name is another one
            except (InstanceUnreachableError, InstanceTimeoutError) as error:
                if not self._body.whole:
                    raise
                logger.debug("instance {} passed over: {}", instance.host, error.message)
                passed_over.append(instance)

    async def _post(self, instance: Instance) -> _Posted:
        settings = self._cluster.settings
        life = self._files.holdings.life(instance)
        headers = request_headers(self._request, instance, settings)
        if self._body.size is not None:
            headers[hdrs.CONTENT_LENGTH] = str(self._body.size)
        self._request[INSTANCE] = instance.host
        answer = await ask(
            instance,
            self._cluster,
            self._request.method,
            client_target(self._request, settings),
            kind="upload",
            timeout_s=None,  # a client may send slowly, and ComfyUI answers when all is there
            client_body=self._body.rest,
            headers=headers,
            data=self._body.chunks(),
        )
        file = uploaded(answer.json()) if answer.status == 200 else None
        return _Posted(instance=instance, life=life, answer=answer, file=file)


def _original(form: UploadForm) -> FileName | None:
    """The picture that a mask is for; None if none is named that an instance would take."""
    try:
        reference = loads(form.original_ref)
    except ValueError:
        return None
    if not isinstance(reference, dict) or not isinstance(reference.get("filename"), str):
        return None
    name, kind = split_annotation(reference["filename"])
    kind = kind or reference.get("type", "output")
    subfolder = reference.get("subfolder", "")
    if kind not in FILE_TYPES or not isinstance(subfolder, str):
        return None
    if not name or name.startswith("/") or ".." in name or climbs(subfolder):
        return None
    return file_at(name, subfolder, kind)
