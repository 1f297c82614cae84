"""Routes about files: /upload/image, /upload/mask and /view."""

import asyncio
import errno
import json
import mimetypes
import os
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

from aiohttp import hdrs, web
from aiohttp.web_request import FileField
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from comfy_proxy.embedded.folders import Folders, is_inside
from comfy_proxy.embedded.instance import INSTANCE, Instance
from comfy_proxy.embedded.nodes.node_class import Json

# Sent as application/octet-stream, so that a browser downloads them: a script that somebody
# uploaded must not run in the server's origin.
DANGEROUS_TYPES = {
    *("text/html", "text/html-sandboxed", "application/xhtml+xml"),
    *("text/javascript", "text/css"),
}
Form = Mapping[str, str | bytes | bytearray | FileField]
Save = Callable[[FileField, Path], None]


async def upload_image(request: web.Request) -> web.Response:
    """Save the field `image` byte for byte."""
    form = await request.post()
    return await _upload(request.app[INSTANCE], form, _save_bytes)


async def upload_mask(request: web.Request) -> web.Response:
    """Save the picture named by `original_ref` with the alpha of the field `image`.

    Without that original it saves nothing and answers 200 with a name all the same (PROTOCOL.md
    trap 19).
    """
    instance = request.app[INSTANCE]
    form = await request.post()

    def save(field: FileField, path: Path) -> None:
        original = _original(instance.folders, json.loads(str(form["original_ref"])))
        if original is not None and original.is_file():
            _save_masked(original, field, path)

    return await _upload(instance, form, save)


async def _upload(instance: Instance, form: Form, save: Save) -> web.Response:
    field, folder_type = form.get("image"), str(form.get("type", "input"))
    if not field:
        return web.Response(status=400)
    root = instance.folders.by_type(folder_type)
    if root is None or not isinstance(field, FileField):
        # The real server does not check for this either: it fails, and answers 500.
        raise TypeError("An upload wants a file and one of input, output and temp.")
    subfolder = str(form.get("subfolder", ""))
    folder = _folder(root, subfolder)
    if not is_inside(root, folder / field.filename):
        return web.Response(status=400)
    if instance.faults.disk_full:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    overwrite = form.get("overwrite") in ("true", "1")
    # One at a time: two uploads could find the same name free, and one would be lost.
    async with instance.upload_lock:
        name = await asyncio.to_thread(_store, field, folder, overwrite, save)
    instance.journal.uploads.append("/".join(filter(None, (folder_type, subfolder, name))))
    told: Json = {"name": name, "subfolder": subfolder, "type": folder_type}
    if instance.assets is not None:
        asset = await asyncio.to_thread(instance.assets.uploaded, folder_type, subfolder, name)
        told["asset"] = asset.as_uploaded()
    return web.json_response(told)


def _folder(root: Path, subfolder: str) -> Path:
    return root / os.path.normpath(subfolder)


def _store(field: FileField, folder: Path, overwrite: bool, save: Save) -> str:
    """Save under the first free name and return it (trap 18).

    If that name or a numbered one has the same bytes already, nothing is saved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem, suffix = os.path.splitext(field.filename)
    name, number = field.filename, 1
    while not overwrite and (folder / name).exists():
        if _same_bytes(folder / name, field):
            return name
        name, number = f"{stem} ({number}){suffix}", number + 1
    save(field, folder / name)
    return name


def _same_bytes(path: Path, field: FileField) -> bool:
    content = field.file.read()
    field.file.seek(0)
    return path.read_bytes() == content


def _save_bytes(field: FileField, path: Path) -> None:
    path.write_bytes(field.file.read())


def _original(folders: Folders, reference: Json) -> Path | None:
    """The path that an `original_ref` names; None if it leads out of its directory."""
    name, directory = folders.annotated(reference["filename"])
    directory = directory or folders.by_type(reference.get("type", "output"))
    if directory is None or not name or name.startswith("/") or ".." in name:
        return None
    path = directory / reference.get("subfolder", "") / name
    return path if is_inside(directory, path) else None


def _save_masked(original: Path, field: FileField, path: Path) -> None:
    with Image.open(original) as picture, Image.open(field.file) as mask:
        chunks = PngInfo()
        for key, value in getattr(picture, "text", {}).items():
            chunks.add_text(key, value)
        composed = picture.convert("RGBA")
        composed.putalpha(mask.convert("RGBA").getchannel("A"))
    composed.save(path, compress_level=4, pnginfo=chunks)


async def view(request: web.Request) -> web.StreamResponse:
    """A file (Range, ETag and dates by aiohttp), a smaller preview of it, or its channels."""
    query = request.rel_url.query
    if "filename" not in query:
        return web.Response(status=404)
    found = _viewed_file(request.app[INSTANCE].folders, request)
    if isinstance(found, int):
        return web.Response(status=found)
    disposition = {hdrs.CONTENT_DISPOSITION: f'filename="{found.name}"'}
    channel = query.get("channel", "")
    if "preview" in query:
        body, kind = await asyncio.to_thread(_preview, found, query["preview"], channel)
        return web.Response(body=body, content_type=kind, headers=disposition)
    if channel in ("rgb", "a"):
        body = await asyncio.to_thread(_channel, found, channel)
        return web.Response(body=body, content_type="image/png", headers=disposition)
    kind = mimetypes.guess_type(found.name)[0] or "application/octet-stream"
    if kind in DANGEROUS_TYPES:
        kind = "application/octet-stream"
    return web.FileResponse(found, headers={**disposition, hdrs.CONTENT_TYPE: kind})


def _viewed_file(folders: Folders, request: web.Request) -> Path | int:
    """The file that is asked for, or the status to refuse with: 400, 403 or 404."""
    query = request.rel_url.query
    name, directory = folders.annotated(query["filename"])
    if not name or name.startswith("/") or ".." in name:
        return 400
    directory = directory or folders.by_type(query.get("type", "output"))
    if directory is None:
        return 400
    inner = directory / query.get("subfolder", "")
    if not is_inside(directory, inner):
        return 403
    path = inner / os.path.basename(name)
    return path if path.is_file() else 404


def _preview(path: Path, wanted: str, channel: str) -> tuple[bytes, str]:
    """`preview=webp;90`: the picture re-encoded, for thumbnails."""
    parts = wanted.split(";")
    kind = parts[0] if parts[0] in ("webp", "jpeg") and "a" not in channel else "webp"
    quality = int(parts[-1]) if parts[-1].isdigit() else 90
    buffer = BytesIO()
    with Image.open(path) as picture:
        flat = kind == "jpeg" or channel == "rgb"
        (picture.convert("RGB") if flat else picture).save(buffer, kind, quality=quality)
    return buffer.getvalue(), f"image/{kind}"


def _channel(path: Path, channel: str) -> bytes:
    """Only the colours, or only the alpha (as the alpha of a black picture), as PNG."""
    buffer = BytesIO()
    with Image.open(path) as picture:
        if channel == "rgb":
            shown = picture.convert("RGB")
        else:
            shown = Image.new("RGBA", picture.size)
            has_alpha = picture.mode == "RGBA"
            shown.putalpha(picture.getchannel("A") if has_alpha else 255)
    shown.save(buffer, format="PNG")
    return buffer.getvalue()


ROUTES = (
    web.post("/upload/image", upload_image),
    web.post("/upload/mask", upload_mask),
    web.get("/view", view),
)
