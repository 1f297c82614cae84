"""The places of waiting prompts in their instances' queues, as far as they came through here."""

from __future__ import annotations

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.states import State


class QueuePositions:
    """Counted when they are asked for, once for all until something changes at an instance; an
    observer of the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known = ByInstance[dict[str, int]]()

    def observe(self, change: Change) -> None:
        """Places have changed wherever that prompt was."""
        if change.old is not change.new or change.is_end:
            for attempt in change.prompt.attempts:
                self._known.pop(attempt.instance, None)

    def of(self, prompt_id: str) -> int | None:
        """1 for the one that runs next there; None if it does not wait."""
        prompt = self._ledger.find(prompt_id)
        if prompt is None or prompt.state is not State.QUEUED or prompt.instance is None:
            return None
        return self._at(prompt.instance).get(prompt_id)

    def _at(self, instance: Instance) -> dict[str, int]:
        if (known := self._known.get(instance)) is None:
            waiting = [one for one in self._ledger.at(instance) if one.state is State.QUEUED]
            waiting.sort(key=lambda one: one.number)
            known = {one.prompt_id: place for place, one in enumerate(waiting, 1)}
            self._known[instance] = known
        return known
