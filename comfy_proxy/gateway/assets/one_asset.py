"""What is asked of one asset by its id: the instance that has it answers.

Who has it is on record (``files/asset_owners.py``), or all are asked once. While the one who has it
is away the answer is 503, and so it is for an unknown id while anybody is away: it may be there.
An id that nobody has gets ComfyUI's own 404.

An input is at every instance, under an id of its own in each database. Who deletes it means all of
them: the twins at the other instances are deleted first, so that a failure in between leaves it at
its owner, where it can be deleted again.
"""

from __future__ import annotations

from urllib.parse import quote

from aiohttp import hdrs, web

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import InstanceRefusedError, InstanceTimeoutError, InstanceUnreachableError
from comfy_proxy.gateway.assets.asking import NOT_FOUND, AssetAsking, away, error_code, lacks_assets
from comfy_proxy.gateway.assets.marks import marked
from comfy_proxy.gateway.assets.twins import AssetTwins
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.fanout import Answer
from comfy_proxy.gateway.exchange.forward import forward, forward_balanced
from comfy_proxy.gateway.exchange.target import client_target
from comfy_proxy.gateway.files.asset_owners import is_asset_id
from comfy_proxy.gateway.files.file_holders import FileHolders
from comfy_proxy.gateway.routes import Match
from comfy_proxy.gateway.views.by_pattern import Views


class OneAsset:
    """Answers for single assets; who has each is noted in ``files``."""

    def __init__(self, files: FileHolders, asking: AssetAsking, twins: AssetTwins) -> None:
        self._cluster = files.cluster
        self._storage = files.storage
        self._owners = files.asset_owners
        self._asking = asking
        self._twins = twins
        self.views: Views = {
            "/assets/{asset_id}": self.asset,
            "/assets/{asset_id}/content": self.content,
            "/assets/{asset_id}/tags": self.asset,
        }

    async def asset(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``GET``, ``HEAD``, ``PUT`` and ``DELETE`` of an asset, and the changes of its tags."""
        asset_id = match.variables["asset_id"]
        body = await native.read_body(request)
        owner = await self._owner(request, asset_id)
        if owner is None:
            return await self._nobody(request, body)
        if request.method == hdrs.METH_DELETE and not match.pattern.endswith("/tags"):
            await self._delete_twins(request, asset_id, owner)
        method = hdrs.METH_GET if request.method == hdrs.METH_HEAD else request.method
        target = client_target(request, self._cluster.settings)
        options = body.options if body.raw else {}
        answer = await self._asking.one(request, owner, method, target, **options)
        self._note(asset_id, answer)
        return self._shown(answer, owner)

    async def content(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``GET /api/assets/{id}/content``: the bytes, streamed as they come."""
        owner = await self._owner(request, match.variables["asset_id"])
        if owner is None:
            return await forward_balanced(request, self._cluster)
        try:
            return await forward(request, owner, self._cluster)
        except (InstanceUnreachableError, InstanceTimeoutError) as error:
            raise away(owner) from error

    async def _owner(self, request: web.Request, asset_id: str) -> Instance | None:
        """Who has it. If nobody has, one whose 404 says so; None if nobody knows of assets at all.

        Raises UnavailableError if one who is away may have it.
        """
        if not is_asset_id(asset_id):
            return None
        if (known := self._owners.of(asset_id)) is not None:
            if not await self._cluster.healthy([known]):
                raise away(known)
            return known
        path = f"/api/assets/{quote(asset_id, safe='')}"
        answers, absent = await self._asking.reachable(request, "GET", path)
        for instance, answer in answers.items():
            if not lacks_assets(answer):
                if answer.status == 200:
                    self._owners.record(asset_id, instance)
                return instance
        if absent:
            raise away(absent[0])
        knowing = (one for one, answer in answers.items() if error_code(answer) == NOT_FOUND)
        return next(knowing, None)

    async def _nobody(self, request: web.Request, body: native.Body) -> web.StreamResponse:
        """The primary's own answer to what names no asset."""
        instance = await self._cluster.primary()
        target = client_target(request, self._cluster.settings)
        options = body.options if body.raw else {}
        return native.relayed(
            await self._asking.one(request, instance, request.method, target, **options)
        )

    async def _delete_twins(self, request: web.Request, asset_id: str, owner: Instance) -> None:
        """Raises UnavailableError if one who may have a twin is away, InstanceRefusedError."""
        path = f"/api/assets/{quote(asset_id, safe='')}"
        asset = native.load(await self._asking.one(request, owner, "GET", path))
        for instance, twin in await self._twins.of(request, asset, owner):
            path = f"/api/assets/{quote(twin, safe='')}"
            answer = await self._asking.one(request, instance, "DELETE", path)
            if answer.status not in (204, 404):
                raise InstanceRefusedError(
                    f"ComfyUI instance {instance.id} did not delete its copy: {answer.status}."
                )

    def _note(self, asset_id: str, answer: Answer) -> None:
        if answer.status == 404:
            self._owners.forget(asset_id)

    def _shown(self, answer: Answer, owner: Instance) -> web.StreamResponse:
        """The answer with its URLs marked, or as it came if there are none."""
        data = native.load(answer)
        shown = marked(data, owner, self._storage)
        return native.relayed(answer) if shown == data else native.reply(shown, answer)
