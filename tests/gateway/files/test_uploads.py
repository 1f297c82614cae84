"""An upload is on every instance, under the name that the client was told."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from collections.abc import AsyncIterator, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from files_front import Front, picture, running_front
from gateway_harness import Harness
from PIL import Image
from slow_upload import LONG

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.gateway.files import upload_body
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.gateway.files.records import Holdings, UploadRecords
from comfy_proxy.gateway.files.upload_body import UploadBody
from comfy_proxy.gateway.files.upload_form import UploadForm, read_form
from comfy_proxy.stored_bytes import StoredBytes

RED, BLUE = picture("red"), picture("blue")


@pytest.fixture
async def front(workers: tuple[EmbeddedWorker, EmbeddedWorker]) -> AsyncIterator[Front]:
    async with running_front(*workers) as front:
        yield front


@pytest.mark.parametrize(
    ("fields", "folder"),
    [
        ({}, "input"),
        ({"subfolder": "a/b"}, "input/a/b"),
        ({"subfolder": "clipspace", "overwrite": "true"}, "input/clipspace"),
        ({"type": "temp"}, "temp"),
        ({"type": "output", "subfolder": "x"}, "output/x"),
    ],
)
async def test_an_upload_is_on_both(front: Front, fields: dict[str, str], folder: str) -> None:
    """The answer is ComfyUI's, and when it comes the file is everywhere, to be viewed too."""
    answer = await front.upload(RED, **fields)
    kind, subfolder = fields.get("type", "input"), fields.get("subfolder", "")
    assert answer == {"name": "x.png", "subfolder": subfolder, "type": kind}
    assert front.files(f"{folder}/x.png") == [RED, RED]
    assert await front.view("x.png", subfolder, kind) == (200, RED)


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        *("ä ö.png", "名.png", "50%25.png", "a+b.png", "a;b.png", 'q"q.png', "it's.png"),
        *("a..b.png", "x [temp] y.png", "no_ending", "a&b=c#d?.png"),
    ],
)
async def test_odd_names(front: Front, name: str) -> None:
    """Every name that ComfyUI takes is the same name everywhere."""
    answer = await front.upload(RED, name)
    assert front.files(f"input/{answer['name']}") == [RED, RED]


async def test_a_taken_name(front: Front) -> None:
    """Other bytes under a taken name get the primary's next free name, on both."""
    assert (await front.upload(RED))["name"] == "x.png"
    assert (await front.upload(BLUE))["name"] == "x (1).png"
    assert (await front.upload(BLUE))["name"] == "x (1).png"
    assert front.files("input/x.png") == [RED, RED]
    assert front.files("input/x (1).png") == [BLUE, BLUE]


async def test_a_name_taken_on_one_alone(front: Front) -> None:
    """The primary decides: what only it has gives a new name, what it lacks is overwritten."""
    front.write(1, "input/x.png", RED)
    front.write(2, "input/x (1).png", RED)
    assert (await front.upload(BLUE))["name"] == "x (1).png"
    assert front.files("input/x (1).png") == [BLUE, BLUE]
    assert front.files("input/x.png") == [RED, None]


async def test_overwrite(front: Front) -> None:
    """The newest bytes are on both."""
    await front.upload(RED)
    assert (await front.upload(BLUE, overwrite="true"))["name"] == "x.png"
    assert front.files("input/x.png") == [BLUE, BLUE]


async def test_a_repeated_upload_writes_nothing(front: Front) -> None:
    """The same bytes again are not written over: a prompt may be reading the file just now."""
    front.write(2, "input/x.png", RED)
    await front.upload(RED)
    await front.upload(RED)
    assert front.workers[1].uploads == []
    assert front.workers[0].uploads == ["input/x.png"] * 2


async def test_other_bytes_of_the_same_length(front: Front) -> None:
    """A file on another instance is overwritten though it looks the same from outside."""
    front.write(2, "input/x.png", b"abc")
    await front.upload(b"xyz")
    assert front.files("input/x.png") == [b"xyz", b"xyz"]


