"""gateway/custom/asking_nodes.py: who asks its client runs where that client is asked already."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from custom_front import CustomFront, custom_front
from ledger_front import client_post, take

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.custom import asking_nodes
from comfy_proxy.ledger import events
from comfy_proxy.ledger.prompt import End, Prompt
from comfy_proxy.ledger.states import Ending

CHOOSER = {"7": {"class_type": "Chooser", "inputs": {}}}
PLAIN = {"7": {"class_type": "SaveImage", "inputs": {}}}


@pytest.fixture
async def front() -> AsyncIterator[CustomFront]:
    async with custom_front() as made:
        yield made


def prompt(
    front: CustomFront, name: str, client_id: str = "me", graph: Mapping[str, Any] = CHOOSER
) -> Prompt:
    """One that was received, and is nowhere."""
    post = replace(client_post(client_id), graph=graph)
    made = Prompt(prompt_id=name, post=post)
    front.gateway.ledger.apply(events.Received(prompt=made))
    return made


def runs(front: CustomFront, one: Prompt, at: Instance) -> Prompt:
    take(front.gateway.ledger, one, at)
    front.gateway.ledger.apply(events.Began(prompt_id=one.prompt_id, instance=at))
    return one


def lacks(front: CustomFront, one: Prompt) -> list[int]:
    """1 for each instance at which it should not run, because its client is asked elsewhere."""
    asked_at = front.gateway.asking.asked_at(one)
    return [int(bool(asked_at) and instance not in asked_at) for instance in front.instances]


async def answer(front: CustomFront, at: Instance) -> int:
    """The client answers the node that waits there."""
    front.hears(at, node=7)
    return (await front.ask("POST", "/pack/go", json={"node": 7}))[0]


async def test_after_an_answer_the_next_of_that_client_runs_where_it_is_asked(
    front: CustomFront,
) -> None:
    two = front.instances[1]
    first = runs(front, prompt(front, "first"), two)
    second = prompt(front, "second")
    assert lacks(front, second) == [0, 0]
    assert await answer(front, two) == 200
    assert lacks(front, second) == [1, 0]
    assert lacks(front, first) == [0, 0]
    assert lacks(front, prompt(front, "other's", "you")) == [0, 0]
    assert lacks(front, prompt(front, "plain", graph=PLAIN)) == [0, 0]
    take(front.gateway.ledger, second, two)
    end = End(ending=Ending.SUCCESS)
    front.gateway.ledger.apply(events.EndTold(prompt_id="first", instance=two, end=end))
    assert lacks(front, prompt(front, "third")) == [1, 0]
    front.gateway.ledger.apply(events.Began(prompt_id="second", instance=two))
    front.gateway.ledger.apply(events.EndTold(prompt_id="second", instance=two, end=end))
    assert lacks(front, prompt(front, "fourth")) == [0, 0]


async def test_one_refused_answer_teaches_it_as_well(front: CustomFront) -> None:
    """The first two may run at once: nobody knew that they ask."""
    one, two = front.instances
    runs(front, prompt(front, "first"), one)
    runs(front, prompt(front, "second"), two)
    front.hears(one, node=7)
    assert await answer(front, two) == 409
    end = End(ending=Ending.SUCCESS)
    front.gateway.ledger.apply(events.EndTold(prompt_id="first", instance=one, end=end))
    assert lacks(front, prompt(front, "third")) == [1, 0]


async def test_where_its_instance_is_away_it_may_run_anywhere(front: CustomFront) -> None:
    runs(front, prompt(front, "first"), front.instances[1])
    assert await answer(front, front.instances[1]) == 200
    front.away(front.instances[1])
    assert lacks(front, prompt(front, "second")) == [0, 0]


async def test_the_memory_of_classes_is_bounded(
    front: CustomFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that was answered longest ago is forgotten."""
    monkeypatch.setattr(asking_nodes, "MAX_CLASSES", 1)
    runs(front, prompt(front, "first"), front.instances[1])
    assert await answer(front, front.instances[1]) == 200
    other = {"7": {"class_type": "Painter", "inputs": {}}}
    runs(front, prompt(front, "second", "you", other), front.instances[0])
    front.gateway.asking.answered([front.instances[0]], {"7"})
    assert lacks(front, prompt(front, "third")) == [0, 0]
    assert lacks(front, prompt(front, "fourth", "you", other)) == [0, 1]
