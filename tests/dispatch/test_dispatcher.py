"""The door by which prompts enter instances: in order, once, and each step told to the ledger."""

from __future__ import annotations

from typing import Any

import pytest
from manual_clock import ManualClock
from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.planning.costs import Costs
from comfy_proxy.cluster.planning.model_files import ModelFiles
from comfy_proxy.cluster.planning.planner import Planner
from comfy_proxy.dispatch.dispatcher import Dispatcher, Unready
from comfy_proxy.dispatch.order import Receipt
from comfy_proxy.errors import (
    InstanceDiedError,
    InstanceError,
    InstanceRefusedError,
    InstanceTimeoutError,
)
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import End, Prompt
from comfy_proxy.ledger.states import Ending, State


class Checker:
    """Answers for the health checker."""

    def __init__(self) -> None:
        self.alive = True
        self.checked = 0

    async def check(self, instance: Instance) -> bool:
        self.checked += 1
        return self.alive


class Steps:
    """Fills ``Preparation``; ``done`` are the steps in their order."""

    def __init__(self, *, files: bool = True, socket: bool = True) -> None:
        self.files, self.socket = files, socket
        self.done: list[str] = []

    async def stage(self, prompt: Prompt, instance: Instance) -> bool:
        self.done.append("stage")
        return self.files

    async def ready(self, prompt: Prompt, instance: Instance) -> bool:
        self.done.append("ready")
        return self.socket


class Order:
    """Fills ``Order``: each POST does what comes next in ``answers``."""

    unsure = InstanceError

    def __init__(self, prompt: Prompt, *answers: Any, found: Any = None) -> None:
        self.prompt = prompt
        self.answers = list(answers)
        self.found = found
        self.states: list[State] = []

    async def post(self, instance: Instance, number: float | None) -> Receipt[str]:
        self.states.append(self.prompt.state)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def find(self, instance: Instance) -> Receipt[str] | None:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


class Door:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.checker = Checker()
        self.ledger = Ledger(self.clock)
        self.instance = Instance(id="1", url=URL("http://gpu:8188"), clock=self.clock)
        planner = Planner(
            [self.instance],
            clock=self.clock,
            costs=Costs(),
            files=ModelFiles({}, clock=self.clock),
        )
        checker: Any = self.checker
        self.dispatcher = Dispatcher(self.ledger, checker, planner, self.clock)
        self.place = Placement(self.instance)
        self.prompt = Prompt(prompt_id="a")
        self.ledger.apply(events.Received(prompt=self.prompt))


TAKEN = Receipt(answer="200", prompt_id="given", number=7)


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Door:
    """Nothing waits: the second look at an instance follows the first at once."""

    async def at_once(*_arguments: Any) -> None:
        return

    monkeypatch.setattr("comfy_proxy.cluster.submit_once.sleep", at_once)
    return Door()


async def test_it_is_checked_then_has_its_files_then_its_listener(door: Door) -> None:
    steps = Steps()
    assert await door.dispatcher.prepare(door.prompt, door.instance, steps) is None
    assert (door.checker.checked, steps.done) == (1, ["stage", "ready"])


@pytest.mark.parametrize(
    ("alive", "steps", "why", "done"),
    [
        (False, Steps(), Unready.SILENT, []),
        (True, Steps(files=False), Unready.OTHER_FILES, ["stage"]),
        (True, Steps(socket=False), Unready.UNHEARD, ["stage", "ready"]),
    ],
)
async def test_the_first_step_that_fails_says_why(
    door: Door, alive: bool, steps: Steps, why: Unready, done: list[str]
) -> None:
    door.checker.alive = alive
    assert await door.dispatcher.prepare(door.prompt, door.instance, steps) is why
    assert steps.done == done


async def test_a_busy_instance_needs_no_check_and_an_unheard_one_no_listener(door: Door) -> None:
    door.checker.alive, steps = False, Steps(socket=False)
    prepare = door.dispatcher.prepare
    assert await prepare(door.prompt, door.instance, steps, unchecked=True, unheard=True) is None


