"""What each instance can run: its whole ``/object_info``, asked rarely and kept.

The document is half a megabyte and stops the instance's event loop for 67 ms and more while it is
built (measured), so all who want it share one request, and what is known is used while it is asked
anew: when somebody wants one that is ``STALE_S`` old, and every ``REFRESH_S`` after a health check;
an instance that works is left alone for longer. One that (re)started is asked again.

An upload changes a handful of small classes only. It is noted here (``uploads_changed``), and who
wants the document next gets these classes asked again before. That costs nothing where clients
upload a thousand pictures and never look at ``/object_info``.

Read exactly (see ``lenient_json.py``): nodes have limits like ``Infinity`` and
``-0xffffffffffffffff``, which must come out as they went in. What is no class is left out.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from loguru import logger

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.node_classes import read_classes
from comfy_proxy.cluster.node_inputs import Classes, lists_uploads, missing
from comfy_proxy.errors import InstanceError, InstanceRefusedError, InvalidAnswerError
from comfy_proxy.tracing import untraced

STALE_S = 30.0
REFRESH_S = 300.0
PATIENCE_FACTOR = 6
"""An instance that works is asked anew only when its document is so many times as old."""
UPLOADS_STALE_S = 10.0
"""Files may be put into the input directory by hand: no upload tells of them."""
_CONCURRENT_REQUESTS = 4

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One instance's classes. The same ``classes`` object means that nothing has changed.

    ``uploads`` counts the uploads that were known of when its lists of files were asked for.
    """

    classes: Classes = field(repr=False)
    asked_at: float
    uploads: int
    uploads_asked_at: float
    digest: bytes | None = field(repr=False)
    """Of the whole document as it came; None after some of its classes were asked again."""


