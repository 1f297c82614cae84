"""cluster/planning/model_files.py, model_lists.py: sizes, asked rarely; shares of the loading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cluster_harness import eventually, make_instance
from manual_clock import ManualClock, settle

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.planning.model_files import REFRESH_S, ModelFiles
from comfy_proxy.cluster.planning.model_lists import MAX_FOLDERS
from comfy_proxy.errors import InstanceRefusedError, InstanceTimeoutError
from comfy_proxy.lenient_json import dumps_exact

ROUTE = "experiment/models"


def listed(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "pathIndex": 0, "modified": 1.0, "created": 1.0, **more}


def folder(name: str, *directories: str) -> dict[str, Any]:
    return {"name": name, "folders": list(directories or (f"/models/{name}",))}


ANSWERS: dict[str, Any] = {
    ROUTE: [folder("checkpoints"), folder("loras"), folder("vae")],
    f"{ROUTE}/checkpoints": [
        listed("sd/xl.safetensors", size=6000),
        listed("win\\old.ckpt", size=2000),
        listed("sd/xl.safetensors", pathIndex=1, size=1),
    ],
    f"{ROUTE}/loras": [listed("style.safetensors", size=100)],
    f"{ROUTE}/vae": [listed("ae.sft", size=300), listed("sd/xl.safetensors", size=2)],
}


class FakeClient:
    """An instance's side: what it answers, what it was asked, and a gate before each answer."""

    def __init__(self, instance: Any) -> None:
        self.instance = instance
        self.answers = dict(ANSWERS)
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.under_way = self.most_under_way = 0

    async def json(self, method: str, path: str) -> Any:
        assert method == "GET"
        self.asked.append(path)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await self.gate.wait()
        await asyncio.sleep(0)
        self.under_way -= 1
        answer = self.answers.get(path, InstanceRefusedError("404"))
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def body(self, path: str) -> bytes:
        return dumps_exact(await self.json("GET", path))


class Bench:
    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.instance, self.other = (make_instance(clock, number) for number in (1, 2))
        self.clients = {one: FakeClient(one) for one in (self.instance, self.other)}
        self.client = self.clients[self.instance]
        self.files = ModelFiles(self.clients, clock=clock)  # type: ignore[arg-type]

    def size(self, model: str) -> int | None:
        return self.files.size(self.instance, model)

    async def want(self, *models: str) -> None:
        """Wait until whatever that begins has ended."""
        self.files.wanted(self.instance, models)
        await settle(1000)


@pytest.fixture
async def bench(clock: ManualClock) -> AsyncIterator[Bench]:
    made = Bench(clock)
    yield made
    await made.files.close()


# --- what is learnt ----------------------------------------------------------------------------


async def test_sizes_come_when_they_are_wanted(bench: Bench) -> None:
    """All files of all folders, for the instance that was asked alone."""
    assert bench.size("sd/xl.safetensors") is None
    await bench.want("sd/xl.safetensors")
    assert bench.size("sd/xl.safetensors") == 6000
    assert bench.size("ae.sft") == 300
    assert bench.files.folder_of(bench.instance, "style.safetensors") == "loras"
    assert bench.files.size(bench.other, "ae.sft") is None
    assert bench.client.asked == list(ANSWERS)
    assert bench.client.most_under_way == 1
    assert bench.clients[bench.other].asked == []
    assert repr(bench.files) == "<ModelFiles gpu1:8188: 4>"


@pytest.mark.parametrize("name", ["win/old.ckpt", "win\\old.ckpt", " win/old.ckpt "])
async def test_subfolders_are_written_in_two_ways(bench: Bench, name: str) -> None:
    """A graph for an instance on Windows has backslashes."""
    await bench.want("win/old.ckpt")
    assert bench.size(name) == 2000


async def test_directories_are_walked_through_once(bench: Bench) -> None:
    """A folder whose directories were all listed under another name is not asked for."""
    bench.client.answers[ROUTE] = [
        folder("checkpoints"),
        folder("checkpoints_gguf", "/models/checkpoints"),
        folder("loras", "/models/loras", "/models/checkpoints"),
    ]
    await bench.want("x.ckpt")
    assert bench.client.asked == [ROUTE, f"{ROUTE}/checkpoints", f"{ROUTE}/loras"]


async def test_names_of_folders_as_paths_have_them(bench: Bench) -> None:
    """Quoted; those that no path can hold are passed over, and there is a limit to their number."""
    names = ["a/b c?", "", "..", "\udce9", *(f"f{number}" for number in range(300))]
    bench.client.answers[ROUTE] = [folder(name) for name in names]
    await bench.want("x.ckpt")
    assert bench.client.asked[:3] == [ROUTE, f"{ROUTE}/a%2Fb%20c%3F", f"{ROUTE}/f0"]
    assert len(bench.client.asked) == 1 + MAX_FOLDERS


@pytest.mark.parametrize(
    "answer", [{}, 3, None, [3, [], {}, {"name": 3}, {"name": "x.ckpt", "size": "7"}]]
)
async def test_lists_that_make_no_sense(bench: Bench, answer: Any) -> None:
    """What is no list, no name or no size is passed over, the other folders are not."""
    bench.client.answers[f"{ROUTE}/checkpoints"] = answer
    await bench.want("x.ckpt")
    assert bench.size("x.ckpt") is None
    assert bench.size("ae.sft") == 300
    bench.files.forget(bench.instance)
    bench.client.answers[ROUTE] = answer
    await bench.want("x.ckpt")


async def test_an_older_server_tells_no_sizes(bench: Bench) -> None:
    """Then nothing is known, and it is not an error."""
    bench.client.answers[f"{ROUTE}/loras"] = [listed("style.safetensors")]
    await bench.want("style.safetensors")
    assert bench.size("style.safetensors") is None
    assert bench.files.folder_of(bench.instance, "style.safetensors") is None


