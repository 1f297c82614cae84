"""Scans of several instances, as one client is told of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from manual_clock import ManualClock
from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.events.frame_reader import FrameReader
from comfy_proxy.gateway.events.frames import Pass, Scan
from comfy_proxy.gateway.events.scan_frames import QUIET_S, ScanFrames

ONE, TWO = (
    Instance(id=number, url=URL(f"http://gpu{number}:8188"), clock=ManualClock()) for number in "12"
)
Step = tuple[str, dict[str, Any]]
SCAN: list[Step] = [
    ("started", {"phase": "fast"}),
    ("progress", {"phase": "fast", "scanned": 1}),
    ("progress", {"phase": "fast", "scanned": 2}),
    ("fast_complete", {}),
    ("started", {"phase": "enrich"}),
    ("enrich_complete", {}),
    ("completed", {"phase": "full"}),
]
NAMES = [step for step, _ in SCAN]


class Client:
    """``told`` is what it has heard since the last look."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self._heard: list[str] = []
        self.frames = ScanFrames(self._heard.append, self.clock)

    def take(self, instance: Any, steps: list[Step]) -> None:
        for step, data in steps:
            self.frames.take(f"assets.seed.{step}", data, step, instance)

    async def told(self, wait_s: float = QUIET_S) -> list[str]:
        await self.clock.advance(wait_s)
        heard = self._heard.copy()
        self._heard.clear()
        return heard


@pytest.fixture
def client() -> Client:
    return Client()


async def test_a_scan_is_told_as_it_is(client: Client) -> None:
    """One instance alone: every frame, each time it scans; the end when it is quiet."""
    for _ in range(2):
        client.take(ONE, SCAN)
        assert await client.told(0) == NAMES[:-1]
        assert await client.told() == ["completed"]


async def test_scans_that_overlap_are_one(client: Client) -> None:
    """The one that began first is told, and the end when all have ended."""
    for step in SCAN:
        client.take(ONE, [step])
        client.take(TWO, [step])
    assert await client.told() == NAMES


async def test_scans_that_follow_each_other_at_once_are_one(client: Client) -> None:
    """Each takes some milliseconds, and both were ordered by the same request."""
    client.take(ONE, SCAN)
    assert await client.told(QUIET_S / 2) == NAMES[:-1]
    client.take(TWO, SCAN)
    assert await client.told(QUIET_S / 2) == ["progress", "progress"]
    assert await client.told(QUIET_S / 2) == ["completed"]
    assert await client.told() == []


async def test_the_first_one_ends_first(client: Client) -> None:
    """The other goes on in its place; what was told is not told again."""
    client.take(ONE, SCAN[:3])
    client.take(TWO, SCAN[:2])
    client.take(ONE, SCAN[3:])
    assert await client.told(QUIET_S * 5) == NAMES[:-1]
    client.take(TWO, SCAN[2:])
    assert await client.told() == ["progress", "completed"]


async def test_one_that_is_lost_is_waited_for_no_longer(client: Client) -> None:
    """Its end will not be heard."""
    client.take(ONE, SCAN[:2])
    client.take(TWO, SCAN[:2])
    client.frames.lost(ONE)
    client.take(TWO, [("cancelled", {})])
    assert await client.told() == ["started", "progress", "cancelled"]
    client.take(TWO, SCAN[:1])
    client.frames.lost(TWO)
    client.take(TWO, SCAN[:1])
    assert await client.told() == ["started", "started"]


def test_frames_of_scans_are_known() -> None:
    """Other frames of assets pass as they are."""
    reader = FrameReader(lambda output: output)
    data = {"phase": "fast"}
    text = json.dumps({"type": "assets.seed.progress", "data": data})
    assert reader.text(text) == Scan(kind="assets.seed.progress", data=data, text=text)
    other = json.dumps({"type": "assets.other", "data": {}})
    assert reader.text(other) == Pass(data=other)
