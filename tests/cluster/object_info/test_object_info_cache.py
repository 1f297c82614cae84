"""cluster/object_info/: asked rarely, shared by all who wait, never older than an upload."""

from __future__ import annotations

import asyncio
from unittest.mock import AsyncMock, patch

import pytest
from cluster_harness import make_instance
from large_object_info import large_object_info
from manual_clock import ManualClock, settle
from object_info_harness import CATALOG, Setting, graph, node_class

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.cache import (
    PATIENCE_FACTOR,
    REFRESH_S,
    STALE_S,
    UPLOADS_STALE_S,
    ObjectInfoCache,
)
from comfy_proxy.cluster.object_info.capabilities import Capabilities
from comfy_proxy.cluster.object_info.table_maker import Steps, TableMaker
from comfy_proxy.errors import InstanceUnreachableError, InvalidAnswerError
from comfy_proxy.json_listing import STEP_BYTES


async def test_all_who_want_it_share_one_request(one: Setting) -> None:
    """The document is asked for once, however many wait for it."""
    one.client.gate.clear()
    waiting = [asyncio.create_task(one.cache.of(one.instance)) for _ in range(5)]
    await settle()
    one.client.gate.set()
    assert [await task for task in waiting] == [CATALOG] * 5
    assert one.client.asked == ["*"]


async def test_one_who_leaves_does_not_end_the_request_of_the_others(one: Setting) -> None:
    """A cancelled caller takes only itself away."""
    one.client.gate.clear()
    first, second = (asyncio.create_task(one.cache.of(one.instance)) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    one.client.gate.set()
    assert await second == CATALOG
    assert first.cancelled()


async def test_a_failure_is_told_and_the_next_one_asks_again(one: Setting) -> None:
    """An instance that did not answer is not remembered as one without classes."""
    one.client.failure = InstanceUnreachableError("gone")
    with pytest.raises(InstanceUnreachableError):
        await one.cache.of(one.instance)
    assert one.cache.known(one.instance) is None
    one.client.failure = None
    assert await one.cache.of(one.instance) == CATALOG


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"A": 1}'])
async def test_what_is_no_document_is_the_instances_fault(one: Setting, body: bytes) -> None:
    """HTML of a login page never becomes an empty list of classes."""

    async def object_info() -> bytes:
        return body

    one.client.object_info = object_info  # type: ignore[method-assign]
    with pytest.raises(InvalidAnswerError):
        await one.cache.of(one.instance)


async def test_an_old_document_is_used_while_it_is_asked_anew(one: Setting) -> None:
    """Nobody waits for a refresh, and the one after sees what it brought."""
    await one.cache.of(one.instance)
    one.client.classes["New"] = node_class()
    await one.clock.advance(STALE_S + 1)
    assert "New" not in await one.cache.of(one.instance)
    await settle()
    assert "New" in await one.cache.of(one.instance)
    assert one.client.asked == ["*", "*"]


async def test_a_refresh_that_brings_the_same_keeps_the_same_object(one: Setting) -> None:
    """Unions made of the document stay valid, and nothing is parsed twice."""
    before = await one.cache.of(one.instance)
    await one.clock.advance(STALE_S + 1)
    await one.cache.of(one.instance)
    await settle()
    assert len(one.client.asked) == 2
    assert await one.cache.of(one.instance) is before


async def test_instances_that_answer_the_same_share_it(one: Setting) -> None:
    """It is read once and kept once, also where the answers come at the same moment."""
    first, second = await asyncio.gather(*map(one.cache.of, one.instances))
    assert first is second
    one.clients[one.instances[1]].classes["New"] = node_class()
    one.cache.forget(one.instances[1])
    other = await one.cache.of(one.instances[1])
    assert list(other) == [*first, "New"]


@pytest.mark.long
async def test_the_loop_has_its_turns_while_a_large_answer_is_read(one: Setting) -> None:
    """Hundreds of them, and no more work between two of them for two answers than for one."""
    bodies = {instance: large_object_info(n) for n, instance in enumerate(one.instances)}
    for instance, client in one.clients.items():
        client.object_info = AsyncMock(return_value=bodies[instance])  # type: ignore[method-assign]
    at_turn: list[int] = []
    step = TableMaker.steps

    def counted(maker: TableMaker) -> Steps:
        for size in step(maker):
            at_turn.append(turns)
            yield size

    turns = 0
    with patch.object(TableMaker, "steps", counted):
        reading = asyncio.gather(*map(one.cache.of, one.instances))
        while not reading.done():
            turns += 1
            await asyncio.sleep(0)
    assert len(at_turn) > len(bodies[one.instance]) / (2 * STEP_BYTES)
    assert len(set(at_turn)) == len(at_turn)
    assert [len(catalog) for catalog in await reading] == [6_000, 6_000]


async def test_an_instance_that_works_is_left_alone_for_longer(one: Setting) -> None:
    """A refresh stops its event loop: not in the middle of a picture, if it can wait."""
    await one.cache.of(one.instance)
    one.instance.prompts.observed(1)
    await one.clock.advance(REFRESH_S + 1)
    one.cache.heard(one.instance)
    await settle()
    assert one.client.asked == ["*"]
    await one.clock.advance(REFRESH_S * PATIENCE_FACTOR)
    one.cache.heard(one.instance)
    await settle()
    assert one.client.asked == ["*", "*"]


