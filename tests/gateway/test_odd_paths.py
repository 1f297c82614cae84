"""However a client spells a path, it is classified as ComfyUI's own router would."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient
from gateway_harness import Harness
from prompts_front import COMPLETE, ended, get, graph, instance_of, listening, post, recover, until
from yarl import URL

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.gateway.routes import Policy, match
from comfy_proxy.keys import GATEWAY, REQUEST_OBSERVERS
from comfy_proxy.metrics.records import RequestRecord
from comfy_proxy.request_path import normal_path

Workers = tuple[EmbeddedWorker, EmbeddedWorker]
TAKEN = ["/%70rompt", "/%70%72ompt", "/api/promp%74", "/%61pi/prompt", "/prompt#x"]
NOT_TAKEN = ["//prompt", "/prompt/", "/./prompt", "/x/../prompt", "/%2570rompt", "/api%2Fprompt"]


def spelt(http: TestClient, path: str) -> URL:
    """The URL with ``path`` as it stands."""
    base = http.make_url("/")
    return URL.build(scheme=base.scheme, authority=base.raw_authority, path=path, encoded=True)


async def figures(http: TestClient) -> dict[str, Any]:
    prompts: dict[str, Any] = (await get(http, "/metrics"))["prompts"]
    return prompts


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("/%70rompt", "/prompt"),
        ("/%70%72%6F%6d%70t", "/prompt"),
        ("/a%2Db%2Ec%5Fd%7Ee%30", "/a-b.c_d~e0"),
        ("/a%2Fb%25%20%3A%C3%A4", "/a%2Fb%25%20%3A%C3%A4"),
        ("/%2570rompt", "/%2570rompt"),
        ("//prompt/./x/../", "//prompt/./x/../"),
        ("/%7", "/%7"),
        ("/%zz", "/%zz"),
    ],
)
def test_only_unreserved_characters_are_decoded(path: str, normal: str) -> None:
    """And once: what was encoded twice stays encoded."""
    assert normal_path(path) == normal


@pytest.mark.parametrize(
    ("method", "path", "pattern"),
    [
        ("GET", "/%77s", "/ws"),
        ("GET", "/h%69story", "/history"),
        ("GET", "/%61pi/queu%65", "/queue"),
        ("POST", "/%71ueue", "/queue"),
        ("GET", "/%6fbject_info/KSampler", "/object_info/{node_class}"),
        ("GET", "/object%5Finfo", "/object_info"),
        ("POST", "/api/jobs/c%61ncel", "/jobs/cancel"),
        ("GET", "/%76%32/userdata", "/v2/userdata"),
    ],
)
def test_an_encoded_letter_is_the_letter(method: str, path: str, pattern: str) -> None:
    """The row of the plain spelling answers."""
    assert match(method, path).pattern == pattern


@pytest.mark.parametrize("path", NOT_TAKEN)
def test_what_comfyui_does_not_know_is_no_prompt(path: str) -> None:
    """Its answer is 404 or 405, and the primary gives it."""
    assert match("POST", path).policy is Policy.CUSTOM


@pytest.mark.long
@pytest.mark.parametrize("path", TAKEN)
async def test_a_prompt_that_is_taken_is_counted_and_owned(
    proxy: TestClient, workers: Workers, path: str
) -> None:
    """Whatever spelling it came by: its end is known too, and its owner."""
    before = await figures(proxy)
    async with proxy.session.post(spelt(proxy, path), json={"prompt": graph()}) as answer:
        assert answer.status == 200
        prompt_id = (await answer.json())["prompt_id"]
    await ended(proxy, prompt_id)
    owner = proxy.app[GATEWAY].ledger.owner(prompt_id)
    taken = [worker.host for worker in workers if prompt_id in worker.submitted]
    assert [owner.host] == taken
    assert (await figures(proxy))["forwarded"] == before["forwarded"] + 1


@pytest.mark.long
@pytest.mark.parametrize("path", NOT_TAKEN)
async def test_a_path_that_is_no_prompts_is_answered_by_comfyui(
    proxy: TestClient, workers: Workers, path: str
) -> None:
    """With its own status; nothing is taken, nothing counted."""
    before = await figures(proxy)
    body = {"prompt": graph()}
    async with (
        ClientSession() as session,
        session.post(URL(f"{workers[0].url}{path}", encoded=True), json=body) as direct,
        proxy.session.post(spelt(proxy, path), json=body) as answer,
    ):
        assert (answer.status, await answer.read()) == (direct.status, await direct.read())
        assert answer.status in (404, 405)
    assert (await figures(proxy))["forwarded"] == before["forwarded"]


async def test_a_prompt_by_an_odd_path_is_counted_with_one_instance(
    start_proxy: Any, workers: Workers
) -> None:
    """Nothing is read or merged there, and the figures are the same."""
    http = await start_proxy(workers[0])
    for path in TAKEN:
        async with http.session.post(spelt(http, path), json={"prompt": graph()}) as answer:
            assert answer.status == 200
    assert (await figures(http))["forwarded"] == len(TAKEN)


async def test_a_socket_by_an_odd_path_hears_all_instances(
    proxy: TestClient, workers: Workers
) -> None:
    """``/%77s`` is the socket of all of them, not one instance's."""
    prompt_ids = []
    async with listening(proxy, path="/%77s") as listener:
        for _ in workers:
            prompt_ids.append(await post(proxy, client_id=listener.client_id))
            await ended(proxy, prompt_ids[-1])
    assert {len(worker.submitted) for worker in workers} == {1}
    assert [listener.kinds(prompt_id) for prompt_id in prompt_ids] == [COMPLETE, COMPLETE]


