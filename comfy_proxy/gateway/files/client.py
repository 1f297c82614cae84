"""Files at one instance: is it there, fetch it, put it. Raises InstanceError.

The names are those on the instance's disk: ``@2`` in them is a folder like any other.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from comfy_proxy.cluster import answer_bodies
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import InstanceError, InstanceRefusedError
from comfy_proxy.gateway.exchange.blame import told_apart
from comfy_proxy.gateway.exchange.fanout import ask, asked
from comfy_proxy.gateway.exchange.native import load
from comfy_proxy.gateway.files.file_name import (
    RESULT_TYPES,
    FileName,
    file_at,
    has_url,
    is_hidden,
)
from comfy_proxy.gateway.files.unlisted import unlist
from comfy_proxy.http_date import read_http_date
from comfy_proxy.stored_bytes import BATCH_BYTES, StoredBytes, read_some

if TYPE_CHECKING:
    from comfy_proxy.cluster.cluster import Cluster

LOOK_TIMEOUT_S = 10.0
"""For an answer about a file, and for each next piece of one that is fetched. Beyond, it counts as
not there: an instance that loads a model answers nothing for seconds (PROTOCOL.md trap 8)."""
UPLOAD_TIMEOUT_S = 15.0
"""To put an empty file, and a second more for each MiB; beyond, the instance goes without."""
MAX_FILE_BYTES = 1024 * 2**20
"""Of a file that is copied (1 GiB); a larger one stays where it is, with AnswerTooLargeError."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What ``HEAD /view`` tells of a file; ``version`` changes with its bytes."""

    status: int
    version: str
    size: int | None
    modified: float | None = None
    """When it was written last, in whole seconds since the epoch; None if that is not told."""

    @property
    def there(self) -> bool:
        return self.status == 200


THERE = Look(status=200, version="", size=None)
"""What :func:`look` gives for a file that exists and whose name ``/view`` refuses: neither its
version nor its size can be known."""


async def look(instance: Instance, cluster: Cluster, file: FileName) -> Look:
    """``HEAD /view``: 200, 404, or 400 for a name that ComfyUI refuses there (``a..b.png``) or that
    no URL can have (no UTF-8).

    Whether a file of such a name exists is then looked up in ``/internal/files``, which lists what
    lies directly in a directory. The answer stays 400 for a file in a subfolder, and of an old
    server, which has no such list.
    """
    status = 400
    if has_url(file):
        answer = await ask(
            instance,
            cluster,
            "HEAD",
            "/view",
            params=_query(file),
            timeout_s=LOOK_TIMEOUT_S,
            replaceable=True,
        )
        status = answer.status
    if status == 400 and is_hidden(file):
        if file.subfolder:
            return Look(status=400, version="", size=None)
        return await _listed(instance, cluster, file)
    length = answer.headers.get("content-length", "")
    tag = answer.headers.get("etag") or answer.headers.get("last-modified", "")
    return Look(
        status=answer.status,
        version=f"{tag} {length}",
        size=int(length) if length.isdecimal() else None,
        modified=_seconds(answer.headers.get("last-modified", "")),
    )


def _seconds(date: str) -> float | None:
    """Of a date as HTTP writes it (RFC 9110 5.6.7), since the epoch."""
    moment = read_http_date(date)
    return None if moment is None else moment.timestamp()


async def _listed(instance: Instance, cluster: Cluster, file: FileName) -> Look:
    """By ``/internal/files/{type}``: the names directly in that directory."""
    path = f"/internal/files/{quote(file.type, safe='')}"
    names = load(await ask(instance, cluster, "GET", path, timeout_s=LOOK_TIMEOUT_S))
    if not isinstance(names, list):
        return Look(status=400, version="", size=None)
    return THERE if file.filename in names else Look(status=404, version="", size=None)


