"""``/api/instances`` and ``comfy-proxy drain``: who is asked for by what, and who may ask."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from serving import Served, serving

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import CLUSTER

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Any]
NAMES = ("left", "über rechts")


@pytest.fixture
async def named(start_proxy: Start, workers: Pair) -> TestClient:
    client: TestClient = await start_proxy(*workers, instance_names=NAMES)
    return client


async def test_names_stand_beside_the_numbers(named: TestClient, workers: Pair) -> None:
    """In ``/health``, ``/api/instances`` and Prometheus' text; ids stay numbers."""
    async with named.get("/health") as answer:
        health = (await answer.json())["comfyui_instances"]["instances"]
    async with named.get("/api/instances") as answer:
        assert answer.status == 200
        listed = (await answer.json())["instances"]
    for shown in (health, listed):
        assert [(one["id"], one["name"]) for one in shown] == [("1", NAMES[0]), ("2", NAMES[1])]
    async with named.get("/metrics", headers={"Accept": "text/plain; version=0.0.4"}) as answer:
        text = await answer.text()
    host = workers[1].host
    assert re.search(f'instance_info{{comfyui_instance="{host}",id="2",name="{NAMES[1]}"}} 1', text)


@pytest.mark.parametrize("name", ["2", NAMES[1]])
async def test_one_is_drained_by_number_or_name(named: TestClient, name: str) -> None:
    """The answer is its state; a second time changes nothing, and so does a second resumption."""
    for action, draining in (("drain", True), ("drain", True), ("resume", False)):
        async with named.post(f"/api/instances/{name}/{action}") as answer:
            body = await answer.json()
        assert (answer.status, body["id"], body["draining"]) == (200, "2", draining)
    async with named.get(f"/api/instances/{name}") as answer:
        assert (await answer.json())["id"] == "2"


async def test_an_instance_that_does_not_exist(named: TestClient) -> None:
    """404, which says who there is, without an address."""
    async with named.post("/api/instances/3/drain") as answer:
        body = await answer.json()
    assert (answer.status, body["code"]) == (404, "not_found")
    assert body["details"] == {"field": "id", "instances": list(NAMES), "docs": "/api/docs"}


async def test_what_cannot_be_done_to_an_instance(named: TestClient) -> None:
    """405 that says what can be done; 404 and 400 by name; nothing of it goes to ComfyUI."""
    for method, path, allowed in (
        ("PUT", "/api/instances", "GET, HEAD, POST"),
        ("POST", "/api/instances/1", "DELETE, GET, HEAD"),
    ):
        async with named.request(method, path) as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, allowed)
    for path, status, field in (
        ("/api/instances/3", 404, "id"),
        ("/api/instances/1?force=now", 400, "force"),
        ("/api/instances/1?wait=long", 400, "wait"),
    ):
        async with named.delete(path) as answer:
            assert (answer.status, (await answer.json())["details"]["field"]) == (status, field)
    assert not named.app[CLUSTER].instances[0].drained


async def test_a_wait_that_is_none(named: TestClient) -> None:
    """400 that names the field; and nobody is drained by it."""
    async with named.post("/api/instances/1/drain?wait=long") as answer:
        body = await answer.json()
    assert (answer.status, body["details"]["field"]) == (400, "wait")
    assert not named.app[CLUSTER].instances[0].drained


async def test_a_key_is_wanted_where_keys_are_set(start_proxy: Start, workers: Pair) -> None:
    """And a page of another site may not, with or without keys."""
    key = "a key of an operator"
    locked = await start_proxy(*workers, api_keys=(key,))
    for method, path in (
        ("POST", "/api/instances/1/drain"),
        ("POST", "/api/instances"),
        ("DELETE", "/api/instances/1"),
    ):
        async with locked.request(method, path, json={"url": "gpu:8188"}) as answer:
            assert answer.status == 401
    async with locked.post("/api/instances/1/drain", headers={"X-API-Key": key}) as answer:
        assert answer.status == 200
    opened = await start_proxy(*workers)
    origin = {"Origin": "https://evil.example"}
    for method, path in (
        ("POST", "/api/instances/1/drain"),
        ("POST", "/api/instances"),
        ("DELETE", "/api/instances/1"),
    ):
        async with opened.request(method, path, headers=origin, data="{}") as answer:
            assert answer.status == 403
    assert len(opened.app[CLUSTER].instances) == len(locked.app[CLUSTER].instances) == 2


async def command(served: Served, *words: str, **environ: str) -> tuple[int, str]:
    """``comfy-proxy WORDS`` beside the proxy, with its settings."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "comfy_proxy", *words),
        env={"PORT": str(served.port), "PATH": "", **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


@pytest.mark.long
async def test_the_command_speaks_to_the_proxy_that_runs(workers: Pair, tmp_path: Path) -> None:
    """At HOST and PORT with a key of API_KEYS, or at ``--url``; what it says is the state."""
    hosts = [worker.host for worker in workers]
    keys = {"API_KEYS": "a key of an operator,another key of one"}
    environ = {**keys, "COMFYUI_NAME_2": "right"}
    async with serving(*hosts, logs=tmp_path / "logs", **environ) as served:
        code, said = await command(served, "drain", "right", "--wait", **keys)
        assert (code, "(right)" in said, "may be restarted" in said) == (0, True, True)
        headers = {"X-API-Key": "another key of one"}
        listed = (await served.get("/api/instances", **headers))["instances"]
        assert [one["draining"] for one in listed] == [False, True]
        code, said = await command(served, "resume", "2", "--url", served.url, **keys)
        assert (code, "gets work again" in said) == (0, True)
        for words in (("drain", "3"), ("drain", "1", "--url", "http://127.0.0.1:1")):
            code, said = await command(served, *words, **keys)
            assert (code, len(said.splitlines())) == (1, 1)
        code, said = await command(served, "drain", "1")
        assert (code, "wants a key: put it into COMFY_PROXY_API_KEY" in said) == (1, True)
    assert "is drained" in served.said
    assert "right = http://" in served.said


@pytest.mark.long
async def test_the_command_adds_and_removes(workers: Pair, tmp_path: Path) -> None:
    """What it says is what is so; a WARNING of the log tells each."""
    third = EmbeddedWorker(base_directory=tmp_path / "three", name="three", test_nodes=True)
    hosts = [worker.host for worker in workers]
    async with third, serving(*hosts, logs=tmp_path / "logs") as served:
        code, said = await command(served, "add", third.host, "--name", "fresh")
        assert (code, "instance 3 (fresh)" in said, "has joined" in said) == (0, True, True)
        code, said = await command(served, "add", third.host)
        assert (code, "409" in said) == (1, True)
        listed = (await served.get("/api/instances"))["instances"]
        assert [one["name"] for one in listed] == [None, None, "fresh"]
        code, said = await command(served, "remove", "fresh", "--wait")
        assert (code, said) == (0, "instance fresh is removed\n")
        code, said = await command(served, "remove", "2", "--force")
        assert (code, said) == (0, "instance 2 is removed\n")
        code, said = await command(served, "remove", "1")
        assert (code, "last instance" in said) == (1, True)
    told = [line["message"] for line in served.lines() if line["level"] == "warn"]
    assert f"instance {third.host} (fresh) is added" in told
    assert f"instance {third.host} (fresh) is removed" in told
