"""What is counted of models: the loads that prompts paid, and those that they were spared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from comfy_proxy.metrics.durations import rounded
from comfy_proxy.metrics.gone import drop
from comfy_proxy.metrics.records import ModelUse


class LoadFigures:
    """Counts since the start for each of ``hosts``, of prompts with models that ended well.

    ``paid``: their models had to be loaded, in about ``seconds`` together; ``avoided``: they were
    there.
    """

    def __init__(self, hosts: Iterable[str]) -> None:
        self.paid: Counter[str] = Counter()
        self.avoided: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}
        for host in hosts:
            self.join(host)

    def join(self, host: str) -> None:
        """Count there from now on; a second time does nothing."""
        if host not in self.seconds:
            # A counter that begins at nought shows its first event as a rise.
            self.paid[host] = self.avoided[host] = 0
            self.seconds[host] = 0.0

    def leave(self, host: str) -> None:
        """It is counted no more."""
        for figures in (self.paid, self.avoided, self.seconds):
            drop(figures, host)

    def record(self, use: ModelUse) -> None:
        """A prompt with models has run."""
        if use.instance not in self.seconds:
            return
        counter = self.paid if use.loaded else self.avoided
        counter[use.instance] += 1
        self.seconds[use.instance] += use.load_s

    def as_json(self, host: str) -> dict[str, Any]:
        """The counts of one instance."""
        return {
            "paid": self.paid[host],
            "avoided": self.avoided[host],
            "seconds": rounded(self.seconds[host]),
        }
