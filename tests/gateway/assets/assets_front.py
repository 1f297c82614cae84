"""A small ComfyUI of 2026 with an asset database, which answers as a real one was seen to."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from typing import Any
from urllib.parse import quote

from aiohttp import web
from aiohttp.test_utils import TestServer

Json = dict[str, Any]
SORTS = ("name", "created_at", "updated_at", "size", "last_access_time")


def error(status: int, code: str, **details: Any) -> web.Response:
    body = {"error": {"code": code, "message": code.lower(), "details": details}}
    return web.json_response(body, status=status)


def blake3(content: bytes) -> str:
    """Looks like the hashes of ComfyUI; which function made it is nobody's business here."""
    return f"blake3:{hashlib.sha256(content).hexdigest()}"


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else -1


class AssetServer:
    """``assets`` are its entries, ``files`` the bytes by ``(type, path)``; ``requests`` is what it
    was asked. ``clock`` counts the seconds of its times."""

    def __init__(self, name: str, *, enabled: bool | None = True) -> None:
        """``enabled``: None for an old server without the routes, False for one whose assets are
        switched off."""
        self.name = name
        self.assets: dict[str, Json] = {}
        self.files: dict[tuple[str, str], bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.odd: dict[str, web.Response] = {}
        self.users: dict[str, str] = {}
        """Of ``--multi-user``: id → name; ``seen_users`` are the ids in requests."""
        self.seen_users: set[str | None] = set()
        self.scan = "IDLE"
        self.clock = 0
        app = web.Application(client_max_size=0, middlewares=[self._noted])
        app.add_routes([web.get("/view", self._view), web.post("/upload/image", self._upload)])
        app.add_routes([web.get("/api/view", self._view), web.get("/users", self._users)])
        if enabled is False:
            app.add_routes([web.route("*", "/api/{path:(assets|tags).*}", self._disabled)])
        elif enabled:
            app.add_routes(self._routes())
        self._server = TestServer(app)

    def _routes(self) -> list[web.RouteDef]:
        one = "/api/assets/{id:[0-9a-fA-F-]{36}}"
        return [
            web.get("/api/assets", self._list),
            web.post("/api/assets", self._create),
            web.post("/api/assets/from-hash", self._from_hash),
            web.head("/api/assets/hash/{hash}", self._hash),
            web.get("/api/assets/tags/refine", self._refine),
            web.get("/api/assets/seed/status", self._status),
            web.post("/api/assets/seed", self._seed),
            web.post("/api/assets/seed/cancel", self._cancel),
            web.post("/api/assets/prune", self._prune),
            web.get(one, self._get),
            web.put(one, self._put),
            web.delete(one, self._delete),
            web.get(f"{one}/content", self._content),
            web.post(f"{one}/tags", self._tag),
            web.get("/api/tags", self._tags),
        ]

    @property
    def url(self) -> str:
        return str(self._server.make_url("")).rstrip("/")

    async def __aenter__(self) -> AssetServer:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """It is away from now on."""
        await self._server.close()

    def asked(self, method: str, path: str) -> int:
        """How often that was asked for."""
        return self.requests.count((method, path))

    def add(
        self,
        path: str,
        kind: str = "output",
        *,
        at: int | None = None,
        content: bytes | None = None,
        with_hash: bool = True,
        **more: Any,
    ) -> Json:
        """An entry for a file, made at second ``at``."""
        content = f"{self.name}:{kind}/{path}".encode() if content is None else content
        self.files[kind, path] = content
        self.clock = self.clock + 1 if at is None else at
        time = f"2026-11-28T16:{self.clock // 60:02}:{self.clock % 60:02}.155922"
        folder, _, base = path.rpartition("/")
        url = f"/api/view?type={kind}&filename={quote(base, safe='')}"
        asset = {
            "id": str(uuid.uuid4()),
            "name": base,
            "hash": blake3(content),
            "display_name": path,
            "size": len(content),
            "mime_type": "image/png",
            "tags": [kind, "uploaded"],
            "preview_url": f"{url}&subfolder={quote(folder, safe='')}" if folder else url,
            "user_metadata": {"filename": path},
            "created_at": time,
            "updated_at": time,
            "last_access_time": time,
            **more,
        }
        if not with_hash:
            del asset["hash"]
        self.assets[asset["id"]] = asset
        return asset

    @web.middleware
    async def _noted(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        if request.path.startswith("/api/"):
            self.seen_users.add(request.headers.get("comfy-user"))
        if (odd := self.odd.get(request.path)) is not None:
            return web.Response(body=odd.body, status=odd.status, headers=odd.headers)
        return await handler(request)

    async def _users(self, _request: web.Request) -> web.Response:
        return web.json_response({"storage": "server", "users": self.users})

    async def _disabled(self, _request: web.Request) -> web.Response:
        return error(503, "SERVICE_DISABLED")

    # --- lists -------------------------------------------------------------------------

    def _passing(self, request: web.Request) -> list[Json]:
        query = request.query

        def tags(name: str) -> set[str]:
            return {tag for text in query.getall(name, []) for tag in text.split(",") if tag}

        wanted = tags("include_tags") | tags("tags_all")
        any_of, none_of = tags("tags_any"), tags("exclude_tags") | tags("tags_none")
        extra = json.loads(query.get("metadata_filter", "{}"))
        return [
            one
            for one in self.assets.values()
            if wanted <= set(one["tags"])
            and (not any_of or any_of & set(one["tags"]))
            and not none_of & set(one["tags"])
            and query.get("name_contains", "").lower() in one["name"].lower()
            and extra.items() <= one["user_metadata"].items()
        ]

    async def _list(self, request: web.Request) -> web.Response:
        query = request.query
        sort, order = query.get("sort", "created_at"), query.get("order", "desc")
        limit, offset = _number(query.get("limit", "20")), _number(query.get("offset", "0"))
        if not 1 <= limit <= 500 or sort not in SORTS:
            return error(400, "INVALID_QUERY")
        rows = self._passing(request)
        rows.sort(key=lambda one: (one[sort], one["id"]), reverse=order == "desc")
        total = len(rows)
        if (after := query.get("after")) is not None:
            try:
                s, value, own, o = json.loads(base64.urlsafe_b64decode(after + "=="))
            except (TypeError, ValueError):
                return error(400, "INVALID_CURSOR")
            if (s, o) != (sort, order):
                return error(400, "INVALID_CURSOR")
            last = value, own
            rows = [
                one
                for one in rows
                if ((one[sort], one["id"]) < last) == (order == "desc")
                and (one[sort], one["id"]) != last
            ]
            offset = 0
        page, more = rows[offset : offset + limit], len(rows) > offset + limit
        body: Json = {"assets": page, "total": total, "has_more": more}
        if more and sort != "last_access_time":
            text = json.dumps([sort, page[-1][sort], page[-1]["id"], order]).encode()
            body["next_cursor"] = base64.urlsafe_b64encode(text).decode().rstrip("=")
        return web.json_response(body)

    def _counts(self, rows: list[Json]) -> list[tuple[str, int]]:
        counts: dict[str, int] = {}
        for one in rows:
            for tag in one["tags"]:
                counts[tag] = counts.get(tag, 0) + 1
        return sorted(counts.items(), key=lambda row: (-row[1], row[0]))

    async def _tags(self, request: web.Request) -> web.Response:
        offset, limit = int(request.query.get("offset", 0)), int(request.query.get("limit", 100))
        if not 1 <= limit <= 1000:
            return error(400, "INVALID_QUERY")
        rows = self._counts(list(self.assets.values()))
        page = [{"name": name, "count": count} for name, count in rows[offset : offset + limit]]
        more = offset + limit < len(rows)
        return web.json_response({"tags": page, "total": len(rows), "has_more": more})

    async def _refine(self, request: web.Request) -> web.Response:
        if not 1 <= int(request.query.get("limit", 100)) <= 1000:
            return error(400, "INVALID_QUERY")
        return web.json_response({"tag_counts": dict(self._counts(self._passing(request)))})

    # --- one asset ---------------------------------------------------------------------

    def _one(self, request: web.Request) -> Json | None:
        return self.assets.get(request.match_info["id"].lower())

    async def _get(self, request: web.Request) -> web.Response:
        found = self._one(request)
        return error(404, "ASSET_NOT_FOUND") if found is None else web.json_response(found)

    async def _put(self, request: web.Request) -> web.Response:
        if (found := self._one(request)) is None:
            return error(404, "ASSET_NOT_FOUND")
        found.update(await request.json())
        return web.json_response(found)

    async def _delete(self, request: web.Request) -> web.Response:
        if (found := self._one(request)) is None:
            return error(404, "ASSET_NOT_FOUND")
        del self.assets[found["id"]]
        return web.Response(status=204)

    async def _tag(self, request: web.Request) -> web.Response:
        if (found := self._one(request)) is None:
            return error(404, "ASSET_NOT_FOUND")
        added = (await request.json())["tags"]
        found["tags"] += added
        return web.json_response({"added": added, "already_present": []})

    async def _content(self, request: web.Request) -> web.Response:
        if (found := self._one(request)) is None:
            return error(404, "ASSET_NOT_FOUND")
        kind = next(tag for tag in ("input", "output", "temp") if tag in found["tags"])
        content = self.files[kind, found["display_name"]]
        return web.Response(body=content, content_type="image/png")

    async def _view(self, request: web.Request) -> web.Response:
        query = request.query
        path = "/".join(filter(None, (query.get("subfolder", ""), query["filename"])))
        content = self.files.get((query.get("type", "output"), path))
        if content is None:
            return web.Response(status=404)
        return web.Response(body=content, headers={"ETag": f'"{blake3(content)[-8:]}"'})

    # --- new ones ----------------------------------------------------------------------

    def known(self, wanted: str) -> bool:
        return wanted in {blake3(content) for content in self.files.values()}

    async def _hash(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.known(request.match_info["hash"]) else 404)

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        kind, folder = str(form.get("type", "input")), str(form.get("subfolder", ""))
        image: Any = form["image"]
        path = "/".join(filter(None, (folder, image.filename)))
        asset = self.add(path, kind, content=image.file.read())
        told = {"id": asset["id"], "name": asset["name"], "asset_hash": asset["hash"]}
        named = {"name": image.filename, "subfolder": folder, "type": kind}
        return web.json_response({**named, "asset": told})

    async def _create(self, request: web.Request) -> web.Response:
        form = await request.post()
        file: Any = form.get("file")
        wanted = str(form.get("hash", ""))
        if file is None and not self.known(wanted):
            return error(400, "MISSING_FILE")
        if file is None or self.known(blake3(content := file.file.read())):
            name = str(form.get("name", "x"))
            return web.json_response({**self._pathless(name, wanted), "created_new": False})
        digest = blake3(content).removeprefix("blake3:")
        kind = str(form["tags"])
        asset = self.add(f"{digest}.png", kind, content=content, name=str(form["name"]))
        return web.json_response({**asset, "created_new": True}, status=201)

    def _pathless(self, name: str, known: str) -> Json:
        asset = self.add(name, "none", hash=known, tags=["input"])
        del asset["display_name"], asset["preview_url"], self.files["none", name]
        return asset

    async def _from_hash(self, request: web.Request) -> web.Response:
        body = await request.json()
        if not self.known(body["hash"]):
            return error(404, "ASSET_NOT_FOUND")
        return web.json_response(self._pathless(body["name"], body["hash"]), status=201)

    # --- scans -------------------------------------------------------------------------

    async def _status(self, _request: web.Request) -> web.Response:
        progress = {"scanned": 0, "total": 0, "created": 0, "skipped": 0}
        return web.json_response({"state": self.scan, "progress": progress, "errors": []})

    async def _seed(self, request: web.Request) -> web.Response:
        if self.scan == "RUNNING":
            return web.json_response({"status": "already_running"}, status=409)
        if "wait" not in request.query:
            return web.json_response({"status": "started"}, status=202)
        progress = {"scanned": 2, "total": 5, "created": 1, "skipped": 3}
        body = {"status": "completed", "progress": progress, "errors": [self.name]}
        return web.json_response(body)

    async def _cancel(self, _request: web.Request) -> web.Response:
        status = "cancelling" if self.scan == "RUNNING" else "idle"
        return web.json_response({"status": status})

    async def _prune(self, _request: web.Request) -> web.Response:
        if self.scan == "RUNNING":
            return web.json_response({"status": "scan_running", "marked": 0}, status=409)
        return web.json_response({"status": "completed", "marked": 2})
