"""Work moves: an instance that runs empty takes over a prompt that waits at another (trap 24).

Deleted there, proven to have been pending, submitted here under the same id and number. While it
is on its way ``gateway.moving`` has it, so that no view and no sum misses it. Which prompt is next
is decided one at a time; how each arrives is a task of its own, which nothing cancels.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from loguru import logger

from comfy_proxy.clock import wait_for_event
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.carrier import Carrier
from comfy_proxy.gateway.fanout import ask
from comfy_proxy.gateway.native import load
from comfy_proxy.gateway.posting import SUBMIT_TIMEOUT_S, ForwardedPrompt
from comfy_proxy.gateway.staging import stage_inputs

if TYPE_CHECKING:
    from comfy_proxy.gateway.gateway import Gateway

MAX_WAITING = 10_000
MAX_WAITING_BYTES = 256 * 2**20
STATUS_TIMEOUT_S = 1.0
STATUS_GRACE_S = 0.05


class PromptMover:
    """Knows the forwarded prompts that may still wait, and evens out what waits where."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._waiting: OrderedDict[str, ForwardedPrompt] = OrderedDict()
        self._bytes = 0
        self._frames: Counter[Instance] = Counter()
        self._landed: dict[str, asyncio.Event] = {}
        self._scout: asyncio.Task[None] | None = None
        self._moves: set[asyncio.Task[None]] = set()
        self._changed = False
        self._closing = asyncio.Event()
        self._carrier = Carrier(gateway, self._closing)

    def add(self, prompt: ForwardedPrompt) -> None:
        self.discard(prompt.prompt_id)
        self._waiting[prompt.prompt_id] = prompt
        self._bytes += len(prompt.body)
        while len(self._waiting) > MAX_WAITING or self._bytes > MAX_WAITING_BYTES:
            self.discard(next(iter(self._waiting)))
        self.consider()

    def discard(self, prompt_id: str) -> None:
        """It runs, or is over: it does not move any more."""
        prompt = self._waiting.pop(prompt_id, None)
        if prompt is not None:
            self._bytes -= len(prompt.body)
        if landed := self._landed.get(prompt_id):
            landed.set()

    def heard(self, instance: Instance) -> None:
        """A socket to ``instance`` has told how many prompts it has."""
        self._frames[instance] += 1
        self.consider()

    def consider(self) -> None:
        """The load of an instance has changed."""
        self._changed = True
        if self._closing.is_set() or (self._scout is not None and not self._scout.done()):
            return
        if next(self._pairs(), None) is not None:
            self._scout = asyncio.create_task(self._even_out(), name="even out prompts")

    async def close(self) -> None:
        """No more moves; those that are under way arrive first."""
        self._closing.set()
        for tasks in ([self._scout] if self._scout else []), self._moves:
            if tasks:
                # Not cancelled: a prompt that was deleted on one side must arrive on the other.
                await asyncio.wait(tuple(tasks), timeout=SUBMIT_TIMEOUT_S)

    # --- which --------------------------------------------------------------------------

    def _pairs(self) -> Iterator[tuple[Instance, Instance]]:
        """Who gives and who takes: one runs low (one prefetched prompt is kept) while two wait."""
        if not self._waiting:
            return
        by_load = sorted(
            (one for one in self._gateway.cluster.instances if one.healthy),
            key=lambda instance: instance.load,
        )
        for idle in by_load:
            for busy in reversed(by_load):
                if idle.load <= 1 and busy.load - idle.load >= 2 and self._waits_at(busy):
                    yield busy, idle

    def _waits_at(self, instance: Instance) -> bool:
        return any(p.instance is instance and not p.settled for p in self._waiting.values())

    async def _even_out(self) -> None:
        while self._changed and not self._closing.is_set():
            self._changed = False
            for busy, idle in tuple(self._pairs()):
                try:
                    if await self._move_one(busy, idle):
                        self._changed = True
                        break
                except InstanceError as error:
                    logger.info("no move from {} to {}: {}", busy.host, idle.host, error.message)

    async def _move_one(self, busy: Instance, idle: Instance) -> bool:
        """True if a prompt was taken away. Raises InstanceError before anything was changed."""
        entry = await self._candidate(busy, idle)
        prompt = self._waiting.get(entry[1]) if entry is not None else None
        if entry is None or prompt is None:
            return False
        placement = Placement(idle)
        gone = asyncio.Event()
        try:
            if not await self._gateway.cluster.health_checker.check(idle):
                return False
            await stage_inputs(prompt.graph, idle, self._gateway, self._gateway.node_info(idle))
            if prompt.client_id is not None:
                await self._gateway.events.ready(prompt.client_id, idle, self._gateway)
            if self._closing.is_set():
                return False
            task = asyncio.create_task(self._move(prompt, entry, busy, placement, gone))
            self._moves.add(task)
            task.add_done_callback(self._moved)
            await gone.wait()
        finally:
            if not gone.is_set():
                placement.release()
        return True

    def _moved(self, task: asyncio.Task[None]) -> None:
        self._moves.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.opt(exception=error).error("a move broke")

    async def _candidate(self, busy: Instance, idle: Instance) -> list[Any] | None:
        """The next prompt in ``busy``'s order that is known here and that ``idle`` can run.

        Not one whose id is there twice: of those nobody could say which was deleted (trap 9).
        """
        known = {i for i, p in self._waiting.items() if p.instance is busy and not p.settled}
        queue = load(await ask(busy, self._gateway.cluster, "GET", "/queue")) or {}
        pending = sorted(queue.get("queue_pending") or (), key=lambda entry: entry[0])
        there = Counter(entry[1] for entry in (*pending, *(queue.get("queue_running") or ())))
        waiting = {entry[1] for entry in pending}
        for prompt_id in known - waiting:
            self.discard(prompt_id)
        for entry in pending:
            prompt = self._waiting.get(entry[1]) if there[entry[1]] == 1 else None
            if prompt is None or entry[1] not in known:
                continue
            if await self._gateway.lacks(prompt.graph, idle) == 0:
                return list(entry)
        return None

    # --- how ----------------------------------------------------------------------------

    async def _move(
        self,
        prompt: ForwardedPrompt,
        entry: list[Any],
        busy: Instance,
        placement: Placement,
        gone: asyncio.Event,
    ) -> None:
        gateway, idle = self._gateway, placement.instance
        landed = self._landed[prompt.prompt_id] = asyncio.Event()
        try:
            with gateway.while_moving(prompt.prompt_id, entry):
                target, frames = None, self._frames.copy()
                if await self._carrier.take_away(prompt, busy):
                    target = await self._carrier.arrive(prompt, entry[0], [idle, busy], placement)
                placement.release()
                if target is not None:
                    self._arrived(prompt, target, busy)
                gone.set()
                if target is None:
                    self.discard(prompt.prompt_id)
                    return
                await self._told_by(target, frames[target], landed)
                # No await between this question and the end of the move: later deletions find it.
                while prompt.prompt_id in gateway.cancelled_moves:
                    gateway.cancelled_moves.discard(prompt.prompt_id)
                    await self._carrier.withdraw(prompt, target)
                    self.discard(prompt.prompt_id)
        finally:
            placement.release()
            gone.set()
            self._landed.pop(prompt.prompt_id, None)

    def _arrived(self, prompt: ForwardedPrompt, target: Instance, busy: Instance) -> None:
        prompt.settled = target is busy  # it was refused elsewhere: once is enough
        prompt.instance = target
        self._gateway.cluster.prompt_forwarded(target)
        self._gateway.ownership.prompts.record(prompt.prompt_id, target)
        logger.info("prompt {} moved to {}", prompt.prompt_id, target.host)

    async def _told_by(self, target: Instance, frames: int, landed: asyncio.Event) -> None:
        """Until every socket to ``target`` has told that it has one more, or that it runs.

        Only then may it stop to be counted as one that moves: each client has its own sum.
        """
        gateway = self._gateway
        sockets = len(gateway.events) + gateway.cluster.connections.pool(target).state.open
        ends_at = gateway.cluster.clock.monotonic() + STATUS_TIMEOUT_S
        while self._frames[target] - frames < sockets and not landed.is_set():
            if gateway.cluster.clock.monotonic() >= ends_at or self._closing.is_set():
                return
            await wait_for_event(gateway.cluster.clock, landed, STATUS_GRACE_S / 10)
        await wait_for_event(gateway.cluster.clock, self._closing, STATUS_GRACE_S)
