"""Asks instances what became of prompts whose end nobody has heard, and tells the ledger.

How the prompts of a client that listens end is told by frames. For the prompts of a client that
only asks, has left, or whose socket there is broken or silent, ComfyUI tells nobody: the newest
entries of ``/history`` are read whenever the queue of the instance has changed. So what a look
costs does not depend on how much waits. These prompts alone are asked for by id, in the queue
first: those that were deleted, whose id was in use before, or whose end a socket may have missed,
and all that the ledger still has at an instance where nothing waits or runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.instance_tasks import InstanceTasks
from comfy_proxy.cluster.prompt_lists import HistoryEntry, history_path
from comfy_proxy.cluster.prompt_outcomes import told_by
from comfy_proxy.cluster.retry_law import PromptVanishedError
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.dispatch.second_tries import SecondTries
from comfy_proxy.errors import InstanceError, UnavailableError
from comfy_proxy.gateway.exchange.scanned import ReadHistory, ScannedAnswer, ask_queue, read_entries
from comfy_proxy.gateway.files.made_files import MadeFiles
from comfy_proxy.gateway.prompts.heard_changes import HeardChanges, Listeners
from comfy_proxy.ledger import events
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import End, Prompt
from comfy_proxy.ledger.states import Ending, State

NEWEST = 2
"""Entries of the history that are read first; four times as many next, as long as ends that were
not known are among them."""
MAX_NEWEST = 2048
"""Entries of the history that one look reads at most; what ended before them is asked for by id."""
MAX_BY_ID = 100
"""Prompts that one look asks the history for by id; the others are asked for at the next look."""
Keep = Callable[[HistoryEntry, ScannedAnswer, Instance, float], Awaitable[None]]
"""Keeps an entry of an answer that this instance was asked for at that moment (monotonic)."""


async def _keep_none(*_entry: object) -> None:
    """Nobody keeps what ends."""


class Reconciler:
    """Tells the ledger of ends, and ``listeners`` of those that their sockets have missed.

    ``keep`` is given the entry of each end that is booked, which is in hand just then: asked for a
    second time it might be gone with the process of its instance, and nobody would have heard.
    """

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        *,
        made_files: MadeFiles,
        listeners: Listeners,
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._made_files = made_files
        self._listeners = listeners
        self._second_tries = SecondTries.of(cluster, ledger)
        self.keep: Keep = _keep_none
        self._remaining = ByInstance[int]()
        self._changes = HeardChanges(cluster.clock, listeners, self._look_at)
        cluster.instances.on_removed.append(self._changes.removed)
        self._gaps: set[Prompt] = set()  # to be asked for by id: a socket may have missed the end
        self._lookers = InstanceTasks(cluster.instances, self._look, "ends at")
        ledger.observers.append(self._observe)

    def load_changed(self, instance: Instance) -> None:
        """A ``status`` frame of ``instance`` has come, perhaps one of many that tell the same."""
        if self._remaining.get(instance) != instance.prompts.queue_remaining:
            self._remaining[instance] = instance.prompts.queue_remaining
            self._look_at(instance)
            if self._followed(instance):
                self._changes.changed(instance)

    def reconnected(self, client_id: str, instance: Instance) -> None:
        """That client has a new socket at ``instance``, and has not heard what was told before
        it."""
        self._missed(one for one in self._followed(instance) if one.client_id == client_id)

    def seen(
        self,
        ids: Container[object],
        instance: Instance,
        entries: Mapping[str, HistoryEntry] = MappingProxyType({}),
    ) -> None:
        """A client has read entries of these prompts in the history of ``instance``: those that the
        ledger still takes for living are asked for.

        A prompt whose entry is among ``entries``, and whose events nobody hears, is booked as ended
        at once. Else, if its instance went away in the next moment, its client would be told that
        the prompt goes on.
        """
        found = [one for one in self._followed(instance) if one.prompt_id in ids and not one.reused]
        for prompt in found:
            entry = entries.get(prompt.prompt_id)
            if entry is not None and self._is_unheard(prompt):
                self._settle(prompt.prompt_id, entry.data(), instance)
        self._missed(one for one in found if not one.ended)

    async def close(self) -> None:
        """Look no more."""
        self._changes.close()
        await self._lookers.close()

    def _missed(self, prompts: Iterable[Prompt]) -> None:
        """Their ends may have been told to nobody."""
        for prompt in prompts:
            if prompt.instance is not None:
                self._gaps.add(prompt)
                self._look_at(prompt.instance)

    def _observe(self, change: Change) -> None:
        if change.is_end:
            self._gaps.discard(change.prompt)
        prompt, instance = change.prompt, change.prompt.instance
        if instance is None or prompt.job is not None:
            return
        attempt = prompt.attempts[-1]
        match change.event:
            case events.Accepted():
                self._remaining.pop(instance, None)  # it may end before a frame tells of it
                self._changes.changed(instance)
                # Or has ended before its answer came, and no other frame is to come: as far as is
                # known it is alone there.
                if instance.prompts.queue_remaining <= 1:
                    self._look_at(instance)
            case events.Cleared():  # what was there has ended, or goes on: a socket was broken
                self._missed([prompt])
            case events.Deleted() | events.EndTold() | events.Began() | events.Stayed() if (
                prompt.deleted or attempt.end is not None or attempt.presumed_over
            ):
                self._look_at(instance)

    def _look_at(self, instance: Instance) -> None:
        if self._followed(instance):
            self._lookers.wake(instance)

    def _followed(self, instance: Instance) -> list[Prompt]:
        """The clients' prompts at ``instance``; those of jobs are followed by their jobs."""
        return [prompt for prompt in self._ledger.at(instance) if prompt.job is None]

    async def _look(self, instance: Instance) -> None:
        try:
            if any(self._is_unheard(prompt) for prompt in self._followed(instance)):
                await self._look_at_newest(instance)
            if left := self._to_be_asked_for(instance):
                await self.look_for(left, instance)
        except (InstanceError, UnavailableError) as error:  # the next frame, or check, comes back
            logger.debug("no ends can be looked for at {}: {}", instance.host, error.message)
        finally:
            self._changes.looked(instance, self._followed(instance))

    def _to_be_asked_for(self, instance: Instance) -> list[Prompt]:
        """The prompts there of whose ends the newest entries may not have told."""
        left = self._followed(instance)
        if instance.load > 0:
            by_id = [one for one in left if one.deleted or one.reused or one in self._gaps]
            left = [one for one in by_id if self._is_unheard(one)]
        return left

    def _is_unheard(self, prompt: Prompt) -> bool:
        attempt = prompt.attempts[-1]
        if attempt.end is not None or attempt.presumed_over or prompt.deleted:
            return True
        if prompt.client_id is None or prompt in self._gaps:
            return True
        return not self._changes.hears(prompt.client_id, attempt.instance)

    async def _look_at_newest(self, instance: Instance) -> None:
        """Read the entries that ended last, and more of them as long as some are news."""
        size = NEWEST
        while size <= MAX_NEWEST:
            path = f"/history?max_items={size}"
            history = await read_entries(instance, self._cluster, path)
            if history is None:
                return
            news = [
                key
                for key, entry in history.data.items()
                if not _is_reused(self._ledger.find_at(key, instance))
                and self._settle(key, entry, instance)
            ]
            for key in news:
                await _keep(key, history, instance, self.keep)
            if not news or len(history.data) < size:
                return
            size *= 4

    async def look_for(self, prompts: Sequence[Prompt], instance: Instance) -> None:
        """Ask for each of ``prompts`` by id: it is in the queue still, or in the history, or gone.
        Books those that have ended, MAX_BY_ID at most. Raises InstanceError; UnavailableError if
        the disk is full."""
        if (queue := await ask_queue(instance, self._cluster)) is None:
            return
        there, asked = queue.view(), 0
        for prompt in prompts:
            if prompt.prompt_id in there:
                if prompt.deleted and prompt.at(instance):
                    self._ledger.apply(events.DeletionUndone(prompt=prompt))
            elif _must_be_there(prompt, instance, self._ledger):
                if asked == MAX_BY_ID:
                    return
                asked += 1
                path = history_path(prompt.prompt_id)
                history = await read_entries(instance, self._cluster, path)
                entry = None if history is None else history.data.get(prompt.prompt_id)
                if history is None or not self._settle(prompt.prompt_id, entry, instance):
                    self._is_gone(prompt, instance, runs=bool(queue.running))
                else:
                    await _keep(prompt.prompt_id, history, instance, self.keep)
            self._gaps.discard(prompt)

    def _is_gone(self, prompt: Prompt, instance: Instance, *, runs: bool) -> None:
        """Neither queue nor history has it. If the instance ``runs`` something else somebody has
        deleted it there; else it may have ended the thread that runs prompts (PROTOCOL.md
        trap 27), and its client is told."""
        if not _must_be_there(prompt, instance, self._ledger):
            return
        if prompt.deleted:
            end = End(ending=Ending.CANCELLED)
            self._ledger.apply(events.Finished(prompt=prompt, end=end))
        elif instance.stands_still or instance.signs.troubled_since(prompt.attempts[-1].sent_at):
            self._ledger.apply(events.Doubted(instance=instance))
        else:
            end = End(ending=Ending.VANISHED)
            if not runs:
                end = End(ending=Ending.LOST, error=PromptVanishedError(instance.host))
            self._ledger.apply(events.Finished(prompt=prompt, end=end))
            with prompt.context():
                logger.info("prompt {} has left no history", prompt.prompt_id)

    def _settle(self, prompt_id: str, entry: Any, instance: Instance) -> bool:
        """Book the end that ``entry`` tells. False if it tells none, or none that is waited for."""
        prompt = self._ledger.find_at(prompt_id, instance)
        if prompt is None or prompt.job is not None or (told := told_by(entry)) is None:
            return False
        if self._second_tries.goes_on(prompt_id, instance, told.error):
            return True
        self._made_files.entries_read({prompt_id: entry}, instance)
        self._ledger.apply(events.Finished(prompt=prompt, end=End.of(told)))
        self._listeners.end_learnt(prompt, entry, instance)
        return True


async def _keep(prompt_id: str, history: ReadHistory, instance: Instance, keep: Keep) -> None:
    """Have the entry of that prompt kept, and others have their turn: to pack it takes a while."""
    entry = history.entries.get(prompt_id)
    if entry is not None:
        await keep(entry, history.answer, instance, history.asked_at)
        await asyncio.sleep(0)


def _is_reused(prompt: Prompt | None) -> bool:
    """Whether the entry under its id may be an earlier prompt's."""
    return prompt is not None and prompt.reused


def _must_be_there(prompt: Prompt, instance: Instance, ledger: Ledger) -> bool:
    """Whether ``prompt`` has ended if ``instance`` does not have it: it is on record there, does
    not move, and there is no doubt about the instance."""
    moves = prompt.state is State.MOVING
    return prompt.at(instance) and not moves and not ledger.doubtful(instance)
