"""Work moves: an instance that runs empty takes over a prompt that waits at another (trap 24).

Deleted there, proven to have been pending, submitted here under the same id and number. While it
is on its way ``gateway.moving`` has it, so that no view and no sum misses it. One moves at a time,
and nothing interrupts it: who is next depends on where it has arrived.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.prompt_lists import QUEUE, read_queue
from comfy_proxy.errors import InstanceError, PromptLostError
from comfy_proxy.gateway.exchange.pieces import read
from comfy_proxy.gateway.exchange.scanned import ask_scanned
from comfy_proxy.gateway.prompts.carrier import Carrier
from comfy_proxy.gateway.prompts.lost import LostPrompts
from comfy_proxy.gateway.prompts.moving import MovingPrompt
from comfy_proxy.gateway.prompts.posting import ForwardedPrompt
from comfy_proxy.gateway.prompts.running import RunningPrompts
from comfy_proxy.gateway.prompts.spool import PromptSpool
from comfy_proxy.lenient_json import loads_exact
from comfy_proxy.metrics.records import PromptEvent
from comfy_proxy.tracing import untraced

if TYPE_CHECKING:
    from comfy_proxy.gateway.gateway import Gateway

CLOSE_TIMEOUT_S = 10.0


class PromptMover:
    """Knows the forwarded prompts that have not ended, every one, and evens out what waits where.

    ``running``: what runs at each instance. ``lost`` sees to those of an instance that may have
    lost its queue, or has.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._known: dict[str, ForwardedPrompt] = {}
        self._scout: asyncio.Task[None] | None = None
        self._changed = False
        self._closing = asyncio.Event()
        self._carrier = Carrier(gateway)
        self._asking = False
        self.spool = PromptSpool()
        self.running = RunningPrompts()
        self.lost = LostPrompts(gateway, self, self._carrier)

    def add(self, prompt: ForwardedPrompt) -> None:
        self.discard(prompt.prompt_id)
        self._known[prompt.prompt_id] = prompt
        self.spool.add(prompt)
        if prompt.instance is not None:
            self.running.arrived(prompt, prompt.instance)
        self.consider()

    def discard(self, prompt_id: str) -> None:
        """It is over, or a client has deleted it."""
        prompt = self._known.pop(prompt_id, None)
        if prompt is not None:
            self.spool.forget(prompt)
            self._left(prompt, prompt.instance)

    def knows(self, prompt: ForwardedPrompt) -> bool:
        """Whether it has not ended, and no newer one has its id."""
        return self._known.get(prompt.prompt_id) is prompt

    def replaced(self, prompt: ForwardedPrompt) -> bool:
        """Whether a newer one has its id."""
        return self._known.get(prompt.prompt_id, prompt) is not prompt

    def _left(self, prompt: ForwardedPrompt, instance: Instance | None) -> None:
        if instance is not None:
            self.running.left(prompt, instance, self._at(instance))

    def deleted(self, prompt_ids: Iterable[str] | None = None) -> None:
        """Clients have deleted these, or all, as far as they wait: they are not lost."""
        for prompt_id in tuple(self._known) if prompt_ids is None else prompt_ids:
            prompt = self._known.get(prompt_id)
            # One that moves, or is lost, is marked as cancelled by whoever deletes it.
            if prompt is not None and not prompt.began and prompt_id not in self._gateway.moving:
                self.discard(prompt_id)

    def began(self, prompt_id: str) -> None:
        """It runs: it does not move any more."""
        if prompt := self._known.get(prompt_id):
            prompt.began = True
            if prompt.instance is not None:
                self.running.began(prompt, prompt.instance)

    def stopped_at(self, prompt_id: str, node: str) -> None:
        """Its instance's socket was lost while ``node`` of it ran."""
        if prompt := self._known.get(prompt_id):
            prompt.node = node

    def doubt(self, instance: Instance) -> None:
        """``instance`` was away, or is: it may have lost its queue.

        Prompts end in turn, so of those whose events nobody hears the first have ended by the
        length of the queue in its last ``status``. That blames another one for what ends the
        process, and no more: the frame may have been sent before the last prompts were taken.
        """
        prompts = self._at(instance)
        for prompt in prompts[: max(0, len(prompts) - instance.queue_remaining)]:
            prompt.over = prompt.over or not self._is_heard(prompt)
        if prompts:
            self.lost.doubt(instance, prompts)
        self._ask()

    def _is_heard(self, prompt: ForwardedPrompt) -> bool:
        """Its client listens, so its end would be known."""
        return prompt.client_id is not None and self._gateway.events.listens(prompt.client_id)

    def answered(self, instance: Instance) -> None:
        """``instance`` has passed a check: it may be what lost prompts wait for."""
        self._ask()
        self.consider()

    def missing(self, prompt_id: str, instance: Instance) -> bool:
        """``instance`` has it neither in its queue nor in its history.

        True if it may have been lost with the process: then that is found out, for all that is
        there. Else somebody has deleted it at the instance itself, and it is forgotten here.
        """
        prompt = self._known.get(prompt_id)
        if prompt is None or prompt.instance is not instance:
            return False
        if not instance.troubled_since(prompt.sent_at):
            self.discard(prompt_id)
            return False
        self.lost.doubt(instance, self._at(instance))
        self._ask()
        return True

    def consider(self) -> None:
        """The load of an instance has changed."""
        self._changed = True
        if self._closing.is_set() or (self._scout is not None and not self._scout.done()):
            return
        if self._asking or next(self._pairs(), None) is not None:
            self._scout = asyncio.create_task(
                self._even_out(), name="even out prompts", context=untraced()
            )
            self._scout.add_done_callback(_report)

    async def close(self) -> None:
        """No more moves; those that are under way arrive first."""
        self._closing.set()
        if self._scout is not None:
            # A prompt that was deleted on one side must arrive on the other, if that can be.
            await asyncio.wait([self._scout], timeout=CLOSE_TIMEOUT_S)
            self._scout.cancel()
            await asyncio.gather(self._scout, return_exceptions=True)
        await self.spool.close()

    # --- which --------------------------------------------------------------------------

    def _pairs(self) -> Iterator[tuple[Instance, Instance]]:
        """Who gives and who takes: one runs low (one prefetched prompt is kept) while two wait."""
        if not self._known:
            return
        by_load = sorted(
            (one for one in self._gateway.cluster.instances if one.healthy),
            key=lambda instance: instance.load,
        )
        for idle in by_load:
            for busy in reversed(by_load):
                if idle.load <= 1 and busy.load - idle.load >= 2 and self._waits_at(busy):
                    yield busy, idle

    def _at(self, instance: Instance) -> list[ForwardedPrompt]:
        return [prompt for prompt in self._known.values() if prompt.instance is instance]

    def _waits_at(self, instance: Instance) -> bool:
        return any(prompt.movable for prompt in self._at(instance))

    async def _even_out(self) -> None:
        while self._changed and not self._closing.is_set():
            self._changed = False
            if self._asking:
                self._asking = False
                await self.lost.submit_again(self._closing)
            for busy, idle in tuple(self._pairs()):
                try:
                    if await self._move_one(busy, idle):
                        self._changed = True
                        break
                except InstanceError as error:
                    logger.info("no move from {} to {}: {}", busy.host, idle.host, error.message)

    async def _move_one(self, busy: Instance, idle: Instance) -> bool:
        """True if a prompt was taken away. Raises InstanceError before anything was changed."""
        if not await self._answers(idle):  # it would be asked what it can run
            return False
        entry = await self._candidate(busy, idle)
        prompt = self._known.get(entry[1]) if entry is not None else None
        if entry is None or prompt is None:
            return False
        async with self.spool.holding(prompt):
            return await self._move_to(idle, prompt, entry, busy)

    async def _move_to(
        self, idle: Instance, prompt: ForwardedPrompt, entry: list[Any], busy: Instance
    ) -> bool:
        placement = self._gateway.cluster.scheduler.enter(idle)
        try:
            if not await self._answers(idle):
                return False
            if not await self._gateway.inputs.stage(prompt.graph, idle):
                prompt.settled = self._changed = True  # there its names mean other results
                return False
            if not await self._heard(prompt, idle) or self._closing.is_set():
                return False
            return await self._move(prompt, entry, busy, placement)
        finally:
            placement.release()

    async def _answers(self, idle: Instance) -> bool:
        """The check before each submission. One that fails it is looked at until it answers, and
        then work is evened out again."""
        checker = self._gateway.cluster.health_checker
        answers = await checker.check(idle)
        if not answers:
            checker.look(idle)
        return answers

    async def _heard(self, prompt: ForwardedPrompt, idle: Instance) -> bool:
        """Its client's socket is at ``idle``, or the client has none."""
        if prompt.client_id is None:
            return True
        return await self._gateway.events.ready(prompt.client_id, idle, self._gateway)

    async def _candidate(self, busy: Instance, idle: Instance) -> list[Any] | None:
        """The next prompt in ``busy``'s order that is known here and that ``idle`` can run.

        Not one whose id is there twice: of those nobody could say which was deleted (trap 9).
        """
        known = {prompt.prompt_id for prompt in self._at(busy) if prompt.movable}
        answer = await ask_scanned(busy, self._gateway.cluster, "/queue", QUEUE)
        if (queue := read_queue(answer.root)) is None:
            return None
        pending = sorted(queue.pending, key=lambda entry: entry.number)
        there = Counter(entry.prompt_id for entry in (*pending, *queue.running))
        for prompt_id in known - queue.view().pending:
            if prompt_id in there:
                self.began(prompt_id)
            elif prompt := self._known.get(prompt_id):
                # It has ended, or its process has: whoever learns which sees to it.
                prompt.settled = True
        for entry in pending:
            if entry.prompt_id is None or there[entry.prompt_id] > 1:
                continue
            prompt = self._known.get(entry.prompt_id)
            if prompt is None or entry.prompt_id not in known:
                continue
            try:
                async with self.spool.holding(prompt):
                    able = await self._gateway.lacks(prompt.graph, idle) == 0
            except PromptLostError:  # it has ended, or its file is gone: it stays where it is
                prompt.settled = True
                continue
            if able:
                return list(loads_exact(await read([answer.part(entry.value)])))
        return None

    def _ask(self) -> None:
        if self.lost:
            self._asking = True
            self.consider()

    # --- how ----------------------------------------------------------------------------

    async def _move(
        self,
        prompt: ForwardedPrompt,
        entry: list[Any],
        busy: Instance,
        placement: Placement,
    ) -> bool:
        """True if it was taken away from ``busy``."""
        target, idle = None, placement.instance
        try:
            with prompt.context(), self._gateway.while_moving(prompt.prompt_id, entry) as moving:
                if not await self._carrier.take_away(prompt, busy):
                    prompt.settled = self._changed = True  # it stays; the next one may go
                    return False
                target = await self._carrier.arrive(prompt, moving, [idle, busy], placement)
                placement.release()
                if target is None:
                    self.discard(prompt.prompt_id)
                    if moving.cancelled:
                        self._gateway.outcomes.cancelled(prompt.prompt_id)
                    elif prompt.fatal is not None:
                        self._gateway.prompt_given_up(prompt, prompt.fatal)
                    else:
                        lost = PromptLostError("It was taken by no instance again.")
                        self._gateway.outcomes.failed(prompt.prompt_id, lost)
                    return True
                self.arrived(prompt, target, busy)
                await self.withdraw_if_cancelled(prompt, moving, target)
                return True
        except asyncio.CancelledError:
            if target is None:
                with prompt.context():
                    logger.error(
                        "prompt {} was lost: the proxy ended in mid-move", prompt.prompt_id
                    )
            raise
        finally:
            placement.release()

    async def withdraw_if_cancelled(
        self, prompt: ForwardedPrompt, moving: MovingPrompt, target: Instance
    ) -> None:
        """No await between the last question and the end of the move: later deletions find it."""
        while moving.cancelled:
            moving.cancelled = False
            self.discard(prompt.prompt_id)
            await self._carrier.withdraw(prompt, target)
            self._gateway.outcomes.deleted([prompt.prompt_id])

    def arrived(self, prompt: ForwardedPrompt, target: Instance, busy: Instance | None) -> None:
        """``target`` has taken it, which was lost at ``busy`` or taken away there."""
        prompt.settled = target is busy  # it was refused elsewhere: once is enough
        if target is not busy:
            self._gateway.cluster.tell_prompt(PromptEvent.MOVED, target, prompt.prompt_id)
        prompt.instance = target
        self._left(prompt, busy)
        self.running.arrived(prompt, target)
        self._gateway.cluster.prompt_forwarded(target)
        self._gateway.ownership.prompts.record(prompt.prompt_id, target)
        self._gateway.outcomes.moved(prompt.prompt_id, target)
        logger.bind(instance=target.host).info(
            "prompt {} moved from {} to {}", prompt.prompt_id, busy and busy.host, target.host
        )


def _report(scout: asyncio.Task[None]) -> None:
    if not scout.cancelled() and (error := scout.exception()) is not None:
        logger.opt(exception=error).error("evening out prompts broke")