async def test_a_health_check_learns_and_refreshes_in_the_background(one: Setting) -> None:
    """What nobody has asked for yet is there when somebody does."""
    one.cache.heard(one.instance)
    await settle()
    assert one.cache.known(one.instance) == CATALOG
    one.cache.heard(one.instance)
    await one.clock.advance(REFRESH_S + 1)
    one.cache.heard(one.instance)
    await settle()
    assert one.client.asked == ["*", "*"]


async def test_an_instance_that_restarted_is_asked_again(one: Setting) -> None:
    """What comes back may have other nodes; an answer of its earlier life is not kept."""
    one.client.gate.clear()
    early = asyncio.create_task(one.cache.of(one.instance))
    await settle()
    one.cache.forget(one.instance)
    one.client.classes = {"Other": node_class()}
    late = asyncio.create_task(one.cache.of(one.instance))
    await settle()
    one.client.gate.set()
    assert await early == CATALOG
    assert list(await late) == ["Other"]
    assert list(one.cache.known(one.instance) or ()) == ["Other"]


async def test_after_an_upload_only_lists_of_files_are_asked_again(one: Setting) -> None:
    """The client that uploaded sees its file; the whole document is not asked for."""
    before = await one.cache.with_uploads(one.instance)
    one.client.classes["LoadImage"]["input"]["required"]["image"][0].append("two.png")
    assert await one.cache.with_uploads(one.instance) is before
    one.cache.uploads_changed()
    after = await one.cache.with_uploads(one.instance)
    assert after.choices("LoadImage", "image") == ("one.png", "two.png")
    assert after.get("Loader") is before.get("Loader")
    assert before.get("LoadImage") == CATALOG.get("LoadImage")
    assert one.client.asked == ["*", "LoadImage"]


async def test_an_upload_during_a_refresh_gets_one_of_its_own(one: Setting) -> None:
    """An answer that was on its way before the upload is not taken for one that knows it."""
    await one.cache.of(one.instance)
    one.cache.uploads_changed()
    one.client.gate.clear()
    early = asyncio.create_task(one.cache.with_uploads(one.instance))
    await settle()
    one.client.classes["LoadImage"]["input"]["required"]["image"][0].append("two.png")
    one.cache.uploads_changed()
    late = [asyncio.create_task(one.cache.with_uploads(one.instance)) for _ in range(3)]
    await settle()
    one.client.gate.set()
    await early
    for task in late:
        assert "two.png" in ((await task).choices("LoadImage", "image") or ())
    assert one.client.asked == ["*", "LoadImage", "LoadImage"]


async def test_an_upload_while_the_document_is_on_its_way_is_seen(one: Setting) -> None:
    """The first answer may have been written before the upload."""
    one.client.gate.clear()
    first = asyncio.create_task(one.cache.with_uploads(one.instance))
    await settle()
    one.client.classes["LoadImage"]["input"]["required"]["image"][0].append("two.png")
    one.cache.uploads_changed()
    one.client.gate.set()
    assert "two.png" in ((await first).choices("LoadImage", "image") or ())


async def test_files_put_there_by_hand_show_after_a_while(one: Setting) -> None:
    """No upload tells of them: the lists of files are never much older than a few seconds."""
    await one.cache.with_uploads(one.instance)
    one.client.classes["LoadImage"]["input"]["required"]["image"][0].append("hand.png")
    await one.clock.advance(UPLOADS_STALE_S + 1)
    after = await one.cache.with_uploads(one.instance)
    assert "hand.png" in (after.choices("LoadImage", "image") or ())


async def test_classes_can_be_asked_again_and_vanish(one: Setting) -> None:
    """A class that the instance no longer has is gone from its document."""
    capabilities = Capabilities(one.cache, classes=["Invert", "Loader"], clock=one.clock)
    await one.cache.of(one.instance)
    del one.client.classes["Invert"]
    capabilities.forget(one.instance)
    assert "Invert" not in await capabilities.get(one.instance)
    assert "Invert" not in (one.cache.known(one.instance) or ())
    assert one.client.asked == ["*", "Invert", "Loader"]


async def test_a_refresh_of_uploads_that_fails_keeps_what_is_known(one: Setting) -> None:
    """The error is told, the old document stays, and the upload is still looked for."""
    await one.cache.of(one.instance)
    one.cache.uploads_changed()
    one.client.failure = InstanceUnreachableError("gone")
    with pytest.raises(InstanceUnreachableError):
        await one.cache.with_uploads(one.instance)
    assert one.cache.known(one.instance) == CATALOG
    assert one.cache.lacks_uploads(one.instance)


async def test_missing_for_is_none_until_the_instance_is_known(one: Setting) -> None:
    """Not known is neither "can" nor "cannot"."""
    assert one.cache.missing_for(graph("Invert"), one.instance) is None
    await one.cache.of(one.instance)
    assert one.cache.missing_for(graph("Invert", image=["2", 0]), one.instance) == []
    assert one.cache.missing_for(graph("Nothing"), one.instance) == ["Nothing"]


def test_the_state_is_one_line(clock: ManualClock) -> None:
    """``repr`` tells how much is known of whom."""
    assert repr(ObjectInfoCache({}, clock=clock)) == "<ObjectInfoCache empty>"
    assert isinstance(make_instance(clock), Instance)