async def download(instance: Instance, cluster: Cluster, file: FileName) -> StoredBytes | None:
    """``GET /view``; None if it is not there, or if no URL can have its name. The caller closes the
    bytes."""
    if not has_url(file):
        return None
    content = StoredBytes()

    def silence() -> AbstractAsyncContextManager[Any]:
        return cluster.clock.timeout(LOOK_TIMEOUT_S)

    try:
        with instance.attempt("download"), told_apart(instance):
            async with (
                cluster.clock.timeout(LOOK_TIMEOUT_S + MAX_FILE_BYTES / 2**20),
                asked(instance, cluster, "GET", "/view", params=_query(file)) as response,
            ):
                if response.status != 200:
                    return None
                pieces = answer_bodies.pieces(response, MAX_FILE_BYTES, silence)
                async for piece in pieces:
                    await content.write(piece)
        return await content.finish()
    except BaseException:
        content.close()
        raise


async def put(
    instance: Instance, cluster: Cluster, file: FileName, content: StoredBytes, *, overwrite: bool
) -> None:
    """``POST /upload/image`` under exactly that name.

    Without ``overwrite``, for a name that is free, ComfyUI leaves the same bytes alone if they have
    come there meanwhile, by the copy for an instance with the same disk, say; other bytes it keeps
    too, and takes ours under a numbered name: InstanceRefusedError.

    A copy of a result is taken out of the instance's list of assets; inputs stay listed.
    """
    told = await _uploaded(instance, cluster, file, content, overwrite=overwrite)
    if uploaded(told) != file:
        raise InstanceRefusedError(f"{instance.host} took a copy under another name.")
    if file.type in RESULT_TYPES:
        with suppress(InstanceError, TimeoutError), told_apart(instance):
            await unlist(instance, cluster, told)


async def offer(
    instance: Instance, cluster: Cluster, file: FileName, content: StoredBytes
) -> FileName:
    """``POST /upload/image`` as ``file``; the name that ComfyUI gave it, which is another one if a
    file with other bytes has that name."""
    told = await _uploaded(instance, cluster, file, content, overwrite=False)
    if (named := uploaded(told)) is None:
        raise InstanceRefusedError(f"{instance.host} does not tell where an upload is.")
    return named


async def _uploaded(
    instance: Instance, cluster: Cluster, file: FileName, content: StoredBytes, *, overwrite: bool
) -> Any:
    """What ComfyUI answers to the upload. Raises InstanceRefusedError if that is no 200."""
    with content.open() as reader:
        # aiohttp would percent-encode the name, and ComfyUI takes it as it comes.
        form = aiohttp.FormData(quote_fields=False)
        form.add_field("image", _FilePayload(reader, content.size), filename=file.filename)
        form.add_field("type", file.type)
        form.add_field("subfolder", file.subfolder)
        if overwrite:
            form.add_field("overwrite", "true")
        answer = await ask(
            instance,
            cluster,
            "POST",
            "/upload/image",
            data=form,
            timeout_s=UPLOAD_TIMEOUT_S + content.size / 2**20,
        )
    if answer.status != 200:
        raise InstanceRefusedError(f"{instance.host} did not take a file: {answer.status}.")
    return answer.json()


class _FilePayload(Payload):
    """A file as a part of a form, read and sent BATCH_BYTES (256 KiB) at a time. aiohttp's own
    payload reads 64 KiB at a time, each in a thread: for 20 MB the hops to threads took longer than
    all else."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(file)
        self._file = file
        self._length = size

    @property
    def size(self) -> int:
        return self._length

    async def write(self, writer: AbstractStreamWriter) -> None:
        while piece := await read_some(self._file, BATCH_BYTES):
            await writer.write(piece)

    @property
    def _binary_headers(self) -> bytes:
        """With the bytes of a name that is no UTF-8, as its client sent them."""
        try:
            return super()._binary_headers
        except UnicodeEncodeError:  # its lines were checked for line breaks before
            lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
            return lines.encode("utf-8", "surrogateescape") + b"\r\n"

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("A file is not read into memory.")


def uploaded(answer: object) -> FileName | None:
    """The file that an upload's answer names; None if it names none."""
    if not isinstance(answer, dict):
        return None
    name, subfolder, kind = (answer.get(key) for key in ("name", "subfolder", "type"))
    if not (isinstance(name, str) and isinstance(kind, str) and isinstance(subfolder, str | None)):
        return None
    return file_at(name, subfolder or "", kind) if name else None


def _query(file: FileName) -> dict[str, str]:
    query = {"filename": file.filename, "type": file.type}
    return query | {"subfolder": file.subfolder} if file.subfolder else query
