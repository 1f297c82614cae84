"""gateway/state/shared_state.py: what users keep is the same whichever instance is up."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator

import pytest
from state_harness import FILE, StateRoom, eventually, state_room

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.gateway.state import shared_state as state_module


@pytest.fixture
async def room(workers: tuple[EmbeddedWorker, ...]) -> AsyncIterator[StateRoom]:
    async with state_room(*(worker.url for worker in workers)) as room:
        yield room


async def test_a_write_is_on_all_when_the_client_hears_of_it(room: StateRoom) -> None:
    """Settings and files reach every instance, and the client gets the primary's own answer."""
    assert await room.ask("POST", "/settings/Comfy.Theme", json="dark") == (200, b"")
    assert await room.ask("POST", "/api/settings", json={"a": 1}) == (200, b"")
    written = await room.ask("POST", FILE, data=b'{"nodes": []}')
    assert written == await room.direct(0, FILE, "POST", data=b'{"nodes": []}')
    for number in (0, 1):
        status, body = await room.direct(number, "/settings")
        assert (status, json.loads(body)) == (200, {"Comfy.Theme": "dark", "a": 1})
        assert await room.direct(number, FILE) == (200, b'{"nodes": []}')


async def test_moves_and_deletions_reach_all_too(room: StateRoom) -> None:
    """A file that was moved or deleted is so everywhere."""
    await room.ask("POST", FILE, data=b"1")
    await room.ask("POST", "/userdata/b", data=b"2")
    moved = await room.ask("POST", f"{FILE}/move/workflows%2Fc.json?overwrite=false")
    assert moved == (200, b'"workflows/c.json"')
    assert await room.ask("DELETE", "/userdata/b") == (204, b"")
    for number in (0, 1):
        assert await room.direct(number, "/userdata/workflows%2Fc.json") == (200, b"1")
        assert (await room.direct(number, FILE))[0] == 404
        assert (await room.direct(number, "/userdata/b"))[0] == 404


async def test_reads_are_the_primarys_answer(room: StateRoom) -> None:
    """Byte for byte, HEAD, ranges and errors included; the other one is not asked."""
    await room.direct(0, FILE, "POST", data=b"0123456789")
    await room.direct(1, FILE, "POST", data=b"other")
    assert await room.ask("GET", FILE) == (200, b"0123456789")
    assert await room.ask("GET", FILE, headers={"Range": "bytes=2-3"}) == (206, b"23")
    assert await room.ask("HEAD", FILE) == (200, b"")
    assert await room.ask("GET", "/userdata/none") == await room.direct(0, "/userdata/none")
    assert await room.ask("GET", "/userdata") == (400, b"Directory not provided")


async def test_what_the_primary_refuses_nobody_else_hears(room: StateRoom) -> None:
    """A conflict is the client's to solve: no instance gets the write."""
    await room.direct(0, FILE, "POST", data=b"mine")
    assert (await room.ask("POST", f"{FILE}?overwrite=false", data=b"x"))[0] == 409
    assert (await room.direct(1, FILE))[0] == 404


async def test_what_the_primary_accepts_is_forced_elsewhere(room: StateRoom) -> None:
    """``overwrite=false`` was satisfied by the primary: an old file on another one yields."""
    await room.direct(1, FILE, "POST", data=b"old")
    await room.ask("POST", f"{FILE}?overwrite=false&full_info=true", data=b"new")
    assert await room.direct(1, FILE) == (200, b"new")


async def test_one_that_was_down_is_brought_up_to_date_before_it_serves(
    room: StateRoom, workers: tuple[EmbeddedWorker, EmbeddedWorker]
) -> None:
    """A read that fails over to it sees every write that it had missed, also the deletions."""
    await room.ask("POST", "/userdata/gone", data=b"1")
    await workers[1].kill()
    room.lose(1)
    await room.ask("POST", "/settings/a", json=1)
    await room.ask("POST", "/settings/a", json=2)
    await room.ask("POST", FILE, data=b"while it was down")
    await room.ask("DELETE", "/userdata/gone")
    assert room.shared.missed(room.instances[1]) == 3
    await workers[1].start()
    await workers[0].kill()
    room.lose(0)
    room.regain(1, told=False)
    assert await room.ask("GET", FILE) == (200, b"while it was down")
    assert json.loads((await room.ask("GET", "/settings"))[1]) == {"a": 2}
    assert (await room.ask("GET", "/userdata/gone"))[0] == 404
    assert room.shared.missed(room.instances[1]) == 0


async def test_a_primary_that_returns_has_what_was_written_without_it(
    room: StateRoom, workers: tuple[EmbeddedWorker, EmbeddedWorker]
) -> None:
    """Writes go to the next one meanwhile; a health check brings the first up to date."""
    workers[0].refuse_connections()
    workers[0].drop_connections()
    assert (await room.ask("POST", FILE, data=b"at the second"))[0] == 200
    room.lose(0)
    assert await room.ask("GET", FILE) == (200, b"at the second")
    await workers[0].accept_connections()
    room.regain(0)
    await room.until_up_to_date()
    assert await room.direct(0, FILE) == (200, b"at the second")
    assert await room.ask("GET", FILE) == (200, b"at the second")


