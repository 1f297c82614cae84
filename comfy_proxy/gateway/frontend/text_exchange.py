"""One request for static text, at one instance: asked with conditions, answered from what is kept.

An instance that still has a version says 304, and what is kept is sent, or the client keeps what it
has. A new version is read whole and packed before anything is sent.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.exchange.blame import told_apart
from comfy_proxy.gateway.exchange.forward import AUTO_HEADERS, relay
from comfy_proxy.gateway.exchange.headers import request_headers, response_headers
from comfy_proxy.gateway.exchange.target import instance_url
from comfy_proxy.gateway.frontend import answering, versions
from comfy_proxy.gateway.frontend.kept import Entry, Kept, Key
from comfy_proxy.gateway.frontend.packing import Packing

LONG_BYTES = 256 * 2**10
"""Of a body whose digest is made in a thread; of a shorter one it takes a quarter of a
millisecond."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a client asks for. ``tags``: version → tag of what it has already; ``since``: its date,
    where it has no tag. ``made``: made anew for each request, a digest names its version."""

    target: str
    coding: str
    tags: dict[str, str]
    since: str | None
    made: bool

    def key(self, version: str) -> Key:
        """Of that version."""
        return Key(self.target, self.coding, version)

    def conditions(self, known: Sequence[Entry]) -> dict[str, str]:
        """Headers by which an instance says 304 for what the client has and what is ``known``."""
        asked = [*self.tags, *(entry.key.version for entry in known if entry.tagged)]
        if asked:
            return {hdrs.IF_NONE_MATCH: versions.condition(asked)}
        dates = [entry.last_modified for entry in known if entry.last_modified is not None]
        since = dates[-1] if dates else self.since
        return {} if since is None else {hdrs.IF_MODIFIED_SINCE: since}


@dataclass(kw_only=True)
class Shelf:
    """What a gateway has packed. ``answers`` counts ``packed`` (for that request), ``kept`` and
    ``unchanged`` (304), ``saved_bytes`` what was not sent of bodies thanks to the coding."""

    kept: Kept
    packing: Packing
    answers: Counter[str] = field(default_factory=Counter)
    saved_bytes: int = 0


class TextExchange:
    """See the module. ``began`` is called when an answer begins to be passed on as it comes: until
    then the instance may be given up."""

    def __init__(
        self,
        shelf: Shelf,
        wanted: Wanted,
        request: web.Request,
        instance: Instance,
        cluster: Cluster,
        *,
        began: Callable[[], None],
    ) -> None:
        self._shelf = shelf
        self._wanted = wanted
        self._request = request
        self._instance = instance
        self._cluster = cluster
        self._began = began

    async def run(self) -> web.StreamResponse:
        """The answer, sent already if it is the instance's own. Raises InstanceError."""
        known = self._shelf.kept.versions(self._wanted.target, self._wanted.coding)
        conditions = self._wanted.conditions(known)
        upstream = await self._ask(conditions)
        if upstream.status == 304 and conditions:
            headers = self._headers(upstream)
            upstream.close()
            if answer := self._unchanged(versions.version_of(headers), headers, known):
                return answer
            upstream = await self._ask({})  # it did not say what has not changed
        if answering.is_packable(upstream):
            version = versions.version_of(upstream.headers)
            if version is not None:
                return await self._of_version(version, upstream)
            if self._wanted.made:
                return await self._made(upstream)
        self._began()
        try:
            return await relay(self._request, upstream, self._instance, self._cluster)
        finally:
            upstream.close()  # a finished answer has given its connection back already

    async def _ask(self, conditions: dict[str, str]) -> aiohttp.ClientResponse:
        settings = self._cluster.settings
        headers = request_headers(self._request, self._instance, settings)
        for name in (hdrs.IF_NONE_MATCH, hdrs.IF_MODIFIED_SINCE, hdrs.ACCEPT_ENCODING):
            headers.popall(name, None)
        headers[hdrs.ACCEPT_ENCODING] = "identity"
        headers.extend(conditions)
        with told_apart(self._instance):
            return await self._cluster.connections.request(
                self._instance,
                hdrs.METH_GET,  # for a HEAD too: how long a packed body is only packing tells
                instance_url(self._request, self._instance, settings),
                headers=headers,
                skip_auto_headers=AUTO_HEADERS,
                allow_redirects=False,
            )

    def _headers(self, upstream: aiohttp.ClientResponse) -> CIMultiDict[str]:
        return response_headers(upstream, self._instance, self._cluster.settings)

    def _unchanged(
        self, version: str | None, headers: CIMultiDict[str], known: Sequence[Entry]
    ) -> web.StreamResponse | None:
        """What an instance's 304 for ``version`` means to the client; None if it is not clear."""
        if version is not None and version in self._wanted.tags:
            return self._has_it(headers, self._wanted.tags[version])
        for entry in known:
            if entry.key.version == version:
                self._shelf.kept.get(entry.key)
                return self._send(entry, "kept", headers)
        if not known and not self._wanted.tags:
            return self._has_it(headers, None)  # by its date, which was all that was asked
        return None

    async def _of_version(
        self, version: str, upstream: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        key, headers = self._wanted.key(version), self._headers(upstream)
        entry = self._shelf.kept.get(key)
        tag = self._wanted.tags.get(version)
        if entry is None and tag is None:
            entry = await self._pack(key, upstream, headers, upstream.content_length or 0)
            return self._send(entry, "packed")
        upstream.close()
        if tag is not None:
            return self._has_it(headers, tag)
        assert entry is not None
        return self._send(entry, "kept", headers)

    async def _made(self, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        """Of what is named by its digest, which is known once all of it was read."""
        packing, headers = self._shelf.packing, self._headers(upstream)
        size = upstream.content_length or 0
        try:
            async with packing.budget.take(size):
                body = await packing.read(upstream, self._instance)
                version = await _digest(body)
                if (tag := self._wanted.tags.get(version)) is not None:
                    return self._has_it(headers, tag)
                key = self._wanted.key(version)
                if (entry := self._shelf.kept.get(key)) is not None:
                    return self._send(entry, "kept", headers)
                return self._send(await self._pack(key, body, headers, size), "packed")
        finally:
            upstream.close()

    async def _pack(
        self,
        key: Key,
        source: aiohttp.ClientResponse | bytes,
        headers: CIMultiDict[str],
        size: int,
    ) -> Entry:
        packed = await self._shelf.packing.once(key, self._instance, source, size)
        entry = Entry(
            key=key,
            body=packed,
            size=size,
            headers=answering.packed_headers(headers, key, len(packed)),
            tagged=hdrs.ETAG in headers,
            last_modified=headers.get(hdrs.LAST_MODIFIED),
        )
        self._shelf.kept.put(entry)
        return entry

    def _send(
        self, entry: Entry, how: str, newer: CIMultiDict[str] | None = None
    ) -> web.StreamResponse:
        """``entry``; or 304, if the client has it by the date that it names."""
        if answering.is_as_old(entry, self._wanted.since):
            return self._has_it(newer or CIMultiDict(entry.headers), None)
        self._shelf.answers[how] += 1
        if self._request.method != hdrs.METH_HEAD:
            self._shelf.saved_bytes += entry.size - len(entry.body)
        return answering.whole(entry, newer)

    def _has_it(self, headers: CIMultiDict[str], tag: str | None) -> web.StreamResponse:
        self._shelf.answers["unchanged"] += 1
        return answering.unchanged(headers, tag)


async def _digest(body: bytes) -> str:
    if len(body) < LONG_BYTES:
        return versions.digest(body)
    return await asyncio.to_thread(versions.digest, body)
