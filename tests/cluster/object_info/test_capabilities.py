"""What an instance can run is asked once, for all who want to know, and again when it was away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from cluster_harness import eventually
from manual_clock import ManualClock

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.object_info.capabilities import KEEP_LACK_S, KEEP_S
from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.errors import InstanceError

CLASSES = ("ImageScaleBy", "SaveImage", "NoSuchNode", "EmptyImage", "LoadImage", "TimedPass")


@pytest.fixture
async def cluster(connected: Callable[..., Awaitable[Cluster]], worker: EmbeddedWorker) -> Cluster:
    return await connected(worker, classes=CLASSES)


def asked(cluster: Cluster) -> list[str]:
    """Every request to the instance from now on, by kind."""
    kinds: list[str] = []
    cluster.instances[0].observers.append(lambda attempt: kinds.append(attempt.kind))
    return kinds


@pytest.mark.parametrize(
    ("spec", "choices"),
    [
        ([["a.pth", "b.pth"], {"tooltip": "x"}], ("a.pth", "b.pth")),
        (["COMBO", {"options": ["a.pth"]}], ("a.pth",)),
        (["INT", {"default": 1}], None),
        (["COMBO"], None),
        ([], None),
        ("IMAGE", None),
    ],
)
def test_choices(spec: object, choices: object) -> None:
    """Both spellings of an enum in /object_info are understood; other inputs have no choices."""
    for group in ("required", "optional"):
        classes = {"Loader": {"input": {group: {"name": spec}}}}
        known = NodeCatalog.from_json(classes)
        assert known.choices("Loader", "name") == choices


def test_choices_of_the_unknown() -> None:
    """An unknown class or input, or a class without inputs, has no choices."""
    known = NodeCatalog.from_json({"A": {"input": None}, "B": {}})
    assert known.choices("A", "x") is known.choices("B", "x") is known.choices("C", "x") is None
    assert known.has_class("A")
    assert not known.has_class("C")


async def test_only_what_our_workflows_name(cluster: Cluster) -> None:
    """Each class of interest is asked for alone; what the instance lacks is not there."""
    kinds = asked(cluster)
    known = await cluster.capabilities.get(cluster.instances[0])
    assert set(CLASSES) - set(known) == {"NoSuchNode"}
    assert kinds == ["object_info"] * len(CLASSES)
    assert known.choices("ImageScaleBy", "upscale_method")


async def test_asked_once_for_all(cluster: Cluster) -> None:
    """Concurrent callers share one set of requests, later ones its result."""
    kinds = asked(cluster)
    instance = cluster.instances[0]
    answers = await asyncio.gather(*(cluster.capabilities.get(instance) for _ in range(5)))
    assert all(answer is cluster.capabilities.known(instance) for answer in answers)
    assert await cluster.capabilities.get(instance) is answers[0]
    assert len(kinds) == len(CLASSES)


async def test_asked_anew_when_old(cluster: Cluster, clock: ManualClock) -> None:
    """Knowledge expires: somebody may have added a model file."""
    instance = cluster.instances[0]
    first = await cluster.capabilities.get(instance)
    await clock.advance(KEEP_S + 1)
    assert cluster.capabilities.known(instance) is None
    assert await cluster.capabilities.get(instance) is not first


async def test_lack_is_believed_for_seconds_only(cluster: Cluster, clock: ManualClock) -> None:
    """ "Cannot run it" holds while it is fresh; "can" needs no proof."""
    instance = cluster.instances[0]

    def runs(known: NodeCatalog) -> bool:
        return known.has_class("NoSuchNode")

    assert not cluster.capabilities.lacks(instance, runs)
    first = await cluster.capabilities.get(instance)
    assert cluster.capabilities.lacks(instance, runs)
    assert not cluster.capabilities.lacks(instance, lambda known: known.has_class("SaveImage"))
    await clock.advance(KEEP_LACK_S + 1)
    assert not cluster.capabilities.lacks(instance, runs)
    assert await cluster.capabilities.get(instance, newer_than_s=KEEP_LACK_S) is not first


async def test_forgotten_when_away(cluster: Cluster) -> None:
    """After a lost socket or an outage the instance may be another installation."""
    instance = cluster.instances[0]
    await cluster.capabilities.get(instance)
    instance.socket_lost()
    assert cluster.capabilities.known(instance) is None


async def test_restart_while_asking(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """Answers begun before an interruption are not kept for those who come after it."""
    instance = cluster.instances[0]
    worker.faults.hang = ("/object_info",)
    old = asyncio.create_task(cluster.capabilities.get(instance))
    await eventually(lambda: worker.faults._waiters)
    instance.socket_lost()
    worker.faults.hang = ()
    await old
    assert cluster.capabilities.known(instance) is None


def questions(tasks: set[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    """Those of ``tasks`` that ask an instance for one class."""
    return [task for task in tasks if getattr(task.get_coro(), "__name__", "") == "one"]


async def test_failure_is_told_to_all_and_not_kept(
    cluster: Cluster, worker: EmbeddedWorker
) -> None:
    """One broken answer fails the question at once, leaves no request behind, and is asked anew."""
    instance = cluster.instances[0]
    before = asyncio.all_tasks()
    worker.faults.answers = {"/object_info/SaveImage": "html"}
    worker.faults.hang = ("/object_info/LoadImage",)
    results = await asyncio.gather(
        *(cluster.capabilities.get(instance) for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(result, InstanceError) for result in results)
    await eventually(lambda: not questions(asyncio.all_tasks() - before))
    worker.faults.clear()
    assert (await cluster.capabilities.get(instance)).has_class("SaveImage")


async def test_cancelled_caller_does_not_stop_the_others(
    cluster: Cluster, worker: EmbeddedWorker
) -> None:
    """The question belongs to all who wait for it."""
    instance = cluster.instances[0]
    worker.faults.hang = ("/object_info",)
    first, second = (asyncio.create_task(cluster.capabilities.get(instance)) for _ in range(2))
    await eventually(lambda: worker.faults._waiters)
    first.cancel()
    worker.faults.hang = ()
    assert (await second).has_class("SaveImage")
    assert first.cancelled()


async def test_close_in_mid_question(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """Closing ends the question, also one that was forgotten meanwhile."""
    instance = cluster.instances[0]
    worker.faults.hang = ("/object_info",)
    forgotten = asyncio.create_task(cluster.capabilities.get(instance))
    await eventually(lambda: worker.faults._waiters)
    cluster.capabilities.forget(instance)
    current = asyncio.create_task(cluster.capabilities.get(instance))
    await asyncio.sleep(0)
    await cluster.object_info.close()
    results = await asyncio.gather(forgotten, current, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2


async def test_nothing_of_interest(
    connected: Callable[..., Awaitable[Cluster]], worker: EmbeddedWorker
) -> None:
    """Without workflows nothing is asked."""
    cluster = await connected(worker)
    assert list(await cluster.capabilities.get(cluster.instances[0])) == []