async def test_a_server_without_the_route_is_asked_once(bench: Bench) -> None:
    """No folder is asked for, and nothing again until REFRESH_S."""
    bench.client.answers = {}
    await bench.want("x.ckpt")
    await bench.want("x.ckpt")
    assert bench.client.asked == [ROUTE]


async def test_a_folder_that_is_refused_hides_no_other(bench: Bench) -> None:
    """It may have been taken away just now."""
    del bench.client.answers[f"{ROUTE}/loras"]
    await bench.want("ae.sft")
    assert bench.size("ae.sft") == 300


async def test_one_that_does_not_answer_is_asked_no_further(bench: Bench) -> None:
    """What came before stays: each further question would be a strike more."""
    bench.client.answers[f"{ROUTE}/loras"] = InstanceTimeoutError("late")
    await bench.want("ae.sft")
    assert bench.client.asked[-1] == f"{ROUTE}/loras"
    assert bench.size("sd/xl.safetensors") == 6000
    assert bench.size("ae.sft") is None


# --- when it is asked --------------------------------------------------------------------------


async def test_nobody_is_asked_for_what_is_known_or_never_listed(bench: Bench) -> None:
    """Models without an ending, and those that ComfyUI's list leaves out."""
    await bench.want("RMBG-2.0", "flux.gguf")
    assert bench.client.asked == []
    await bench.want("ae.sft")
    bench.client.asked.clear()
    await bench.clock.advance(REFRESH_S)
    await bench.want("ae.sft", "RMBG-2.0")
    assert bench.client.asked == []


async def test_what_is_missing_is_asked_for_again_later(bench: Bench) -> None:
    """Once in REFRESH_S, however many want it; what was known stays when the answer breaks off."""
    await bench.want("new.ckpt")
    bench.client.asked.clear()
    await bench.clock.advance(REFRESH_S - 1)
    await bench.want("new.ckpt")
    assert bench.client.asked == []
    await bench.clock.advance(1)
    bench.client.answers[f"{ROUTE}/checkpoints"] = [listed("new.ckpt", size=5)]
    bench.client.answers[f"{ROUTE}/loras"] = InstanceTimeoutError("late")
    await bench.want("new.ckpt")
    assert bench.size("new.ckpt") == 5
    assert bench.size("ae.sft") == 300


async def test_one_that_is_away_is_not_asked(bench: Bench) -> None:
    """As soon as it is back it is, without REFRESH_S."""
    for _ in range(3):
        bench.instance.fault("down")
    await bench.want("ae.sft")
    assert bench.client.asked == []
    await bench.clock.advance(1)
    assert bench.instance.breaker.begin_trial()
    bench.instance.check_passed(0.1)
    await bench.want("ae.sft")
    assert bench.size("ae.sft") == 300


async def test_what_comes_back_is_asked_anew(bench: Bench) -> None:
    """An answer from before is not kept."""
    bench.client.gate.clear()
    await bench.want("ae.sft")
    bench.files.forget(bench.instance)
    bench.client.gate.set()
    await settle(200)
    assert bench.size("ae.sft") is None
    await bench.want("ae.sft")
    assert bench.size("ae.sft") == 300


async def test_closing_ends_what_asks(bench: Bench) -> None:
    """Nothing is asked after it."""
    bench.client.gate.clear()
    await bench.want("ae.sft")
    await bench.files.close()
    bench.client.gate.set()
    await settle()
    assert bench.client.asked == [ROUTE]


# --- shares ------------------------------------------------------------------------------------


async def test_shares_by_bytes(bench: Bench) -> None:
    """If all sizes are known."""
    await bench.want("ae.sft")
    shares = bench.files.share(bench.instance, ["sd/xl.safetensors", "style.safetensors", "ae.sft"])
    assert shares["sd/xl.safetensors"] == pytest.approx(6000 / 6400)
    assert sum(shares.values()) == pytest.approx(1)


async def test_shares_by_guess(bench: Bench) -> None:
    """If one size is missing: LoRAs and VAEs are small, by their names or their folders."""
    models = ["big.gguf", "sd/xl.safetensors", "my-LoRA.safetensors", "vae/x.pt"]
    shares = bench.files.share(bench.instance, models)
    assert shares["my-LoRA.safetensors"] == pytest.approx(0.05 / 2.15)
    assert shares["vae/x.pt"] == pytest.approx(0.1 / 2.15)
    await bench.want("ae.sft")
    shares = bench.files.share(bench.instance, ["big.gguf", "style.safetensors"])
    assert shares["style.safetensors"] == pytest.approx(0.05 / 1.05)


def test_shares_of_nothing(clock: ManualClock) -> None:
    """No models are no shares; the same one twice is one."""
    files = ModelFiles({}, clock=clock)
    assert files.share(make_instance(clock), []) == {}
    assert files.share(make_instance(clock), ["a.pt", "a.pt"]) == {"a.pt": 1.0}


# --- over HTTP ---------------------------------------------------------------------------------


async def test_over_http(connected: Callable[..., Awaitable[Cluster]]) -> None:
    """The paths and the JSON as ComfyUI has them, and not one strike for a folder of no list."""

    async def answer(request: web.Request) -> web.Response:
        payload = ANSWERS.get(request.raw_path.lstrip("/"))
        return web.Response(status=404) if payload is None else web.json_response(payload)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as server:
        cluster = await connected(str(server.make_url("/")))
        (instance,) = cluster.instances
        files = ModelFiles(cluster.clients, clock=ManualClock())
        files.wanted(instance, ["ae.sft"])
        await eventually(lambda: files.size(instance, "ae.sft") == 300)
        assert not instance.failing
        await files.close()
