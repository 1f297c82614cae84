"""``POST /prompt``: one instance is chosen, has what the graph names, and then owns the prompt.

The body goes on byte for byte; only a missing ``prompt_id`` is put in, so that the owner can be
known. Validation is ComfyUI's own: its answer is the client's. What was read is carried to its
end even if the client leaves, as ComfyUI itself does.
"""

from __future__ import annotations

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.hang_watch import InstanceHangsError
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.prompt_answers import rejection
from comfy_proxy.dispatch.dispatcher import Dispatcher
from comfy_proxy.errors import (
    InstanceError,
    InstanceRefusedError,
    InstanceTimeoutError,
    NoHealthyInstanceError,
)
from comfy_proxy.gateway.exchange.fanout import Answer
from comfy_proxy.gateway.files.staging import cannot_be_found
from comfy_proxy.gateway.prompts.choice import Choice
from comfy_proxy.gateway.prompts.needs import Needs
from comfy_proxy.gateway.prompts.posting import ClientOrder
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import ClientPost, End, Prompt
from comfy_proxy.ledger.states import Ending, State
from comfy_proxy.metrics.records import PromptEvent


class Submissions:
    """Carries new prompts of clients to the instance that takes them."""

    def __init__(
        self, cluster: Cluster, ledger: Ledger, dispatcher: Dispatcher, needs: Needs
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._needs = needs

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
        order = ClientOrder(prompt, post, self._cluster)
        choice = Choice(prompt, self._cluster, self._needs)
        refusal: tuple[Instance, Answer] | None = None
        while True:
            try:
                instance = await choice.next()
            except NoHealthyInstanceError:
                if refusal is None:
                    raise
                return refusal
            answer = await self._try(order, instance, choice)
            if answer is None:
                self._cluster.tell_prompt(PromptEvent.PASSED_OVER, instance, prompt.prompt_id)
                continue
            if answer.status == 200:
                return instance, answer
            _log_refusal(prompt, instance, answer)
            refusal = refusal or (instance, answer)
            files = self._needs.files(prompt, instance)
            if answer.status != 400 or not any(map(cannot_be_found, files)):
                return refusal
            choice.failed.add(instance)
            self._cluster.tell_prompt(PromptEvent.PASSED_OVER, instance, prompt.prompt_id)

    async def _try(self, order: ClientOrder, instance: Instance, choice: Choice) -> Answer | None:
        """The answer of ``instance``; None if it is to be passed over, which ``choice`` knows."""
        placement = self._cluster.scheduler.enter(
            instance, order.prompt.work, order.prompt.standing
        )
        try:
            why = await self._dispatcher.prepare(
                order.prompt,
                instance,
                self._needs,
                unchecked=instance in choice.silent,
                unheard=instance in choice.unheard,
            )
            if why is not None:
                logger.info("a prompt passed over {}: {}", instance.host, why.value)
                choice.pass_over(instance, why)
                return None
            return await self._submit(order, placement)
        except InstanceHangsError as error:
            logger.info("a prompt goes elsewhere: {}", error.message)
            choice.failed.add(instance)
            return None
        except InstanceTimeoutError:
            raise  # it may have been taken: to post it elsewhere could run it twice
        except InstanceError as error:
            logger.info("a prompt passed over {}: {}", instance.host, error.message)
            choice.failed.add(instance)
            return None
        finally:
            placement.release()

    async def _submit(self, order: ClientOrder, placement: Placement) -> Answer:
        prompt, instance = order.prompt, placement.instance
        answer = (await self._dispatcher.submit(order, placement)).answer
        if answer.status == 400 and self._needs.files(prompt, instance):
            # A file that it was believed to have may be gone: somebody tidied its disk.
            if not await self._needs.stage(prompt, instance, fresh=True):
                raise InstanceRefusedError(f"{instance.host} has another file of a name in it.")
            answer = (await self._dispatcher.submit(order, placement)).answer
        return answer


def _log_refusal(prompt: Prompt, instance: Instance, answer: Answer) -> None:
    told = answer.json()
    why = rejection(told) if isinstance(told, dict) else f"status {answer.status}"
    with prompt.context():
        logger.bind(instance=instance.host).info(
            "prompt {} was refused by {}: {}", prompt.prompt_id, instance.host, why
        )