async def test_a_write_comes_after_those_that_were_missed(
    room: StateRoom, workers: tuple[EmbeddedWorker, EmbeddedWorker]
) -> None:
    """A primary that just returned gets the old writes first, then the new one."""
    await workers[0].kill()
    room.lose(0)
    await room.ask("POST", FILE, data=b"old")
    await workers[0].start()
    room.regain(0, told=False)
    assert (await room.ask("POST", FILE, data=b"new"))[0] == 200
    for number in (0, 1):
        assert await room.direct(number, FILE) == (200, b"new")


async def test_an_instance_that_cannot_be_brought_up_to_date_serves_nothing(
    room: StateRoom, workers: tuple[EmbeddedWorker, EmbeddedWorker]
) -> None:
    """The read goes on to one that has everything."""
    await workers[0].kill()
    room.lose(0)
    await room.ask("POST", FILE, data=b"new")
    room.regain(0, told=False)
    assert await room.ask("GET", FILE) == (200, b"new")


async def test_writes_keep_their_order_on_every_instance(room: StateRoom) -> None:
    """However many come at once, all instances end with the same."""
    await asyncio.gather(
        *(room.ask("POST", FILE, data=str(number).encode()) for number in range(20)),
        *(room.ask("POST", "/settings/a", json=number) for number in range(20)),
    )
    await room.until_up_to_date()
    assert await room.direct(0, FILE) == await room.direct(1, FILE)
    assert await room.direct(0, "/settings/a") == await room.direct(1, "/settings/a")


async def test_large_and_compressed_bodies_arrive_whole(room: StateRoom) -> None:
    """A body is sent several times from a file, as long as the client's (trap 20)."""
    large = bytes(range(256)) * 4096
    packed = {"data": gzip.compress(b"packed"), "headers": {"Content-Encoding": "gzip"}}
    assert (await room.ask("POST", FILE, data=large))[0] == 200
    assert (await room.ask("POST", "/userdata/packed", **packed))[0] == 200
    for number in (0, 1):
        assert await room.direct(number, FILE) == (200, large)
        assert await room.direct(number, "/userdata/packed") == (200, b"packed")


async def test_a_body_beyond_the_limit_is_refused(
    workers: tuple[EmbeddedWorker, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """413, as ComfyUI itself answers, and nothing is written."""
    monkeypatch.setattr(state_module, "SMALLEST_LIMIT", 10)
    async with state_room(*(worker.url for worker in workers), max_upload_size=10) as room:
        assert (await room.ask("POST", FILE, data=b"12345678901"))[0] == 413
        assert (await room.direct(0, FILE))[0] == 404


async def test_a_body_that_breaks_off_is_written_nowhere(room: StateRoom) -> None:
    """A client that leaves while it sends has written nothing, not half of it."""
    server = room.client.server
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(b"POST /userdata/a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1234")
    await writer.drain()
    await eventually(lambda: room.handlers)
    writer.close()
    await eventually(lambda: not room.handlers)
    assert await reader.read() == b""
    for number in (0, 1):
        assert (await room.direct(number, "/userdata/a"))[0] == 404


async def test_a_client_that_leaves_does_not_leave_half_a_write(
    room: StateRoom, workers: tuple[EmbeddedWorker, EmbeddedWorker]
) -> None:
    """What the primary has begun is done, and done everywhere."""
    workers[0].faults.hang = ("/userdata",)
    leaving = asyncio.create_task(room.ask("POST", FILE, data=b"x"))
    await eventually(lambda: workers[0].faults._waiters)
    leaving.cancel()
    await asyncio.wait([leaving])
    await eventually(lambda: not room.handlers)
    workers[0].faults.clear()
    await eventually(lambda: not room.shared._tasks)
    for number in (0, 1):
        assert await room.direct(number, FILE) == (200, b"x")


async def test_a_slow_instance_does_not_hold_up_the_client(
    room: StateRoom, workers: tuple[EmbeddedWorker, EmbeddedWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a moment the client has its answer; the other one gets the write when it can."""
    monkeypatch.setattr(state_module, "PATIENCE_S", 0.01)
    workers[1].faults.hang = ("/settings",)
    assert (await room.ask("POST", "/settings/a", json=1))[0] == 200
    assert room.shared.missed(room.instances[1]) == 1
    workers[1].faults.clear()
    await room.until_up_to_date()
    assert await room.direct(1, "/settings/a") == (200, b"1")


async def test_a_refusal_of_a_missed_write_does_not_stop_the_others(
    room: StateRoom, workers: tuple[EmbeddedWorker, EmbeddedWorker]
) -> None:
    """A file to be moved or deleted may never have been there, a disk may be full."""
    await room.direct(0, "/userdata/only-here", "POST", data=b"1")
    await room.ask("POST", "/userdata/only-here/move/there")
    workers[1].faults.answers["/userdata/there"] = "500"
    await room.ask("DELETE", "/userdata/there")
    await room.ask("POST", FILE, data=b"after")
    assert await room.direct(1, FILE) == (200, b"after")
    assert room.shared.missed(room.instances[1]) == 0
