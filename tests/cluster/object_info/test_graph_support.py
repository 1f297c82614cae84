"""cluster/object_info/graph_support.py: how much of a graph an instance lacks, known or asked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest
from manual_clock import settle
from object_info_harness import CATALOG, Setting, graph

from comfy_proxy.cluster.health_checker import HealthChecker
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.graph_support import (
    MAX_INPUTS,
    MAX_MODELS,
    MAX_NODES,
    OBJECT_INFO_TIMEOUT_S,
    UNKNOWN_LACK,
    GraphSupport,
)
from comfy_proxy.errors import InstanceUnreachableError

TWO_MISSING = {**graph("Loader", model_name="c.pth"), "2": {"class_type": "Nothing"}}


class Checks:
    """A health checker whose verdict is told."""

    def __init__(self) -> None:
        self.verdict = True
        self.checked: list[Instance] = []

    async def check(self, instance: Instance) -> bool:
        self.checked.append(instance)
        return self.verdict


@pytest.fixture
def checks() -> Checks:
    return Checks()


@pytest.fixture
def support(one: Setting, checks: Checks) -> GraphSupport:
    return GraphSupport(one.cache, cast(HealthChecker, checks), clock=one.clock)


async def test_one_that_was_never_asked_is_asked_after_a_check(
    one: Setting, support: GraphSupport, checks: Checks
) -> None:
    """Then it is known, and no check is made for the next prompt."""
    assert list(support.node_info(one.instance)) == []
    assert await support.lacks(TWO_MISSING, one.instance) == 2
    assert await support.lacks(graph("Invert"), one.instance) == 0
    assert support.node_info(one.instance) == CATALOG
    assert checks.checked == [one.instance]
    assert one.client.asked == ["*"]


async def test_those_that_say_the_same_are_looked_through_once(
    one: Setting, support: GraphSupport, checks: Checks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 300 each would cost as much; who is not known yet is asked, and nobody else."""
    assert await support.lacks_of(TWO_MISSING, one.instances) == dict.fromkeys(one.instances, 2)
    assert checks.checked == one.instances
    looked: list[Instance] = []
    look = one.cache.missing_for

    def counted(graph: Mapping[str, Any], instance: Instance) -> list[str] | None:
        looked.append(instance)
        return look(graph, instance)

    monkeypatch.setattr(one.cache, "missing_for", counted)
    found = await support.lacks_of(graph("Invert"), one.instances)
    assert found == dict.fromkeys(one.instances, 0)
    assert looked == one.instances[:1]
    one.cache.forget(one.instances[1])
    await support.lacks_of(graph("Invert"), one.instances)
    assert checks.checked == [*one.instances, one.instances[1]]


async def test_one_that_fails_its_check_is_not_asked(
    one: Setting, support: GraphSupport, checks: Checks
) -> None:
    """It is better than one that lacks something, and worse than one that lacks nothing."""
    checks.verdict = False
    assert await support.lacks(TWO_MISSING, one.instance) == UNKNOWN_LACK
    assert 0 < UNKNOWN_LACK < 1
    assert one.client.asked == []


async def test_one_that_does_not_tell_is_unknown(one: Setting, support: GraphSupport) -> None:
    """A prompt waits for seconds only; what comes later is there for the next one."""
    one.client.failure = InstanceUnreachableError("gone")
    assert await support.lacks(graph("Invert"), one.instance) == UNKNOWN_LACK
    one.client.failure = None
    one.client.gate.clear()
    waiting = asyncio.create_task(support.lacks(graph("Invert"), one.instance))
    await one.clock.advance(OBJECT_INFO_TIMEOUT_S)
    assert await waiting == UNKNOWN_LACK
    one.client.gate.set()
    await settle()
    assert support.node_info(one.instance) == CATALOG


def test_a_graph_beyond_the_limits_is_not_read(support: GraphSupport) -> None:
    """Reading it would hold up everybody, and what it names would be remembered."""
    nodes = {str(n): {"class_type": "X", "inputs": {}} for n in range(MAX_NODES + 1)}
    assert support.work(nodes) is None
    names = {str(n): f"m{n}.safetensors" for n in range(MAX_MODELS + 1)}
    models = {n: {"class_type": "X", "inputs": {"file": name}} for n, name in names.items()}
    assert support.work(models) is None
    del models["0"]
    work = support.work(models)
    assert work is not None
    assert len(work.models) == MAX_MODELS


def test_a_graph_with_too_many_inputs_is_not_read(support: GraphSupport) -> None:
    """In one node, in all of them together, or within an input that is an object."""
    texts = {str(n): "text" for n in range(MAX_INPUTS)}
    node = {"class_type": "X", "inputs": texts}
    assert support.work({"1": node}) is not None
    assert support.work({"1": node, "2": {"class_type": "X", "inputs": {"one": "more"}}}) is None
    assert support.work({"1": {"class_type": "X", "inputs": texts | {"more": "text"}}}) is None
    assert support.work({"1": {"class_type": "X", "inputs": {"loras": texts}}}) is None
    assert support.work({"1": {"class_type": "X", "inputs": ["odd"]}, "2": "odd"}) is not None
