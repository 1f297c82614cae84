"""Our jobs and clients' prompts share one cache of ``/object_info``: nothing is asked twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from manual_clock import settle
from object_info_harness import CATALOG, Setting, graph, node_class

from comfy_proxy.cluster.object_info.capabilities import (
    KEEP_LACK_S,
    KEEP_S,
    WHOLE_PATIENCE_S,
    Capabilities,
)
from comfy_proxy.errors import InstanceUnreachableError

OURS = ["Invert", "Loader"]


@pytest.fixture
def jobs(one: Setting) -> Capabilities:
    """The job API's questions to the cache."""
    return Capabilities(one.cache, classes=OURS, clock=one.clock)


async def test_jobs_use_the_whole_that_prompts_have_asked_for(
    one: Setting, jobs: Capabilities
) -> None:
    """Known classes are not asked for again; each health check looks whether they are known."""
    jobs.heard(one.instance)
    one.cache.heard(one.instance)
    await settle()
    assert await jobs.get(one.instance) is one.cache.known(one.instance)
    jobs.heard(one.instance)
    await settle()
    assert one.client.asked == ["*"]


async def test_without_prompts_only_single_classes_are_asked_for(
    one: Setting, jobs: Capabilities
) -> None:
    """What jobs have learnt is not taken for all classes that an instance has."""
    jobs.heard(one.instance)
    await settle()
    assert list(await jobs.get(one.instance)) == OURS
    assert one.cache.known(one.instance) is None
    assert one.cache.lacks_uploads(one.instance)
    assert one.cache.missing_for(graph("LoadImage"), one.instance) is None
    assert one.client.asked == OURS
    assert await one.cache.of(one.instance) == CATALOG
    assert one.client.asked == [*OURS, "*"]


async def test_a_whole_that_fails_or_lasts_holds_up_no_job(
    one: Setting, jobs: Capabilities
) -> None:
    """Single classes are asked for then: they may be answered all the same."""
    one.client.failure = InstanceUnreachableError("gone")
    one.client.gate.clear()
    one.cache.heard(one.instance)
    failing = asyncio.create_task(jobs.get(one.instance))
    await settle()
    assert one.client.asked == ["*"]
    one.client.gate.set()
    with pytest.raises(InstanceUnreachableError):
        await failing
    assert one.client.asked == ["*", *OURS]

    one.client.failure = None
    one.client.gate.clear()
    one.client.asked.clear()
    one.cache.heard(one.instance)
    waiting = asyncio.create_task(jobs.get(one.instance))
    await one.clock.advance(WHOLE_PATIENCE_S)
    assert one.client.asked == ["*", *OURS]
    one.client.gate.set()
    assert (await waiting).has_class("Invert")


async def test_what_jobs_ask_anew_is_news_for_prompts_too(one: Setting, jobs: Capabilities) -> None:
    """A model file that one of our jobs has learnt of is known for clients' prompts."""
    prompt = graph("Loader", model_name="new.pth")
    before = await one.cache.of(one.instance)
    assert one.cache.missing_for(prompt, one.instance) == ["Loader.model_name: new.pth"]
    one.client.classes["Loader"]["input"]["required"]["model_name"][0].append("new.pth")
    await one.clock.advance(KEEP_LACK_S + 1)
    await jobs.get(one.instance, newer_than_s=KEEP_LACK_S)
    assert one.cache.missing_for(prompt, one.instance) == []
    assert "new.pth" in (jobs.known(one.instance) or before).choices("Loader", "model_name")
    after = one.cache.known(one.instance)
    assert after is not None
    assert after.get("LoadImage") is before.get("LoadImage")
    await one.clock.advance(KEEP_S + 1)
    await jobs.get(one.instance)
    assert one.cache.known(one.instance) is after
    assert one.client.asked == ["*", *OURS, *OURS]


async def test_after_a_refusal_jobs_ask_anew_and_prompts_need_not(
    one: Setting, jobs: Capabilities
) -> None:
    """Nor is an answer believed that was on its way before; nothing costs a whole document."""
    await one.cache.of(one.instance)
    one.client.gate.clear()
    early = one.cache.questions.whole(one.instance)
    await settle()
    jobs.forget(one.instance)
    assert jobs.known(one.instance) is None
    assert one.cache.known(one.instance) == CATALOG
    asking = asyncio.create_task(jobs.get(one.instance))
    await settle()
    one.client.classes["Invert"] = node_class()
    one.client.gate.set()
    assert list(await asking) == OURS
    assert jobs.known(one.instance) is not None
    await early
    assert one.client.asked == ["*", "*", *OURS]


@pytest.mark.parametrize("kind", ["jobs", "prompts"])
async def test_what_comes_back_is_known_to_nobody(
    one: Setting, jobs: Capabilities, kind: str
) -> None:
    """An interruption forgets what was learnt, whoever has asked for it."""
    known: Any = await (jobs.get(one.instance) if kind == "jobs" else one.cache.of(one.instance))
    assert known
    one.cache.forget(one.instance)
    assert jobs.known(one.instance) is None
    assert one.cache.known(one.instance) is None
