"""The requests for ``/object_info``: the whole, or some classes one by one; answers are kept.

The whole is half a megabyte and stops the instance's event loop for 67 ms and more while it is
built (measured), so all who want it share one request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from loguru import logger

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.cluster.object_info.changes import FolderLists
from comfy_proxy.cluster.object_info.class_table import ClassTable
from comfy_proxy.cluster.object_info.digests import digest_of
from comfy_proxy.cluster.object_info.documents import Answer, Document, Documents
from comfy_proxy.cluster.object_info.folder_lists import folder_lists
from comfy_proxy.cluster.object_info.reading import CatalogReader
from comfy_proxy.cluster.object_info.shared_tasks import SharedTasks
from comfy_proxy.cluster.object_info.single_classes import class_info
from comfy_proxy.errors import InstanceError, InstanceRefusedError, InvalidAnswerError

_CONCURRENT_REQUESTS = 4
"""So many requests for single classes are on their way to one instance at once."""
LISTS_PATIENCE_S = 1.0
"""Seconds. Who asks for all classes for the first time waits that long for the lists of files. If
they come later, all classes are asked for once more when somebody wants them."""
_WHOLE, _OURS, _LISTS, _FOLDERS = "whole", "ours", "lists", "folders"


class Questions:
    """Each method begins a question, or joins the one that is under way; wait with ``shield``.

    The tasks raise InstanceError when the instance does not answer, or answers nonsense.
    """

    def __init__(
        self,
        clients: Mapping[Instance, ComfyUIClient],
        documents: Documents,
        tasks: SharedTasks,
        *,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._clients = clients
        self._documents = documents
        self._tasks = tasks
        self._reader = CatalogReader()

    def whole(self, instance: Instance) -> asyncio.Task[Document]:
        """All classes."""
        keep = partial(self._documents.keep_whole, instance)
        return self._tasks.join((_WHOLE, instance), lambda: self._ask_whole(instance), keep)

    def whole_under_way(self, instance: Instance) -> asyncio.Task[Document] | None:
        """The question for all classes if somebody has asked it and it is not answered yet."""
        return self._tasks.get((_WHOLE, instance))

    def ours(self, instance: Instance, names: Sequence[str]) -> asyncio.Task[Answer]:
        """The classes that our workflows name. One that is refused fails the question."""
        return self._tasks.join(
            (_OURS, instance),
            lambda: self._ask(instance, names, refusable=False),
            partial(self._documents.keep_ours, instance),
        )

    def lists(self, instance: Instance) -> asyncio.Task[Answer]:
        """The classes that list uploaded files, of those known; one that is refused stays as it is.

        Raises InvalidAnswerError if nothing is known, for it was away.
        """
        document = self._documents.whole(instance)
        if document is None:
            raise InvalidAnswerError(f"{instance.host} was away while it was asked.")
        names = document.catalog.that_list_uploads(self._documents.changes.input_folders)
        return self._tasks.join(
            (_LISTS, instance),
            lambda: self._ask(instance, names, refusable=True),
            partial(self._documents.keep_lists, instance),
        )

    def folders(self, instance: Instance) -> asyncio.Task[FolderLists]:
        """Its lists of models and inputs, from which it is seen what has changed there."""
        changes = self._documents.changes
        document = self._documents.whole(instance)
        listing = (
            None if document is None else document.catalog.that_lists_folders(changes.input_folders)
        )
        known = changes.listed(instance)
        return self._tasks.join(
            (_FOLDERS, instance),
            lambda: folder_lists(self._clients[instance], known, listing),
            partial(changes.seen, instance),
        )

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin ``work``; it ends with the cache at the latest."""
        self._tasks.start(work)

    def forget(self, instance: Instance) -> None:
        """It was away: answers to what is under way are not kept."""
        for kind in (_WHOLE, _OURS, _LISTS, _FOLDERS):
            self._tasks.forget((kind, instance))

    def forget_ours(self, instance: Instance) -> None:
        """The same for :meth:`ours` alone."""
        self._tasks.forget((_OURS, instance))

    def forget_all_ours(self) -> None:
        """The same for all instances: other classes are asked for from now on."""
        for instance in tuple(self._clients):
            self.forget_ours(instance)

    async def _ask_whole(self, instance: Instance) -> Document:
        if self._documents.changes.listed(instance) is None:
            # Before the classes: a file that comes meanwhile is then a change that is seen later.
            with suppress(InstanceError, TimeoutError):
                async with self._clock.timeout(LISTS_PATIENCE_S):
                    await asyncio.shield(self.folders(instance))
        asked = self._documents.now(instance)
        body = await self._clients[instance].object_info()
        digest = await digest_of(body)
        known = self._documents.get(instance)
        if known is not None and known.digest == digest:
            catalog = known.catalog
        else:
            before = None if known is None else known.catalog
            catalog = await self._reader.read(body, digest, before, instance)
        return Document(catalog=catalog, whole=asked, ours=asked, lists=asked, digest=digest)

    async def _ask(self, instance: Instance, names: Sequence[str], *, refusable: bool) -> Answer:
        """``refusable``: a class that the instance refuses counts as not asked for."""
        asked = self._documents.now(instance)
        limit = asyncio.Semaphore(_CONCURRENT_REQUESTS)
        found: dict[str, ClassTable | None] = {}

        async def one(name: str) -> None:
            async with limit:
                try:
                    body = await class_info(self._clients[instance], name)
                except InstanceRefusedError as error:  # a slash in its name, say
                    if not refusable:
                        raise
                    logger.debug("{} is not asked again: {}", name, error.message)
                    return
                found[name] = await self._reader.read_one(body, name, instance)

        tasks = [asyncio.create_task(one(name)) for name in names]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # after a failure the others are of no use
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        answered = {name: found[name] for name in names if name in found}
        return Answer(names=tuple(answered), catalog=NodeCatalog(None, answered), asked=asked)
