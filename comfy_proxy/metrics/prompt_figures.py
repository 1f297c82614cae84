"""What is counted of clients' own prompts (those of jobs are counted with the jobs)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from comfy_proxy.metrics.durations import DURATION_BOUNDS_S, Durations, Histogram
from comfy_proxy.metrics.gone import GONE, drop, fold
from comfy_proxy.metrics.records import Outcome, PromptEnd, PromptEvent, PromptRecord


class PromptFigures:
    """Counts since the start, by ``host``. Processing times are those of completed prompts.

    ``ends_known`` is False with a single instance: its prompts are forwarded unread, so their ends
    are not known.
    """

    def __init__(self, hosts: Collection[str]) -> None:
        self.ends_known = len(hosts) > 1
        self._hosts: dict[str, None] = {}
        self.events: Counter[tuple[PromptEvent, str]] = Counter()
        self.ends: Counter[tuple[Outcome, str]] = Counter()
        self.waiting, self.processing = Durations(), Durations()
        self.duration_histograms: dict[str, Histogram] = {}
        self.wait_histogram = Histogram(DURATION_BOUNDS_S)
        for host in hosts:
            self.join(host)

    def join(self, host: str) -> None:
        """Count there from now on; a second time does nothing."""
        if host in self._hosts:
            return
        self._hosts[host] = None
        # A counter that begins at nought shows its first event as a rise.
        self.events.update({(event, host): 0 for event in PromptEvent})
        if self.ends_known:
            self.ends.update({(outcome, host): 0 for outcome in Outcome})
        self.duration_histograms[host] = Histogram(DURATION_BOUNDS_S)

    def leave(self, host: str) -> None:
        """What was counted there is in the sums alone."""
        self._hosts.pop(host, None)
        fold(self.events, host)
        fold(self.ends, host)
        drop(self.duration_histograms, host)

    def record(self, prompt: PromptRecord) -> None:
        """A client's prompt was forwarded or moved, or an instance passed over."""
        self.events[prompt.event, self._known(prompt.instance)] += 1

    def record_end(self, end: PromptEnd) -> None:
        """A client's prompt has ended."""
        self.ends[end.outcome, self._known(end.instance)] += 1
        if end.waiting_s is not None:
            self.waiting.record(end.waiting_s)
            self.wait_histogram.record(end.waiting_s)
        if end.processing_s is not None and end.outcome is Outcome.COMPLETED:
            self.processing.record(end.processing_s)
            if end.instance in self._hosts:
                self.duration_histograms[end.instance].record(end.processing_s)

    def _known(self, host: str) -> str:
        return host if host in self._hosts else GONE

    def totals(self) -> dict[str, Any]:
        """The JSON of all of them."""
        return {
            **self.at_instance(None),
            "processing_time": self.processing.as_json(),
            "waiting_time": self.waiting.as_json(),
        }

    def at_instance(self, host: str | None) -> dict[str, int | None]:
        """The counts of one instance, of all for None; those of ends are None if not known."""
        counts: Counter[str] = Counter()
        for counter in (self.events, self.ends):
            for (what, where), count in counter.items():
                if host in (None, where):
                    counts[what] += count
        ends = {str(end): counts[end] if self.ends_known else None for end in Outcome}
        return {**{str(event): counts[event] for event in PromptEvent}, **ends}
