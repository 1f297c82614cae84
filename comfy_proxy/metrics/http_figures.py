"""What is counted of requests: by method, policy and status.

The policy (of ``gateway/routes.py``) stands for the path: clients choose paths, without end.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial
from typing import Any

from comfy_proxy.metrics.durations import Durations, Histogram
from comfy_proxy.metrics.labels import method_label, status_label
from comfy_proxy.metrics.records import RequestRecord

REQUEST_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histograms of requests and exchanges, in seconds."""
_FAULTS = ("500", "502", "503", "504")


class HttpFigures:
    """Counts since the start. Times are those to the first byte of the answer: how long a stream or
    a WebSocket was open tells nothing of how quickly a client was answered."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.received: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.first_bytes = Durations()
        self.histograms: defaultdict[str, Histogram] = defaultdict(
            partial(Histogram, REQUEST_BOUNDS_S)
        )

    def record(self, request: RequestRecord) -> None:
        method, policy = method_label(request.method), request.policy
        if (method, policy, _FAULTS[0]) not in self.requests:
            # All four begin at 0 with the first request of their kind: Prometheus' rate() sees a
            # counter rise, but not one that appears at 1.
            self.requests.update({(method, policy, status): 0 for status in _FAULTS})
        self.requests[method, policy, status_label(request.status)] += 1
        self.received[policy] += request.received_bytes
        self.sent[policy] += request.sent_bytes
        if request.first_byte_s is not None:
            self.first_bytes.record(request.first_byte_s)
            self.histograms[policy].record(request.first_byte_s)

    def as_json(self) -> dict[str, Any]:
        by_policy: Counter[str] = Counter()
        by_status: Counter[str] = Counter()
        by_method: Counter[str] = Counter()
        for (method, policy, status), count in (+self.requests).items():
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
            "time_to_first_byte": self.first_bytes.as_json(),
        }
