"""What an instance missed, in order, no more of it than is needed."""

from __future__ import annotations

import pytest

from comfy_proxy.gateway.routes import match
from comfy_proxy.gateway.state import replication
from comfy_proxy.gateway.state.replication import MissedWrites
from comfy_proxy.gateway.state.requests import StateRequest


def write(method: str, path: str, size: int = 0) -> StateRequest:
    """A missed write as far as its place among the others goes."""
    found = match(method, path)
    subject = tuple(found.variables.values()) if "move" not in path else None
    return StateRequest(
        method=method,
        target=path,
        headers=None,  # type: ignore[arg-type]
        body=type("Body", (), {"size": size})() if size else None,  # type: ignore[arg-type]
        subject=subject,
        pattern=found.pattern,
    )


def test_the_latest_write_of_a_path_wins() -> None:
    """What nobody will ever read is not kept; what a move needs is."""
    missed = MissedWrites()
    first, other, second = (write("POST", f"/userdata/{name}") for name in ("a", "b", "a"))
    for one in (first, other, second):
        missed.add(one)
    assert missed.first is other
    move, third = write("POST", "/userdata/a/move/c"), write("POST", "/userdata/a")
    missed.add(move)
    missed.add(third)
    kept = []
    while (one := missed.first) is not None:
        kept.append(one)
        missed.done(one)
    assert kept == [other, second, move, third]


def test_missed_writes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance that is away for good does not fill the memory or the disk."""
    monkeypatch.setattr(replication, "MAX_MISSED", 3)
    monkeypatch.setattr(replication, "MAX_MISSED_BYTES", 100)
    missed = MissedWrites()
    for number in range(5):
        missed.add(write("POST", f"/userdata/{number}"))
    assert repr(missed) == "<MissedWrites 3>"
    missed.add(write("POST", "/userdata/big", size=100))
    missed.add(write("POST", "/userdata/more", size=1))
    assert repr(missed) == "<MissedWrites 1>"
