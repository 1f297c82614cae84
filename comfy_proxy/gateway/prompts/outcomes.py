"""How clients' prompts end, and what they cost: told once to the cluster's observers, and logged.

Of a client that listens the frames tell it. Of one that only asks, has left, or has missed a frame,
the newest entries of ``/history`` are looked at whenever its instance's queue has changed: ComfyUI
tells such events to nobody. Only what was deleted, and what is left where nothing waits any more,
is asked for by id: what a look costs does not depend on how much waits.

Of prompts that share an id (trap 9) the last one is known: ComfyUI's history has one as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_ends import Told, told_by
from comfy_proxy.cluster.prompt_lists import history_path
from comfy_proxy.errors import ComfyProxyError, InstanceError, WorkflowError
from comfy_proxy.gateway.exchange.scanned import ask_history, ask_queue
from comfy_proxy.gateway.prompts.posting import ForwardedPrompt
from comfy_proxy.metrics.durations import rounded
from comfy_proxy.metrics.records import Outcome, PromptEnd
from comfy_proxy.observers import tell
from comfy_proxy.tracing import Trace, about, traced, untraced

if TYPE_CHECKING:
    from comfy_proxy.gateway.gateway import Gateway

NEWEST = 2
"""So many entries of the history are looked at, four times as many while ends are among them."""
MAX_NEWEST = 2048
MAX_BY_ID = 100
"""So many prompts are looked for one by one where nothing waits or runs any more."""


@dataclass(kw_only=True, slots=True, eq=False)
class WatchedPrompt:
    """One that has not ended, as far as is known. ``accepted_at`` and ``began_at`` are monotonic,
    ``accepted_time`` since the epoch.

    ``deleted``: a client has deleted it, if it still waited. ``missed``: its end was not heard.
    """

    prompt_id: str
    client_id: str | None
    trace: Trace | None
    instance: Instance
    accepted_at: float
    accepted_time: float
    began_at: float | None = None
    deleted: bool = False
    missed: bool = False


class PromptOutcomes:
    """Knows the forwarded prompts that have not ended, every one: a small record each."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._clock = gateway.cluster.clock
        self._watched: dict[str, WatchedPrompt] = {}
        self._at: dict[Instance, dict[str, WatchedPrompt]] = {
            instance: {} for instance in gateway.cluster.instances
        }
        self._running: dict[Instance, WatchedPrompt] = {}  # by the last frame that told of one
        self._remaining: dict[Instance, int] = {}
        self._news: set[Instance] = set()
        self._lookers: dict[Instance, asyncio.Task[None]] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<PromptOutcomes watched={len(self._watched)}>"

    def __contains__(self, prompt_id: object) -> bool:
        """True if the end of the prompt with that id is not known yet."""
        return prompt_id in self._watched

    # --- what happens to prompts -------------------------------------------------------------

    def add(self, prompt: ForwardedPrompt, instance: Instance) -> None:
        """``instance`` has taken it."""
        self._forget(prompt.prompt_id)
        watched = WatchedPrompt(
            prompt_id=prompt.prompt_id,
            client_id=prompt.client_id,
            trace=prompt.trace,
            instance=instance,
            accepted_at=self._clock.monotonic(),
            accepted_time=self._clock.now().timestamp(),
        )
        self._watched[prompt.prompt_id] = self._at[instance][prompt.prompt_id] = watched
        self._remaining.pop(instance, None)  # it may have ended before a frame told of it

    def moved(self, prompt_id: str, instance: Instance) -> None:
        """It waits at ``instance`` now, whatever it did elsewhere."""
        if prompt := self._watched.get(prompt_id):
            self._at[prompt.instance].pop(prompt_id, None)
            self._at[instance][prompt_id] = prompt
            self._remaining.pop(instance, None)
            prompt.instance, prompt.began_at = instance, None
            prompt.deleted = prompt.missed = False

    def began(self, prompt_id: str, instance: Instance) -> None:
        """A frame of ``instance`` has told that it runs: the one before it there has ended."""
        before, prompt = self._running.get(instance), self._watched.get(prompt_id)
        if before is not None and before is not prompt:
            self._miss(before)
        if prompt is not None:
            prompt.began_at = self._clock.monotonic()
            self._running[instance] = prompt

    def heard(self, prompt_id: str, told: Told, instance: Instance) -> None:
        """A frame of ``instance`` has told the end of a prompt; when it began we know ourselves."""
        prompt = self._watched.get(prompt_id)
        if prompt is None:
            return
        if prompt.began_at is None:
            self._miss(prompt)  # the history knows
            return
        now = self._clock.monotonic()
        execution_s = now - prompt.began_at
        self._end(prompt, instance, told, execution_s, prompt.began_at - prompt.accepted_at)

    def deleted(self, prompt_ids: Iterable[str] | None = None) -> None:
        """Clients have deleted these, or all, as far as they waited."""
        for prompt_id in tuple(self._watched) if prompt_ids is None else prompt_ids:
            prompt = self._watched.get(prompt_id)
            if prompt is not None and prompt.began_at is None:
                prompt.deleted = True
                self._look_at(prompt.instance)

    def cancelled(self, prompt_id: str) -> None:
        """A client has deleted it, and it is nowhere any more."""
        if prompt := self._watched.get(prompt_id):
            self._end(prompt, prompt.instance, Told(outcome=Outcome.CANCELLED))

    def failed(self, prompt_id: str, error: ComfyProxyError) -> None:
        """It is nowhere any more, and no client wanted that."""
        if prompt := self._watched.get(prompt_id):
            self._end(prompt, prompt.instance, Told(outcome=Outcome.FAILED, error=error))

    # --- looking for ends that nobody hears --------------------------------------------------

    def load_changed(self, instance: Instance) -> None:
        """A ``status`` frame, perhaps one of many that tell the same."""
        if self._remaining.get(instance) != instance.queue_remaining:
            self._remaining[instance] = instance.queue_remaining
            self._look_at(instance)

    async def close(self) -> None:
        """Look no more."""
        self._closed = True
        for looker in self._lookers.values():
            looker.cancel()
        await asyncio.gather(*self._lookers.values(), return_exceptions=True)

    def _miss(self, prompt: WatchedPrompt) -> None:
        if self._watched.get(prompt.prompt_id) is prompt:
            prompt.missed = True
            self._look_at(prompt.instance)

    def _look_at(self, instance: Instance) -> None:
        if self._closed or not self._at[instance]:
            return
        self._news.add(instance)
        looker = self._lookers.get(instance)
        if looker is None or looker.done():
            self._lookers[instance] = asyncio.create_task(
                self._look(instance), name=f"ends at {instance.host}", context=untraced()
            )

    async def _look(self, instance: Instance) -> None:
        while instance in self._news:
            self._news.discard(instance)
            there = self._at[instance].values()
            unheard = [prompt for prompt in there if self._is_unheard(prompt)]
            try:
                if unheard:
                    await self._look_at_newest(instance)
                if instance.load == 0:
                    gone = list(there)
                else:
                    gone = [prompt for prompt in unheard if prompt.deleted]
                if gone:
                    await self._look_for(gone[:MAX_BY_ID], instance)
            except InstanceError as error:  # the next frame, or check, comes back here
                logger.debug("no ends can be looked for at {}: {}", instance.host, error.message)
            except Exception as error:
                logger.opt(exception=error).error("looking for ends at {} broke", instance.host)

    def _is_unheard(self, prompt: WatchedPrompt) -> bool:
        if prompt.missed or prompt.deleted or prompt.client_id is None:
            return True
        return not self._gateway.events.listens(prompt.client_id)

    async def _look_at_newest(self, instance: Instance) -> None:
        """Entries that ended last, more of them as long as all or some are news."""
        size = NEWEST
        while size <= MAX_NEWEST:
            entries = await self._history(instance, f"/history?max_items={size}")
            news = [key for key, entry in entries.items() if self._settle(key, entry, instance)]
            if not news or len(entries) < size:
                return
            size *= 4

    async def _look_for(self, prompts: list[WatchedPrompt], instance: Instance) -> None:
        """One by one: each is in the history, or still in the queue, or gone."""
        if (queue := await ask_queue(instance, self._gateway.cluster)) is None:
            return
        there = queue.view()
        for prompt in prompts:
            if prompt.prompt_id in there:
                prompt.deleted = False  # it ran already when it was to be deleted
            elif not self._may_be_elsewhere(prompt, instance):
                history = await self._history(instance, history_path(prompt.prompt_id))
                entry = history.get(prompt.prompt_id)
                if not self._settle(prompt.prompt_id, entry, instance):
                    self._is_gone(prompt, instance)

    def _may_be_elsewhere(self, prompt: WatchedPrompt, instance: Instance) -> bool:
        gateway = self._gateway
        return (
            self._watched.get(prompt.prompt_id) is not prompt
            or prompt.instance is not instance
            or prompt.prompt_id in gateway.moving
            or instance in gateway.mover.lost.doubtful
        )

    def _is_gone(self, prompt: WatchedPrompt, instance: Instance) -> None:
        """Neither queue nor history has it."""
        if self._may_be_elsewhere(prompt, instance):
            return
        if prompt.deleted:
            self._end(prompt, instance, Told(outcome=Outcome.CANCELLED))
        elif not self._gateway.mover.missing(prompt.prompt_id, instance):  # deleted there
            self._forget(prompt.prompt_id)
            with traced(prompt.trace), about(prompt_id=prompt.prompt_id):
                logger.info("prompt {} has left no history", prompt.prompt_id)

    async def _history(self, instance: Instance, path: str) -> dict[str, Any]:
        return await ask_history(instance, self._gateway.cluster, path) or {}

    def _settle(self, prompt_id: str, entry: Any, instance: Instance) -> bool:
        """True if that was news: the end of a prompt that is watched there."""
        prompt = self._at[instance].get(prompt_id)
        if prompt is None or (told := told_by(entry)) is None:
            return False
        self._gateway.made_files.entries_read({prompt_id: entry}, instance)
        waiting_s = None
        if told.execution_s is not None and told.began_time is not None:
            most_s = self._clock.monotonic() - prompt.accepted_at - told.execution_s
            waiting_s = min(max(0.0, told.began_time - prompt.accepted_time), max(0.0, most_s))
        self._end(prompt, instance, told, told.execution_s, waiting_s)
        self._gateway.mover.discard(prompt_id)
        return True

    def _forget(self, prompt_id: str) -> None:
        prompt = self._watched.pop(prompt_id, None)
        if prompt is not None:
            self._at[prompt.instance].pop(prompt_id, None)
            if self._running.get(prompt.instance) is prompt:
                del self._running[prompt.instance]

    def _end(
        self,
        prompt: WatchedPrompt,
        instance: Instance,
        told: Told,
        execution_s: float | None = None,
        waiting_s: float | None = None,
    ) -> None:
        self._forget(prompt.prompt_id)
        end = PromptEnd(
            prompt_id=prompt.prompt_id,
            outcome=told.outcome,
            instance=instance.host,
            waiting_s=waiting_s,
            processing_s=execution_s,
            worked=told.worked,
            code=told.error.code if told.error is not None else None,
            message=told.error.message if told.error is not None else None,
        )
        tell(self._gateway.cluster.on_prompt_end, end)
        _log(prompt, end, told.error)


def _log(prompt: WatchedPrompt, end: PromptEnd, error: ComfyProxyError | None) -> None:
    """As with jobs: what it cost, and why it failed."""
    level, message = "INFO", str(end.outcome)
    if error is not None:
        level, message = "ERROR", f"failed: {error.code}: {error.message}"
    with traced(prompt.trace), about(prompt_id=prompt.prompt_id):
        logger.bind(
            instance=end.instance,
            waiting_seconds=rounded(end.waiting_s),
            processing_seconds=rounded(end.processing_s),
            exception=error.node_traceback if isinstance(error, WorkflowError) else None,
        ).log(level, "prompt {} {}", prompt.prompt_id, message)
