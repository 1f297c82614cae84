"""What frames told of results is remembered whole, or not at all."""

from __future__ import annotations

import pytest
from manual_clock import ManualClock
from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.files import heard_outputs
from comfy_proxy.gateway.files.heard_outputs import HeardOutputs

OUTPUT = {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}


def instance(number: str = "1") -> Instance:
    return Instance(id=number, url=URL("http://localhost:8188"), clock=ManualClock())


@pytest.fixture
def heard() -> HeardOutputs:
    return HeardOutputs()


def test_all_nodes_and_the_end(heard: HeardOutputs) -> None:
    one = instance()
    heard.began("p", one)
    for node in ("3", "4"):
        heard.executed("p", node, OUTPUT, 10, one)
    heard.ended("p", {"timestamp": 7})
    found = heard.find("p", one)
    assert found is not None
    assert (found.outputs, found.ended_ms) == ({"3": OUTPUT, "4": OUTPUT}, 7)
    heard.forget("p")
    assert heard.find("p", one) is None


def test_one_that_was_not_heard_from_its_beginning_on(heard: HeardOutputs) -> None:
    """Nobody knows what was told before."""
    one = instance()
    heard.executed("p", "3", OUTPUT, 10, one)
    heard.ended("p", {"timestamp": 7})
    assert heard.find("p", one) is None


def test_a_break_while_it_runs(heard: HeardOutputs) -> None:
    """What was told meanwhile is missing; one that had ended was heard whole."""
    one, two = instance(), instance("2")
    for name, at in (("over", one), ("runs", one), ("elsewhere", two)):
        heard.began(name, at)
        heard.executed(name, "3", OUTPUT, 10, at)
    heard.ended("over", {"timestamp": 7})
    heard.interrupted(one)
    heard.executed("runs", "4", OUTPUT, 10, one)
    assert heard.find("over", one) is not None
    assert heard.find("runs", one) is None
    assert heard.find("elsewhere", two) is not None


def test_another_run_counts_alone(heard: HeardOutputs) -> None:
    one, two = instance(), instance("2")
    heard.began("p", one)
    heard.executed("p", "3", OUTPUT, 10, one)
    heard.began("p", two)
    heard.executed("p", "4", OUTPUT, 10, two)
    heard.executed("p", "3", OUTPUT, 10, one)
    assert heard.find("p", one) is None
    found = heard.find("p", two)
    assert found is not None
    assert list(found.outputs) == ["4"]


@pytest.mark.parametrize(("bound", "value"), [("MAX_PROMPTS", 1), ("MAX_BYTES", 15)])
def test_they_are_bounded(
    heard: HeardOutputs, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    """The first goes whole: what it tells later is not remembered alone."""
    monkeypatch.setattr(heard_outputs, bound, value)
    one = instance()
    for name in ("a", "b"):
        heard.began(name, one)
        heard.executed(name, "3", OUTPUT, 10, one)
    heard.executed("a", "4", OUTPUT, 1, one)
    assert heard.find("a", one) is None
    assert heard.find("b", one) is not None
    heard.forget("b")
    assert heard._bytes == 0
