"""An instance that runs empty takes over a prompt that waits at another (PROTOCOL.md trap 24).

It is deleted there, proven to have been pending, and submitted here under the same id and number.
While it is on its way the ledger has it in transit, so that no view and no sum misses it. One moves
at a time, and nothing interrupts it: who is next depends on where it has arrived.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.late_runs import LateRuns
from comfy_proxy.cluster.object_info.graph_support import UNKNOWN_LACK
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.planning.decision import moved
from comfy_proxy.cluster.planning.planner import Planner
from comfy_proxy.cluster.prompt_lists import QUEUE, QueueEntry, read_queue
from comfy_proxy.cluster.soon import Pace
from comfy_proxy.dispatch.dispatcher import Dispatcher, Unready
from comfy_proxy.errors import InstanceError, PromptLostError
from comfy_proxy.gateway.exchange.pieces import read
from comfy_proxy.gateway.exchange.scanned import ask_scanned
from comfy_proxy.gateway.prompts.needs import Needs
from comfy_proxy.gateway.prompts.spool import PromptSpool
from comfy_proxy.gateway.prompts.transfer import Arrival, Transfer
from comfy_proxy.gateway.prompts.uneven import Uneven, is_movable
from comfy_proxy.gateway.prompts.unheard_runs import UnheardRuns
from comfy_proxy.gateway.prompts.worker import Worker
from comfy_proxy.ledger import events
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import ClientPost, End, Prompt, is_open
from comfy_proxy.ledger.states import Ending, State
from comfy_proxy.lenient_json import loads_exact

Pair = tuple[Instance, Instance]
"""Who gives a prompt, and who takes it."""


class Rebalancer:
    """Evens out what waits where, whenever :meth:`consider` says that a load has changed."""

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        dispatcher: Dispatcher,
        needs: Needs,
        *,
        transfer: Transfer,
        spool: PromptSpool,
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._needs = needs
        self._transfer = transfer
        self._spool = spool
        self._uneven = Uneven(cluster, ledger)
        self._changed = False
        self._pace = Pace(cluster.clock)
        self._counted_on: set[Instance] = set()  # healthy, and no check of it has failed since
        self._worker = Worker(self._even_out, "even out prompts")
        self._unheard_runs = UnheardRuns(cluster, ledger)
        self._late_runs = LateRuns(
            cluster.planner,
            cluster.clock,
            instances=lambda: cluster.instances,
            movable=self._uneven.movable,
            again=self.consider,
        )
        ledger.observers.append(self._observe)

    def consider(self, *, checked: Instance | None = None) -> None:
        """The load of an instance has changed; or ``checked`` has passed a check, which is no news
        to what is under way if that counts on it: it makes such checks itself, and would never
        end."""
        if checked in self._counted_on:
            return
        self._changed = True
        self._worker.wake()

    async def close(self) -> None:
        """No more moves; the one that is under way comes to its end."""
        await self._worker.close()
        self._late_runs.close()

    def _observe(self, change: Change) -> None:
        if change.is_acceptance and change.prompt.post is not None:
            self.consider()

    async def _even_out(self) -> None:
        await self._pace.wait()
        try:
            while self._changed and not self._worker.closing:
                self._changed = False
                await self._unheard_runs.ask(self._late_runs.unheard())
                self._counted_on = {one for one in self._cluster.instances if one.healthy}
                if await self._move_any():
                    self._changed = True
        finally:
            self._counted_on = set()
        if not self._worker.closing:
            with self._pace.measured():
                self._late_runs.foresee()

    async def _move_any(self) -> bool:
        """True if a prompt was taken away anywhere."""
        pairs = self._uneven.pairs()
        while (pair := self._next_of(pairs)) is not None:
            busy, idle = pair
            try:
                if await self._move_one(busy, idle):
                    return True
            except InstanceError as error:
                logger.info("no move from {} to {}: {}", busy.host, idle.host, error.message)
        return False

    def _next_of(self, pairs: Iterator[Pair]) -> Pair | None:
        with self._pace.measured():
            return next(pairs, None)

    async def _move_one(self, busy: Instance, idle: Instance) -> bool:
        """True if a prompt was taken away. Raises InstanceError before anything was changed."""
        if not await self._answers(idle):  # it would be asked what it can run
            return False
        candidate = await self._candidate(busy, idle)
        if candidate is None:
            return False
        prompt, entry = candidate
        async with self._spool.holding(prompt):
            placement = self._cluster.scheduler.enter(idle, prompt.work, prompt.standing)
            try:
                if not await self._is_ready(prompt, idle) or prompt.post is None:
                    return False
                with prompt.context():
                    return await self._move(prompt, prompt.post, entry, busy, placement)
            finally:
                placement.release()

    async def _is_ready(self, prompt: Prompt, idle: Instance) -> bool:
        """``idle`` answers, has the files that the prompt names, and its client's socket."""
        why = await self._dispatcher.prepare(prompt, idle, self._needs)
        if why is Unready.SILENT:
            self._counted_on.discard(idle)
            self._cluster.health_checker.look(idle)
        elif why is Unready.OTHER_FILES:
            self._stay(prompt)
        return why is None and not self._worker.closing

    async def _answers(self, idle: Instance) -> bool:
        """The check before each submission. One that fails it is looked at until it answers, and
        then work is evened out again."""
        checker = self._cluster.health_checker
        answers = await checker.check(idle)
        if not answers:
            self._counted_on.discard(idle)
            checker.look(idle)
        return answers

    async def _candidate(self, busy: Instance, idle: Instance) -> tuple[Prompt, list[Any]] | None:
        """The next prompt in ``busy``'s order that is known here and that ``idle`` can run, and its
        entry of the queue.

        Not one whose id is there twice: of those nobody could say which was deleted (PROTOCOL.md
        trap 9).
        """
        known = {one.prompt_id: one for one in self._ledger.at(busy) if is_movable(one)}
        answer = await ask_scanned(busy, self._cluster, "/queue", QUEUE)
        if (queue := read_queue(answer.root)) is None:
            return None
        pending = sorted(queue.pending, key=lambda entry: entry.number)
        there = Counter(entry.prompt_id for entry in (*pending, *queue.running))
        self._leave_alone(known, queue.view().pending, there, busy)
        for entry in pending:
            prompt = known.get(entry.prompt_id or "")
            if prompt is None or there[entry.prompt_id] > 1 or not _waits(prompt, busy):
                continue
            if not self._uneven.gains(prompt, busy, idle):
                continue
            if await self._is_able(prompt, idle):
                return prompt, await _whole(entry, answer.part(entry.value))
        return None

    def _leave_alone(
        self,
        known: dict[str, Prompt],
        pending: frozenset[str],
        there: Counter[str | None],
        busy: Instance,
    ) -> None:
        """What does not wait at ``busy`` any more is not moved."""
        for prompt_id, prompt in known.items():
            if prompt_id in pending or not _waits(prompt, busy):
                continue
            if prompt_id in there:
                self._ledger.apply(events.Began(prompt_id=prompt_id, instance=busy))
            else:  # it has ended, or its process has: whoever learns which sees to it
                self._stay(prompt)

    async def _is_able(self, prompt: Prompt, idle: Instance) -> bool:
        try:
            async with self._spool.holding(prompt):
                lacking = await self._needs.lacks(prompt, idle)
        except PromptLostError:  # it has ended, or its file is gone: it stays where it is
            self._stay(prompt)
            return False
        if lacking == UNKNOWN_LACK:  # it did not answer: a check shows soon whether it can run it
            self._counted_on.discard(idle)
            self._cluster.health_checker.look(idle)
        return lacking == 0

    def _stay(self, prompt: Prompt) -> None:
        """It is not tried again; the next one may go."""
        self._changed = True
        if prompt.attempt is not None and is_open(prompt.attempt):  # else it was lost meanwhile
            self._ledger.apply(events.Stayed(prompt=prompt))

    # --- how ---------------------------------------------------------------------------------

    async def _move(
        self,
        prompt: Prompt,
        post: ClientPost,
        entry: list[Any],
        busy: Instance,
        placement: Placement,
    ) -> bool:
        """True if it was taken away from ``busy``."""
        if not _waits(prompt, busy):
            return False
        _tell(prompt, busy, placement.instance, self._cluster.planner)
        if not await self._take_away(prompt, entry, busy):
            return False
        try:
            arrival = await self._transfer.submit(
                prompt, post, [placement.instance, busy], placement
            )
        except asyncio.CancelledError:
            logger.error("prompt {} was lost: the proxy ended in mid-move", prompt.prompt_id)
            raise
        placement.release()
        if prompt.ended:  # replaced by a newer one of its id
            return True
        if arrival is Arrival.TAKEN:
            if prompt.instance is busy:
                self._stay(prompt)  # it was refused elsewhere: once is enough
            if prompt.deleted:
                await self._transfer.withdraw(prompt)
        else:
            self._ledger.apply(events.Finished(prompt=prompt, end=_end_of(prompt)))
        return True

    async def _take_away(self, prompt: Prompt, entry: list[Any], busy: Instance) -> bool:
        self._ledger.apply(events.MoveBegan(prompt=prompt, queue_entry=entry))
        is_away = False
        try:
            is_away = await self._transfer.take_away(prompt, busy)
        finally:
            # It may have begun meanwhile, or ended, or been lost with its process: then whoever
            # learnt that sees to it.
            is_away = is_away and prompt.state is State.MOVING and prompt.at(busy)
            if not is_away:
                self._stay(prompt)
        if is_away:
            self._ledger.apply(events.TakenAway(prompt=prompt))
        return is_away


def _waits(prompt: Prompt, instance: Instance) -> bool:
    return prompt.state is State.QUEUED and prompt.at(instance)


def _tell(prompt: Prompt, busy: Instance, idle: Instance, planner: Planner) -> None:
    """Log why it is to go; before it has gone."""
    logger.bind(instance=idle.host, prompt_id=prompt.prompt_id).opt(lazy=True).debug(
        "prompt {} is to go to {}: {}",
        lambda: prompt.prompt_id,
        lambda: idle.host,
        lambda: moved(prompt, busy, idle, planner),
    )


async def _whole(entry: QueueEntry, text: Any) -> list[Any]:
    return list(loads_exact(await read([text])))


def _end_of(prompt: Prompt) -> End:
    """How a prompt ends that was taken away and arrived nowhere."""
    if prompt.deleted:
        return End(ending=Ending.CANCELLED)
    lost = PromptLostError("It was taken by no instance again.")
    return End(ending=Ending.LOST, error=prompt.fatal or lost)
