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
    assert body["details"] == {"field": "id", "instances": list(NAMES)}


async def test_instances_are_neither_added_nor_removed(named: TestClient) -> None:
    """Not yet: 405 that says what can be done, and nothing of it goes to ComfyUI."""
    for method, path in (("POST", "/api/instances"), ("DELETE", "/api/instances/1")):
        async with named.request(method, path, json={"url": "gpu:8188"}) as answer:
            body = await answer.json()
        assert (answer.status, body["code"]) == (405, "method_not_allowed")
        assert answer.headers["Allow"] == "GET, HEAD"


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
    async with locked.post("/api/instances/1/drain") as answer:
        assert answer.status == 401
    async with locked.post("/api/instances/1/drain", headers={"X-API-Key": key}) as answer:
        assert answer.status == 200
    opened = await start_proxy(*workers)
    origin = {"Origin": "https://evil.example"}
    async with opened.post("/api/instances/1/drain", headers=origin) as answer:
        assert answer.status == 403


async def command(served: Served, *words: str, **environ: str) -> tuple[int, str]:
    """``comfy-proxy WORDS`` beside the proxy, with its settings."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "comfy_proxy", *words),
        env={"PORT": str(served.port), "PATH": "", **environ},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


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
        assert (code, "401" in said) == (1, True)
    assert "is drained" in served.said
    assert "right = http://" in served.said
