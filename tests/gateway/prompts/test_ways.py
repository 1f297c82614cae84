"""Lost prompts go to instances in turn, and none of them waits long for another one."""

from __future__ import annotations

import asyncio

import pytest
from manual_clock import ManualClock, settle
from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.prompts.ways import HELD_UP_S, Ways
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.states import State


class Road:
    """Ways with a log of what ``on_late_end`` was told."""

    def __init__(self, clock: ManualClock) -> None:
        self.ends = 0
        self.ways = Ways(clock, self._end)
        self.gates: dict[Prompt, asyncio.Event] = {}

    def _end(self) -> None:
        self.ends += 1

    def go(self, prompt: Prompt) -> asyncio.Task[None]:
        """Its way ends once its gate is open."""
        gate = self.gates[prompt] = asyncio.Event()

        async def way() -> None:
            await gate.wait()

        return asyncio.create_task(self.ways.go(prompt, way()))


def make_instance(clock: ManualClock) -> Instance:
    return Instance(id="1", url=URL("http://gpu1:8188"), clock=clock)


def lost(prompt_id: str) -> Prompt:
    return Prompt(prompt_id=prompt_id, state=State.MOVING)


async def test_the_next_one_waits_until_the_one_before_it_is_there(clock: ManualClock) -> None:
    road, prompt = Road(clock), lost("p")
    going = road.go(prompt)
    await clock.advance(HELD_UP_S / 2)
    assert not going.done()
    assert prompt in road.ways
    road.gates[prompt].set()
    await going
    assert prompt not in road.ways
    assert road.ends == 0


async def test_a_late_one_goes_on_alone_and_its_instance_is_passed_over(
    clock: ManualClock,
) -> None:
    road, prompt, instance = Road(clock), lost("p"), make_instance(clock)
    going = road.go(prompt)
    road.ways.tries(prompt, instance)
    assert not road.ways.hold_up(instance)
    await clock.advance(HELD_UP_S)
    assert going.done()
    assert prompt in road.ways
    assert road.ways.hold_up(instance)
    prompt.state = State.QUEUED
    road.gates[prompt].set()
    await settle()
    assert prompt not in road.ways
    assert not road.ways.hold_up(instance)
    assert road.ends == 1


@pytest.mark.parametrize("elsewhere", [True, False])
async def test_a_late_one_that_gets_nowhere_is_tried_again_only_after_news(
    clock: ManualClock, *, elsewhere: bool
) -> None:
    """Its own checks of the instance that it is at are none: it would go on for ever."""
    road, prompt, at = Road(clock), lost("p"), make_instance(clock)
    road.go(prompt)
    road.ways.tries(prompt, at)
    await clock.advance(HELD_UP_S)
    road.ways.answered(make_instance(clock) if elsewhere else at)
    road.gates[prompt].set()
    await settle()
    assert road.ends == elsewhere


async def test_at_the_end_those_that_are_on_their_way_arrive(clock: ManualClock) -> None:
    road, prompt = Road(clock), lost("p")
    road.go(prompt)
    await clock.advance(HELD_UP_S)
    closing = asyncio.create_task(road.ways.close())
    await settle()
    assert not closing.done()
    road.gates[prompt].set()
    await closing
    assert prompt not in road.ways


@pytest.mark.logs_faults
async def test_a_fault_of_one_keeps_no_other_one_from_going(clock: ManualClock) -> None:
    async def breaks() -> None:
        raise ValueError("a fault of ours")

    road, prompt = Road(clock), lost("p")
    await road.ways.go(prompt, breaks())
    assert prompt not in road.ways
