"""Requests as clients really send them, over a loopback socket, and what is made of them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import struct
import tempfile
import zlib
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import FormData, web
from aiohttp.test_utils import TestClient
from PIL import Image

from comfy_proxy import json_strings
from comfy_proxy.clock import SystemClock
from comfy_proxy.errors import ComfyProxyError
from comfy_proxy.jobs.requests.input_urls import InputUrls
from comfy_proxy.jobs.requests.intake import read_job_request
from comfy_proxy.jobs.requests.job_request import JobRequest
from comfy_proxy.jobs.workflows.directory import load_workflows
from comfy_proxy.stored_bytes import StoredBytes

LIMIT = 3_000_000  # over aiohttp's client_max_size of 1 MiB, which the host application keeps


def png(width: int = 20, height: int = 10) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((width, height), 90).convert("RGB").save(out, "PNG")
    return out.getvalue()


PNG = png()
BIG_PNG = png(800, 800)  # noise: does not compress, so the picture goes to disk


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


class Server:
    """One handler that reads a job request; it records what came of it."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.executor = executor
        self.limit = LIMIT
        self.urls = InputUrls((), SystemClock())
        self.requests: list[JobRequest] = []
        self.errors: list[BaseException] = []
        self.started = asyncio.Event()
        self.ended = asyncio.Event()

    async def handle(self, request: web.Request) -> web.Response:
        workflow = load_workflows(None).get(request.match_info["name"])
        self.started.set()
        try:
            job = await read_job_request(
                request,
                workflow,
                max_upload_size=self.limit,
                executor=self.executor,
                urls=self.urls,
            )
        except ComfyProxyError as error:
            self.errors.append(error)
            body = {"error": error.message, "code": error.code, "details": error.details}
            return web.json_response(body, status=error.status)
        except BaseException as error:
            self.errors.append(error)
            raise
        finally:
            self.ended.set()
        self.requests.append(job)
        return web.json_response({"size": job.size, "parameters": job.parameters})

    @property
    def job(self) -> JobRequest:
        return self.requests[-1]


