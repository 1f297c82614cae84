"""What is counted of webhooks."""

from __future__ import annotations

from collections import Counter
from typing import Any

from comfy_proxy.metrics.records import WebhookOutcome


class WebhookFigures:
    """Counts since the start: ``finished`` by outcome, and ``retries``, tries beyond the first."""

    def __init__(self) -> None:
        # A counter that begins at nought shows its first event as a rise.
        self.finished = Counter({str(outcome): 0 for outcome in WebhookOutcome})
        self.retries = 0

    def record(self, outcome: WebhookOutcome) -> None:
        """A webhook is over."""
        self.finished[outcome] += 1

    def record_retry(self) -> None:
        """A webhook is to be tried once more."""
        self.retries += 1

    def as_json(self, pending: int) -> dict[str, Any]:
        """``pending``: how many are on their way now."""
        return {"pending": pending, **self.finished, "retries": self.retries}
