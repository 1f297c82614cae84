"""``/api/v2/assets``: the handlers."""

from __future__ import annotations

from aiohttp import web

from comfy_proxy.bodies import read_client_body
from comfy_proxy.comfy_api import fields
from comfy_proxy.comfy_api.assets import Asset
from comfy_proxy.comfy_api.errors import AssetInUseError, UnprocessableError
from comfy_proxy.comfy_api.job_routes import links_of, owner_of
from comfy_proxy.comfy_api.jobs import Job
from comfy_proxy.comfy_api.outputs import Output, text_of
from comfy_proxy.comfy_api.service import ComfyApi
from comfy_proxy.comfy_api.views import ASSETS, asset_json, output_asset_json
from comfy_proxy.errors import NotFoundError, RequestError
from comfy_proxy.gateway.exchange.context import CONTEXT
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.gateway.files.view import Found
from comfy_proxy.keys import COMFY_API
from comfy_proxy.lenient_json import dumps, loads

MAX_BODY_BYTES = 65_536  # of a request that names a hash


def routes() -> list[web.RouteDef]:
    """Exactly the contract's; all else below these paths is ComfyUI's, HEAD too."""
    one = f"{ASSETS}/{{id}}"
    return [
        web.post(ASSETS, _upload),
        web.post(f"{ASSETS}/from-hash", _from_hash),
        web.head(f"{ASSETS}/by-hash/{{hash}}", _by_hash),
        web.get(one, _asset, allow_head=False),
        web.get(f"{one}/content", _content, allow_head=False),
        web.delete(one, _delete),
    ]


async def _upload(request: web.Request) -> web.StreamResponse:
    asset, is_new = await request.app[COMFY_API].uploads.take(request, owner_of(request))
    return _json(asset_json(asset, links_of(request), created_new=is_new), 201 if is_new else 200)


async def _from_hash(request: web.Request) -> web.StreamResponse:
    api = request.app[COMFY_API]
    try:
        document = fields.json_object(loads(await read_client_body(request, MAX_BODY_BYTES)))
    except ValueError as error:
        raise RequestError("The body is no JSON.", code="invalid_request") from error
    if not isinstance(document.get("hash"), str):
        raise UnprocessableError("hash is missing.", details={"field": "hash"})
    keep_s = fields.keep_s(document.get("expires_in"))
    asset = await _present(api, document["hash"], owner_of(request))
    if asset is None:
        raise NotFoundError("No such bytes were uploaded.", code="blob_not_found")
    used = api.assets.used(asset, keep_s)
    return _json(asset_json(used, links_of(request), created_new=False))


async def _by_hash(request: web.Request) -> web.StreamResponse:
    api = request.app[COMFY_API]
    asset = await _present(api, request.match_info["hash"], owner_of(request))
    return web.Response(status=404 if asset is None else 200)


async def _present(api: ComfyApi, hash_: str, owner: str) -> Asset | None:
    """The upload with these bytes; None, and it is forgotten, if its file is on no disk any more:
    its client uploads it once more then."""
    asset = api.assets.by_hash(hash_, owner)
    if asset is not None and await api.doors.file_view.find(asset.file) is None:
        api.assets.forget(asset)
        return None
    return asset


async def _asset(request: web.Request) -> web.StreamResponse:
    api, links = request.app[COMFY_API], links_of(request)
    found = api.asset(request.match_info["id"], owner_of(request))
    if isinstance(found, Asset):
        return _json(asset_json(found, links))
    return _json(output_asset_json(*found, links))


async def _content(request: web.Request) -> web.StreamResponse:
    """The bytes, from whichever instance has them; ranges and conditions are that instance's."""
    api = request.app[COMFY_API]
    request[CONTEXT].shows_file = True
    found = api.asset(request.match_info["id"], owner_of(request))
    if isinstance(found, Asset):
        return await api.doors.file_view.show(request, await _place(api, found.file))
    job, output = found
    if output.file is None:
        return await _text(api, job, output)
    return await api.doors.file_view.show(request, await _place(api, output.file))


async def _place(api: ComfyApi, file: FileName) -> Found:
    found = await api.doors.file_view.find(file)
    if found is None:
        raise _gone()
    return found


async def _text(api: ComfyApi, job: Job, output: Output) -> web.StreamResponse:
    entry = await api.doors.ended.entry(job.id)
    text = None if entry is None else text_of(entry.get("outputs"), output)
    if text is None:
        raise _gone()
    body = text.encode("utf-8", "surrogatepass")
    return web.Response(body=body, content_type="text/plain", charset="utf-8")


def _gone() -> NotFoundError:
    return NotFoundError("The bytes are on no instance any more.", code="output_unavailable")


async def _delete(request: web.Request) -> web.StreamResponse:
    """The file stays where it is: ComfyUI has no route that removes an input."""
    api = request.app[COMFY_API]
    found = api.asset(request.match_info["id"], owner_of(request))
    if not isinstance(found, Asset):
        raise AssetInUseError("It is an output of a job that is kept.")
    api.assets.forget(found)
    return web.Response(status=204)


def _json(told: object, status: int = 200) -> web.Response:
    return web.Response(body=dumps(told), status=status, content_type="application/json")
