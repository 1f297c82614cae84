"""How clients' prompts end, and what they cost: told once to the cluster's observers, and logged.

Of a client that listens the frames tell it. Of one that only asks, or has left, ``/history`` is
looked at whenever its instance's queue has changed: ComfyUI tells such events to nobody.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_execution import node_error
from comfy_proxy.errors import ComfyProxyError, InstanceError, InvalidAnswerError, WorkflowError
from comfy_proxy.gateway.prompts.posting import ForwardedPrompt
from comfy_proxy.metrics.durations import rounded
from comfy_proxy.metrics.records import Outcome, PromptEnd
from comfy_proxy.observers import tell
from comfy_proxy.tracing import Trace, about, traced, untraced

if TYPE_CHECKING:
    from comfy_proxy.gateway.gateway import Gateway

MAX_WATCHED = 10_000
MAX_LOOKS = 3
"""So many prompts of one instance that have not ended are looked for at a time: the order in which
they run may not be the order in which they came."""
ENDS: Mapping[str, Outcome] = {
    "execution_success": Outcome.COMPLETED,
    "execution_error": Outcome.FAILED,
    "execution_interrupted": Outcome.CANCELLED,
}
"""By the type of the event."""


@dataclass(kw_only=True, slots=True, eq=False)
class WatchedPrompt:
    """One that has not ended; times are monotonic. ``deleted`` by a client, if it still waited."""

    prompt_id: str
    client_id: str | None
    trace: Trace | None
    accepted_at: float
    began_at: float | None = None
    deleted: bool = False


class PromptOutcomes:
    """Knows the forwarded prompts that have not ended; of very many the newest."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._clock = gateway.cluster.clock
        self._watched: OrderedDict[str, WatchedPrompt] = OrderedDict()
        self._lookers: dict[Instance, asyncio.Task[None]] = {}
        self._news: set[Instance] = set()

    def __repr__(self) -> str:
        return f"<PromptOutcomes watched={len(self._watched)}>"

    def add(self, prompt: ForwardedPrompt) -> None:
        """An instance has taken it."""
        self._watched[prompt.prompt_id] = WatchedPrompt(
            prompt_id=prompt.prompt_id,
            client_id=prompt.client_id,
            trace=prompt.trace,
            accepted_at=self._clock.monotonic(),
        )
        if len(self._watched) > MAX_WATCHED:
            self._watched.popitem(last=False)

    def began(self, prompt_id: str) -> None:
        """It runs, perhaps not for the first time."""
        if prompt := self._watched.get(prompt_id):
            prompt.began_at = self._clock.monotonic()

    def deleted(self, prompt_ids: Iterable[str] | None = None) -> None:
        """Clients have deleted these, or all, as far as they waited."""
        for prompt_id in tuple(self._watched) if prompt_ids is None else prompt_ids:
            if prompt := self._watched.get(prompt_id):
                prompt.deleted = prompt.began_at is None
                if owner := self._gateway.ownership.prompts.owner(prompt_id):
                    self.load_changed(owner)

    def heard(self, prompt_id: str, kind: str, data: Mapping[str, Any], instance: Instance) -> None:
        """A frame of ``instance`` has told the end of a prompt."""
        if prompt := self._watched.get(prompt_id):
            now, execution_s = self._clock.monotonic(), None
            if prompt.began_at is not None:
                execution_s = now - prompt.began_at
            error = node_error(data) if kind == "execution_error" else None
            self._end(prompt, instance, ENDS[kind], execution_s, error)

    def load_changed(self, instance: Instance) -> None:
        """Something has begun or ended there: ends that nobody hears are looked for."""
        if not self._watched:
            return
        self._news.add(instance)
        looker = self._lookers.get(instance)
        if looker is None or looker.done():
            self._lookers[instance] = asyncio.create_task(
                self._look(instance), name=f"ends at {instance.host}", context=untraced()
            )

    async def close(self) -> None:
        """Look no more."""
        for looker in self._lookers.values():
            looker.cancel()
        await asyncio.gather(*self._lookers.values(), return_exceptions=True)

    async def _look(self, instance: Instance) -> None:
        while instance in self._news:
            self._news.discard(instance)
            left = MAX_LOOKS
            try:
                for prompt in [
                    one for one in self._watched.values() if self._unheard(one, instance)
                ]:
                    left -= not await self._has_ended(prompt, instance)
                    if left == 0:
                        break
            except InstanceError as error:  # whoever is to know it is told by the attempt
                logger.debug("no ends can be looked for at {}: {}", instance.host, error.message)

    def _unheard(self, prompt: WatchedPrompt, instance: Instance) -> bool:
        """Where nothing waits or runs, what was not heard was missed."""
        gateway, client_id = self._gateway, prompt.client_id
        if gateway.ownership.prompts.owner(prompt.prompt_id) is not instance:
            return False
        if prompt.prompt_id in gateway.moving or instance in gateway.mover.doubtful:
            return False
        if prompt.deleted or client_id is None:
            return True
        return instance.load == 0 or not gateway.events.listens(client_id)

    async def _has_ended(self, prompt: WatchedPrompt, instance: Instance) -> bool:
        client = self._gateway.cluster.clients[instance]
        entry = await client.history(prompt.prompt_id)
        if entry is not None:
            try:
                told = told_by(entry)
            except (AttributeError, TypeError, ValueError) as error:
                raise InvalidAnswerError("An entry of /history is none of ComfyUI's.") from error
            self._end(prompt, instance, *told)
            return True
        if instance.load > 0 and not prompt.deleted:
            return False
        if prompt.prompt_id in await client.queue():
            return False
        if await client.history(prompt.prompt_id) is None and self._unheard(prompt, instance):
            if prompt.deleted:
                self._end(prompt, instance, Outcome.CANCELLED, None)
            else:  # its history was deleted already, or its instance has forgotten it
                del self._watched[prompt.prompt_id]
                with traced(prompt.trace), about(prompt_id=prompt.prompt_id):
                    logger.info("prompt {} has left no history", prompt.prompt_id)
        return True

    def _end(
        self,
        prompt: WatchedPrompt,
        instance: Instance,
        outcome: Outcome,
        execution_s: float | None,
        error: ComfyProxyError | None = None,
    ) -> None:
        if self._watched.pop(prompt.prompt_id, None) is not prompt:
            return  # told meanwhile
        waiting_s = None
        if execution_s is not None:
            waiting_s = max(0.0, self._clock.monotonic() - prompt.accepted_at - execution_s)
        end = PromptEnd(
            prompt_id=prompt.prompt_id,
            outcome=outcome,
            instance=instance.host,
            waiting_s=waiting_s,
            processing_s=execution_s,
            code=error.code if error is not None else None,
            message=error.message if error is not None else None,
        )
        tell(self._gateway.cluster.on_prompt_end, end)
        _log(prompt, end, error)


def told_by(entry: Mapping[str, Any]) -> tuple[Outcome, float | None, ComfyProxyError | None]:
    """How it ended, how long it executed, and why it failed, by an entry of ``/history``."""
    status = entry.get("status") or {}
    events: dict[str, Any] = {
        event[0]: event[1]
        for event in status.get("messages") or ()
        if isinstance(event, list) and len(event) == 2 and isinstance(event[1], dict)
    }
    for kind, outcome in ENDS.items():
        if kind in events:
            begin, end = (
                events.get(name, {}).get("timestamp") for name in ("execution_start", kind)
            )
            execution_s = None
            if isinstance(begin, int | float) and isinstance(end, int | float):
                execution_s = max(0.0, (end - begin) / 1000)
            error = node_error(events[kind]) if outcome is Outcome.FAILED else None
            return outcome, execution_s, error
    if status.get("status_str") == "error":
        return Outcome.FAILED, None, WorkflowError("ComfyUI reports an error without a reason.")
    return Outcome.COMPLETED, None, None


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