class ObjectInfoCache:
    """The documents of all instances. Whoever makes it closes it; see the hooks at the end."""

    def __init__(self, clients: Mapping[Instance, ComfyUIClient], *, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[Instance, Document] = {}
        self._clients = clients
        self._asking: dict[Instance, asyncio.Task[Document]] = {}
        self._asking_uploads: dict[Instance, asyncio.Task[Document]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._uploads = 0

    def __repr__(self) -> str:
        known = ", ".join(f"{i.host}: {len(d.classes)}" for i, d in self._known.items())
        return f"<ObjectInfoCache {known or 'empty'}>"

    # --- questions ---------------------------------------------------------------------

    def known(self, instance: Instance) -> Classes | None:
        """What is known without asking, however old."""
        document = self._known.get(instance)
        return None if document is None else document.classes

    async def of(self, instance: Instance) -> Classes:
        """The classes of ``instance``; known ones at once, be they a little old.

        Raises InstanceError when it was never asked and does not answer.
        """
        if instance in self._known:
            self._refresh_if_older(instance, STALE_S)
            return self._known[instance].classes
        return (await asyncio.shield(self._ask(instance))).classes

    async def with_uploads(self, instance: Instance) -> Classes:
        """As :meth:`of`, and its lists of files have every upload that is known of.

        Raises InstanceError when it does not answer.
        """
        classes = await self.of(instance)
        document = self._known.get(instance)
        if document is None:
            return classes
        age_s = self._clock.monotonic() - document.uploads_asked_at
        if not self.lacks_uploads(instance) and age_s <= UPLOADS_STALE_S:
            return document.classes
        return await self.refresh_uploads(instance)

    def lacks_uploads(self, instance: Instance) -> bool:
        """True if its lists of files were asked for before the last upload, or never."""
        document = self._known.get(instance)
        return document is None or document.uploads < self._uploads

    def missing_for(self, graph: Mapping[str, Any], instance: Instance) -> list[str] | None:
        """What ``graph`` names and ``instance`` lacks; ``[]``: can run it; None: not known yet.

        Node classes by name, chosen values (model files) as ``Class.input: value``. A class may
        take values that it does not list: if all instances lack something, the one that lacks
        least is the one to try.
        """
        classes = self.known(instance)
        if classes is None:
            return None
        others = [document.classes for other, document in self._known.items() if other != instance]
        return missing(graph, classes, others)

    # --- asking anew -------------------------------------------------------------------

    async def refresh_uploads(self, instance: Instance) -> Classes:
        """Ask the classes again that list uploaded files; concurrent callers share that.

        Raises InstanceError.
        """
        wanted = self._uploads
        while True:
            task = self._asking_uploads.get(instance)
            if task is None:
                task = self._start(self._refresh_uploads(instance))
                self._asking_uploads[instance] = task
                task.add_done_callback(lambda done: _drop(self._asking_uploads, instance, done))
            document = await asyncio.shield(task)
            if document.uploads >= wanted:  # else it began before the upload that is looked for
                return document.classes

    async def refresh_classes(self, instance: Instance, names: Collection[str]) -> Classes:
        """Ask ``names`` again, one small request each. Raises InstanceError."""
        return (await self._refresh_classes(instance, names)).classes

    def uploads_changed(self) -> None:
        """A file was uploaded: who asks from now on must see it."""
        self._uploads += 1

    # --- hooks -------------------------------------------------------------------------

    def forget(self, instance: Instance) -> None:
        """For ``instance.on_interruption``: what comes back may be another installation."""
        self._known.pop(instance, None)
        self._asking.pop(instance, None)  # whoever waits gets the answer, nobody after them
        self._asking_uploads.pop(instance, None)

    def heard(self, instance: Instance) -> None:
        """For ``health_checker.on_success``: learn it in the background, now or when it is due."""
        if instance not in self._known:
            self._ask(instance)
        else:
            self._refresh_if_older(instance, REFRESH_S)

    async def close(self) -> None:
        """End what still asks."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # --- inside ------------------------------------------------------------------------

    def _refresh_if_older(self, instance: Instance, age_s: float) -> None:
        age = self._clock.monotonic() - self._known[instance].asked_at
        if age > age_s * (PATIENCE_FACTOR if instance.load else 1):
            self._ask(instance)

    def _ask(self, instance: Instance) -> asyncio.Task[Document]:
        task = self._asking.get(instance)
        if task is None:
            task = self._asking[instance] = self._start(self._whole(instance))
            task.add_done_callback(lambda done: self._asked(instance, done))
        return task

    def _asked(self, instance: Instance, task: asyncio.Task[Document]) -> None:
        if _drop(self._asking, instance, task) and not task.cancelled() and not task.exception():
            self._known[instance] = task.result()

    async def _whole(self, instance: Instance) -> Document:
        asked_at, uploads = self._clock.monotonic(), self._uploads
        body = await self._clients[instance].object_info()
        digest = hashlib.blake2b(body).digest()
        known = self._known.get(instance)
        same = known is not None and known.digest == digest
        return Document(
            classes=known.classes
            if known is not None and same
            else await read_classes(body, instance),
            asked_at=asked_at,
            uploads=uploads,
            uploads_asked_at=asked_at,
            digest=digest,
        )

    async def _refresh_uploads(self, instance: Instance) -> Document:
        classes = await self.of(instance)
        names = [name for name, info in classes.items() if lists_uploads(name, info)]
        return await self._refresh_classes(instance, names, uploads=self._uploads)

    async def _refresh_classes(
        self, instance: Instance, names: Collection[str], *, uploads: int | None = None
    ) -> Document:
        await self.of(instance)
        before, asked_at = self._known.get(instance), self._clock.monotonic()
        answers = await self._infos(instance, names)
        document = self._known.get(instance)
        if document is None or before is None:
            raise InvalidAnswerError(f"{instance.host} was away while it was asked.")
        if document is before or document.asked_at < asked_at:  # else it is newer than answers
            document = _patched(document, answers)
            if uploads is not None:
                document = replace(document, uploads=uploads, uploads_asked_at=asked_at)
            self._known[instance] = document
        return document

    async def _infos(
        self, instance: Instance, names: Collection[str]
    ) -> dict[str, dict[str, Any] | None]:
        limit = asyncio.Semaphore(_CONCURRENT_REQUESTS)
        answers: dict[str, dict[str, Any] | None] = {}

        async def one(name: str) -> None:
            async with limit:
                try:
                    answers[name] = await self._clients[instance].node_info(name)
                except InstanceRefusedError as error:  # a slash in its name, say: keep what we have
                    logger.debug("{} is not asked again: {}", name, error.message)

        tasks = [asyncio.create_task(one(name)) for name in names]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # after a failure the others are of no use
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return answers

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work, context=untraced())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, InstanceError):
            logger.opt(exception=error).error("asking for /object_info broke")


def _drop(
    tasks: dict[Instance, asyncio.Task[Document]], instance: Instance, task: asyncio.Task[Document]
) -> bool:
    """Take ``task`` out; False if it was forgotten meanwhile."""
    if tasks.get(instance) is not task:
        return False
    del tasks[instance]
    return True


def _patched(document: Document, answers: Mapping[str, Mapping[str, Any] | None]) -> Document:
    """``document`` with these classes as they are now; the same one if nothing has changed."""
    changed = {name: info for name, info in answers.items() if document.classes.get(name) != info}
    if not changed:
        return document
    merged = {**document.classes, **changed}
    classes = {name: info for name, info in merged.items() if info is not None}
    return replace(document, classes=classes, digest=None)