@pytest.fixture
def spools(
    spools: list[StoredBytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[list[StoredBytes]]:
    """Every spool that was made; their files are made in ``tmp_path``."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield spools
    for spool in spools:
        spool.close()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def server(spools: list[StoredBytes]) -> Iterator[Server]:
    """What the loopback server does and saw."""
    with ThreadPoolExecutor(2) as executor:
        yield Server(executor)


@pytest.fixture
async def client(server: Server, aiohttp_client: Any) -> TestClient[Any, Any]:
    """A client of a host application with aiohttp's default limits."""
    app = web.Application()
    app.router.add_post("/{name}", server.handle)
    made: TestClient[Any, Any] = await aiohttp_client(app)
    return made


def files_in(directory: Path | str) -> list[str]:
    return [os.path.join(directory, name) for name in os.listdir(directory)]


def sizes_in(directory: Path) -> list[int]:
    return [os.path.getsize(path) for path in files_in(directory)]


def open_in(directory: Path) -> list[str]:
    """Files there that this process holds open, where the system tells."""
    links = files_in("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    targets = [os.path.realpath(link) for link in links]
    return [target for target in targets if target.startswith(str(directory))]


def form(*files: tuple[str, bytes], **fields: str) -> FormData:
    data = FormData()
    for name, content in files:
        file = io.BytesIO(content)  # the client warns of large bytes
        data.add_field(name, file, filename="picture.png", content_type="image/png")
    for name, text in fields.items():
        data.add_field(name, text)
    return data


def json_body(**document: Any) -> dict[str, Any]:
    data = io.BytesIO(json.dumps(document).encode())
    return {"data": data, "headers": {"Content-Type": "application/json"}}


async def post(
    client: TestClient[Any, Any], path: str = "/remove-background", **kwargs: Any
) -> tuple[int, dict[str, Any]]:
    async with client.post(path, **kwargs) as response:
        return response.status, await response.json()


async def refused(
    client: TestClient[Any, Any],
    server: Server,
    spools: list[StoredBytes],
    path: str = "/remove-background",
    **kwargs: Any,
) -> tuple[int, str, str | None]:
    """Status, code and field of an error; that every spool is closed is checked."""
    status, body = await post(client, path, **kwargs)
    assert server.requests == []
    assert all(spool.closed for spool in spools)
    return status, body["code"], body["details"].get("field")


# --- what is accepted ---------------------------------------------------------------------


@pytest.mark.parametrize("field", ["imageFile", "image", "file"])
async def test_a_form_is_read(client: Any, server: Server, field: str) -> None:
    """The picture comes through byte for byte from each field name, with its parameters."""
    await post(client, data=form((field, PNG), crop="no", format="webp", mode="SYNC"))
    job = server.job
    assert await job.files["image"].read() == PNG
    assert job.files["image"].digest == hashlib.sha256(PNG).hexdigest()
    assert job.parameters == {"crop": False, "format": "WEBP"}
    assert job.options == {"mode": "sync"}
    assert (job.files["image"].info.width, job.files["image"].info.height) == (20, 10)


async def test_parameters_may_come_after_the_file(client: Any, server: Server) -> None:
    """The order of a form's parts does not matter."""
    data = form(("image", PNG))
    data.add_field("crop", "false")
    await post(client, data=data)
    assert server.job.parameters["crop"] is False


async def test_a_raw_picture_is_read(client: Any, server: Server) -> None:
    """The body may be the picture, the parameters are in the query then."""
    headers = {"Content-Type": "image/png"}
    await post(client, "/upscale-image?scale=3&async=False", data=PNG, headers=headers)
    assert await server.job.files["image"].read() == PNG
    assert server.job.parameters == {"scale": 3.0, "format": "PNG"}
    assert server.job.options == {"async": "false"}


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(BIG_PNG).decode(),
        "data:image/png;base64," + base64.b64encode(BIG_PNG).decode(),
        "data:;base64," + base64.b64encode(PNG).decode(),
        base64.encodebytes(PNG).decode(),
    ],
)
async def test_json_is_read(client: Any, server: Server, text: str) -> None:
    """base64, with line breaks too, and data URLs; JSON's own types are parameters."""
    sent = json_body(image=text, scale=1.5, quality=None, **{"async": False})
    await post(client, "/upscale-image", **sent)
    assert await server.job.files["image"].read() in (PNG, BIG_PNG)
    assert server.job.parameters == {"scale": 1.5, "format": "PNG"}
    assert server.job.options == {"async": "false"}


async def test_a_long_json_body_is_read_in_steps(
    client: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its base64 is never one text: 50 MB of it held everybody up for 100 ms."""
    read: list[int] = []
    monkeypatch.setattr(
        json_strings, "loads_exact", lambda text: (read.append(len(text)), json.loads(text))[1]
    )
    text = base64.b64encode(BIG_PNG).decode()
    await post(client, "/upscale-image", **json_body(image=text, scale=1.5))
    assert await server.job.files["image"].read() == BIG_PNG
    assert sum(read) >= len(text)
    assert max(read) <= json_strings.PIECE_BYTES + 2


@pytest.mark.parametrize("value", ["\ud800", "x" * 100_000])
async def test_a_wrong_value_in_a_long_json_body(
    client: Any, server: Server, spools: Any, value: str
) -> None:
    """Is refused as in a short one: a text that is no Unicode, one that is too long."""
    body = {"image": base64.b64encode(BIG_PNG).decode(), "quality": value}
    assert (await refused(client, server, spools, **json_body(**body)))[0] == 400


async def test_query_and_body_are_one_request(client: Any, server: Server, spools: Any) -> None:
    """What stands in both must be the same: which of two is meant is not guessed."""
    path = "/remove-background?crop=true&format=JPEG&mode=async"
    await post(client, path, data=form(("image", PNG), crop="1", quality="5"))
    assert server.job.parameters == {"crop": True, "format": "JPEG", "quality": 5}
    assert server.job.options == {"mode": "async"}
    server.requests.pop().close()
    for name, text in (("crop", "0"), ("mode", "sync")):
        data = form(("image", PNG), **{name: text})
        answer = await refused(client, server, spools, path, data=data)
        assert answer == (400, "duplicate_parameter", name)


async def test_a_big_picture_waits_on_disk(client: Any, server: Server, tmp_path: Path) -> None:
    """Over 1 MiB there is a file, and no descriptor, until the picture is closed."""
    await post(client, data=form(("image", BIG_PNG)))
    picture = server.job.files["image"]
    assert len(BIG_PNG) > 1_048_576
    assert sizes_in(tmp_path) == [len(BIG_PNG)]
    assert not open_in(tmp_path)
    assert await picture.read() == BIG_PNG
    with picture.open() as one, picture.open() as other:
        assert one.read(8) == other.read(8) == BIG_PNG[:8]
        picture.close()
        assert one.read() == BIG_PNG[8:]
    with pytest.raises(ValueError, match="closed"):
        picture.open()


async def test_equal_requests_have_equal_fingerprints(client: Any, server: Server) -> None:
    """How a request was written does not matter, what it asks for does."""
    await post(client, data=form(("image", PNG), crop="yes"))
    await post(client, "/remove-background?crop=1&mode=sync", data=PNG,
               headers={"Content-Type": "image/png"})  # fmt: skip
    await post(client, data=form(("image", PNG), crop="no"))
    await post(client, data=form(("image", BIG_PNG), crop="yes"))
    first, second, *others = [job.fingerprint for job in server.requests]
    assert first == second
    assert len({first, *(other for other in others)}) == 3


async def test_a_gzip_body_is_decoded(client: Any, server: Server) -> None:
    """A compressed body is the picture in it."""
    headers = {"Content-Type": "image/png", "Content-Encoding": "gzip"}
    packed = zlib.compressobj(wbits=31)
    data = packed.compress(PNG) + packed.flush()
    await post(client, data=data, headers=headers)
    assert await server.job.files["image"].read() == PNG


# --- what is refused: the picture ---------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_image"),
        (b"a text file that calls itself picture.png", "invalid_image"),
        (PNG[: len(PNG) // 2], "invalid_image"),
        (png_header(0, 0), "invalid_image"),
        (png_header(100_000, 100_000), "image_too_large"),
    ],
)
async def test_a_bad_picture_names_its_field(
    client: Any, server: Server, spools: Any, content: bytes, code: str
) -> None:
    """Each kind of bad picture has a code, in a form and as the body."""
    data = form(("file", content))
    assert await refused(client, server, spools, data=data) == (400, code, "file")
    if content:
        sent = {"data": content, "headers": {"Content-Type": "image/png"}}
        assert await refused(client, server, spools, **sent) == (400, code, "body")


async def test_no_picture(client: Any, server: Server, spools: Any) -> None:
    """A form without a file, JSON without one, no body, and a file input left empty."""
    data = FormData({"crop": "no"}, default_to_multipart=True)
    missing = (400, "missing_image", "imageFile")
    assert await refused(client, server, spools, data=data) == missing
    assert await refused(client, server, spools) == missing
    assert await refused(client, server, spools, json={}) == (400, "missing_image", "image")
    unfilled = FormData()
    unfilled.add_field("imageFile", b"", filename="", content_type="application/octet-stream")
    assert await refused(client, server, spools, data=unfilled) == missing


async def test_two_pictures(client: Any, server: Server, spools: Any) -> None:
    """Two files are one too many, in a form and in JSON, under one name or two."""
    for second in ("image", "file"):
        data = form(("image", PNG), (second, PNG))
        assert (await refused(client, server, spools, data=data))[:2] == (400, "several_images")
    text = base64.b64encode(PNG).decode()
    body = {"image": text, "file": text}
    assert (await refused(client, server, spools, json=body))[:2] == (400, "several_images")


async def test_a_file_in_another_field(client: Any, server: Server, spools: Any) -> None:
    """The field that is wrong is named, even if a parameter has that name."""
    for field in ("photo", "format"):
        answer = await refused(client, server, spools, data=form((field, PNG)))
        assert answer == (400, "unknown_parameter", field)


# --- what is refused: parameters ----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("format", "TIFF", "invalid_parameter"),
        ("crop", "maybe", "invalid_parameter"),
        ("scale", "-1", "invalid_parameter"),
        ("scale", "1e9", "invalid_parameter"),
        ("scale", "nan", "invalid_parameter"),
        ("scale", "0.001", "invalid_parameter"),
        ("colour", "red", "unknown_parameter"),
        ("n" * 500, "1", "unknown_parameter"),
    ],
)
async def test_a_bad_parameter_names_its_field(
    client: Any, server: Server, spools: Any, name: str, text: str, code: str
) -> None:
    """The same answer whether it comes in a form, in the query or in JSON."""
    path = "/upscale-remove-bg"
    image = base64.b64encode(PNG).decode()
    answers = [
        await refused(client, server, spools, path, data=form(("image", PNG), **{name: text})),
        await refused(client, server, spools, path, params={name: text}, data=form(("image", PNG))),
        await refused(client, server, spools, path, json={"image": image, name: text}),
    ]
    assert {answer[:2] for answer in answers} == {(400, code)}
    assert all(name.startswith(str(answer[2]).rstrip("…")) for answer in answers)


async def test_a_parameter_given_twice(client: Any, server: Server, spools: Any) -> None:
    """Which of the two is meant is not guessed, in the query and in a form."""
    expected = (400, "duplicate_parameter", "crop")
    path = "/remove-background?crop=1&crop=0"
    assert await refused(client, server, spools, path, data=form(("image", PNG))) == expected
    data = form(("image", PNG), crop="1")
    data.add_field("crop", "0")
    assert await refused(client, server, spools, data=data) == expected


async def test_a_json_parameter_that_is_no_scalar(client: Any, server: Server, spools: Any) -> None:
    """Lists and objects are no values."""
    body = {"image": base64.b64encode(PNG).decode(), "crop": [True]}
    expected = (400, "invalid_parameter", "crop")
    assert await refused(client, server, spools, json=body) == expected


@pytest.mark.parametrize("body", [b'{"a":[%s0]}' % (b"[]," * 4_000_000), b"[" * 2**21])
async def test_a_heap_of_json_values_is_not_read(
    client: Any, server: Server, spools: Any, body: bytes
) -> None:
    """A body may be as long as a picture in base64; so many values would take twenty times that."""
    server.limit = 100_000_000
    sent = {"data": io.BytesIO(body), "headers": {"Content-Type": "application/json"}}
    assert (await refused(client, server, spools, **sent))[:2] == (400, "invalid_json")
    assert isinstance(server.errors[-1], ComfyProxyError)
    assert "commas" in server.errors[-1].message


async def test_a_hostile_form_field_is_not_collected(
    client: Any, server: Server, spools: Any
) -> None:
    """50 MB in a parameter are refused after its first kilobyte."""
    server.limit = 100_000_000
    head = b'--B\r\nContent-Disposition: form-data; name="format"\r\n\r\n'
    data = io.BytesIO(head + b"P" * 50_000_000 + b"\r\n--B--\r\n")
    sent = {"data": data, "headers": {"Content-Type": FORM_TYPE}}
    expected = (400, "invalid_parameter", "format")
    assert await refused(client, server, spools, **sent) == expected


@pytest.mark.long
@pytest.mark.parametrize(("name", "code"), [("x", "unknown"), ("crop", "duplicate")])
async def test_ten_thousand_form_fields(
    client: Any, server: Server, spools: Any, name: str, code: str
) -> None:
    """The first field that cannot be ends it."""
    data = FormData(default_to_multipart=True)
    for _ in range(10_000):
        data.add_field(name, "1")
    status, found, field = await refused(client, server, spools, data=data)
    assert (status, found, field) == (400, f"{code}_parameter", name)


# --- what is refused: the body ------------------------------------------------------------


async def zeros(total: int) -> AsyncIterator[bytes]:
    """A body without a Content-Length."""
    chunk = bytes(65_536)
    for _ in range(total // len(chunk)):
        yield chunk


async def test_a_declared_size_over_the_limit_is_refused_unread(
    client: Any, server: Server, spools: Any
) -> None:
    """Content-Length alone is enough; no byte is waited for."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(
        b"POST /remove-background HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        b"Content-Length: 105906176\r\n\r\n"
    )
    assert b" 413 " in await reader.readline()
    writer.close()
    await writer.wait_closed()
    assert all(spool.closed for spool in spools)


@pytest.mark.parametrize("kind", ["image/png", "application/json"])
async def test_a_stream_over_the_limit_is_stopped(
    client: Any, server: Server, spools: Any, kind: str
) -> None:
    """Without a Content-Length the limit is kept while reading."""
    sent = {"data": zeros(LIMIT * 3), "headers": {"Content-Type": kind}}
    assert (await refused(client, server, spools, **sent))[:2] == (413, "payload_too_large")


async def test_a_file_over_the_limit_in_a_form(client: Any, server: Server, spools: Any) -> None:
    """The limit is the picture's, not the form's: one byte more is too much."""
    server.limit = len(BIG_PNG) - 1
    data = form(("image", BIG_PNG))
    assert (await refused(client, server, spools, data=data))[:2] == (413, "payload_too_large")
    server.limit = len(BIG_PNG)
    status, _ = await post(client, data=form(("image", BIG_PNG)))
    assert status == 200


@pytest.mark.long
async def test_a_real_stream_of_101_mb(client: Any, server: Server, spools: Any) -> None:
    """At the default limit, in a form, without a Content-Length."""
    server.limit = 104_857_600
    data = FormData()
    data.add_field("image", zeros(101 * 1_048_576), filename="zeros.png")
    assert (await refused(client, server, spools, data=data))[:2] == (413, "payload_too_large")


async def test_a_json_picture_over_the_limit(client: Any, server: Server, spools: Any) -> None:
    """The decoded picture counts, not its base64."""
    server.limit = len(BIG_PNG) - 1
    text = base64.b64encode(BIG_PNG).decode()
    answer = await refused(client, server, spools, **json_body(image=text))
    assert answer[:2] == (413, "payload_too_large")
    server.limit = len(BIG_PNG)
    assert (await post(client, **json_body(image=text)))[0] == 200


@pytest.mark.long
async def test_a_form_s_endless_preamble_is_bounded(
    client: Any, server: Server, spools: Any
) -> None:
    """What stands before the first boundary counts too."""

    async def lines() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 99 + b"\n" + (b"y" * 99 + b"\n") * 999

    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    sent = {"data": lines(), "headers": headers}
    assert (await refused(client, server, spools, **sent))[:2] == (413, "payload_too_large")


FORM_TYPE = "multipart/form-data; boundary=B"
PART = b'--B\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", PART + PNG + b"\r\n--B--\r\n"),
        ("multipart/form-data; boundary=" + "b" * 80, b"x"),
        (FORM_TYPE, b"no boundary at all"),
        (FORM_TYPE, PART + PNG),
        (FORM_TYPE, PART + PNG + b"\r\n--B"),
        (FORM_TYPE, PART + PNG + b"\r\n--B\r\n"),
        (FORM_TYPE, PART[:20]),
        (FORM_TYPE, b"--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n--B--\r\n"),
        (FORM_TYPE, b"--B\r\n" + b"X: " + b"y" * 9000 + b"\r\n\r\nx\r\n--B--\r\n"),
        (FORM_TYPE, b"--B\r\nContent-Type: multipart/mixed; boundary=C\r\n\r\n--C--\r\n--B--\r\n"),
        (
            FORM_TYPE,
            PART.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: rot13\r\n\r\n")
            + b"x\r\n--B--\r\n",
        ),
    ],
)
async def test_a_broken_form(
    client: Any, server: Server, spools: Any, kind: str, body: bytes
) -> None:
    """No boundary, cut off anywhere, parts without a name or with impossible headers: 400."""
    sent = {"data": body, "headers": {"Content-Type": kind}}
    assert (await refused(client, server, spools, **sent))[:2] == (400, "broken_body")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "invalid_json"),
        (b"", "invalid_json"),
        (b"[1]", "invalid_json"),
        (b"\xff", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"image": 5}', "invalid_image"),
        (b'{"image": "abc"}', "invalid_base64"),
        (b'{"image": "AA==AAAA"}', "invalid_base64"),
        (b'{"image": "\xc3\xa4\xc3\xb6"}', "invalid_base64"),
        (b'{"image": "http://example.com/a.png"}', "url_not_allowed"),
        (b'{"image": "data:image/png,abc"}', "invalid_data_url"),
        (b'{"image": "data:text/plain;base64,AAAA"}', "invalid_data_url"),
        (b'{"image": "data:image/png;base64,"}', "empty_image"),
        (b'{"image": ""}', "empty_image"),
    ],
)
async def test_broken_json(
    client: Any, server: Server, spools: Any, body: bytes, code: str
) -> None:
    """Each way in which JSON can be wrong has a code."""
    if not body:  # an empty body without a length is a body all the same
        sent: Any = {"data": zeros(0)}
    else:
        sent = {"data": body}
    sent["headers"] = {"Content-Type": "application/json"}
    assert (await refused(client, server, spools, **sent))[:2] == (400, code)


