"""gateway/views/object_info.py: the union of what the instances can do, fresh and made once."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from rooms_harness import Client, answering, gateway_over

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info import questions
from comfy_proxy.cluster.object_info.cache import ObjectInfoCache
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.gateway.gateway import Gateway
from comfy_proxy.gateway.policies import POLICIES
from comfy_proxy.gateway.routes import Policy
from comfy_proxy.gateway.views.object_info import MergedObjectInfo

PLAIN = {"Accept-Encoding": "identity"}


class Room:
    """Two workers with different models and nodes, the gateway, and what each was asked."""

    def __init__(
        self,
        workers: list[EmbeddedWorker],
        gateway: Gateway,
        cache: ObjectInfoCache,
        client: Client,
    ) -> None:
        self.workers = workers
        self.gateway = gateway
        self.cache = cache
        self.client = client
        self.merged: MergedObjectInfo = gateway.object_info
        self.asked: list[str] = []
        for instance in gateway.cluster.instances:
            self._count(instance)

    def _count(self, instance: Instance) -> None:
        client = self.gateway.cluster.clients[instance]
        whole, part = client.object_info, client.body

        async def object_info() -> bytes:
            self.asked.append(f"{instance.id} *")
            return await whole()

        async def body(path: str) -> bytes:
            kind, _, name = path.partition("/")
            if kind == "object_info":
                self.asked.append(f"{instance.id} {name}")
            return await part(path)

        client.object_info, client.body = object_info, body  # type: ignore[method-assign]

    async def get(self, path: str = "/object_info", **headers: str) -> aiohttp.ClientResponse:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.get(path, headers=PLAIN | names)

    async def direct(self, number: int, path: str = "/object_info") -> bytes:
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.workers[number].url + path) as response,
        ):
            return await response.read()

    async def upload(self, number: int, name: str, picture: bytes) -> None:
        form = aiohttp.FormData()
        form.add_field("image", picture, filename=name)
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.workers[number].url}/upload/image", data=form) as response,
        ):
            assert response.status == 200


@pytest.fixture
async def make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    monkeypatch.setattr(questions, "LISTS_PATIENCE_S", 60.0)
    async with AsyncExitStack() as stack:

        async def make(*options: dict[str, Any]) -> Room:
            workers = [
                await stack.enter_async_context(
                    EmbeddedWorker(base_directory=tmp_path / str(number), **one)
                )
                for number, one in enumerate(options)
            ]
            gateway = await stack.enter_async_context(gateway_over(*(w.url for w in workers)))
            cluster = gateway.cluster
            cache = ObjectInfoCache(cluster.clients, clock=cluster.clock)
            stack.push_async_callback(cache.close)
            gateway.object_info = MergedObjectInfo(cluster, cache)
            client = await stack.enter_async_context(answering(respond, gateway))
            return Room(workers, gateway, cache, client)

        yield make


async def respond(request: Any, match: Any, gateway: Gateway) -> Any:
    """As the wired gateway does."""
    return await POLICIES[Policy.OBJECT_INFO](gateway)(request, match)


@pytest.fixture
async def room(make_room: Any) -> Room:
    """The second worker has another model file and a node that the first one lacks."""
    return await make_room(
        {"upscale_models": ("b.pth", "a.pth"), "missing_nodes": ("ImageInvert",)},
        {"upscale_models": ("a.pth", "c.pth"), "test_nodes": True},
    )


@pytest.fixture
async def twins(make_room: Any) -> Room:
    """Two workers that have the same."""
    return await make_room({}, {})


def models(document: Any) -> Any:
    return document["UpscaleModelLoader"]["input"]["required"]["model_name"][1]["options"]


def pictures(document: Any) -> Any:
    return document["LoadImage"]["input"]["required"]["image"][0]


async def test_equal_instances_give_the_native_bytes(twins: Room) -> None:
    """Where all agree a client cannot tell the proxy from an instance, by body and type."""
    answer = await twins.get()
    assert await answer.read() == await twins.direct(0)
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    for path in ("/object_info/LoadImage", "/api/object_info/Nothing%20such"):
        assert await (await twins.get(path)).read() == await twins.direct(0, path)


async def test_the_union_has_everybodys_classes_and_files(room: Room) -> None:
    """First the first one's, in its order, then what only the other has."""
    document = await (await room.get("/api/object_info")).json()
    first, second = [json.loads(await room.direct(number)) for number in (0, 1)]
    assert list(document) == [*first, *(name for name in second if name not in first)]
    assert models(document) == ["b.pth", "a.pth", "c.pth"]
    one = await (await room.get("/object_info/UpscaleModelLoader")).json()
    assert one == {"UpscaleModelLoader": document["UpscaleModelLoader"]}