async def test_what_is_taken_is_booked_under_the_id_that_it_got(door: Door) -> None:
    order = Order(door.prompt, TAKEN)
    assert await door.dispatcher.submit(order, door.place) is TAKEN
    assert order.states == [State.SUBMITTING]
    assert (door.prompt.state, door.prompt.prompt_id) == (State.QUEUED, "given")
    assert door.prompt.renamed
    assert door.place.in_queue


@pytest.mark.parametrize(
    "answer", [Receipt(answer="400"), InstanceRefusedError("500"), ValueError("ours")]
)
async def test_what_is_not_taken_may_be_sent_elsewhere(door: Door, answer: Any) -> None:
    order = Order(door.prompt, answer)
    if isinstance(answer, Exception):
        with pytest.raises(type(answer)):
            await door.dispatcher.submit(order, door.place)
    else:
        assert await door.dispatcher.submit(order, door.place) is answer
    assert door.prompt.state is State.RECEIVED
    assert door.ledger.submitting() == []


async def test_a_process_that_ends_over_it_is_a_loss(door: Door) -> None:
    order = Order(door.prompt, InstanceDiedError("gone"))
    with pytest.raises(InstanceDiedError):
        await door.dispatcher.submit(order, door.place)
    assert door.prompt.tries.losses == 1


async def test_one_that_fell_silent_is_asked_until_it_says_what_it_did(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only for a prompt that would be lost otherwise; until then it is on its way."""
    order = Order(door.prompt, InstanceTimeoutError("silent"), found=InstanceTimeoutError("again"))
    asked: list[State] = []

    async def later(*_arguments: Any) -> None:
        asked.append(door.prompt.state)
        order.found = TAKEN

    monkeypatch.setattr("comfy_proxy.dispatch.dispatcher.sleep", later)
    assert await door.dispatcher.submit(order, door.place, patient=True) is TAKEN
    assert asked == [State.SUBMITTING]
    assert door.prompt.state is State.QUEUED


async def test_a_new_prompt_is_told_at_once_that_nobody_knows(door: Door) -> None:
    order = Order(door.prompt, InstanceTimeoutError("silent"), found=InstanceTimeoutError("again"))
    with pytest.raises(InstanceTimeoutError):
        await door.dispatcher.submit(order, door.place)
    assert door.prompt.state is State.RECEIVED


async def test_one_that_was_replaced_on_its_way_is_left_where_it_is(door: Door) -> None:
    """A newer prompt took its id while it was being posted."""

    class Replacing(Order):
        async def post(self, instance: Instance, number: float | None) -> Receipt[str]:
            newer = Prompt(prompt_id="a")
            other = Instance(id="2", url=URL("http://gpu2:8188"), clock=door.clock)
            door.ledger.apply(events.Received(prompt=newer))
            door.ledger.apply(events.Sent(prompt=newer, instance=other))
            door.ledger.apply(events.Accepted(prompt=newer, prompt_id="a", number=0))
            return await super().post(instance, number)

    door.ledger.apply(events.Sent(prompt=door.prompt, instance=door.instance))
    door.ledger.apply(events.Accepted(prompt=door.prompt, prompt_id="a", number=0))
    door.ledger.apply(events.MoveBegan(prompt=door.prompt, queue_entry=[]))
    door.ledger.apply(events.TakenAway(prompt=door.prompt))
    assert await door.dispatcher.submit(Replacing(door.prompt, TAKEN), door.place) is TAKEN
    assert door.prompt.ended
    assert not door.ledger.at(door.instance)


async def test_one_that_was_replaced_while_it_waited_for_its_turn_is_not_sent(door: Door) -> None:
    order = Order(door.prompt, TAKEN)
    door.ledger.apply(events.Finished(prompt=door.prompt, end=End(ending=Ending.REPLACED)))
    with pytest.raises(InstanceRefusedError):
        await door.dispatcher.submit(order, door.place)
    assert order.states == []
    assert door.place.key is door.place
