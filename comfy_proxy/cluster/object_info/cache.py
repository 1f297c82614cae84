"""What each instance can run: one cache of ``/object_info``, asked rarely and kept.

What is known is used while it is asked anew: when somebody wants a document that is ``STALE_S``
old, and every ``REFRESH_S`` after a health check; an instance that works is left alone for longer.
One that (re)started is asked again.

Files that somebody copies to an instance are seen by its own lists (``folder_lists.py``), which are
looked at when somebody wants the document. A model that has come or gone has all classes asked
again, as any of them may list it; a file of the input directory those that list uploads.

An upload changes a handful of small classes only. It is noted here (``uploads_changed``), and who
wants the document next gets these classes asked again before. That costs nothing where clients
upload a thousand pictures and never look at ``/object_info``.

Our own jobs ask the same cache, for a few classes only: see ``capabilities.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.cluster.object_info.documents import Asked, Documents
from comfy_proxy.cluster.object_info.questions import Questions
from comfy_proxy.cluster.object_info.shared_tasks import SharedTasks
from comfy_proxy.errors import InvalidAnswerError

STALE_S = 30.0
"""Seconds. A document that old is asked for anew when somebody wants it, who does not wait."""
REFRESH_S = 300.0
"""Seconds. A document that old is asked for anew after a health check, wanted or not."""
PATIENCE_FACTOR = 6
"""An instance that works is asked anew only when its document is so many times as old: building
the answer stops its event loop."""
UPLOADS_STALE_S = 10.0
"""Seconds. Classes that list uploads are asked for again before they are shown when they are that
old: some list folders (``input/3d``) of which no list tells that is looked at."""
LOOK_S = 0.5
"""Seconds. The lists of models and inputs are looked at again before classes are shown when they
are that old. A look is some 30 requests, each of which ComfyUI answers in under 1 ms."""


class ObjectInfoCache:
    """The classes of all instances. Whoever makes it closes it; ``forget`` and ``heard`` are hooks.

    ``documents`` and ``questions`` are its two halves, for those who ask by rules of their own.
    """

    def __init__(self, clients: Mapping[Instance, ComfyUIClient], *, clock: Clock) -> None:
        self._instances = clients.keys()
        self._tasks = SharedTasks("asking for /object_info")
        self.documents = Documents(clock)
        self.questions = Questions(clients, self.documents, self._tasks, clock=clock)

    def __repr__(self) -> str:
        return f"<ObjectInfoCache {self.documents!r}>"

    # --- known now ---------------------------------------------------------------------

    def known(self, instance: Instance) -> NodeCatalog | None:
        """All classes of ``instance``, however old; None if they never came. Asks nobody."""
        document = self.documents.whole(instance)
        return None if document is None else document.catalog

    def now(self, instance: Instance) -> NodeCatalog | None:
        """As :meth:`known`; classes that are older than STALE_S are asked for anew in the
        background."""
        document = self.documents.whole(instance)
        if document is None:
            return None
        self._refresh_if_older(instance, document.whole, STALE_S)
        return document.catalog

    def richest(self) -> NodeCatalog | None:
        """The known catalog with the most classes; None if none is known. Asks nobody."""
        known = (self.known(instance) for instance in self._instances)
        return max((one for one in known if one is not None), key=len, default=None)

    def lacks_uploads(self, instance: Instance) -> bool:
        """True if its lists of files were asked for before the last upload, or never."""
        return self.documents.lacks_uploads(instance)

    def missing_for(self, graph: Mapping[str, Any], instance: Instance) -> list[str] | None:
        """What ``graph`` names and ``instance`` lacks; ``[]``: can run it; None: not known yet.

        Node classes by name, chosen values (model files) as ``Class.input: value``. A class may
        take values that it does not list: if all instances lack something, the one that lacks
        least is the one to try.
        """
        return self.documents.missing_for(graph, instance)

    # --- ask, for COMFYUI_TIMEOUT at most -------------------------------------------------

    async def of(self, instance: Instance) -> NodeCatalog:
        """The classes of ``instance``; known ones at once, be they a little old.

        Raises InstanceError when it was never asked and does not answer.
        """
        catalog = self.now(instance)
        if catalog is None:
            return (await asyncio.shield(self.questions.whole(instance))).catalog
        return catalog

    async def with_uploads(self, instance: Instance) -> NodeCatalog:
        """As :meth:`of`, with every upload that is known of and with the files that the instance
        lists now, as it was seen ``LOOK_S`` ago at most.

        Raises InstanceError when it does not answer.
        """
        catalog = await self.of(instance)
        changes = self.documents.changes
        if changes.age_s(instance) > LOOK_S:
            await asyncio.shield(self.questions.folders(instance))
        while True:
            document = self.documents.whole(instance)
            if document is None:
                return catalog
            news = changes.news(instance)
            if not document.lacks_models(news, changes.input_folders):
                break
            await asyncio.shield(self.questions.whole(instance))
        fresh = self.documents.age_s(document.lists) <= UPLOADS_STALE_S
        if fresh and not self.lacks_uploads(instance) and not document.lacks_inputs(news):
            return document.catalog
        return await self.refresh_uploads(instance)

    async def refresh_uploads(self, instance: Instance) -> NodeCatalog:
        """Ask the classes again that list uploaded files; concurrent callers share that.

        Raises InstanceError.
        """
        wanted = self.documents.now(instance)
        while True:
            await self.of(instance)
            await asyncio.shield(self.questions.lists(instance))
            document = self.documents.whole(instance)
            if document is None:
                raise InvalidAnswerError(f"{instance.host} was away while it was asked.")
            began_before = document.lists.uploads < wanted.uploads
            if not began_before and not document.lacks_inputs(wanted.news):
                return document.catalog

    # --- forget --------------------------------------------------------------------------

    def uploads_changed(self, folder: str = "") -> None:
        """A file was uploaded, into that folder of the input directory: who asks from now on must
        see it."""
        self.documents.uploads_changed(folder)

    def forget(self, instance: Instance) -> None:
        """For ``instance.on_interruption``: what comes back may be another installation.

        Whoever waits gets the answer of before, nobody after them.
        """
        self.documents.forget(instance)
        self.questions.forget(instance)

    # --- refresh in the background ---------------------------------------------------------

    def heard(self, instance: Instance) -> None:
        """For ``health_checker.on_success``: learn it in the background, now or when it is due."""
        document = self.documents.whole(instance)
        if document is None:
            self.questions.whole(instance)
        else:
            self._refresh_if_older(instance, document.whole, REFRESH_S)

    def _refresh_if_older(self, instance: Instance, asked: Asked | None, age_s: float) -> None:
        limit_s = age_s * (PATIENCE_FACTOR if instance.load else 1)
        if asked is None or self.documents.age_s(asked) > limit_s:
            self.questions.whole(instance)

    async def close(self) -> None:
        """End what still asks, :meth:`Questions.in_background` included."""
        await self._tasks.close()
