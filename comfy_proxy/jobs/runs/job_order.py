"""A prompt of one of our jobs, as it is posted to an instance and found there again."""

from __future__ import annotations

from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.hang_watch import HangWatch
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_answers import rejection
from comfy_proxy.dispatch.order import Receipt
from comfy_proxy.errors import InstanceUnreachableError
from comfy_proxy.jobs.workflows.graph import Graph
from comfy_proxy.ledger.prompt import Prompt


class JobOrder:
    """Fills :class:`comfy_proxy.dispatch.order.Order`: the graph of a job, for one socket. The
    answer is ComfyUI's complaint about results that it leaves out, "" if there is none.

    ``unsure`` is not every InstanceError: after a timeout the job goes on elsewhere at once, and
    what the instance may have taken is withdrawn.
    """

    unsure = InstanceUnreachableError

    def __init__(
        self,
        prompt: Prompt,
        graph: Graph,
        client: ComfyUIClient,
        client_id: str,
        hang_watch: HangWatch,
    ) -> None:
        self.prompt = prompt
        self._graph = graph
        self._client = client
        self._client_id = client_id
        self._hang_watch = hang_watch

    async def post(self, instance: Instance, number: float | None) -> Receipt[str]:
        """Raises PromptRejectedError with ComfyUI's own words, InstanceError."""
        with self._hang_watch.over(instance, replaceable=True):
            told = await self._client.submit(
                self._graph.prompt,
                prompt_id=self.prompt.prompt_id,
                client_id=self._client_id,
                number=number,
            )
        lacks = any(map(self._graph.takes, told.left_out))
        complaint = rejection({"error": "", "node_errors": told.node_errors}) if lacks else ""
        return Receipt(answer=complaint, prompt_id=told.prompt_id, number=told.number)

    async def find(self, instance: Instance) -> Receipt[str] | None:
        """As if it had just been taken, if it was. Raises InstanceError."""
        prompt_id = self.prompt.prompt_id
        if prompt_id in await self._client.queue(fresh=True):
            return Receipt(answer="", prompt_id=prompt_id)
        known = await self._client.history(prompt_id, fresh=True)
        return None if known is None else Receipt(answer="", prompt_id=prompt_id)