async def test_padding_in_the_middle_of_a_long_text(
    client: Any, server: Server, spools: Any
) -> None:
    """base64 that goes on behind its padding is refused wherever the pieces are cut."""
    sent = json_body(image="A" * 1_048_574 + "==" + "AAAA" * 200_000)
    assert (await refused(client, server, spools, **sent))[1] == "invalid_base64"


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream", ""])
async def test_another_content_type(client: Any, server: Server, spools: Any, kind: str) -> None:
    """415 for what is neither a form nor a picture nor JSON, and for no type at all."""
    sent: dict[str, Any] = {"data": PNG, "headers": {"Content-Type": kind} if kind else {}}
    if not kind:
        sent["skip_auto_headers"] = ["Content-Type"]
    expected = (415, "unsupported_media_type")
    assert (await refused(client, server, spools, **sent))[:2] == expected


async def test_a_gzip_bomb_is_bounded(client: Any, server: Server, spools: Any) -> None:
    """The limit counts what comes out of a compressed body."""
    packed = zlib.compressobj(wbits=31)
    data = packed.compress(bytes(50_000_000)) + packed.flush()
    headers = {"Content-Type": "image/png", "Content-Encoding": "gzip"}
    sent = {"data": data, "headers": headers}
    assert (await refused(client, server, spools, **sent))[:2] == (413, "payload_too_large")


