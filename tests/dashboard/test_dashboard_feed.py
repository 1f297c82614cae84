"""The feed alone: when a picture is made, and who is sent which."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from job_client import until
from loguru import logger
from manual_clock import ManualClock
from viewer import PATH, Viewer, looking

from comfy_proxy.cluster.comfyui_frames import PictureFrame
from comfy_proxy.dashboard.feed import (
    LONGEST_INTERVAL_S,
    SHORTEST_INTERVAL_S,
    Feed,
)
from comfy_proxy.event_stream import WRITE_TIMEOUT_S


class Show:
    """What there is to see: each picture made is numbered, ``padding`` makes it large."""

    def __init__(self) -> None:
        self.made = 0
        self.padding = ""
        self.broken = False
        self.previews: dict[str, PictureFrame] = {}

    def state(self) -> dict[str, Any]:
        if self.broken:
            raise RuntimeError("broken")
        self.made += 1
        return {"number": self.made, "padding": self.padding}


@pytest.fixture
def show() -> Show:
    return Show()


@pytest.fixture
def feed(show: Show, clock: ManualClock) -> Feed:
    return Feed(show.state, lambda: show.previews, clock=clock)


@pytest.fixture
async def client(feed: Feed) -> AsyncIterator[TestClient[Any, Any]]:
    app = web.Application()
    app.router.add_get(PATH, feed.serve)
    server = TestServer(app, handler_cancellation=True)
    async with TestClient(server) as client:
        yield client
        await feed.close()


def frame(data: bytes) -> PictureFrame:
    return PictureFrame(media_type="image/jpeg", data=data)


async def left(feed: Feed) -> None:
    """Wait until nobody looks any more."""
    await until(lambda: not feed._viewers)


async def test_a_viewer_is_shown_the_state_at_once(client: Any, clock: ManualClock) -> None:
    """No time has to pass, and an EventSource is told to come back soon if it is cut off."""
    async with looking(client) as viewer:
        assert await viewer.next() == ("state", {"number": 1, "padding": ""})
        assert viewer.fields == {"retry": "1000"}


async def test_a_change_is_shown_at_once(client: Any, feed: Feed, clock: ManualClock) -> None:
    """After half a second of rest nobody waits for a clock to see what is new."""
    async with looking(client) as viewer:
        await viewer.state()
        await clock.advance(SHORTEST_INTERVAL_S)
        feed.changed()
        assert (await viewer.state())["number"] == 2


async def test_many_changes_are_shown_twice_a_second(
    client: Any, feed: Feed, show: Show, clock: ManualClock
) -> None:
    """A hundred changes a second for ten seconds: twenty pictures."""
    async with looking(client) as viewer:
        await viewer.state()
        for _ in range(1000):
            feed.changed()
            await clock.advance(0.01)
        assert show.made == pytest.approx(21, abs=1)


async def test_ages_go_on_without_any_change(client: Any, show: Show, clock: ManualClock) -> None:
    """Every few seconds a new picture, though nothing happens."""
    async with looking(client) as viewer:
        await viewer.state()
        await clock.advance(SHORTEST_INTERVAL_S + LONGEST_INTERVAL_S)
        assert (await viewer.state())["number"] == 2


async def test_nothing_is_made_while_nobody_looks(
    client: Any, feed: Feed, show: Show, clock: ManualClock
) -> None:
    """Not before the first viewer, not after the last one: no picture, no timer, no bytes kept."""
    for _ in range(10):
        feed.changed()
    await clock.advance(60)
    assert (show.made, feed._maker) == (0, None)
    show.previews["a"] = frame(b"a")
    async with looking(client) as viewer:
        await viewer.state()
    await left(feed)
    for _ in range(10):
        feed.changed()
        await clock.advance(60)
    assert (show.made, clock.waiting) == (1, 1)  # one that never ends: nobody waits for a time
    assert not feed._encoded
    async with looking(client) as viewer:
        assert (await viewer.state())["number"] == 2


async def test_one_picture_is_made_for_all_viewers(
    client: Any, feed: Feed, show: Show, clock: ManualClock
) -> None:
    """Ten pages cost the making of one."""
    async with looking(client) as one, looking(client) as two:
        await until(lambda: len(feed._viewers) == 2)
        await clock.advance(2 * SHORTEST_INTERVAL_S)
        before = show.made
        feed.changed()
        for viewer in (one, two):
            assert await viewer.until(lambda state: state["number"] > before)
        assert show.made == before + 1


async def test_previews_come_before_the_state_and_each_once(
    client: Any, feed: Feed, show: Show, clock: ManualClock
) -> None:
    """What is new of a job is sent; who comes later is sent what there is; what ended is not."""
    show.previews = {"a": frame(b"a1"), "b": frame(b"b1")}
    async with looking(client) as viewer:
        name, data = await viewer.next()
        assert (name, data) == (
            "preview", {"job_id": "a", "mime_type": "image/jpeg", "image_base64": "YTE="},
        )  # fmt: skip
        assert (await viewer.next())[1]["job_id"] == "b"
        assert (await viewer.next())[0] == "state"
        show.previews = {"a": frame(b"a2"), "b": show.previews["b"]}
        await clock.advance(SHORTEST_INTERVAL_S)
        feed.changed()
        assert (await viewer.next())[1]["image_base64"] == "YTI="
        assert (await viewer.next())[0] == "state"
        del show.previews["a"]
        await clock.advance(SHORTEST_INTERVAL_S)
        async with looking(client) as later:
            assert (await later.next())[1]["image_base64"] == "YjE="
            assert (await later.next())[0] == "state"
        assert (await viewer.next())[0] == "state"


@pytest.mark.long
async def test_a_slow_viewer_is_sent_the_newest_alone(
    client: Any, feed: Feed, show: Show, clock: ManualClock
) -> None:
    """While the first picture is on its way many are made; the second that it gets is the last."""
    show.padding = "x" * 32_000_000  # more than the sockets hold
    async with looking(client) as viewer:
        await until(lambda: show.made)
        show.padding = ""
        for _ in range(8):
            await clock.advance(SHORTEST_INTERVAL_S)
            feed.changed()
        await clock.advance(SHORTEST_INTERVAL_S)
        first, second = await viewer.state(), await viewer.state()
        assert (first["number"], len(first["padding"])) == (1, 32_000_000)
        assert second["number"] == show.made == 9


@pytest.mark.long
async def test_a_viewer_that_takes_nothing_is_let_go(
    client: Any, feed: Feed, show: Show, clock: ManualClock
) -> None:
    """After a minute its page is forgotten."""
    show.padding = "x" * 32_000_000
    async with looking(client):
        await until(lambda: show.made and clock.waiting == 2)
        assert len(feed._viewers) == 1
        await clock.advance(WRITE_TIMEOUT_S + 1)
        await left(feed)


async def test_the_end_of_the_proxy_ends_viewers(client: Any, feed: Feed) -> None:
    """Those who look, and whoever still comes by a connection that is open; no task is left."""
    async with looking(client) as viewer:
        await viewer.state()
        feed.end_viewers()
        assert await viewer.next() is None
    async with looking(client) as late:
        assert await late.next() is None
    await feed.close()
    assert "dashboard" not in {task.get_name() for task in asyncio.all_tasks()}


@pytest.mark.logs_faults
async def test_a_picture_that_cannot_be_made_is_not_the_end(
    client: Any, feed: Feed, show: Show, clock: ManualClock
) -> None:
    """The fault is logged, and the next change is shown."""
    lines: list[str] = []
    logger.add(lambda line: lines.append(str(line)), level="ERROR")
    show.broken = True
    async with looking(client) as viewer:
        await until(lambda: lines)
        assert "the dashboard could not be made" in lines[0]
        show.broken = False
        await clock.advance(SHORTEST_INTERVAL_S)
        feed.changed()
        assert (await viewer.state())["number"] == 1


async def test_who_comes_back_is_shown_the_state_at_once(
    client: Any, feed: Feed, clock: ManualClock
) -> None:
    """A viewer that left is forgotten, and its next connection begins anew."""
    for _ in range(2):
        response = await client.get(PATH)
        assert await Viewer(response).state()
        assert repr(feed) == "<Feed viewers=1>"
        response.close()
        await left(feed)
        await clock.advance(SHORTEST_INTERVAL_S)
