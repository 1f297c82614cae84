"""dispatch/turns.py: one after the other is given its place at an instance."""

from __future__ import annotations

import asyncio

import pytest
from manual_clock import ManualClock, settle
from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.dispatch.turns import MAX_WAIT_S, Turns


@pytest.fixture
def instances(clock: ManualClock) -> list[Instance]:
    return [
        Instance(id=str(number), url=URL(f"http://gpu{number}:8188"), clock=clock)
        for number in (1, 2)
    ]


class Bench:
    """``has`` are those inside their block, and whether it is their turn."""

    def __init__(self, clock: ManualClock) -> None:
        self.turns = Turns(clock)
        self.has: dict[str, bool] = {}
        self._let_go: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, name: str, instance: Instance, *, wanted: bool = True) -> None:
        self._let_go[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._take(name, instance, wanted))
        await settle()

    async def _take(self, name: str, instance: Instance, wanted: bool) -> None:
        async with self.turns.turn(instance, wanted=wanted) as has_turn:
            self.has[name] = has_turn
            await self._let_go[name].wait()

    async def go(self, name: str) -> None:
        self._let_go[name].set()
        await self.tasks[name]
        await settle()


@pytest.fixture
def bench(clock: ManualClock) -> Bench:
    return Bench(clock)


async def test_one_after_the_other(bench: Bench, instances: list[Instance]) -> None:
    """In the order in which they came."""
    for name in "abc":
        await bench.come(name, instances[0])
    assert bench.has == {"a": True}
    await bench.go("a")
    assert bench.has == {"a": True, "b": True}
    await bench.go("b")
    assert bench.has == {"a": True, "b": True, "c": True}
    await bench.go("c")


async def test_each_instance_has_turns_of_its_own(bench: Bench, instances: list[Instance]) -> None:
    for name, instance in zip("ab", instances, strict=True):
        await bench.come(name, instance)
    assert bench.has == {"a": True, "b": True}
    await bench.go("a")
    await bench.go("b")


async def test_who_wants_none_waits_for_nobody(bench: Bench, instances: list[Instance]) -> None:
    """And nobody waits for it."""
    await bench.come("a", instances[0])
    await bench.come("b", instances[0], wanted=False)
    assert bench.has == {"a": True, "b": False}
    await bench.go("a")
    await bench.come("c", instances[0])
    assert bench.has["c"]
    await bench.go("b")
    await bench.go("c")


async def test_a_turn_that_does_not_come_is_done_without(
    bench: Bench, instances: list[Instance], clock: ManualClock
) -> None:
    """Its instance may be silent; the turn of the one before is its own still."""
    await bench.come("a", instances[0])
    await bench.come("b", instances[0])
    await clock.advance(MAX_WAIT_S + 0.01)
    assert bench.has == {"a": True, "b": False}
    await bench.go("b")
    await bench.come("c", instances[0])
    assert "c" not in bench.has
    await bench.go("a")
    assert bench.has["c"]
    await bench.go("c")


async def test_who_is_cancelled_takes_no_turn_with_it(
    bench: Bench, instances: list[Instance]
) -> None:
    """Neither while it waits nor in its turn."""
    for name in "abc":
        await bench.come(name, instances[0])
    for name in "ba":
        bench.tasks[name].cancel()
        await asyncio.wait([bench.tasks[name]])
    await settle()
    assert bench.has["c"]
    await bench.go("c")
