"""Labels stay few, whatever clients send."""

from __future__ import annotations

import pytest

from comfy_proxy.metrics.labels import Bounded, method_label, status_label


@pytest.mark.parametrize(
    ("method", "label"), [("GET", "GET"), ("OPTIONS", "OPTIONS"), ("get", "OTHER"), ("X", "OTHER")]
)
def test_methods_that_nobody_uses_are_one(method: str, label: str) -> None:
    """Those in use keep their names, spelt as HTTP does."""
    assert method_label(method) == label


@pytest.mark.parametrize(
    ("status", "label"),
    [(200, "200"), (404, "404"), (499, "499"), (599, "5xx"), (299, "2xx"), (999, "9xx")],
)
def test_statuses_that_nobody_knows_are_their_class(status: int, label: str) -> None:
    """Registered ones and 499 keep their numbers."""
    assert status_label(status) == label


def test_only_so_many_different_values_pass() -> None:
    """Those that were there first keep their names."""
    bounded = Bounded(3)
    assert [bounded(text) for text in "abcda"] == ["a", "b", "c", "other", "a"]
