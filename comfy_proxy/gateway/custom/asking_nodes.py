"""Nodes that wait for their client's answer: of one client they run at one instance.

A page that shows choices knows a node by the id it has in the workflow. Two prompts of one workflow
on two instances would ask at the same time under the same id, and an answer could belong to either
(409). One ComfyUI runs one after the other, so that each is answered before the next one asks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import Prompt

MAX_CLASSES: Final = 1_000
"""So many classes of nodes are remembered, those that were answered last. For the first answer to
any other one it is not known that it waits, and the answer may be refused."""


class AskingNodes:
    """Which classes of nodes clients have answered, and the prompts that have one of them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._classes: OrderedDict[str, None] = OrderedDict()
        self._prompts: dict[str, dict[Prompt, None]] = {}

    def __repr__(self) -> str:
        return f"<AskingNodes {list(self._classes)}>"

    def answered(self, instances: Iterable[Instance], words: Collection[str]) -> None:
        """A client has answered a node that waits at one of ``instances``, by these words."""
        running = (self._ledger.running(one) for one in instances)
        classes = {
            name
            for prompt in running
            if prompt is not None
            for node, name in _classes_of(prompt).items()
            if node in words or name in words
        }
        is_news = not classes <= self._classes.keys()
        for name in classes:
            self._classes[name] = None
            self._classes.move_to_end(name)
        while len(self._classes) > MAX_CLASSES:
            self._classes.popitem(last=False)
        if is_news:
            for prompt in self._ledger.live():
                self._keep(prompt)

    def observe(self, change: Change) -> None:
        """An observer of the ledger."""
        prompt = change.prompt
        if not prompt.ended:
            if self._classes and prompt.attempt is not None:
                self._keep(prompt)
            return
        client_id = prompt.client_id
        if client_id is not None and prompt in (own := self._prompts.get(client_id, {})):
            del own[prompt]
            if not own:
                del self._prompts[client_id]

    def asked_at(self, prompt: Prompt) -> frozenset[Instance]:
        """The instances at which other prompts of its client wait or run that ask, if ``prompt``
        would ask too: it should run at one of them. Empty if it may run anywhere, which it also may
        if none of these is up."""
        others = self._prompts.get(prompt.client_id or "")
        if not others or not self._asks(prompt):
            return frozenset()
        places = {one.target or one.instance for one in others if one is not prompt}
        where = frozenset(one for one in places if one is not None)
        return where if any(one.healthy for one in where) else frozenset()

    def _keep(self, prompt: Prompt) -> None:
        if prompt.client_id and self._asks(prompt):
            self._prompts.setdefault(prompt.client_id, {})[prompt] = None

    def _asks(self, prompt: Prompt) -> bool:
        return not self._classes.keys().isdisjoint(_classes_of(prompt).values())


def _classes_of(prompt: Prompt) -> Mapping[str, str]:
    """Class by node id of a client's prompt."""
    graph: Mapping[str, Any] = {} if prompt.post is None else prompt.post.graph
    return {
        node: str(spec["class_type"])
        for node, spec in graph.items()
        if isinstance(spec, dict) and "class_type" in spec
    }