@pytest.mark.parametrize("more", [b"", LONG])
async def test_one_name_after_the_other(harness: Harness, more: bytes) -> None:
    """Names that may collide reach the primary one by one, others do not wait for them. So do
    those that are long enough to pass while they come."""
    arrived: asyncio.Queue[str] = asyncio.Queue()
    may_answer = asyncio.Event()

    async def primary(request: web.Request) -> web.Response:
        form = await request.post()
        image = form["image"]
        assert isinstance(image, web.FileField)
        image.file.close()
        arrived.put_nowait(image.filename)
        if image.filename == "x.png":
            await may_answer.wait()
        return web.json_response({"name": image.filename, "subfolder": "", "type": "input"})

    async def other(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=404)

    fakes = [_Fake(await harness.upstream(handler)) for handler in (primary, other)]
    async with running_front(*fakes) as front:
        first = asyncio.create_task(front.upload(RED + more))
        assert await arrived.get() == "x.png"
        second = asyncio.create_task(front.upload(BLUE + more, "x (1).png"))
        await front.upload(BLUE + more, "y.png")
        await front.upload(BLUE + more, "z.png")
        assert [arrived.get_nowait(), arrived.get_nowait()] == ["y.png", "z.png"]
        assert arrived.empty()
        may_answer.set()
        await asyncio.gather(first, second)
        assert arrived.get_nowait() == "x (1).png"


@pytest.mark.long
@pytest.mark.parametrize("step", [40_000, 200_000])  # all received first; some pass as they come
async def test_uploads_of_one_name_at_once(front: Front, step: int) -> None:
    """Twelve clients overwrite one name: both instances end with the same bytes, one of theirs."""
    contents = [bytes([number]) * (step * number) for number in range(1, 13)]
    await asyncio.gather(*(front.upload(content, overwrite="true") for content in contents))
    one, two = front.files("input/x.png")
    assert one == two
    assert one in contents


@pytest.mark.long
@pytest.mark.parametrize("size", [1000, 1_200_000])
async def test_collisions_at_once(front: Front, size: int) -> None:
    """Twelve different pictures of one name get twelve names, each with its own bytes on both."""
    contents = [bytes([number]) * size for number in range(12)]
    answers = await asyncio.gather(*(front.upload(content) for content in contents))
    assert len({answer["name"] for answer in answers}) == 12
    for answer, content in zip(answers, contents, strict=True):
        assert front.files(f"input/{answer['name']}") == [content, content]


async def test_a_large_upload(front: Front) -> None:
    """Megabytes go through temporary files, byte for byte."""
    content = bytes(range(256)) * 20_000
    await front.upload(content)
    assert front.files("input/x.png") == [content, content]


async def test_an_upload_beyond_what_is_kept(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body larger than the limit is passed on as it comes, and copied all the same."""
    monkeypatch.setattr(upload_body, "MAX_STORED_BYTES", 100_000)
    content = bytes(range(256)) * 4_000
    await front.upload(content)
    assert front.files("input/x.png") == [content, content]


@pytest.mark.parametrize("kept", [0, 10])
async def test_bytes_that_were_crowded_out(
    workers: tuple[EmbeddedWorker, EmbeddedWorker], kept: int
) -> None:
    """Without its bytes an upload is copied from the instance that took it, the newest too."""
    async with running_front(*workers) as front:
        front.gateway.files.uploads = UploadRecords(max_bytes=kept)
        await front.upload(RED)
        await front.upload(BLUE, overwrite="1")
        assert front.files("input/x.png") == [BLUE, BLUE]


async def test_a_compressed_body(front: Front) -> None:
    """A gzip body arrives as what is in it."""
    boundary = "b0undary"
    disposition = b'Content-Disposition: form-data; name="image"; filename="x.png"'
    form = b"--b0undary\r\n" + disposition + b"\r\n\r\n" + RED + b"\r\n--b0undary--\r\n"
    headers = {
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "Content-Encoding": "gzip",
    }
    async with front.client.post(
        "/api/upload/image", data=gzip.compress(form), headers=headers
    ) as answer:
        assert answer.status == 200
    assert front.files("input/x.png") == [RED, RED]


@pytest.mark.parametrize("body", [b"", b"{}", b"--b\r\n\r\n", b"--b--\r\n"])
async def test_what_is_no_form(front: Front, body: bytes) -> None:
    """ComfyUI's own refusal, whatever it is, and nothing is saved."""
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with front.client.post("/upload/image", data=body, headers=headers) as answer:
        through = answer.status, await answer.read()
    url = f"{front.workers[0].url}/upload/image"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=body, headers=headers) as answer,
    ):
        assert through == (answer.status, await answer.read())
    assert [worker.uploads for worker in front.workers] == [[], []]


