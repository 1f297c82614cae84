"""New assets: an upload, a second entry for known bytes, and the question whether they are known.

The bytes of an asset are known by their hash. An upload of bytes goes to the primary, and what only
names a hash to an instance that has it. An uploaded input is then put on the other instances, under
the path that it got, as any upload is (``files/uploads.py``): so a prompt that names it may run
anywhere, and the other databases list it too. Results and models stay where they were uploaded.

An instance that is away is passed over: bytes that only it has count as unknown, and a client that
sends them gets a second copy of them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import hdrs, web
from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import (
    InstanceError,
    InstanceTimeoutError,
    InstanceUnreachableError,
    NoHealthyInstanceError,
)
from comfy_proxy.gateway.assets.asking import AssetAsking, best_refusal, lacks_assets
from comfy_proxy.gateway.assets.marks import marked
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.client_watch import while_connected
from comfy_proxy.gateway.exchange.context import CONTEXT
from comfy_proxy.gateway.exchange.fanout import Answer, ask
from comfy_proxy.gateway.exchange.headers import request_headers
from comfy_proxy.gateway.exchange.target import client_target
from comfy_proxy.gateway.files.client import download
from comfy_proxy.gateway.files.file_name import RESULT_TYPES, FileName, file_at
from comfy_proxy.gateway.files.upload_body import UploadBody
from comfy_proxy.gateway.files.upload_form import read_text_fields
from comfy_proxy.gateway.files.uploads import Uploads
from comfy_proxy.gateway.routes import Match
from comfy_proxy.gateway.views.by_pattern import Views
from comfy_proxy.lenient_json import loads_exact

_HASH = re.compile("[A-Za-z0-9:_-]{1,256}")
"""What may be one: ``blake3:`` and 64 digits today."""


class NewAssets:
    """``uploads`` spreads the inputs; ``inputs_changed`` is awaited before a client is answered,
    whose next look at ``/object_info`` is to list the file."""

    def __init__(
        self,
        uploads: Uploads,
        asking: AssetAsking,
        inputs_changed: Callable[[str], Awaitable[None]],
    ) -> None:
        self._uploads = uploads
        self._files = uploads.files
        self._cluster = uploads.files.cluster
        self._asking = asking
        self._inputs_changed = inputs_changed
        self.views: Views = {
            "/assets": self.upload,
            "/assets/from-hash": self.from_hash,
            "/assets/hash/{hash}": self.is_known,
        }

    async def upload(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``POST /api/assets``. What an instance was told is finished even if the client leaves."""
        body = UploadBody(request)
        with while_connected(request):
            await body.receive()
            work = self._uploads.begin(self._upload(request, body))
            instance, answer = await asyncio.shield(work)
        await self._inputs_changed("")
        return self._shown(answer, instance)

    async def from_hash(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``POST /api/assets/from-hash``: one more entry at the first instance that has them."""
        body = await native.read_body(request)
        wanted = body.json.get("hash") if isinstance(body.json, dict) else None
        holder = await self._holder(request, wanted)
        target = client_target(request, self._cluster.settings)
        if holder is not None:
            answer = await self._asking.one(request, holder, "POST", target, **body.options)
            return self._shown(answer, holder)
        answers, _ = await self._asking.reachable(request, "POST", target, **body.options)
        return native.relayed(best_refusal(answers))

    async def is_known(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``HEAD /api/assets/hash/{hash}``: 200 if any instance that can be reached has them.

        Else a 400 or 404, which one without assets does not always give.
        """
        target = client_target(request, self._cluster.settings)
        answers, _ = await self._asking.reachable(request, "HEAD", target)
        by_rank = sorted(answers.values(), key=lambda answer: _rank(answer.status))
        return native.relayed(by_rank[0])

    async def _holder(self, request: web.Request, wanted: Any) -> Instance | None:
        """The first instance that has bytes of that hash; None if none, and for what is none."""
        if not isinstance(wanted, str) or not _HASH.fullmatch(wanted.strip()):
            return None  # a word that fits into no request line would look like a broken instance
        path = f"/api/assets/hash/{wanted.strip()}"
        answers, _ = await self._asking.reachable(request, "HEAD", path)
        return next((one for one, answer in answers.items() if answer.status == 200), None)

    async def _upload(self, request: web.Request, body: UploadBody) -> tuple[Instance, Answer]:
        try:
            instance = None
            if body.whole:
                content_type = request.headers.get(hdrs.CONTENT_TYPE, "")
                fields = await read_text_fields(body, content_type)
                instance = await self._holder(request, fields.get("hash"))
            if instance is not None:
                life, answer = await self._post(request, body, instance)
            else:
                instance, life, answer = await self._post_anywhere(request, body)
        finally:
            body.close()
        file = uploaded_input(answer.json()) if answer.status in (200, 201) else None
        if file is not None:
            await self._remember(file, instance, life)
        return instance, answer

    async def _post_anywhere(
        self, request: web.Request, body: UploadBody
    ) -> tuple[Instance, int, Answer]:
        """To the primary, or to the next one if that cannot be reached or has no assets.

        Bytes that are sent twice are one file.
        """
        passed_over: list[Instance] = []
        refused: tuple[Instance, int, Answer] | None = None
        while True:
            try:
                instance = await self._cluster.primary(passed_over)
            except NoHealthyInstanceError:
                if refused is None:
                    raise
                return refused
            try:
                life, answer = await self._post(request, body, instance)
                if not (body.whole and lacks_assets(answer)):
                    return instance, life, answer
                refused = refused or (instance, life, answer)
                passed_over.append(instance)
            except (InstanceUnreachableError, InstanceTimeoutError) as error:
                if not body.whole:
                    raise
                logger.debug("instance {} passed over: {}", instance.host, error.message)
                passed_over.append(instance)

    async def _post(
        self, request: web.Request, body: UploadBody, instance: Instance
    ) -> tuple[int, Answer]:
        """The answer, and the life of ``instance`` before it (``Holdings.life``)."""
        settings = self._cluster.settings
        life = self._files.holdings.life(instance)
        headers = request_headers(request, instance, settings)
        if body.size is not None:
            headers[hdrs.CONTENT_LENGTH] = str(body.size)
        request[CONTEXT].instance = instance.host
        answer = await ask(
            instance,
            self._cluster,
            "POST",
            client_target(request, settings),
            kind="upload",
            timeout_s=None,  # a client may send slowly, and ComfyUI answers when all is there
            client_body=body.rest,
            headers=headers,
            data=body.chunks(),
        )
        return life, answer

    async def _remember(self, file: FileName, instance: Instance, life: int) -> None:
        """Keep the bytes as those of an upload, and put them on the others."""
        try:
            content = await download(instance, self._cluster, file)
        except InstanceError as error:
            logger.warning("{} cannot be read back: {}", file, error.message)
            return
        if content is not None:
            self._files.received(file, content, instance, life=life)
            await self._uploads.spread(file, but=instance)

    def _shown(self, answer: Answer, instance: Instance) -> web.StreamResponse:
        """The answer with its URLs marked; who has the asset is on record from now on."""
        try:
            data = loads_exact(answer.body)
        except ValueError:
            return native.relayed(answer)
        if isinstance(data, dict):
            self._files.asset_owners.record(data.get("id"), instance)
        shown = marked(data, instance, self._files.storage)
        return native.relayed(answer) if shown == data else native.reply(shown, answer)


def _rank(status: int) -> int:
    ranks = (200, 400, 404)
    return ranks.index(status) if status in ranks else len(ranks)


def uploaded_input(asset: Any) -> FileName | None:
    """The input file that the answer to an upload tells of; None if it is none.

    The answer has its path as ``display_name``, and says that it is an input by a tag. An entry for
    bytes that were known already has no path.
    """
    if not isinstance(asset, dict):
        return None
    path, tags = asset.get("display_name"), asset.get("tags")
    if not isinstance(path, str) or not path or not isinstance(tags, list) or "input" not in tags:
        return None
    if not RESULT_TYPES.isdisjoint(tag for tag in tags if isinstance(tag, str)):
        return None
    return file_at(path, type="input")
