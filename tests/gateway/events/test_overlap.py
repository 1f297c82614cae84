"""What two sockets tell of the same broadcasts is told once."""

from __future__ import annotations

from comfy_proxy.gateway.events import overlap
from comfy_proxy.gateway.events.overlap import Overlap


def told(frames: list[tuple[str, bool]]) -> list[str]:
    """Of frames, each with whether its own socket told it, those that a client is told."""
    both = Overlap()
    return [data for data, by_own in frames if not both.is_told(data, by_own=by_own)]


def test_each_broadcast_is_told_by_whoever_is_first() -> None:
    """Whichever that is, and though the other tells it much later."""
    assert told([("a", False), ("b", True), ("a", True), ("b", False)]) == ["a", "b"]


def test_what_one_of_them_alone_tells_is_told_each_time() -> None:
    """A node may well send the same twice."""
    assert told([("a", False), ("a", False), ("a", True), ("a", True)]) == ["a", "a"]
    assert told([("a", True)] * 3) == ["a"] * 3


def test_no_more_is_remembered_than_the_bound() -> None:
    """The oldest is forgotten."""
    frames = [(str(number), True) for number in range(overlap.MAX_FRAMES + 1)]
    heard = told([*frames, ("0", False), ("2", False)])
    assert heard == [*(data for data, _ in frames), "0"]
