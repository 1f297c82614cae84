"""A long upload passes to the primary while it comes; who has not got all of it writes nothing."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import zlib
from collections.abc import AsyncIterator, Sequence

import aiohttp
import pytest
from files_front import Front, content_of, picture, running_front
from gateway_harness import Harness
from slow_upload import KIND, LONG, TAKEN, Primary, SlowUpload, begun, form_of, posted, takes

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.errors import UnavailableError
from comfy_proxy.gateway.files import upload_body
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.stored_bytes import StoredBytes

RED = picture("red")
X = FileName(filename="x.png", type="input")
Pair = tuple[EmbeddedWorker, EmbeddedWorker]


@pytest.fixture
async def front(workers: Pair) -> AsyncIterator[Front]:
    async with running_front(*workers) as front:
        yield front


async def test_the_primary_has_its_first_bytes_before_the_client_has_sent_the_last(
    harness: Harness, workers: Pair
) -> None:
    """And in the end all of them; they are kept here, and the other instance has them too."""
    primary, body = Primary(takes), form_of(LONG)
    address = await primary.start(harness)
    async with running_front(address, workers[1]) as front, SlowUpload(front, body) as client:
        await primary.begun.wait()
        assert await client.go_on() == (200, TAKEN)
        upload = front.gateway.files.uploads.get(X)
        assert upload is not None
        assert upload.content is not None
        assert await upload.content.read() == LONG
        assert content_of(workers[1], "input/x.png") == LONG
    assert primary.received == body


async def test_a_client_that_leaves_has_sent_no_form(
    harness: Harness,
    workers: Pair,
    monkeypatch: pytest.MonkeyPatch,
    spools: list[StoredBytes],
) -> None:
    """The primary's connection is cut before the form's end, and nothing of it is kept."""
    primary, body = Primary(takes), form_of(LONG, subfolder="a")
    address = await primary.start(harness)
    async with running_front(address, workers[1]) as front:
        uploads = begun(front, monkeypatch)
        async with SlowUpload(front, body):
            await primary.begun.wait()
        await asyncio.wait([uploads.get_nowait()])
        await primary.broken.wait()
        assert X not in front.gateway.files.uploads
        assert len(front.gateway.uploads.locks) == 0
    assert b"--b--" not in primary.received
    assert spools
    assert all(one.closed for one in spools)


async def test_a_client_that_leaves_has_written_nothing(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it has sent all but the last byte. The next upload is the first one."""
    uploads = begun(front, monkeypatch)
    async with SlowUpload(front, form_of(LONG)):
        upload = await uploads.get()
    await asyncio.wait([upload])
    assert await front.upload(RED) == TAKEN
    assert [worker.uploads for worker in front.workers] == [["input/x.png"]] * 2
    assert front.files("input/x.png") == [RED, RED]


async def test_a_slow_client_holds_up_nobody_of_its_name(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who pastes pictures always has the same name. The one that ends last is written last."""
    uploads = begun(front, monkeypatch)
    async with SlowUpload(front, form_of(LONG, overwrite="true")) as client:
        await uploads.get()
        assert await front.upload(RED, overwrite="true") == TAKEN
        assert front.files("input/x.png") == [RED, RED]
        assert await client.go_on() == (200, TAKEN)
    assert front.files("input/x.png") == [LONG, LONG]


async def test_a_slow_client_gets_the_name_that_is_free_in_the_end(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else has taken it meanwhile."""
    uploads = begun(front, monkeypatch)
    async with SlowUpload(front, form_of(LONG)) as client:
        await uploads.get()
        await front.upload(RED)
        assert (await client.go_on())[1]["name"] == "x (1).png"
    assert front.files("input/x.png") == [RED, RED]
    assert front.files("input/x (1).png") == [LONG, LONG]


@pytest.mark.parametrize(
    "body",
    [
        form_of(LONG, subfolder="../output"),
        form_of(LONG).replace(b'name="image"', b'name="other"'),
        form_of(LONG)[: -len(b"--b--\r\n")],
        bytes(2 * len(LONG)),
        b"--b\r\n\r\n" + LONG,
        b"--b--\r\n" + LONG,
    ],
)
async def test_a_form_with_an_error_is_refused_as_directly(front: Front, body: bytes) -> None:
    """ComfyUI's own refusal, whatever it is, and nothing is written."""
    status, text, _ = await posted(front, body)
    url = f"{front.workers[0].url}/upload/image"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=io.BytesIO(body), headers=KIND) as answer,
    ):
        assert (status, text) == (answer.status, await answer.read())
    assert status != 200
    assert [worker.uploads for worker in front.workers] == [[], []]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("length", [len(LONG) - 1, len(LONG)])