async def test_it_is_asked_once_and_made_once_for_all(room: Room) -> None:
    """A crowd costs one request to each instance, and then none."""
    answers = await asyncio.gather(*(room.get() for _ in range(10)))
    assert len({await answer.read() for answer in answers}) == 1
    union = room.merged._union
    await room.get()
    assert room.merged._union is union
    assert sorted(room.asked) == ["1 *", "2 *"]


async def test_gzip_is_for_those_who_take_it(twins: Room) -> None:
    """Compressed once; a client that says nothing, or no, gets the plain text."""
    plain = await twins.get()
    assert "Content-Encoding" not in plain.headers
    packed = await twins.get(Accept_Encoding="br;q=1.0, gzip;q=0.5")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(await packed.read()) == await plain.read()
    assert packed.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding"
    assert packed.headers["ETag"] != plain.headers["ETag"]
    for refusal in ("gzip;q=0", "br", "gzip;q=nonsense"):
        refused = await twins.get(Accept_Encoding=refusal)
        assert "Content-Encoding" not in refused.headers, refusal


async def test_who_has_it_already_is_told_so(room: Room) -> None:
    """304 by ETag for each coding and for one class; another ETag gets the body."""
    for path in ("/object_info", "/object_info/LoadImage"):
        for coding in ("identity", "gzip"):
            etag = (await room.get(path, Accept_Encoding=coding)).headers["ETag"]
            again = await room.get(path, Accept_Encoding=coding, If_None_Match=f'"x", W/{etag}')
            assert (again.status, await again.read()) == (304, b"")
            assert again.headers["ETag"] == etag
            other = await room.get(path, Accept_Encoding=coding, If_None_Match='"other"')
            assert other.status == 200


async def test_head_has_the_headers_and_no_body(twins: Room) -> None:
    """HEAD tells the length that GET sends."""
    head = await twins.client.head("/object_info", headers=PLAIN)
    assert (head.status, await head.read()) == (200, b"")
    assert int(head.headers["Content-Length"]) == len(await twins.direct(0))


async def test_a_client_sees_its_own_upload_at_once(room: Room, picture: bytes) -> None:
    """After an upload the small classes are asked again, never the whole document."""
    before = (await room.get()).headers["ETag"]
    for number in (0, 1):
        await room.upload(number, "mine.png", picture)
    await room.merged.uploads_changed()
    answer = await room.get(If_None_Match=before)
    assert pictures(await answer.json()) == ["mine.png"]
    assert pictures(await (await room.get("/object_info/LoadImage")).json()) == ["mine.png"]
    assert room.asked.count("1 *") == room.asked.count("2 *") == 1
    assert {"1 LoadImage", "2 LoadImageMask"} < set(room.asked)


async def test_a_file_that_one_instance_has_is_listed(room: Room, picture: bytes) -> None:
    """The gateway brings it to whoever needs it, so every client may choose it."""
    await room.upload(1, "there.png", picture)
    assert pictures(await (await room.get("/object_info/LoadImage")).json()) == ["there.png"]


async def test_an_instance_that_fails_leaves_the_others_answer(room: Room) -> None:
    """One that is down is left out; one whose circuit is open is not even asked."""
    room.workers[0].refuse_connections()
    room.workers[0].drop_connections()
    first = room.gateway.cluster.instances[0]
    assert models(await (await room.get()).json()) == ["a.pth", "c.pth"]
    while first.healthy:
        first.fault("test")
    await room.workers[0].accept_connections()
    room.asked.clear()
    assert models(await (await room.get()).json()) == ["a.pth", "c.pth"]
    assert room.asked == []


async def test_what_is_known_outlives_a_failure(room: Room, picture: bytes) -> None:
    """An instance that does not answer for a moment keeps its classes in the union."""
    before = await (await room.get()).json()
    room.workers[1].faults.answers["/object_info"] = "500"
    await room.merged.uploads_changed()
    assert await (await room.get()).json() == before


async def test_without_any_answer_the_primary_speaks_for_itself(room: Room) -> None:
    """Until one could be asked the client gets what the primary says, errors included."""
    for worker in room.workers:
        worker.faults.answers["/object_info"] = "500"
    answer = await room.get()
    assert answer.status == 500
    for worker in room.workers:
        worker.faults.clear()
    assert models(await (await room.get()).json()) == ["b.pth", "a.pth", "c.pth"]


async def test_an_instance_that_restarted_is_asked_again(room: Room) -> None:
    """The hook of the instance forgets, and the next client gets what is there now."""
    await room.get()
    room.cache.forget(room.gateway.cluster.instances[1])
    await room.get()
    assert sorted(room.asked) == ["1 *", "2 *", "2 *"]
