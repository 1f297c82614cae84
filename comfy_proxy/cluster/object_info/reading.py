"""The answers to ``/object_info`` become tables: in steps, between which the loop has its turn.

Measured with 10 MB and 6,000 classes. A thread that parses takes 490 ms, in which it holds the
interpreter's lock: the loop lags by up to 70 ms, and the garbage collector stops it for 100 to 250
ms because of what is then kept. A process of its own costs the loop 62 ms for sending the text and
taking the index, 78 MB of memory and a second to start. In steps it is 420 ms of the loop's time
for the first document, no more than 1 ms at once, and 35 ms for one that differs in a few classes
from another that is known, as nearly all do.
"""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.cluster.object_info.class_table import ClassTable
from comfy_proxy.cluster.object_info.table_maker import TableMaker
from comfy_proxy.errors import InvalidAnswerError


class CatalogReader:
    """Reads one whole answer at a time: with several, the loop would wait for a step of each.
    Instances that answer the same share one catalog."""

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
                known = before or next(iter(self._catalogs.values()), None)  # of another instance
                maker = TableMaker(body, None if known is None else known.table, instance.host)
                catalog = NodeCatalog(await _made(maker, instance))
                if maker.members and not len(catalog):
                    raise InvalidAnswerError(f"/object_info of {instance.host} has no classes.")
                self._catalogs[digest] = catalog
            return catalog

    async def read_one(self, body: bytes, name: str, instance: Instance) -> ClassTable | None:
        """A table that has the class ``name``; None if ``body`` has none of that name.

        Raises InvalidAnswerError for a body that is no JSON object.
        """
        table = await _made(TableMaker(body, None, instance.host), instance)
        return table if name in table else None


async def _made(maker: TableMaker, instance: Instance) -> ClassTable:
    try:
        for _ in maker.steps():
            await asyncio.sleep(0)
    except ValueError as error:
        raise InvalidAnswerError(f"/object_info of {instance.host} {error}.") from error
    return maker.table
