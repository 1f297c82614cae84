"""Routes of a ComfyUI of 2026 about assets: the list, one, its content, and deleting it.

They stand under `/api` only. Of a list's query the filters by tag and name, the order and the
paging are understood; what is not understood is passed over.
"""

import base64
import json
from typing import Any
from urllib.parse import quote

from aiohttp import hdrs, web

from comfy_proxy.embedded.asset_store import Asset, AssetStore, having
from comfy_proxy.embedded.instance import INSTANCE
from comfy_proxy.embedded.nodes.node_class import Json

DEFAULT_LIMIT = 20
SORTS = ("name", "created_at", "updated_at", "size", "last_access_time")
ONE = "/api/assets/{asset_id:[0-9a-fA-F-]{36}}"


async def get_assets(request: web.Request) -> web.Response:
    """A page of the entries that pass the filters, and how many do."""
    query = request.rel_url.query
    found = _sorted(_passing(request), query.get("sort", ""), query.get("order", "desc"))
    start = _start(found, query.get("after")) + int(query.get("offset", 0))
    page = found[start : start + int(query.get("limit", DEFAULT_LIMIT))]
    body: Json = {"assets": page, "total": len(found), "has_more": start + len(page) < len(found)}
    if page and body["has_more"]:
        body["next_cursor"] = _cursor(page[-1]["id"])
    return web.json_response(body)


async def get_asset(request: web.Request) -> web.Response:
    asset = _asked_for(request)
    return _not_found(request, "", id=_id(request)) if asset is None else _told(asset)


async def get_content(request: web.Request) -> web.StreamResponse:
    """The file, for the disk: a browser saves it."""
    asset = _asked_for(request)
    if asset is None:
        return _not_found(request, "")
    name = f"attachment; filename*=UTF-8''{quote(asset.name)}"
    return web.FileResponse(asset.path, headers={hdrs.CONTENT_DISPOSITION: name})


async def delete_asset(request: web.Request) -> web.Response:
    asset = _asked_for(request)
    if asset is None:
        return _not_found(request, ".")
    _store(request).delete(asset)
    return web.Response(status=204)


def _store(request: web.Request) -> AssetStore:
    store = request.app[INSTANCE].assets
    assert store is not None, "these routes are a worker's of 2026"
    return store


def _id(request: web.Request) -> str:
    return request.match_info["asset_id"]


def _asked_for(request: web.Request) -> Asset | None:
    return _store(request).get(_id(request))


def _told(asset: Asset) -> web.Response:
    return web.json_response(asset.as_told())


def _not_found(request: web.Request, end: str, **details: Any) -> web.Response:
    message = f"AssetReference {_id(request)} not found{end}"
    error = {"code": "ASSET_NOT_FOUND", "message": message, "details": details}
    return web.json_response({"error": error}, status=404)


def _passing(request: web.Request) -> list[Asset]:
    """`include_tags` and `exclude_tags` are older names of `tags_all` and `tags_none`."""
    query = request.rel_url.query

    def tags(*names: str) -> set[str]:
        texts = [text for name in names for text in query.getall(name, [])]
        return {tag.strip() for text in texts for tag in text.split(",") if tag.strip()}

    part = query.get("name_contains", "").lower()
    return having(
        [one for one in _store(request).known() if part in one.name.lower()],
        every=tags("include_tags", "tags_all"),
        some=tags("tags_any"),
        none=tags("exclude_tags", "tags_none"),
    )


def _sorted(assets: list[Asset], sort: str, order: str) -> list[Json]:
    key = sort if sort in SORTS else "created_at"
    told = [asset.as_told() for asset in assets]
    return sorted(told, key=lambda one: (one[key], one["id"]), reverse=order != "asc")


def _cursor(asset_id: str) -> str:
    """Where the next page goes on: after this asset."""
    return base64.urlsafe_b64encode(json.dumps({"id": asset_id}).encode()).decode()


def _start(found: list[Json], cursor: str | None) -> int:
    if not cursor:
        return 0
    last = json.loads(base64.urlsafe_b64decode(cursor))["id"]
    return next((index + 1 for index, one in enumerate(found) if one["id"] == last), len(found))


ROUTES = (
    web.get("/api/assets", get_assets),
    web.get(ONE, get_asset),
    web.get(f"{ONE}/content", get_content),
    web.delete(ONE, delete_asset),
)
