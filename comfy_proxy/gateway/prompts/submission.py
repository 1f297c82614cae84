"""``POST /prompt``: one instance is chosen, has what the graph names, and then owns the prompt.

The body goes on byte for byte; only a missing ``prompt_id`` is put in, so that the owner can be
known. Validation is ComfyUI's own: its answer is the client's. What was read is carried to its
end even if the client leaves, as ComfyUI itself does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.prompt_answers import read_accepted, rejection
from comfy_proxy.errors import (
    InstanceError,
    InstanceRefusedError,
    InstanceTimeoutError,
    NoHealthyInstanceError,
)
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.fanout import Answer
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.gateway.files.staging import cannot_be_found
from comfy_proxy.gateway.prompts.choice import Choice, Held
from comfy_proxy.gateway.prompts.failover import Lacks, Ready
from comfy_proxy.gateway.prompts.posting import post_prompt
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import ClientPost, End, Prompt
from comfy_proxy.ledger.states import Ending, State
from comfy_proxy.metrics.records import PromptEvent


class StageFresh(Protocol):
    """As ``transfer.Stage``; ``fresh``: what the instance was known to hold is asked again."""

    async def __call__(self, prompt: Prompt, instance: Instance, *, fresh: bool = False) -> bool:
        """False if the prompt must not run there."""
        ...


class Submissions:
    """Carries new prompts of clients to the instance that takes them."""

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        *,
        stage: StageFresh,
        held: Held,
        files_of: Callable[[Prompt, Instance], list[FileName]],
        ready: Ready,
        lacks: Lacks,
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._stage = stage
        self._held = held
        self._files_of = files_of
        self._ready = ready
        self._lacks = lacks

    async def submit(self, prompt: Prompt, post: ClientPost) -> tuple[Instance, Answer]:
        """The instance that answered, and its answer. It has taken the prompt if that is a 200.

        Raises NoHealthyInstanceError if none can be reached, InstanceTimeoutError if one may have
        taken the prompt and does not say so.
        """
        self._ledger.apply(events.Received(prompt=prompt))
        try:
            return await self._try_instances(prompt, post)
        finally:
            if prompt.state is State.RECEIVED:
                end = End(ending=Ending.REJECTED)
                self._ledger.apply(events.Finished(prompt=prompt, end=end))

    async def _try_instances(self, prompt: Prompt, post: ClientPost) -> tuple[Instance, Answer]:
        """The first refusal is the client's answer, unless another instance has a file that only
        its own validation can tell of."""
        choice = Choice(prompt, self._cluster, self._lacks, self._held)
        refusal: tuple[Instance, Answer] | None = None
        while True:
            try:
                instance = await choice.next()
            except NoHealthyInstanceError:
                if refusal is None:
                    raise
                return refusal
            answer = await self._try(prompt, post, instance, choice)
            if answer is None:
                self._cluster.tell_prompt(PromptEvent.PASSED_OVER, instance, prompt.prompt_id)
                continue
            if answer.status == 200:
                return instance, answer
            _log_refusal(prompt, instance, answer)
            refusal = refusal or (instance, answer)
            files = self._files_of(prompt, instance)
            if answer.status != 400 or not any(map(cannot_be_found, files)):
                return refusal
            choice.failed.add(instance)
            self._cluster.tell_prompt(PromptEvent.PASSED_OVER, instance, prompt.prompt_id)

    async def _try(
        self, prompt: Prompt, post: ClientPost, instance: Instance, choice: Choice
    ) -> Answer | None:
        """The answer of ``instance``; None if it is to be passed over, which ``choice`` knows."""
        placement = self._cluster.scheduler.enter(instance)
        try:
            if not (
                instance in choice.silent or await self._cluster.health_checker.check(instance)
            ):
                choice.silent.add(instance)
                return None
            if not (instance in choice.unheard or await self._ready(prompt, instance)):
                choice.unheard.add(instance)
                return None
            return await self._submit(prompt, post, placement)
        except InstanceTimeoutError:
            raise  # it may have been taken: to post it elsewhere could run it twice
        except InstanceError as error:
            logger.info("a prompt passed over {}: {}", instance.host, error.message)
            choice.failed.add(instance)
            return None
        finally:
            placement.release()

    async def _submit(self, prompt: Prompt, post: ClientPost, placement: Placement) -> Answer:
        instance = placement.instance
        await self._bring_inputs(prompt, instance)
        placement.in_queue = True
        answer = await self._post(prompt, post, instance)
        if answer.status == 400 and self._files_of(prompt, instance):
            # A file that it was believed to have may be gone: somebody tidied its disk.
            await self._bring_inputs(prompt, instance, fresh=True)
            answer = await self._post(prompt, post, instance)
        return answer

    async def _bring_inputs(
        self, prompt: Prompt, instance: Instance, *, fresh: bool = False
    ) -> None:
        """Raises InstanceRefusedError if it must not run there: names mean other results."""
        if not await self._stage(prompt, instance, fresh=fresh):
            raise InstanceRefusedError(f"{instance.host} has another result of a name in the graph")

    async def _post(self, prompt: Prompt, post: ClientPost, instance: Instance) -> Answer:
        """Once the answer is 200 the ledger knows it, and no sum of a client misses the prompt."""
        self._ledger.apply(events.Sent(prompt=prompt, instance=instance))
        accepted = False
        try:
            answer = await post_prompt(prompt, post, instance, self._cluster, post.body)
            accepted = answer.status == 200
        finally:
            if not accepted:
                self._ledger.apply(events.Refused(prompt=prompt, instance=instance))
        if accepted:
            self._ledger.apply(_accepted(prompt, answer))
        return answer


def _accepted(prompt: Prompt, answer: Answer) -> events.Accepted:
    """The id and the number that the instance gave ``prompt``, where its answer tells them."""
    told = read_accepted(native.load(answer))
    prompt_id = prompt.prompt_id if told.prompt_id is None else told.prompt_id
    return events.Accepted(prompt=prompt, prompt_id=prompt_id, number=told.number or 0)


def _log_refusal(prompt: Prompt, instance: Instance, answer: Answer) -> None:
    told = answer.json()
    why = rejection(told) if isinstance(told, dict) else f"status {answer.status}"
    with prompt.context():
        logger.bind(instance=instance.host).info(
            "prompt {} was refused by {}: {}", prompt.prompt_id, instance.host, why
        )
