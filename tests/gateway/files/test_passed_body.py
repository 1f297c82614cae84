"""What ends a form is held back from instances, wherever the client's bytes are cut."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from manual_clock import settle
from slow_upload import KIND, form_of

from comfy_proxy.errors import UnavailableError
from comfy_proxy.gateway.files.records import MAX_STORED_BYTES
from comfy_proxy.gateway.files.upload_body import PASSED_BYTES, PassedBody
from comfy_proxy.stored_bytes import BATCH_BYTES, StoredBytes

FORM = form_of(b"123", overwrite="1")
END = FORM.index(b"--b--")


class Client:
    """What it sends comes when the test says so."""

    def __init__(self) -> None:
        self._pieces = asyncio.Queue[bytes]()
        self._left = b""

    def send(self, piece: bytes) -> None:
        self._pieces.put_nowait(piece)

    def is_eof(self) -> bool:
        return False

    async def read(self, size: int) -> bytes:
        piece = self._left or await self._pieces.get()
        self._left = piece[size:]
        return piece[:size]


class Sender:
    """Reads what an instance is sent."""

    def __init__(self, body: PassedBody) -> None:
        self.sent = b""
        self._task = asyncio.create_task(self._send(body))

    async def _send(self, body: PassedBody) -> None:
        async for piece in body.chunks():
            self.sent += piece

    async def all(self) -> bytes:
        await self._task
        return self.sent


def body_from(client: Client, length: int) -> PassedBody:
    return PassedBody(cast(web.Request, SimpleNamespace(content=client)), b"b", length)


@pytest.mark.long
@pytest.mark.parametrize("epilogue", [b"", b"\r\n" * 100, b"--b--" * 3, b"x" * 100])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 50, 1000])
async def test_the_end_of_the_form_is_held_back(size: int, epilogue: bytes) -> None:
    """All before the last delimiter passes in the end, nothing of it or behind it; then the rest.
    A second sender begins at the beginning."""
    form = FORM + epilogue
    client = Client()
    body = body_from(client, len(form))
    receiving = asyncio.create_task(body.receive())
    first = Sender(body)
    for begin in range(0, len(form), size):
        client.send(form[begin : begin + size])
        await settle()
        came = begin + size
        assert first.sent == form[: min(max(came - len(b"-b--"), 0), END)]
    client.send(b"")
    await receiving
    second = Sender(body)
    await settle()
    assert first.sent == second.sent == form[:END]
    body.release()
    assert await first.all() == await second.all() == form
    assert [len(piece) async for piece in body.pieces()] == [len(form)]
    body.close()


async def test_a_body_that_never_ends_its_form() -> None:
    """As many bytes are held back as may belong to a delimiter."""
    client = Client()
    body = body_from(client, 100)
    client.send(bytes(100))
    client.send(b"")
    await body.receive()
    sender = Sender(body)
    await settle()
    assert sender.sent == bytes(96)
    body.release()
    assert await sender.all() == bytes(100)
    body.close()


async def test_who_follows_gets_each_byte_once_from_memory_and_from_the_disk() -> None:
    """Whoever begins later, and however much is written meanwhile."""
    client = Client()
    content = bytes(range(256)) * (5 * BATCH_BYTES // 256)
    body = body_from(client, len(content))
    receiving = asyncio.create_task(body.receive())
    senders = []
    for begin in range(0, len(content), 100_000):
        senders.append(Sender(body))
        client.send(content[begin : begin + 100_000])
        await settle()
    client.send(b"")
    await receiving
    body.release()
    assert all([await sender.all() == content for sender in senders])
    body.close()


async def test_a_temporary_file_that_was_cut() -> None:
    """Nobody waits for bytes that are gone, and nobody takes what is left for the whole."""
    client = Client()
    body = body_from(client, 10 * BATCH_BYTES)
    client.send(bytes(10 * BATCH_BYTES))
    client.send(b"")
    await body.receive()
    body.release()
    assert body._stored._path is not None
    os.truncate(body._stored._path, 0)
    with pytest.raises(UnavailableError):
        await Sender(body).all()
    body.close()


async def test_what_cannot_be_stored_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was stored is removed."""

    def full(self: StoredBytes, path: str, batch: bytes) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(StoredBytes, "_append", full)
    client = Client()
    body = body_from(client, 10 * BATCH_BYTES)
    client.send(bytes(10 * BATCH_BYTES))
    with pytest.raises(UnavailableError):
        await body.receive()
    with pytest.raises(FileNotFoundError):
        body._stored.open()


LONG_ENOUGH = {"Content-Length": str(PASSED_BYTES)}


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({}, True),
        ({"Content-Length": str(PASSED_BYTES - 1)}, False),
        ({"Content-Length": str(MAX_STORED_BYTES)}, True),
        ({"Content-Length": str(MAX_STORED_BYTES + 1)}, False),
        ({"Content-Encoding": "gzip"}, False),
        ({"Content-Type": 'Multipart/Form-Data; boundary="a b"'}, True),
        ({"Content-Type": "multipart/form-data"}, False),
        ({"Content-Type": "multipart/mixed; boundary=b"}, False),
        ({"Content-Type": "multipart/form-data; boundary=" + "b" * 70}, True),
        ({"Content-Type": "multipart/form-data; boundary=" + "b" * 71}, False),
        ({"Content-Type": "multipart/form-data; boundary=ä"}, False),
        ({"Content-Type": ""}, False),
    ],
)
async def test_which_bodies_pass_while_they_come(headers: dict[str, str], passes: bool) -> None:
    """Those of which it is known how long they are, and where their form ends."""
    sent: Any = KIND | LONG_ENOUGH | headers
    request = make_mocked_request("POST", "/upload/image", headers=sent)
    assert (PassedBody.of(request) is not None) is passes


async def test_a_body_of_unknown_length_does_not_pass() -> None:
    request = make_mocked_request("POST", "/upload/image", headers=KIND)
    assert PassedBody.of(request) is None
