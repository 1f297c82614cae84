"""What a client's prompt needs at an instance: its nodes and models, its files, its listener."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.graph_support import GraphSupport
from comfy_proxy.cluster.planning.decision import MAKER, Decision, decide
from comfy_proxy.cluster.planning.joining import result_of_line
from comfy_proxy.cluster.planning.planner import Planner
from comfy_proxy.gateway.custom.asking_nodes import AskingNodes
from comfy_proxy.gateway.custom.told import Told, lacking
from comfy_proxy.gateway.events.clients import ConnectedClients
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.gateway.files.staging import InputStaging
from comfy_proxy.ledger.prompt import Prompt


class Needs:
    """Fills :class:`comfy_proxy.dispatch.order.Preparation` for clients' prompts."""

    def __init__(
        self,
        inputs: InputStaging,
        clients: ConnectedClients,
        support: GraphSupport,
        planner: Planner,
        *,
        told: Told,
        asking: AskingNodes,
    ) -> None:
        self._told = told
        self._asking = asking
        self._planner = planner
        self._inputs = inputs
        self._clients = clients
        self._support = support

    async def lacks(self, prompt: Prompt, instance: Instance) -> float:
        """How many of its node classes, model files and of what custom routes were told
        ``instance`` lacks; one more if its client is asked elsewhere, a half if nobody can say."""
        return (await self.lacks_of(prompt, [instance]))[instance]

    async def lacks_of(
        self, prompt: Prompt, instances: Sequence[Instance]
    ) -> dict[Instance, float]:
        """As :meth:`lacks`, of each; what is the same for all is looked for once."""
        graph = _graph(prompt)
        lacks = await self._support.lacks_of(graph, instances)
        if words := self._told.named_in(graph):
            for one in instances:
                lacks[one] += lacking(words, one, self._support.node_info(one))
        if asked_at := self._asking.asked_at(prompt):
            for one in instances:
                lacks[one] += one not in asked_at
        return lacks

    async def stage(self, prompt: Prompt, instance: Instance, *, fresh: bool = False) -> bool:
        """Bring the files that it names; False if it must not run there: ``instance`` has another
        file under one of these names. ``fresh``: what ``instance`` holds is asked again."""
        return await self._inputs.stage(_graph(prompt), instance, fresh=fresh)

    def holding_most(self, prompt: Prompt, instances: Sequence[Instance]) -> list[Instance]:
        """Those that have most of the files that it names, as far as is known."""
        held = self._inputs.held_by(_graph(prompt), instances)
        most = max(held.values(), default=0)
        return [one for one in instances if held[one] == most]

    def files(self, prompt: Prompt, instance: Instance) -> list[FileName]:
        """The files that it names, by the node classes of ``instance``."""
        return self._inputs.files_in(_graph(prompt), instance)

    def finish_first(self, prompt: Prompt, instances: Sequence[Instance]) -> list[Instance]:
        """Those of ``instances`` that finish it first; all while nothing is known of costs. If it
        names a result of a prompt of the same client that waits, the instance of that one."""
        if prompt.work is None or len(instances) < 2:
            return list(instances)
        slot = self._planner.slot(prompt, prompt.work, instances[0], prompt.standing)
        makers = [one for one in instances if result_of_line(self._planner.lines[one], slot)]
        best = self._planner.best(slot, makers or instances)
        return [figure.instance for figure in best] or makers or list(instances)

    def in_order(self, prompt: Prompt, instances: Sequence[Instance]) -> list[Instance]:
        """``instances``, first the one that finishes it first; by their loads while nothing is
        known of costs."""
        by_load = sorted(instances, key=lambda instance: instance.load)
        if prompt.work is None:
            return by_load
        slot = self._planner.slot(prompt, prompt.work, by_load[0], prompt.standing)
        figures = self._planner.figures(slot, by_load)
        return [one.instance for one in sorted(figures, key=lambda one: one.cost_s)] or by_load

    def why(
        self,
        prompt: Prompt,
        chosen: Instance,
        instances: Sequence[Instance],
        *,
        only: str | None = None,
    ) -> Decision:
        """Why ``chosen`` of ``instances``, or ``only`` if that was the reason; right after
        :meth:`finish_first`."""
        figures = []
        if prompt.work is not None:
            slot = self._planner.slot(prompt, prompt.work, chosen, prompt.standing)
            figures = self._planner.figures(slot, instances)
            if result_of_line(self._planner.lines[chosen], slot):
                only = only or MAKER
        return decide(chosen, figures, self._planner, only=only)

    async def ready(self, prompt: Prompt, instance: Instance) -> bool:
        """Have its client's socket at ``instance``; False if it cannot be there now."""
        return await self._clients.ready(prompt.client_id, instance)

    def listens(self, client_id: str) -> bool:
        """Whether a client of that id has a socket here."""
        return self._clients.listens(client_id)


def _graph(prompt: Prompt) -> Mapping[str, Any]:
    return {} if prompt.post is None else prompt.post.graph
