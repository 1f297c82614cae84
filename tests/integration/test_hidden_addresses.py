"""What clients are told of a failure names no address of an instance."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import ClientError
from aiohttp.test_utils import TestClient
from job_client import form, kill, until

from comfy_proxy.clock import SystemClock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.gateway.exchange.error_answers import without_addresses
from comfy_proxy.keys import CLUSTER
from comfy_proxy.settings import parse_instance

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Any]
ASKED = [
    *(("GET", path) for path in ("/", "/queue", "/history", "/object_info", "/system_stats")),
    *(("GET", path) for path in ("/view?filename=a.png", "/view?filename=a.png&subfolder=@2")),
    *(("GET", path) for path in ("/models", "/users", "/settings", "/userdata?dir=x", "/features")),
    *(("GET", path) for path in ("/history/none", "/api/jobs", "/api/assets", "/my_pack/x")),
    *(("POST", path) for path in ("/prompt", "/interrupt", "/free", "/my_pack/x", "/upload/image")),
    *(("POST", path) for path in ("/queue", "/history", "/settings", "/manager/reboot")),
    *(("PUT", path) for path in ("/my_pack/x", "/api/assets/none")),
    ("DELETE", "/my_pack/x"),
]


async def tells(http: TestClient, workers: Pair, method: str, path: str) -> int:
    """Ask, and look at all that comes back; the status."""
    body: Any = form() if path == "/upload/image" else None
    document = None if body or method == "GET" else {"prompt": {}}
    async with http.request(
        method, path, data=body, json=document, allow_redirects=False
    ) as answer:
        shown = f"{answer.reason} {dict(answer.headers)}"
        with suppress(ClientError):  # an instance that breaks off ends the client's connection
            shown += (await answer.read()).decode("utf-8", "replace")
    for worker in workers:  # a request ID in hexadecimal may hold the digits of a port by chance
        number = rf"(?<![0-9a-f]){worker.port}(?![0-9a-f])"
        assert not re.search(number, shown), (method, path, shown)
    return answer.status


@pytest.mark.long
@pytest.mark.parametrize("how", ["gone", "one gone", "break", "cut", "non_json", "500"])
async def test_no_failure_names_an_address(start_proxy: Start, workers: Pair, how: str) -> None:
    """Whatever the instances do: refuse connections, break off, answer what is no answer."""
    http = await start_proxy(*workers, instance_names=("left",))
    await until(lambda: all(one.check_ok for one in http.app[CLUSTER].instances))
    for worker in workers[:1] if how == "one gone" else workers:
        if how.endswith("gone"):
            await kill(worker)
        else:
            worker.faults.answers = {
                path: how for _, path in ASKED if path not in ("/", "/system_stats")
            }
    statuses = [await tells(http, workers, method, path) for method, path in ASKED]
    assert how == "one gone" or max(statuses) >= 500


def test_an_address_becomes_a_name() -> None:
    """As a whole, wherever it stands: in the sentence, in keys and values of the details."""
    clock = SystemClock()
    one = Instance(id="1", url=parse_instance("gpu:81"), clock=clock, name="left")
    two = Instance(id="2", url=parse_instance("https://gpu:8188/comfy"), clock=clock)
    told = {"a": ["gpu:81 and gpu:8188/comfy", 7, None], "gpu:81": {"x": "gpu:812, my.gpu:81"}}
    assert without_addresses(told, [one, two]) == {
        "a": ["instance left and instance 2", 7, None],
        "instance left": {"x": "gpu:812, my.gpu:81"},
    }
