"""``/object_info`` of all instances as one, from the cache: made once, answered often.

Classes of the first instance in its order, then those that only others have; choices (model files,
pictures) united in the same way. Where all agree it is byte for byte what each of them answers
(``object_info_union.py``).
What is known of an instance is used while it is healthy; until one could be asked the primary
answers itself. Two things are added to the native answer: an ``ETag`` (304 for who has it already)
and gzip for who accepts it, each with an ETag of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiohttp import hdrs, web
from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.cache import ObjectInfoCache
from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.exchange.accept_encoding import accepts_gzip
from comfy_proxy.gateway.exchange.forward import forward_balanced
from comfy_proxy.gateway.routes import Match
from comfy_proxy.gateway.views.object_info_union import Text, Union

PATIENCE_S = 10.0
"""Seconds that a client waits for an instance that was never asked, or for its lists of uploads.
After that the answer has what is known of that instance, or does without it."""
HURRY_S = 1.0
"""The same if no upload is known of: a file may have been put there by hand, that is all. What an
instance answers later is in the next answer."""


class MergedObjectInfo:
    """Answers clients from the cache of documents. One for each gateway."""

    def __init__(self, cluster: Cluster, cache: ObjectInfoCache) -> None:
        self._cluster = cluster
        self._cache = cache
        self._union: Union | None = None
        self._making = asyncio.Lock()

    async def uploads_changed(self, folder: str = "") -> None:
        """To be called after an upload into that folder of the input directory, before its client
        is answered: it will see its file.

        Nothing is asked now, but before the next answer that could show the file.
        """
        self._cache.uploads_changed(folder)

    async def answer(self, request: web.Request, match: Match) -> web.StreamResponse:
        """Answer ``/object_info`` or, by ``match``, ``/object_info/{node_class}``.

        The union, or its part for that class; the primary's own answer if nothing is known yet.
        """
        node_class = match.variables.get("node_class")
        documents = await self._documents()
        if not documents:
            return await forward_balanced(request, self._cluster)
        union = self._of(documents)
        if node_class is not None:
            return _response(request, await union.one(node_class))
        compressed = accepts_gzip(request)
        async with self._making:
            text = await (union.gzipped() if compressed else union.whole())
        answer = _response(request, text)
        answer.headers[hdrs.VARY] = hdrs.ACCEPT_ENCODING
        return answer

    async def _documents(self) -> list[NodeCatalog]:
        """Of the healthy instances, in their order; those that are not known are left out."""
        documents = await asyncio.gather(*map(self._document, await self._cluster.healthy()))
        return [document for document in documents if document is not None]

    async def _document(self, instance: Instance) -> NodeCatalog | None:
        try:
            wanted = self._cache.lacks_uploads(instance)
            with self._cluster.hang_watch.over(instance, replaceable=True):
                async with self._cluster.clock.timeout(PATIENCE_S if wanted else HURRY_S):
                    return await self._cache.with_uploads(instance)
        except (InstanceError, TimeoutError) as error:
            logger.debug("/object_info of {} is not fresh: {!r}", instance.host, error)
            return self._cache.known(instance)

    def _of(self, documents: Sequence[NodeCatalog]) -> Union:
        if self._union is None or not self._union.is_of(documents):
            self._union = Union(documents, self._union)
        return self._union


def _response(request: web.Request, text: Text) -> web.Response:
    # no-cache: to be asked for again each time, as without an ETag; 304 then saves the body.
    headers = {hdrs.ETAG: f'"{text.etag}"', hdrs.CACHE_CONTROL: "no-cache"}
    if any(tag.value in ("*", text.etag) for tag in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    if text.coding is not None:
        headers[hdrs.CONTENT_ENCODING] = text.coding
    return web.Response(
        body=text.body, headers=headers, content_type="application/json", charset="utf-8"
    )
