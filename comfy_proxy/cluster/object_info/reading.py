"""The answers to ``/object_info`` become catalogs: in steps on the loop, one answer at a time.

Measured with 10 MB and 6,000 classes: COMMENT
"""

from __future__ import annotations

import asyncio
import hashlib
from weakref import WeakValueDictionary

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.cluster.object_info.table_maker import TableMaker
from comfy_proxy.errors import InvalidAnswerError

_LONG_BYTES = 2**20
"""The digest of a body of that many bytes or more is made in a thread, without the interpreter's
lock: 1.4 ms for a megabyte."""


async def digest_of(body: bytes) -> bytes:
    """What tells whether two answers are the same."""
    if len(body) < _LONG_BYTES:
        return _digest(body)
    return await asyncio.to_thread(_digest, body)


class CatalogReader:
    """Reads one body at a time: with several, the loop would wait for a step of each. Instances
    that answer the same share one catalog."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._catalogs = WeakValueDictionary[bytes, NodeCatalog]()

    async def read(
        self, body: bytes, digest: bytes, before: NodeCatalog | None, instance: Instance
    ) -> NodeCatalog:
        """The classes in ``body``, which ``instance`` answered; what is no class is left out.

        ``before`` is what is known of it; what has not changed since costs next to nothing. Raises
        InvalidAnswerError for a body that has no class, unless it is an empty object.
        """
        async with self._turn:
            catalog = self._catalogs.get(digest)
            if catalog is None:
                catalog = await self._made(body, before or self._any(), instance)
                self._catalogs[digest] = catalog
            return catalog

    async def _made(
        self, body: bytes, before: NodeCatalog | None, instance: Instance
    ) -> NodeCatalog:
        maker = TableMaker(body, None if before is None else before.table, instance.host)
        try:
            for _ in maker.steps():
                await asyncio.sleep(0)
        except ValueError as error:
            raise InvalidAnswerError(f"/object_info of {instance.host} {error}.") from error
        return NodeCatalog(maker.table)

    def _any(self) -> NodeCatalog | None:
        """Another instance's: most have much in common."""
        return next(iter(self._catalogs.values()), None)


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=32).digest()
