"""What our own workflows can run where: the few node classes that they name.

Single classes are asked for, one small request each: the whole ``/object_info`` stops the
instance's event loop for 67 ms and more (measured). Where clients' prompts need the whole all the
same, it is on its way or known, and nothing is asked twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.cache import ObjectInfoCache
from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.errors import InstanceError

KEEP_S = 300.0
"""Seconds. Older knowledge is asked anew before it is used: somebody may add a model file."""
KEEP_LACK_S = 10.0
"""Seconds. "Cannot run it" is believed for that long; then a job asks anew before it is refused:
nothing tells us of a custom node just installed."""
WHOLE_PATIENCE_S = 2.0
"""Seconds. Who finds all classes already asked for waits that long for them, then asks for single
classes: a slow network must not hold up a job for half a megabyte of which it needs a little."""


class Capabilities:
    """The job API's questions to the cache. ``classes`` are those that our workflows name."""

    def __init__(self, cache: ObjectInfoCache, *, classes: Collection[str], clock: Clock) -> None:
        self._documents = cache.documents
        self._questions = cache.questions
        self._classes = sorted(classes)
        self._clock = clock

    def known(self, instance: Instance) -> NodeCatalog | None:
        """What is known without asking, with other classes or without; None if nothing or too old.

        Too old is what was asked before KEEP_S, or before :meth:`forget`.
        """
        return self._known(instance, KEEP_S)

    def lacks(self, instance: Instance, runs: Callable[[NodeCatalog], bool]) -> bool:
        """True if it is freshly known that the instance fails ``runs``."""
        known = self._known(instance, KEEP_LACK_S)
        return known is not None and not runs(known)

    async def get(self, instance: Instance, *, newer_than_s: float = KEEP_S) -> NodeCatalog:
        """What is known, or asked now if that is older than ``newer_than_s``.

        Raises InstanceError when the instance does not answer.
        """
        known = self._known(instance, newer_than_s)
        if known is None and (whole := self._questions.whole_under_way(instance)) is not None:
            with suppress(
                InstanceError, TimeoutError
            ):  # single classes may be answered all the same
                async with self._clock.timeout(WHOLE_PATIENCE_S):
                    await asyncio.shield(whole)
            known = self._known(instance, newer_than_s)
        if known is not None:
            return known
        return (await asyncio.shield(self._questions.ours(instance, self._classes))).catalog

    def name_classes(self, classes: Collection[str]) -> None:
        """Our workflows name these from now on. If some are new the instances are asked anew."""
        is_new = not set(classes).issubset(self._classes)
        self._classes = sorted(classes)
        if is_new:
            self._documents.doubt_all()
            self._questions.forget_all_ours()

    def forget(self, instance: Instance) -> None:
        """It refused a graph that it was known to run: our jobs ask it anew before they go there.

        Clients' prompts go by what is known until it is asked anew for them.
        """
        self._documents.doubt(instance)
        self._questions.forget_ours(instance)

    def heard(self, instance: Instance) -> None:
        """For ``health_checker.on_success``: learn in the background what is not known."""
        if self.known(instance) is None:
            self._questions.in_background(self._learn(instance))

    async def _learn(self, instance: Instance) -> None:
        with suppress(InstanceError):  # the breaker was told; the next check comes back here
            await self.get(instance)

    def _known(self, instance: Instance, newer_than_s: float) -> NodeCatalog | None:
        document = self._documents.get(instance)
        if document is None or self._documents.doubted(instance):
            return None
        fresh = self._documents.age_s(document.ours) <= newer_than_s
        return document.catalog if fresh else None
