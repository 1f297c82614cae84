"""gateway/custom/told.py: a graph that names what a route was told runs where it was told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from custom_front import CustomFront, custom_front
from manual_clock import ManualClock
from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.gateway.custom.told import MAX_AGE_S, MAX_WORDS, Told, lacking, may_be_id

CLASSES = NodeCatalog.from_json(
    {
        "LoadLayer": {
            "input": {
                "required": {"id": ["STRING", {}], "sampler": [["dpmpp_2m_sde_gpu"], {}]},
            }
        }
    }
)


@pytest.fixture
async def front() -> AsyncIterator[CustomFront]:
    async with custom_front() as made:
        yield made


def graph(**inputs: Any) -> dict[str, Any]:
    return {"1": {"class_type": "LoadLayer", "inputs": inputs}, "2": "no node", "3": {}}


def lacked(front: CustomFront, **inputs: Any) -> list[int]:
    """How many words each instance was not told."""
    told = front.gateway.told
    return [told_to_others(told, one, **inputs) for one in front.instances]


def told_to_others(told: Told, instance: Instance, **inputs: Any) -> int:
    return lacking(told.named_in(graph(**inputs)), instance, CLASSES)


async def test_what_was_posted_to_one_is_found_again_by_a_graph(front: CustomFront) -> None:
    """In the path, in the query or in the body."""
    await front.ask("POST", "/pack/layer/layer-1?mask=mask-2", json={"of": {"id": "text-3"}})
    assert front.one.paths
    for word in ("layer-1", "mask-2", "text-3"):
        assert lacked(front, id=word) == [0, 1]
        assert lacked(front, ids=[word, "other-4"]) == [0, 1]
    assert lacked(front, id="layer-9", image=["4", 0]) == [0, 0]


async def test_what_was_refused_was_not_told(front: CustomFront) -> None:
    front.one.status = 400
    await front.ask("POST", "/pack/layer/layer-1")
    assert lacked(front, id="layer-1") == [0, 0]


async def test_what_was_only_read_was_not_told(front: CustomFront) -> None:
    await front.ask("GET", "/pack/layer/layer-1")
    assert lacked(front, id="layer-1") == [0, 0]


async def test_what_all_were_told_is_no_reason(front: CustomFront) -> None:
    await front.ask("PUT", "/memory/layer-1", data=b"1")
    assert lacked(front, id="layer-1") == [0, 0]


async def test_one_that_was_away_was_not_told(front: CustomFront) -> None:
    one, two = front.instances
    front.away(one)
    await front.ask("PUT", "/memory/layer-1", data=b"1")
    assert lacked(front, id="layer-1") == [1, 0]
    front.away(two)
    assert lacked(front, id="layer-1") == [0, 0]  # whoever knows it cannot run it


async def test_one_that_restarts_has_forgotten(front: CustomFront) -> None:
    """What it alone was told is lost with it, or is on its disk: it stays the best guess."""
    one, _ = front.instances
    await front.ask("PUT", "/memory/layer-1", data=b"1")
    await front.ask("POST", "/pack/layer/layer-2")
    front.gateway.told.interrupted(one)
    assert lacked(front, id="layer-1") == [1, 0]
    assert lacked(front, id="layer-2") == [0, 1]


async def test_choices_are_no_ids(front: CustomFront) -> None:
    """A settings page that posts a sampler's name must not tie all prompts to one instance."""
    await front.ask("POST", "/pack/settings", json={"sampler": "dpmpp_2m_sde_gpu"})
    assert lacked(front, sampler="dpmpp_2m_sde_gpu") == [0, 0]
    assert lacked(front, id="dpmpp_2m_sde_gpu") == [0, 1]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("layer-1", True),
        ("a" * 16, True),
        ("image", False),
        ("512", False),
        ("1024", False),
        ("x1", False),
        ("sd15.safetensors", False),
        ("mask_1.png", True),
        ("5" * 16, True),
        ("x" * 300, False),
    ],
)
def test_what_may_be_an_id(word: str, expected: bool) -> None:
    assert may_be_id(word) is expected


async def test_what_is_told_is_bounded_and_grows_old() -> None:
    clock = ManualClock()
    one, two = (Instance(id=n, url=URL(f"http://h{n}:1"), clock=clock) for n in "12")
    told = Told(clock)
    for number in range(MAX_WORDS + 10):
        told.note([f"layer-{number}"], [one])
    assert len(told._told) == MAX_WORDS
    assert told_to_others(told, two, id="layer-1") == 0
    word = f"layer-{MAX_WORDS}"
    assert told_to_others(told, two, id=word) == 1
    await clock.advance(MAX_AGE_S + 1)
    assert told_to_others(told, two, id=word) == 0
