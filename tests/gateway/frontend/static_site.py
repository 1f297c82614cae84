"""An instance of which only the static files are there, as aiohttp serves them from a folder."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import hdrs, web
from gateway_harness import Harness, Proxy

from comfy_proxy.gateway.frontend.text_exchange import Shelf
from comfy_proxy.keys import GATEWAY

SCRIPT = "/assets/index-BKdH1OFt.js"
CHANGED = "Sat, 28 Nov 2026 05:42:39 GMT"
REFUSAL = b"no" * 2000
TAKES_GZIP = {"Accept-Encoding": "gzip, deflate"}
LATER = "Sun, 29 Nov 2026 05:42:39 GMT"


def text(seed: str = "a", size: int = 20_000) -> bytes:
    """A script of that size, which gets much smaller."""
    lines = (hashlib.sha256(f"{seed}{n}".encode()).hexdigest()[:16] for n in range(size // 30 + 1))
    return "".join(f"const x_{one} = 12345;\n" for one in lines).encode()[:size]


@dataclass
class File:
    """One file. ``headers`` come with each 200, ``of_304`` with each 304, which tells no version
    unless it ``says_what``. ``etag`` as it stands on the wire."""

    body: bytes
    etag: str | None = '"18ec1f1c-feb0"'
    changed: str | None = CHANGED
    kind: str = "application/javascript"
    headers: dict[str, str] = field(default_factory=dict)
    control: str | None = "no-store"
    says_what: bool = True
    of_304: dict[str, str] = field(default_factory=dict)

    def heads(self) -> dict[str, str]:
        found = {hdrs.ETAG: self.etag, hdrs.LAST_MODIFIED: self.changed}
        found[hdrs.CACHE_CONTROL] = self.control
        return {name: value for name, value in found.items() if value is not None}


class Site:
    """``files`` by their paths. ``asked`` are the requests so far, ``answered`` their statuses.
    ``refusal`` is the status of all answers, if it is one.

    ``hold``: what is asked for waits for this event before its answer begins.
    """

    def __init__(self) -> None:
        self.files = {SCRIPT: File(text())}
        self.asked: list[web.Request] = []
        self.answered: list[int] = []
        self.refusal: int | None = None
        self.hold: asyncio.Event | None = None
        self.waiting = asyncio.Queue[None]()

    @property
    def file(self) -> File:
        return self.files[SCRIPT]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        if self.hold is not None:
            self.waiting.put_nowait(None)
            await self.hold.wait()
        answer = self._answer(request)
        self.answered.append(answer.status)
        return answer

    def _answer(self, request: web.Request) -> web.Response:
        file = self.files.get(request.path)
        if file is None or self.refusal is not None:
            headers = {hdrs.CACHE_CONTROL: "no-store", hdrs.ETAG: '"x"'}
            return web.Response(status=self.refusal or 404, body=REFUSAL, headers=headers)
        if self._is_old(request, file):
            return web.Response(
                status=304, headers=file.of_304 | (file.heads() if file.says_what else {})
            )
        headers = file.heads() | file.headers | {hdrs.CONTENT_TYPE: file.kind}
        part: Any = request.http_range
        if hdrs.RANGE in request.headers:
            body = file.body[part]
            headers[hdrs.CONTENT_RANGE] = f"bytes {part.start}-{part.stop - 1}/{len(file.body)}"
            return web.Response(status=206, body=body, headers=headers)
        return web.Response(body=file.body, headers=headers)

    @staticmethod
    def _is_old(request: web.Request, file: File) -> bool:
        if hdrs.IF_NONE_MATCH in request.headers:
            tags = request.headers[hdrs.IF_NONE_MATCH].replace("W/", "").split(", ")
            return file.etag is not None and file.etag.removeprefix("W/") in tags
        since = request.headers.get(hdrs.IF_MODIFIED_SINCE)
        return since is not None and since == file.changed


async def front(harness: Harness, *sites: Site, **settings: object) -> Proxy:
    """The proxy before these instances."""
    return await harness.proxy(*[await harness.upstream(site.answer) for site in sites], **settings)


async def get(
    proxy: Proxy, path: str = SCRIPT, **headers: str
) -> tuple[aiohttp.ClientResponse, bytes]:
    """The answer to a client that takes gzip, and its body as it came."""
    sent = TAKES_GZIP | {name.replace("_", "-"): value for name, value in headers.items()}
    async with proxy.client.get(path, headers=sent) as answer:
        return answer, await answer.read()


def shelf(proxy: Proxy) -> Shelf:
    """What the proxy has packed."""
    found: Shelf = proxy.runner.app[GATEWAY].first_page.shelf
    return found


def packed(proxy: Proxy) -> int:
    """How many bodies were packed so far."""
    return shelf(proxy).packing.packed