@pytest.mark.parametrize("subfolder", ["..", "../output", "/etc", "a/../../b"])
async def test_an_upload_that_climbs_is_refused(front: Front, subfolder: str) -> None:
    """ComfyUI's 400 is the client's, and no other instance is asked."""
    form = aiohttp.FormData()
    form.add_field("image", RED, filename="x.png")
    form.add_field("subfolder", subfolder)
    async with front.client.post("/upload/image", data=form) as answer:
        assert (answer.status, await answer.read()) == (400, b"")
    assert [worker.uploads for worker in front.workers] == [[], []]


async def test_a_refusal_is_forwarded(harness: Harness) -> None:
    """413 with ComfyUI's headers and body, and nothing for the others."""
    asked: list[str] = []

    async def refuse(request: web.Request) -> web.Response:
        asked.append(request.path)
        await request.read()
        return web.Response(status=413, reason="Too Large", text="100 MB", headers={"X-Own": "1"})

    fakes = [_Fake(await harness.upstream(refuse)) for _ in "12"]
    async with (
        running_front(*fakes) as front,
        front.client.post("/upload/image", data={"image": io.BytesIO(RED)}) as answer,
    ):
        assert (answer.status, answer.reason) == (413, "Too Large")
        assert (await answer.text(), answer.headers["X-Own"]) == ("100 MB", "1")
    assert asked == ["/upload/image"]


class _Fake:
    def __init__(self, url: object) -> None:
        self.url = str(url)


async def test_a_primary_that_cannot_be_reached_is_passed_over(front: Front) -> None:
    """Within the same request the next one takes it."""
    await front.workers[0].kill()
    await front.upload(RED)
    assert front.files("input/x.png") == [None, RED]


async def test_a_copy_that_fails(front: Front) -> None:
    """An instance with a full disk goes without, and the upload succeeds."""
    front.workers[1].faults.disk_full = True
    assert (await front.upload(RED))["name"] == "x.png"
    assert front.files("input/x.png") == [RED, None]
    file, (_, second) = FileName(filename="x.png", type="input"), front.instances
    assert not front.gateway.files.known_to_hold(file, second)
    front.workers[1].faults.disk_full = False
    await front.gateway.staging.stage(file, second)
    assert front.files("input/x.png") == [RED, RED]


async def test_the_newest_upload_is_viewed_from_one_that_missed_it(front: Front) -> None:
    """A primary that was away shows the new bytes, not its old ones."""
    await front.upload(RED)
    await front.take_away(1)
    await front.upload(BLUE, overwrite="true")
    await front.bring_back(1)
    assert front.files("input/x.png") == [RED, BLUE]
    assert await front.view(type="input") == (200, BLUE)
    assert front.files("input/x.png") == [BLUE, BLUE]


