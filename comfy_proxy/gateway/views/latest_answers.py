"""What all instances say to one question, without one that is slow holding up the others.

An instance that loads a model answers nothing for seconds (PROTOCOL.md trap 8). What it said last
stands in for it then, so that its files do not vanish from a list and come back.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.hang_watch import InstanceHangsError
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.exchange.fanout import Answer, ask, nobody_answers

PATIENCE_S = 1.0
"""Seconds that a client waits for all instances. After that it gets what has come by then, with the
latest known answers of the others; if nothing has come it waits for the first answer."""
MAX_KNOWN = 1_000
MAX_KNOWN_BYTES = 32 * 2**20
"""Latest answers that are kept, of all instances together, and their bodies; beyond, the oldest are
forgotten, and an instance of which none is kept is left out while it is slow. A client may ask for
each of a thousand folders, or for one with another query each time."""

Asking = Mapping[Instance, "asyncio.Task[Answer]"]


class LatestAnswers:
    """Asks, and remembers the latest answer with status 200 of each instance to each path."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: OrderedDict[tuple[Instance, str], Answer] = OrderedDict()
        self._bytes = 0
        cluster.instances.on_removed.append(self._removed)

    async def to(self, path: str, *, primary: bool = False) -> dict[Instance, Answer]:
        """The answers of the healthy instances to ``GET path``, in their order; those that fail
        are left out.

        ``primary``: the first healthy instance is waited for as long as any instance is. Raises
        NoHealthyInstanceError if nobody answers.
        """
        left = list(self._cluster.instances)
        while asked := await self._cluster.healthy(left):
            if answers := await self._answers(asked, path, primary=primary):
                return answers
            left = [one for one in left if one not in asked]
        raise nobody_answers()

    async def _answers(
        self, asked: Sequence[Instance], path: str, *, primary: bool
    ) -> dict[Instance, Answer]:
        asking = {one: asyncio.create_task(self._ask(one, path)) for one in asked}
        try:
            await self._wait(asking, [asking[asked[0]]] if primary else [])
        finally:
            for task in asking.values():
                task.cancel()
            await asyncio.gather(*asking.values(), return_exceptions=True)
        answers = {one: self._answer(one, path, task) for one, task in asking.items()}
        return {one: answer for one, answer in answers.items() if answer is not None}

    async def _ask(self, instance: Instance, path: str) -> Answer:
        return await ask(instance, self._cluster, "GET", path, replaceable=True)

    async def _wait(self, asking: Asking, needed: Iterable[asyncio.Task[Answer]]) -> None:
        try:
            async with self._cluster.clock.timeout(PATIENCE_S):
                await asyncio.wait(asking.values())
        except TimeoutError:
            slow = [one.host for one, task in asking.items() if not task.done()]
            logger.debug("what these said last stands in for them: {}", ", ".join(slow))
        left = {task for task in asking.values() if not task.done()}
        for task in needed:
            await asyncio.wait([task])
        while left and not any(_has_come(task) for task in asking.values()):
            _, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)

    def _answer(self, instance: Instance, path: str, task: asyncio.Task[Answer]) -> Answer | None:
        """What it says now, or said last if it is slow. Raises what is no InstanceError."""
        key = instance, path
        if task.cancelled():
            return self._known.get(key)
        if (error := task.exception()) is not None:
            if isinstance(error, InstanceHangsError):
                return self._known.get(key)
            if not isinstance(error, InstanceError):
                raise error
            return None
        answer = task.result()
        self._forget(key)
        if answer.status == 200 and not instance.left:
            self._known[key] = answer
            self._bytes += len(answer.body)
        while len(self._known) > MAX_KNOWN or self._bytes > MAX_KNOWN_BYTES:
            self._forget(next(iter(self._known)))
        return answer

    def _removed(self, instance: Instance) -> None:
        for key in [key for key in self._known if key[0] is instance]:
            self._forget(key)

    def _forget(self, key: tuple[Instance, str]) -> None:
        if (answer := self._known.pop(key, None)) is not None:
            self._bytes -= len(answer.body)


def _has_come(task: asyncio.Task[Answer]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
