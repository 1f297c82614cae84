"""What is counted of the instances: exchanges, circuits, waits for a connection."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import partial
from typing import Any

from comfy_proxy.metrics.durations import Durations, Histogram
from comfy_proxy.metrics.gone import drop
from comfy_proxy.metrics.http_figures import REQUEST_BOUNDS_S
from comfy_proxy.metrics.labels import Bounded
from comfy_proxy.metrics.records import Attempt, CircuitRecord, PoolWait, Verdict

WAIT_BOUNDS_S = (0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the histograms of waits for a pooled WebSocket, in seconds."""
CIRCUIT_STATES = ("closed", "open", "half_open")
MAX_KINDS = 32
"""Kinds of exchanges that are told apart; those that come later are counted as ``other``."""


class InstanceFigures:
    """Counts since the start for each of ``hosts``, the ``host:port`` of the instances."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self.hosts: dict[str, dict[str, None]] = {}  # each with the kinds of its exchanges
        self.attempts: Counter[tuple[str, str, str]] = Counter()
        self.attempt_histograms: defaultdict[tuple[str, str], Histogram] = defaultdict(
            partial(Histogram, REQUEST_BOUNDS_S)
        )
        self.circuit_changes: Counter[tuple[str, str]] = Counter()
        self.pool_waits: dict[str, Durations] = {}
        self.pool_histograms: dict[str, Histogram] = {}
        self._kind = Bounded(MAX_KINDS)
        for host in hosts:
            self.join(host)

    def join(self, host: str) -> None:
        """Count there from now on; a second time does nothing."""
        if host in self.hosts:
            return
        self.hosts[host] = {}
        self.pool_waits[host] = Durations()
        self.pool_histograms[host] = Histogram(WAIT_BOUNDS_S)
        # A counter that begins at nought shows its first event as a rise.
        self.circuit_changes.update({(host, state): 0 for state in CIRCUIT_STATES})

    def leave(self, host: str) -> None:
        """It is counted no more, and nothing of it is left."""
        self.hosts.pop(host, None)
        for figures in (
            *(self.attempts, self.attempt_histograms, self.circuit_changes),
            *(self.pool_waits, self.pool_histograms),
        ):
            drop(figures, host)

    def record_attempt(self, attempt: Attempt) -> None:
        if attempt.instance not in self.hosts:
            return
        kind = self._kind(attempt.kind)
        if (attempt.instance, kind) not in self.attempt_histograms:
            # All verdicts begin at 0 together: the first fault is a rise that rate() sees.
            self.attempts.update({(attempt.instance, kind, verdict): 0 for verdict in Verdict})
            self.hosts[attempt.instance][kind] = None
        self.attempts[attempt.instance, kind, attempt.verdict] += 1
        self.attempt_histograms[attempt.instance, kind].record(attempt.duration_s)

    def record_circuit(self, change: CircuitRecord) -> None:
        if change.instance not in self.hosts:
            return
        self.circuit_changes[change.instance, change.new] += 1

    def record_pool_wait(self, wait: PoolWait) -> None:
        if wait.instance not in self.hosts:
            return
        self.pool_waits[wait.instance].record(wait.duration_s)
        self.pool_histograms[wait.instance].record(wait.duration_s)

    def circuit_json(self, host: str) -> dict[str, int]:
        return {state: self.circuit_changes[host, state] for state in CIRCUIT_STATES}

    def requests_json(self, host: str) -> dict[str, dict[str, Any]]:
        """By kind of exchange: the number of each verdict, and the mean duration in seconds."""
        result: dict[str, dict[str, Any]] = {}
        for kind in self.hosts[host]:
            counts = {str(verdict): self.attempts[host, kind, verdict] for verdict in Verdict}
            histogram = self.attempt_histograms[host, kind]
            result[kind] = {
                **counts,
                "mean_seconds": round(histogram.total_s / histogram.count, 6),
            }
        return result
