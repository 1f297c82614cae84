"""What is counted of clients' own prompts (those of jobs are counted with the jobs)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from comfy_proxy.metrics.durations import DURATION_BOUNDS_S, Durations, Histogram
from comfy_proxy.metrics.gone import GONE, drop, fold
from comfy_proxy.metrics.records import Outcome, PromptEnd, PromptEvent, PromptRecord

T = TypeVar("T")


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
            **self.in_all(),
            "processing_time": self.processing.as_json(),
            "waiting_time": self.waiting.as_json(),
        }

    def at_instance(self, host: str) -> dict[str, int | None]:
        """The counts of one instance; those of ends are None if not known."""
        events = {event: self.events[event, host] for event in PromptEvent}
        return self._counts(events, {end: self.ends[end, host] for end in Outcome})

    def in_all(self) -> dict[str, int | None]:
        """The counts of all instances together, those that have left as well."""
        return self._counts(_summed(self.events), _summed(self.ends))

    def _counts(
        self, events: Mapping[PromptEvent, int], ends: Mapping[Outcome, int]
    ) -> dict[str, int | None]:
        told = {str(end): ends.get(end, 0) if self.ends_known else None for end in Outcome}
        return {**{str(event): events.get(event, 0) for event in PromptEvent}, **told}


def _summed(counter: Counter[tuple[T, str]]) -> Counter[T]:
    """Over all instances."""
    counts: Counter[T] = Counter()
    for (what, _), count in counter.items():
        counts[what] += count
    return counts
