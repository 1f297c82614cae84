"""Whether an instance can run a client's graph, asked for at most a few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.health_checker import HealthChecker
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.cache import ObjectInfoCache
from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.cluster.object_info.fatal_graph import fatal_flaw
from comfy_proxy.cluster.planning.work import Work, work_of
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.errors import InstanceError

OBJECT_INFO_TIMEOUT_S = 5.0
"""Seconds that a prompt waits to learn what an instance can run that was never asked. After that
the instance counts as UNKNOWN_LACK: the prompt need not wait for one that is slow to tell."""
LOOK_TIMEOUT_S = 0.5
"""Seconds that a prompt waits for a look at the lists of an instance that seems to lack a value.
After that it goes by what was known."""
LOOK_AGAIN_S = 5.0
"""Seconds. What a look has not found is not looked for again before that: some classes take values
that they never list, and their prompts are not to wait for a look each time."""
MAX_NODES = 5_000
MAX_INPUTS = 20_000
MAX_MODELS = 64
"""A graph with more nodes, more inputs in all (those within an input that is an object count too)
or more model files than that is not read for what it costs, and goes where the fewest prompts are.
Reading that many nodes and inputs takes some 60 ms at most, in which nobody else has a turn; a
single node with a million inputs, which is a body of 20 MB, would take three seconds."""
UNKNOWN_LACK = 0.5
"""What an instance lacks of which nothing is known: it is better than one that lacks something, and
worse than one that lacks nothing."""
_NOTHING_KNOWN = NodeCatalog()


class GraphSupport:
    """What the instances have of what graphs name, from the cache of ``/object_info``."""

    def __init__(
        self, cache: ObjectInfoCache, health_checker: HealthChecker, *, clock: Clock
    ) -> None:
        self._cache = cache
        self._health_checker = health_checker
        self._clock = clock
        self._looked_for = ByInstance[tuple[float, frozenset[str]]]()
        """What the last look at each did not find, and when it began (monotonic seconds)."""

    def node_info(self, instance: Instance) -> NodeCatalog:
        """Its classes as far as they are known: an empty catalog if it was never asked."""
        return self._cache.known(instance) or _NOTHING_KNOWN

    def work(self, graph: Mapping[str, Any]) -> Work | None:
        """What ``graph`` needs, as far as the classes of any instance are known that has them; None
        for one beyond ``MAX_NODES``, ``MAX_INPUTS`` or ``MAX_MODELS``."""
        if not is_readable(graph):
            return None
        work = work_of(graph, self._cache.richest())
        return work if len(work.models) <= MAX_MODELS else None

    def fatal_flaw(self, graph: Mapping[str, Any]) -> str | None:
        """What in ``graph`` would stop the instance that runs it, as far as the classes are known,
        in a sentence; None for nothing, or for a graph beyond ``MAX_NODES`` or ``MAX_INPUTS``."""
        catalog = self._cache.richest() or _NOTHING_KNOWN
        return fatal_flaw(graph, catalog) if is_readable(graph) else None

    async def lacks_of(
        self, graph: Mapping[str, Any], instances: Iterable[Instance]
    ) -> dict[Instance, float]:
        """As :meth:`lacks`, of each. Instances with the same classes are looked through once, and
        only those that must be asked get a task each: tasks for 300 take 40 ms."""
        found: dict[Instance, float | None] = {}  # None: it must be asked
        missing_in: dict[int, list[str]] = {}  # by id() of the catalog, which the cache holds
        for instance in instances:
            catalog = self._cache.now(instance)
            if catalog is None:
                found[instance] = None
                continue
            missing = missing_in.get(id(catalog))
            if missing is None:
                missing = self._cache.missing_for(graph, instance) or []
                missing_in[id(catalog)] = missing
            must_look = missing and self._is_to_look(missing, instance)
            found[instance] = None if must_look else len(missing)
        unknown = [instance for instance, lacking in found.items() if lacking is None]
        told = await asyncio.gather(*(self.lacks(graph, one) for one in unknown))
        learnt = dict(zip(unknown, told, strict=True))
        return {one: learnt[one] if known is None else known for one, known in found.items()}

    async def lacks(self, graph: Mapping[str, Any], instance: Instance) -> float:
        """How many node classes and model files of ``graph`` (node id → node) it lacks.

        UNKNOWN_LACK if it was never asked and does not answer now, its check included; never fails.
        """
        try:
            if self._cache.known(instance) is None:
                if not await self._health_checker.check(instance):
                    return UNKNOWN_LACK
                async with self._clock.timeout(OBJECT_INFO_TIMEOUT_S):
                    await self._cache.of(instance)
            else:
                await self._cache.of(instance)  # at once; asked anew in the background if it is old
        except (InstanceError, TimeoutError):
            return UNKNOWN_LACK
        missing = self._cache.missing_for(graph, instance)
        if missing and self._is_to_look(missing, instance):
            missing = await self._missing_now(graph, instance)
        return UNKNOWN_LACK if missing is None else len(missing)

    def _is_to_look(self, missing: list[str], instance: Instance) -> bool:
        """A look shows values that are new, and no classes: these come with a restart."""
        if not any(": " in one for one in missing):
            return False
        looked_at, not_found = self._looked_for.get(instance, (-LOOK_AGAIN_S, frozenset()))
        is_old = self._clock.monotonic() - looked_at >= LOOK_AGAIN_S
        return is_old or not not_found.issuperset(missing)

    async def _missing_now(self, graph: Mapping[str, Any], instance: Instance) -> list[str] | None:
        """What is missing after a look at its lists: somebody may have copied a model there."""
        began_at = self._clock.monotonic()
        with suppress(InstanceError, TimeoutError):
            async with self._clock.timeout(LOOK_TIMEOUT_S):
                await self._cache.with_uploads(instance)
        missing = self._cache.missing_for(graph, instance)
        self._looked_for[instance] = began_at, frozenset(missing or ())
        return missing


def is_readable(graph: Mapping[str, Any]) -> bool:
    """Whether it has no more than ``MAX_NODES`` and ``MAX_INPUTS``; counts no further than that."""
    if len(graph) > MAX_NODES:
        return False
    left = MAX_INPUTS
    for node in graph.values():
        inputs = node.get("inputs") if isinstance(node, dict) else None
        if not isinstance(inputs, dict):
            continue
        left -= len(inputs)
        if left < 0:
            return False
        left -= sum(len(value) for value in inputs.values() if isinstance(value, dict))
    return left >= 0
