"""What the gateway keeps between requests; one for each application, under ``keys.GATEWAY``."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.cluster.ownership import Ownership
from comfy_proxy.cluster.prompt_ends import told_by_frame
from comfy_proxy.errors import ProcessEndedError
from comfy_proxy.gateway.events.frames import Ended
from comfy_proxy.gateway.events.sessions import EventSessions
from comfy_proxy.gateway.files.copies import FileCopies
from comfy_proxy.gateway.files.made_files import MadeFiles
from comfy_proxy.gateway.prompts.given_up import GivenUpPrompts, execution_error
from comfy_proxy.gateway.prompts.moves import PromptMover
from comfy_proxy.gateway.prompts.moving import MovingPrompt, MovingPrompts
from comfy_proxy.gateway.prompts.outcomes import PromptOutcomes
from comfy_proxy.gateway.prompts.posting import SUBMIT_TIMEOUT_S, ForwardedPrompt
from comfy_proxy.gateway.state.shared_state import SharedState
from comfy_proxy.gateway.views.features import UploadLimits
from comfy_proxy.gateway.views.history_numbers import HistoryNumbers
from comfy_proxy.gateway.views.object_info import MergedObjectInfo
from comfy_proxy.metrics.records import CircuitRecord, PromptEvent

T = TypeVar("T")


class Gateway:
    """The instances as one ComfyUI."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.ownership = Ownership()
        self.files = FileCopies(cluster, self.ownership)
        self.object_info = MergedObjectInfo(cluster, cluster.object_info)
        self.state = SharedState(cluster)
        self.upload_limits = UploadLimits(cluster)
        self.events = EventSessions()
        self.mover = PromptMover(self)
        self.outcomes = PromptOutcomes(self)
        self.made_files = MadeFiles(self.files, cluster.clock, unended=self.outcomes)
        self.moving = MovingPrompts()
        self.history_numbers = HistoryNumbers()
        self.given_up = GivenUpPrompts()
        self._submissions: set[asyncio.Task[Any]] = set()

    @property
    def several(self) -> bool:
        """False with one instance: then nothing is marked, merged or copied."""
        return len(self.cluster.instances) > 1

    async def start(self) -> None:
        """Begin to listen: to loads, to instances that return."""
        if not self.several:
            return
        self.files.storage.start()
        heard = (self.state.heard, self.cluster.object_info.heard, self.files.storage.heard)
        for callback in (self.events.wake, *heard):
            self.cluster.health_checker.on_success.append(callback)
        # One that returns idle says nothing by itself: no frame tells that it could take work.
        self.cluster.health_checker.on_success.append(self.mover.answered)
        for instance in self.cluster.instances:
            instance.on_load.append(self.mover.consider)
            instance.on_load.append(partial(self.outcomes.load_changed, instance))
            instance.on_output.append(partial(self.made_files.heard, instance=instance))
            instance.on_history.append(partial(self.made_files.entries_read, instance=instance))
            # A socket that cannot be opened tells of a death seconds before the circuit opens.
            instance.on_doubt.append(self.mover.doubt)
            instance.on_interruption.append(self.mover.doubt)
            instance.on_circuit.append(partial(self._circuit_changed, instance))
            instance.on_interruption.append(self.state.interrupted)
            instance.on_interruption.append(self.upload_limits.forget)

    def _circuit_changed(self, instance: Instance, change: CircuitRecord) -> None:
        if not instance.healthy:
            self.mover.doubt(instance)

    async def close(self) -> None:
        """End what :meth:`start` and the requests since have begun."""
        if self._submissions:
            await asyncio.wait(tuple(self._submissions), timeout=SUBMIT_TIMEOUT_S)
        await self.mover.close()
        await self.outcomes.close()
        await self.files.close()
        await self.state.close()

    # --- what instances can do ---------------------------------------------------------------

    def node_info(self, instance: Instance) -> NodeCatalog:
        """As :meth:`GraphSupport.node_info`."""
        return self.cluster.graph_support.node_info(instance)

    async def lacks(self, graph: Mapping[str, Any], instance: Instance) -> float:
        """As :meth:`GraphSupport.lacks`."""
        return await self.cluster.graph_support.lacks(graph, instance)

    # --- what happens to prompts -------------------------------------------------------------

    def begin(self, submission: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start what is to be finished even if its client leaves: it has an owner, and is known."""
        task = asyncio.create_task(submission)
        self._submissions.add(task)
        task.add_done_callback(self._submitted)
        return task

    def _submitted(self, task: asyncio.Task[Any]) -> None:
        self._submissions.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits gets it too; nobody may be left

    def prompt_accepted(self, prompt: ForwardedPrompt, instance: Instance) -> None:
        """``instance`` has taken it."""
        prompt.instance = instance
        self.ownership.prompts.record(prompt.prompt_id, instance)
        self.given_up.delete([prompt.prompt_id])
        self.cluster.prompt_forwarded(instance)
        self.cluster.tell_prompt(PromptEvent.FORWARDED, instance, prompt.prompt_id)
        logger.bind(prompt_id=prompt.prompt_id, instance=instance.host).info(
            "prompt {} forwarded to {}", prompt.prompt_id, instance.host
        )
        self.mover.add(prompt)
        self.outcomes.add(prompt, instance)

    def prompt_began(self, prompt_id: str, instance: Instance) -> None:
        self.ownership.prompts.record(prompt_id, instance)
        self.mover.began(prompt_id)
        self.outcomes.began(prompt_id, instance)

    def prompt_ended(self, end: Ended, instance: Instance) -> None:
        """A frame of ``instance`` has told it."""
        self.mover.discard(end.prompt_id)
        told = told_by_frame(end.kind, end.data, worked=end.worked)
        self.outcomes.heard(end.prompt_id, told, instance)

    def prompt_given_up(self, prompt: ForwardedPrompt, error: ProcessEndedError) -> None:
        """No instance has it and none will: its client and its history say why."""
        event = execution_error(prompt, error, self.cluster.clock.now())
        self.given_up.add(prompt, event)
        self.outcomes.failed(prompt.prompt_id, error)
        self.events.tell(prompt.client_id, "execution_error", event)
        over = {"node": None, "prompt_id": prompt.prompt_id}
        self.events.tell(prompt.client_id, "executing", over)

    def prompts_deleted(self, prompt_ids: Iterable[str] | None = None) -> None:
        """Clients have deleted these, or all, as far as they wait."""
        ids = None if prompt_ids is None else tuple(prompt_ids)
        self.mover.deleted(ids)
        self.outcomes.deleted(ids)

    @contextmanager
    def while_moving(self, prompt_id: str, queue_entry: list[Any]) -> Iterator[MovingPrompt]:
        """The prompt is nowhere, and everywhere shown."""
        prompt = self.moving[prompt_id] = MovingPrompt(prompt_id=prompt_id, queue_entry=queue_entry)
        try:
            yield prompt
        finally:
            self.end_move(prompt)

    def begin_move(self, prompt: ForwardedPrompt) -> MovingPrompt:
        """It was lost with its instance, and is shown as waiting until :meth:`end_move`."""
        if prompt.instance is not None:  # what its frames told of it must not count twice
            self.events.queue_lost(prompt.instance)
        entry = [prompt.number, prompt.prompt_id, prompt.graph, {}, []]
        moving = MovingPrompt(prompt_id=prompt.prompt_id, queue_entry=entry)
        self.moving[prompt.prompt_id] = moving
        return moving

    def end_move(self, prompt: MovingPrompt) -> None:
        """It is at its place, or gone for good. A newer one of its id may move on."""
        if self.moving.get(prompt.prompt_id) is prompt:
            del self.moving[prompt.prompt_id]
        if prompt.target is None:  # else a frame of the target tells everybody
            self.events.status_changed()

    def sent(self, prompt: MovingPrompt, target: Instance) -> None:
        """``target`` is being sent a prompt that moves; its frames may tell of it from now on."""
        prompt.target = target
        self.events.arriving(target)

    def refused(self, prompt: MovingPrompt) -> None:
        """Its target did not take it: it is nowhere again."""
        if prompt.target is not None:
            self.events.refused(prompt.target)
            prompt.target = None