@pytest.mark.parametrize("cancellation", [True, False])
async def test_a_client_that_leaves_leaves_nothing(
    server: Server, spools: Any, tmp_path: Path, cancellation: bool
) -> None:
    """A broken-off upload, part of it on disk already, is closed and its file removed.

    Whether the host's handlers are cancelled then is the host's choice; both ways end it.
    """
    app = web.Application()
    app.router.add_post("/{name}", server.handle)
    runner = web.AppRunner(app, handler_cancellation=cancellation)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    _, writer = await asyncio.open_connection(*runner.addresses[0][:2])
    writer.write(
        b"POST /remove-background HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        b"Content-Length: 2900000\r\n\r\n" + bytes(2_000_000)
    )
    await writer.drain()
    await server.started.wait()
    writer.close()
    await writer.wait_closed()
    await server.ended.wait()
    await runner.cleanup()
    expected = "CancelledError" if cancellation else "RequestError"
    assert [type(error).__name__ for error in server.errors] == [expected]
    assert [spool.closed for spool in spools] == [True]
    assert files_in(tmp_path) == []


async def test_a_full_disk_is_said(
    client: Any, server: Server, spools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503, not 500, and nothing of the machine in the message."""

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    answer = await refused(client, server, spools, data=form(("image", BIG_PNG)))
    assert answer[:2] == (503, "storage_unavailable")


def test_aiohttp_is_what_it_was_read_to_be() -> None:
    """MultipartReader still asks its stream for what ClientBody has, and for nothing else."""
    source = Path(aiohttp.multipart.__file__).read_text(encoding="utf-8")
    asked = {
        line.split("_content.")[1].split("(")[0] for line in source.splitlines()
        if "self._content." in line
    }  # fmt: skip
    assert asked == {"read", "readline", "at_eof", "unread_data"}
