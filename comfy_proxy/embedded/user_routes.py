"""What the frontend keeps on the server: /users, /settings and /userdata, for one user."""

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from comfy_proxy.embedded.folders import is_inside
from comfy_proxy.embedded.instance import INSTANCE
from comfy_proxy.embedded.nodes.node_class import Json

SETTINGS = "comfy.settings.json"


async def get_users(request: web.Request) -> web.Response:
    migrated = request.app[INSTANCE].folders.user.exists()
    return web.json_response({"storage": "server", "migrated": migrated})


async def get_settings(request: web.Request) -> web.Response:
    return web.json_response(_settings(request))


async def get_setting(request: web.Request) -> web.Response:
    return web.json_response(_settings(request).get(request.match_info["id"]))


async def post_settings(request: web.Request) -> web.Response:
    _save_settings(request, _settings(request) | await request.json())
    return web.Response()


async def post_setting(request: web.Request) -> web.Response:
    _save_settings(request, _settings(request) | {request.match_info["id"]: await request.json()})
    return web.Response()


def _settings(request: web.Request) -> Json:
    path = _user_path(request, SETTINGS)
    if path is None or not path.is_file():
        return {}
    settings: Json = json.loads(path.read_text())
    return settings


def _save_settings(request: web.Request, settings: Json) -> None:
    path = _user_path(request, SETTINGS)
    if path is not None:
        path.write_text(json.dumps(settings, indent=4))


async def list_userdata(request: web.Request) -> web.Response:
    query = request.rel_url.query
    if not query.get("dir"):
        return web.Response(status=400, text="Directory not provided")
    root = _user_path(request, query["dir"])
    if root is None:
        return web.Response(status=403, text="Invalid directory")
    if not root.exists():
        return web.Response(status=404, text="Directory not found")
    recurse = query.get("recurse", "").lower() == "true"
    files = [path for path in root.glob("**/*" if recurse else "*") if path.is_file()]
    return web.json_response([_listed(path, root, query) for path in files])


def _listed(path: Path, root: Path, query: Any) -> object:
    if query.get("full_info", "").lower() == "true":
        return _file_info(path, root)
    relative = path.relative_to(root).as_posix()
    split = query.get("split", "").lower() == "true"
    return [relative, *relative.split("/")] if split else relative


def _file_info(path: Path, root: Path) -> Json:
    stat = path.stat()
    where = {"path": path.relative_to(root).as_posix(), "size": stat.st_size}
    return where | {"modified": stat.st_mtime, "created": stat.st_ctime}


async def get_userdata(request: web.Request) -> web.StreamResponse:
    path = _user_path(request, request.match_info["file"])
    if path is None:
        return web.Response(status=403)
    return web.FileResponse(path) if path.exists() else web.Response(status=404)


async def post_userdata(request: web.Request) -> web.Response:
    """Write the body to a file; 409 with `overwrite=false` if it exists."""
    path = _user_path(request, request.match_info["file"])
    if path is None:
        return web.Response(status=403)
    if request.query.get("overwrite") == "false" and path.exists():
        return web.Response(status=409, text="File already exists")
    path.write_bytes(await request.read())
    return _written(request, path)


async def move_userdata(request: web.Request) -> web.Response:
    source = _user_path(request, request.match_info["file"])
    target = _user_path(request, request.match_info["dest"])
    if source is None or target is None:
        return web.Response(status=403)
    if not source.exists():
        return web.Response(status=404)
    if request.query.get("overwrite") == "false" and target.exists():
        return web.Response(status=409, text="File already exists")
    source.replace(target)
    return _written(request, target)


def _written(request: web.Request, path: Path) -> web.Response:
    root = request.app[INSTANCE].folders.user
    if request.query.get("full_info", "false").lower() == "true":
        return web.json_response(_file_info(path, root))
    return web.json_response(path.relative_to(root).as_posix())


async def delete_userdata(request: web.Request) -> web.Response:
    path = _user_path(request, request.match_info["file"])
    if path is None:
        return web.Response(status=403)
    if not path.exists():
        return web.Response(status=404)
    path.unlink()
    return web.Response(status=204)


def _user_path(request: web.Request, name: str) -> Path | None:
    """The path of `name` in the user's directory; None if it leads out of it.

    Its parent directory is made if it is missing.
    """
    root = request.app[INSTANCE].folders.user
    path = Path(os.path.abspath(root / unquote(name)))
    if not is_inside(root, path):
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


ROUTES = (
    web.get("/users", get_users),
    web.get("/settings", get_settings),
    web.get("/settings/{id}", get_setting),
    web.post("/settings", post_settings),
    web.post("/settings/{id}", post_setting),
    web.get("/userdata", list_userdata),
    web.get("/userdata/{file}", get_userdata),
    web.post("/userdata/{file}", post_userdata),
    web.delete("/userdata/{file}", delete_userdata),
    web.post("/userdata/{file}/move/{dest}", move_userdata),
)
