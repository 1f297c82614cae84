"""What is asked of several instances, and how one answer of theirs reaches the client."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from gateway_harness import Handler, Harness, RawServer
from rooms_harness import answering, gateway_over
from yarl import URL

from comfy_proxy.cluster import answer_bodies
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import AnswerTooLargeError
from comfy_proxy.gateway import policies
from comfy_proxy.gateway.exchange.fanout import ask

EMPTY_QUEUE = b'{"queue_running": [], "queue_pending": []}'


def _raw_answer(answer: bytes) -> Any:
    async def script(server: RawServer, reader: asyncio.StreamReader, writer: Any) -> None:
        while True:
            writer.write(answer)
            server.heads.append(await reader.readuntil(b"\r\n\r\n"))

    return script


async def _asked(harness: Harness, handler: Handler, path: str, **options: Any) -> Any:
    url = await harness.upstream(handler)
    async with gateway_over(str(url)) as gateway:
        return await ask(gateway.cluster.instances[0], gateway.cluster, "GET", path, **options)


async def test_an_answer_that_does_not_end_is_no_strike(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sends more than we keep is alive: the question fails, the breaker hears nothing."""
    monkeypatch.setattr(answer_bodies, "MAX_JSON_BYTES", 1000)

    async def endless(request: web.Request) -> web.Response:
        return web.Response(body=bytes(1001))

    url = await harness.upstream(endless)
    async with gateway_over(str(url)) as gateway:
        instance: Instance = gateway.cluster.instances[0]
        for _ in range(5):
            with pytest.raises(AnswerTooLargeError):
                await ask(instance, gateway.cluster, "GET", "/history")
        assert instance.healthy
        assert not instance.failing


async def test_a_view_without_one_instances_part_is_none(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A history too long to be put together is a 502 that says so, not a history with holes."""
    monkeypatch.setattr(answer_bodies, "MAX_SCANNED_BYTES", 1000)

    async def long(request: web.Request) -> web.Response:
        return web.json_response({"id": "x" * 1000})

    async def short(request: web.Request) -> web.Response:
        return web.json_response({})

    urls = [str(await harness.upstream(handler)) for handler in (short, long)]
    async with gateway_over(*urls) as gateway, answering(policies.answer, gateway) as client:
        async with client.get("/history") as answer:
            assert answer.status == 502
            assert (await answer.json())["code"] == "instance_answer_too_large"
        assert all(instance.healthy for instance in gateway.cluster.instances)


@pytest.mark.parametrize("path", ["/a%2Fb?x=%2F&y=+%20", "/a/../b?", "//a?%C3%A4"])
async def test_a_path_is_asked_for_as_it_stands(harness: Harness, path: str) -> None:
    """Nothing in a path or query is decoded, encoded or normalised on the way."""

    async def target(request: web.Request) -> web.Response:
        return web.Response(text=request.raw_path)

    answer = await _asked(harness, target, path)
    assert answer.body.decode() == path


async def test_what_a_client_did_not_send_is_not_added(harness: Harness) -> None:
    """With a client's headers no Accept, User-Agent or Content-Type of aiohttp's goes along."""

    async def names(request: web.Request) -> web.Response:
        return web.json_response(list(request.headers))

    answer = await _asked(harness, names, "/", headers={"X-A": "1"}, data=b"body")
    assert set(answer.json()) == {"Host", "X-A", "Accept-Encoding", "Content-Length"}


@pytest.mark.parametrize("target", ["/queue", "/nowhere?", "/internal/files/none"])
async def test_an_answer_that_was_read_whole_is_the_instances_own(
    harness: Harness, target: str
) -> None:
    """Reason, names, order and repetitions of headers cross."""
    head = (
        b"HTTP/1.1 200 Fine\r\nx-first: 1\r\nSet-Cookie: a=1\r\nDate: then\r\nSet-Cookie: b=2\r\n"
    )
    instance = await harness.raw(
        _raw_answer(b"%sContent-Length: %d\r\n\r\n%s" % (head, len(EMPTY_QUEUE), EMPTY_QUEUE))
    )
    async with (
        gateway_over(str(instance.url), str(instance.url.with_host("localhost"))) as gateway,
        answering(policies.answer, gateway) as client,
    ):
        reader, writer = await asyncio.open_connection(client.host, client.port)
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()
    assert answer.startswith(head)


async def test_a_body_without_a_length_gets_none(harness: Harness) -> None:
    """A 404 in chunks stays one; for HTTP/1.0 the connection ends the body."""
    instance = await harness.raw(
        _raw_answer(b"HTTP/1.1 404 Nope\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n")
    )
    async with (
        gateway_over(str(instance.url), str(instance.url.with_host("localhost"))) as gateway,
        answering(policies.answer, gateway) as client,
    ):
        for version, end in (("1.1", b"2\r\nno\r\n0\r\n\r\n"), ("1.0", b"\r\n\r\nno")):
            reader, writer = await asyncio.open_connection(client.host, client.port)
            writer.write(
                f"GET /queue HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
            )
            answer = await reader.read()
            writer.close()
            assert answer.startswith(f"HTTP/{version} 404 Nope\r\n".encode())
            assert b"Content-Length" not in answer
            assert answer.endswith(end)


async def test_a_prompts_query_is_the_clients_less_our_key(harness: Harness) -> None:
    """``%2F`` stays ``%2F``; a key in the query never reaches ComfyUI (contract, Security)."""
    seen: list[str] = []

    async def refuse(request: web.Request) -> web.Response:
        seen.append(request.raw_path)
        return web.json_response({"error": {}}, status=400)

    url = await harness.upstream(refuse)
    async with (
        gateway_over(str(url), str(url.with_host("localhost")), api_keys=("secret",)) as gateway,
        answering(policies.answer, gateway) as client,
    ):
        target = URL(str(client.make_url("/")) + "api/prompt?a=%2F&token=secret&b=+", encoded=True)
        async with client.session.post(target, data=b"no JSON") as answer:
            assert answer.status == 400
    assert seen == ["/api/prompt?a=%2F&b=+"]