async def test_a_client_that_leaves(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was to be uploaded is brought to all though nobody waits any more."""
    uploads = front.gateway.uploads
    begin, begun = uploads.begin, asyncio.get_running_loop().create_future()

    def spy(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = begin(work)
        if not begun.done():  # else it is a copy to another instance
            begun.set_result(task)
        return task

    monkeypatch.setattr(uploads, "begin", spy)
    form = UploadForm(image=None, filename="x.png", subfolder="", type="input", original_ref="")
    async with uploads.locks(form.family):
        waiting = asyncio.create_task(front.upload(RED))
        work = await begun
        waiting.cancel()
        await asyncio.wait([waiting])
    await work
    assert front.files("input/x.png") == [RED, RED]


async def test_shared_storage_copies_nothing(
    workers: tuple[EmbeddedWorker, EmbeddedWorker],
) -> None:
    """The primary takes it, and that is all; what is not said to be shared is copied."""
    async with running_front(*workers, shared_storage=frozenset({"input"})) as front:
        await front.upload(RED)
        assert front.files("input/x.png") == [RED, None]
        await front.upload(RED, type="temp")
        assert front.files("temp/x.png") == [RED, RED]


# --- masks ----------------------------------------------------------------------------------


def mask() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 77)).save(buffer, "PNG")
    return buffer.getvalue()


def composed(content: bytes | None) -> tuple[int, ...]:
    assert content is not None
    with Image.open(io.BytesIO(content)) as image:
        pixel = image.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel


MASKED_RED, MASKED_BLUE = (255, 0, 0, 77), (0, 0, 255, 77)


@pytest.mark.parametrize("number", [1, 2])
async def test_a_mask_for_a_picture_on_one_disk(front: Front, number: int) -> None:
    """The mask is composed with the original, whoever has it, and the result is on both."""
    front.write(number, "input/o.png", RED)
    reference = json.dumps({"filename": "o.png", "type": "input", "subfolder": ""})
    answer = await front.upload(
        mask(), "m.png", route="mask", original_ref=reference, subfolder="clipspace"
    )
    assert answer == {"name": "m.png", "subfolder": "clipspace", "type": "input"}
    one, two = front.files("input/clipspace/m.png")
    assert one == two
    assert composed(one) == MASKED_RED


@pytest.mark.parametrize(("number", "pixel"), [(1, MASKED_RED), (2, MASKED_BLUE)])
@pytest.mark.parametrize("annotated", [False, True])
async def test_a_mask_for_a_marked_result(
    front: Front, number: int, pixel: tuple[int, ...], annotated: bool
) -> None:
    """The original is the marked one, not its namesake."""
    front.write(1, "output/o.png", RED)
    front.write(2, "output/o.png", BLUE)
    reference = (
        {"filename": f"@{number}/o.png [output]"}
        if annotated
        else {"filename": "o.png", "type": "output", "subfolder": f"@{number}"}
    )
    await front.upload(mask(), "m.png", route="mask", original_ref=json.dumps(reference))
    one, two = front.files("input/m.png")
    assert one == two
    assert composed(one) == pixel


async def test_a_mask_for_a_bare_result(front: Front) -> None:
    """Without a mark the one who made it last composes it."""
    front.write(1, "output/o.png", RED)
    front.write(2, "output/o.png", BLUE)
    front.gateway.files.makers.record(FileName(filename="o.png"), front.instances[1], is_sure=False)
    reference = json.dumps({"filename": "o.png", "type": "output"})
    await front.upload(mask(), "m.png", route="mask", original_ref=reference)
    assert [composed(content) for content in front.files("input/m.png")] == [MASKED_BLUE] * 2


async def test_a_mask_for_an_upload(front: Front) -> None:
    """The usual way of the mask editor: an upload, then its mask under a new name."""
    await front.upload(RED, "o.png", subfolder="clipspace")
    reference = json.dumps({"filename": "o.png", "subfolder": "clipspace", "type": "input"})
    await front.upload(mask(), "m.png", route="mask", original_ref=reference)
    assert [composed(content) for content in front.files("input/m.png")] == [MASKED_RED] * 2


@pytest.mark.parametrize("reference", ['{"filename": "none.png"}', '{"filename": "../o.png"}'])
async def test_a_mask_for_nothing(front: Front, reference: str) -> None:
    """200 and no file, as a direct request (trap 19)."""
    answer = await front.upload(mask(), "m.png", route="mask", original_ref=reference)
    assert answer["name"] == "m.png"
    assert front.files("input/m.png") == [None, None]


# --- what is kept ---------------------------------------------------------------------------


async def stored(content: bytes) -> StoredBytes:
    result = StoredBytes()
    await result.write(content)
    return await result.finish()


async def test_uploads_are_bounded() -> None:
    """By bytes and by count the bytes go first, the record of the hash stays."""
    uploads = UploadRecords(max_files=2, max_bytes=10, max_records=3)
    names = [FileName(filename=str(number), type="input") for number in range(4)]
    contents = [await stored(b"12345") for _ in names]
    for name, content in zip(names[:3], contents, strict=False):
        uploads.keep(name, content)
    first = uploads.get(names[0])
    assert first is not None
    assert (first.content, first.digest) == (None, contents[0].digest)
    with pytest.raises(FileNotFoundError):
        contents[0].open()
    uploads.keep(names[3], contents[3])
    assert (names[1] in uploads, names[0] in uploads) == (False, True)
    assert repr(uploads) == "<Uploads 3 names, 2 stored: 10 B>"
    uploads.close()
    assert repr(uploads) == "<Uploads 3 names, 0 stored: 0 B>"


async def test_temporary_files_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large contents are on disk until they are closed; who reads already reads on."""
    content = b"ab" * 100_000
    large = await stored(content)
    assert repr(large) == "<StoredBytes 200000 bytes, disk>"
    assert repr(await stored(b"a")) == "<StoredBytes 1 bytes, memory>"
    with large.open() as reader:
        large.close()
        assert reader.read() == content
    with pytest.raises(FileNotFoundError):
        large.open()


def test_what_was_learnt_before_an_outage_counts_for_nothing(front: Front) -> None:
    """Knowledge from before an interruption is not noted after it."""
    holdings, instance = Holdings(limit=1), front.instances[0]
    one, two = (FileName(filename=name, type="input") for name in "ab")
    life = holdings.life(instance)
    holdings.note(instance, one, "v", life=life)
    assert holdings.version(instance, one) == "v"
    holdings.note(instance, two, "v", life=life)
    assert holdings.version(instance, one) is None
    holdings.forget(instance)
    holdings.note(instance, one, "v", life=life)
    assert holdings.version(instance, one) is None
    assert holdings.version(instance, two) is None


@pytest.mark.parametrize(
    ("name", "other", "same"),
    [
        *(("x.png", "x (1).png", True), ("x (2) (1).png", "X.png", True), ("x", "x (3)", True)),
        *(("x.png", "y.png", False), ("x.png", "x.jpg", False), ("a (1)b.png", "ab.png", False)),
    ],
)
def test_families_of_names(name: str, other: str, same: bool) -> None:
    """Names that ComfyUI might make of each other are uploaded one after the other."""
    forms = [
        UploadForm(image=None, filename=n, subfolder="./a/", type="input", original_ref="")
        for n in (name, other)
    ]
    assert (forms[0].family == forms[1].family) is same


@pytest.mark.parametrize("route", ["image", "mask"])
async def test_what_is_not_kept_is_closed(
    front: Front, spools: list[StoredBytes], route: str
) -> None:
    """Of a refused upload, and of a mask's own picture, no temporary file is left."""
    form = aiohttp.FormData()
    form.add_field("image", bytes(200_000), filename="x.png")
    form.add_field("subfolder", "../..")
    form.add_field("original_ref", '{"filename": "none.png"}')
    async with front.client.post(f"/upload/{route}", data=form) as answer:
        assert answer.status == 400
    assert spools
    assert all(repr(one).endswith(" bytes, closed>") for one in spools)


class CompressingInstance:
    """Takes uploads, and compresses its answers for whoever accepts that."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path != "/upload/image":
            return web.Response(status=404)
        form = await request.post()
        image = form["image"]
        assert isinstance(image, web.FileField)
        self.files[image.filename] = image.file.read()
        answer = web.json_response({"name": image.filename, "subfolder": "", "type": "input"})
        answer.enable_compression()
        return answer


async def test_an_overwritten_input_is_spread_though_instances_compress(harness: Harness) -> None:
    """Whatever codings the client accepts, the answer tells us which name has new bytes."""
    instances = [CompressingInstance(), CompressingInstance()]
    urls = [str(await harness.upstream(one.handle)) for one in instances]
    workers = [SimpleNamespace(url=url) for url in urls]
    async with running_front(*workers) as front:  # type: ignore[arg-type]
        for content in (RED, BLUE):
            form = aiohttp.FormData({"overwrite": "true"})
            form.add_field("image", content, filename="x.png")
            headers = {"Accept-Encoding": "gzip, deflate"}
            async with front.client.post("/upload/image", data=form, headers=headers) as answer:
                assert json.loads(await answer.read())["name"] == "x.png"
            assert [one.files for one in instances] == [{"x.png": content}] * 2


async def test_a_field_in_a_charset_that_takes_hours_is_not_read() -> None:
    """The form ends before it, as before one that is broken."""
    slow = b"Content-Type: text/plain; charset=punycode\r\n"
    head = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n%s\r\n'
    text = head % (b"type", b"") + b"temp\r\n"
    text += head % (b"subfolder", slow) + b"abc-\r\n--x--\r\n"
    body = SimpleNamespace(pieces=(await stored(text)).chunks)
    form = await read_form(cast(UploadBody, body), "multipart/form-data; boundary=x")
    assert (form.type, form.subfolder) == ("temp", "")