async def test_views_by_an_odd_path_are_those_of_all(proxy: TestClient, workers: Workers) -> None:
    """The history of both instances, and commands that reach both."""
    prompt_ids = [await post(proxy) for _ in workers]
    await ended(proxy, *prompt_ids)
    async with proxy.session.get(spelt(proxy, "/h%69story")) as answer:
        assert set(await answer.json()) == set(prompt_ids)
    async with proxy.session.post(spelt(proxy, "/%68istory"), json={"clear": True}) as answer:
        assert answer.status == 200
    assert await get(proxy, "/history") == {}


async def test_ours_by_an_odd_path_are_ours(proxy: TestClient) -> None:
    """Our routes and the methods that they lack, and no instance's in their place."""
    async with proxy.session.get(spelt(proxy, "/he%61lth/live")) as answer:
        assert answer.status == 200
    async with proxy.session.delete(spelt(proxy, "/%68ealth")) as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    for path in ("//health", "/health/", "/health%2Flive"):
        async with proxy.session.get(spelt(proxy, path)) as answer:
            assert answer.status == 404


@pytest.mark.long
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health/live", 200),
        ("/health/l%69ve", 200),
        ("/%68ealth/ready", 200),
        ("/health%2Flive", 401),
        ("//health/live", 401),
        ("/health/live/", 401),
        ("/health/./live", 401),
        ("/health/x/../live", 401),
        ("/health/%6Cive/x", 401),
        ("/health;/live", 401),
    ],
)
async def test_open_paths_are_open_in_each_spelling_and_nothing_else_is(
    start_proxy: Any, workers: Workers, path: str, status: int
) -> None:
    """What is let pass without a key is what our handler answers."""
    http = await start_proxy(*workers, api_keys=("s3cret",))
    await recover(http, workers[0])
    async with http.session.get(spelt(http, path)) as answer:
        assert answer.status == status


async def test_a_path_goes_on_as_it_was_spelt(harness: Harness) -> None:
    """The normal form decides who answers; the instance gets the client's bytes."""
    seen: list[str] = []

    async def upstream(request: web.Request) -> web.Response:
        seen.append(request.raw_path)
        return web.Response()

    proxy = await harness.proxy(await harness.upstream(upstream))
    paths = ["/%73ystem_stats", "/a%2Db%7e", "/%2570", "/prompt%2f", "/x?y=%70"]
    for path in paths:
        await proxy.exchange(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
    assert seen == paths


async def test_an_outage_told_by_an_odd_path_is_no_fault_of_ours(
    proxy: TestClient, workers: Workers
) -> None:
    """503 of ``/health`` is an answer, however the path is spelt."""
    records: list[RequestRecord] = []
    proxy.app[REQUEST_OBSERVERS].append(records.append)
    await workers[0].kill()
    instance = instance_of(proxy, workers[0])
    while instance.healthy:
        instance.fault("killed by the test")
    async with proxy.session.get(spelt(proxy, "/%68ealth")) as answer:
        assert answer.status == 503
    await until(lambda: records)
    assert [(one.path, one.status, one.is_fault) for one in records] == [("/%68ealth", 503, False)]
