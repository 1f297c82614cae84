"""What waits for all clients together is bounded: who reads least gives way, nobody else."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from manual_clock import ManualClock, settle

from comfy_proxy.gateway.events import outbox_sum
from comfy_proxy.gateway.events.frames import Pass
from comfy_proxy.gateway.events.outbox import Outbox
from comfy_proxy.gateway.events.outbox_sum import OutboxSum


class Client:
    """An outbox of which nothing is read while it is closed; ``told`` is what befell it."""

    def __init__(self, total: OutboxSum) -> None:
        self.open = asyncio.Event()
        self.told: list[str] = []
        self.box = Outbox(
            cast(Any, self),
            total=total,
            on_full=lambda: self.told.append("full"),
            on_stuck=lambda: self.told.append("stuck"),
        )

    async def send_str(self, data: str) -> None:
        await self.open.wait()

    def put(self, size: int, *, droppable: bool = False) -> None:
        self.box.put(Pass(data="x" * size, droppable=droppable))


@pytest.fixture
def total(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> OutboxSum:
    """One with room for 100 bytes."""
    monkeypatch.setattr(outbox_sum, "MAX_SUM_BYTES", 100)
    return OutboxSum(clock)


async def test_who_holds_most_loses_its_previews_first(
    total: OutboxSum, clock: ManualClock
) -> None:
    """Then all that waits, with its socket. The others lose nothing."""
    most, other = Client(total), Client(total)
    most.put(20, droppable=True)
    most.put(50)
    await clock.advance(1.0)
    other.put(40)
    assert (most.box.held, other.box.held, most.told) == (50, 40, [])
    other.put(20)
    assert (most.box.held, other.box.held, total.bytes) == (0, 60, 60)
    assert (most.told, other.told) == (["full"], [])


async def test_who_reads_goes_before_nobody_that_does_not(
    total: OutboxSum, clock: ManualClock
) -> None:
    """A reader with a large frame just now is not the one that holds it up."""
    stuck, reader = Client(total), Client(total)
    stuck.put(30)
    await clock.advance(5.0)
    reader.put(90)
    assert (stuck.told, reader.told, reader.box.held) == (["full"], [], 90)


async def test_what_is_being_written_counts_until_it_is_gone(
    total: OutboxSum, clock: ManualClock
) -> None:
    """A client that takes nothing is cut at once where its frame is what is too much."""
    stuck, other = Client(total), Client(total)
    stuck.put(60)
    stuck.box.begin()
    await settle()
    assert total.bytes == 60
    await clock.advance(1.0)
    other.put(60)
    assert (stuck.told, other.told, total.bytes) == (["stuck"], [], 60)
    await stuck.box.end()
    assert total.bytes == 60


async def test_one_alone_is_left_to_its_own_bound(total: OutboxSum) -> None:
    """A result is delivered, whatever its size, and what was written is forgotten."""
    alone = Client(total)
    alone.put(1000)
    assert (alone.told, total.bytes) == ([], 1000)
    alone.open.set()
    alone.box.begin()
    await settle()
    assert total.bytes == 0
