"""What is counted of requests: the table's policy stands for the path, which a client chooses."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial
from typing import Any

from comfy_proxy.metrics.durations import Durations, Histogram
from comfy_proxy.metrics.labels import method_label, status_label
from comfy_proxy.metrics.records import RequestRecord

REQUEST_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SWITCHING_PROTOCOLS = 101


class HttpFigures:
    """Since the start. A WebSocket is a request, but how long it was open is no response time."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.received: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.durations = Durations()
        self.histograms: defaultdict[str, Histogram] = defaultdict(
            partial(Histogram, REQUEST_BOUNDS_S)
        )

    def record(self, request: RequestRecord) -> None:
        policy = request.policy
        self.requests[method_label(request.method), policy, status_label(request.status)] += 1
        self.received[policy] += request.received_bytes
        self.sent[policy] += request.sent_bytes
        if request.status != _SWITCHING_PROTOCOLS:
            self.durations.record(request.duration_s)
            self.histograms[policy].record(request.duration_s)

    def as_json(self) -> dict[str, Any]:
        by_policy: Counter[str] = Counter()
        by_status: Counter[str] = Counter()
        by_method: Counter[str] = Counter()
        for (method, policy, status), count in self.requests.items():
            by_method[method] += count
            by_policy[policy] += count
            by_status[status] += count
        return {
            "requests": self.requests.total(),
            "by_method": dict(by_method),
            "by_policy": dict(by_policy),
            "by_status": dict(by_status),
            "received_bytes": self.received.total(),
            "sent_bytes": self.sent.total(),
            "response_time": self.durations.as_json(),
        }
