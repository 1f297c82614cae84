"""Tells ``cluster/standstill.py`` what the ledger hears of instances: what they take, and run."""

from __future__ import annotations

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.standstill import Standstills
from comfy_proxy.ledger import events
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.states import State


class RunFeed:
    """An observer of ``ledger``."""

    def __init__(self, standstills: Standstills, ledger: Ledger) -> None:
        self._standstills = standstills
        self._ledger = ledger
        standstills.runs = self._runs

    def observe(self, change: Change) -> None:
        """Whatever has changed."""
        match change.event:
            case events.Accepted() if (instance := change.prompt.instance) is not None:
                self._standstills.taken(instance)
            case events.Began(instance=instance):
                self._standstills.began(instance)

    def _runs(self, instance: Instance) -> bool:
        """An event told that a prompt of ours runs there, and none that it has ended."""
        running = self._ledger.running(instance)
        return running is not None and running.state is State.RUNNING