async def test_any_way_has_the_same_result(front: Front, length: int, chunked: bool) -> None:
    """A byte less than what passes, with its length or without: the fields after the file count."""
    rest = len(form_of(b"", subfolder="a/b", type="temp"))
    content = LONG[: length - rest]
    body = form_of(content, subfolder="a/b", type="temp")
    assert len(body) == length
    async with SlowUpload(front, body, chunked=chunked) as client:
        told = {"name": "x.png", "subfolder": "a/b", "type": "temp"}
        assert await client.go_on() == (200, told)
    assert front.files("temp/a/b/x.png") == [content, content]


@pytest.mark.parametrize(
    ("coding", "content", "sent"),
    [
        (b"base64", LONG[:1000], base64.b64encode(LONG[:1000])),
        (b"binary", LONG, LONG),
    ],
)
async def test_a_file_in_a_coding(front: Front, coding: bytes, content: bytes, sent: bytes) -> None:
    """What is in it is the file, here as at the instance."""
    header = b'"x.png"\r\nContent-Transfer-Encoding: ' + coding + b"\r\n"
    body = form_of(sent, type="temp").replace(b'"x.png"\r\n', header)
    status, _, _ = await posted(front, body)
    assert status == 200
    assert front.files("temp/x.png") == [content, content]
    upload = front.gateway.files.uploads.get(FileName(filename="x.png", type="temp"))
    assert upload is not None
    assert upload.digest == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("more", [b"", LONG])
async def test_a_short_file_beside_a_long_field(front: Front, more: bytes) -> None:
    """What is kept of it takes no more room than twice the file, or the bound would be none."""
    content = b"short" * 20_000
    body = form_of(content, type="temp", other=(2 * content + more).decode("latin-1"))
    assert (await posted(front, body))[0] == 200
    assert front.files("temp/x.png") == [content, content]
    upload = front.gateway.files.uploads.get(FileName(filename="x.png", type="temp"))
    assert upload is not None
    assert upload.content is not None
    assert await upload.content.read() == content
    assert upload.digest == hashlib.sha256(content).hexdigest()
    assert upload.content.on_disk == len(content)


async def test_a_short_file_that_cannot_be_copied_out(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The instance has taken it, and then our disk is full: it is kept where it is."""

    async def full(stored: StoredBytes) -> StoredBytes:
        raise UnavailableError("The body cannot be stored at the moment.")

    monkeypatch.setattr(upload_body, "_copied", full)
    assert (await posted(front, form_of(RED, other=LONG.decode("latin-1"))))[0] == 200
    assert front.files("input/x.png") == [RED, RED]


@pytest.mark.parametrize("packed", [zlib.compress(bytes(16 * 2**20)), b"is not compressed"])
async def test_compressed_parts_of_what_is_no_form_fill_no_disk(
    front: Front, packed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A MiB of them is a GiB of zeros. ComfyUI looks into no such body; its refusal is told."""
    sizes: list[int] = []
    append = StoredBytes._append

    def spy(self: StoredBytes, path: str, pieces: Sequence[bytes]) -> None:
        sizes.extend(map(len, pieces))
        append(self, path, pieces)

    monkeypatch.setattr(StoredBytes, "_append", spy)
    body = form_of(packed).replace(b'"x.png"\r\n', b'"x.png"\r\nContent-Encoding: deflate\r\n')
    status, _, _ = await posted(front, body, {"Content-Type": "multipart/mixed; boundary=b"})
    assert status == 400
    assert sum(sizes) <= len(body)
    assert [worker.uploads for worker in front.workers] == [[], []]
