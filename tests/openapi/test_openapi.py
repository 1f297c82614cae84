"""The description of the API is what the API is."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from openapi_spec_validator import validate

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.our_routes import OUR_ROUTES

Start = Callable[..., Awaitable[TestClient[Any, Any]]]
NOT_DESCRIBED = {"/dashboard", "/dashboard/events", "/api/openapi.json", "/api/docs", "/api/v2"}
"""Pages, the description itself, and what has a description of Comfy's own."""
CASES = 12
"""Most requests that are made up for each operation and kind of mistake."""


async def described(proxy: TestClient[Any, Any]) -> dict[str, Any]:
    async with proxy.get("/api/openapi.json") as answer:
        document: dict[str, Any] = await answer.json()
    return document


@pytest.mark.long
async def test_it_is_an_openapi_document(proxy: TestClient[Any, Any]) -> None:
    """OpenAPI 3.1, as its own schema has it."""
    document = await described(proxy)
    assert document["openapi"] == "3.1.0"
    validate(document)


async def test_every_route_of_ours_is_in_it(proxy: TestClient[Any, Any]) -> None:
    """No route without a description, and none described that is not there."""
    routes = {
        (route.method, resource.canonical)
        for resource in proxy.app[OUR_ROUTES].router.resources()  # type: ignore[index]
        for route in resource
        if route.method not in ("HEAD", "OPTIONS")
        and not resource.canonical.startswith(tuple(NOT_DESCRIBED))
    }
    paths = (await described(proxy))["paths"]
    told = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    own = {row for row in told if row[1].startswith("/api/workflows/")}
    assert told - own <= routes
    assert routes <= told


async def test_a_workflow_of_ones_own_is_in_it(
    start_proxy: Start, workers: Any, tmp_path: Path
) -> None:
    """With its parameters, and its file as a file of a form and as a text of JSON."""
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "2": {
            "class_type": "ImageScale",
            "inputs": {"image": ["1", 0], "width": 8},
            "_meta": {"title": "$side"},
        },
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
    }
    (tmp_path / "mine.json").write_text(json.dumps(graph))
    proxy = await start_proxy(*workers, workflow_directory=tmp_path)
    operation = (await described(proxy))["paths"]["/api/workflows/mine"]["post"]
    content = operation["requestBody"]["content"]
    form = content["multipart/form-data"]["schema"]
    assert form["properties"]["image"] == {"type": "string", "format": "binary", "x-kind": "image"}
    assert form["properties"]["side"]["default"] == 8
    assert form["required"] == ["image"]
    assert content["application/json"]["schema"]["properties"]["image"]["type"] == "string"
    assert "image/*" in content


async def test_operations_differ_in_more_than_case(
    start_proxy: Start, workers: Any, tmp_path: Path
) -> None:
    """Generators make names of files, classes and methods of them."""
    graph = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8}}}
    for name in ("T2I", "t2i", "a-b", "a_b", "a_b_2"):
        (tmp_path / f"{name}.json").write_text(json.dumps(graph))
    proxy = await start_proxy(*workers, workflow_directory=tmp_path)
    paths = (await described(proxy))["paths"]
    ids = [one["operationId"] for methods in paths.values() for one in methods.values()]
    assert len({one.lower() for one in ids}) == len(ids)
    assert paths["/api/workflows/T2I"]["post"]["operationId"] == "post_api_workflows_T2I"
    assert paths["/api/workflows/t2i"]["post"]["operationId"] == "post_api_workflows_t2i_2"


async def test_the_page_comes_from_here(proxy: TestClient[Any, Any]) -> None:
    """Scripts and styles are ours: nothing is loaded from elsewhere."""
    async with proxy.get("/api/docs") as answer:
        page = await answer.text()
        policy = answer.headers["Content-Security-Policy"]
    assert "script-src 'self'" in policy
    assert "//" not in page.replace("<!doctype html>", "")
    for file, start in (("swagger-ui.js", "/*"), ("swagger-ui.css", "."), ("start.js", "const")):
        assert f"/api/docs/{file}" in page
        async with proxy.get(f"/api/docs/{file}") as answer:
            assert (await answer.text()).startswith(start)
    async with proxy.get("/api/docs/other.js") as answer:
        assert (answer.status, (await answer.json())["code"]) == (404, "not_found")


@pytest.mark.long
async def test_answers_are_as_described(
    caplog: pytest.LogCaptureFixture,
    start_proxy: Start,
    workers: tuple[EmbeddedWorker, ...],
    tmp_path: Path,
) -> None:
    """schemathesis makes up requests, right and wrong ones: each is answered as the document says.

    Left out: a schema cannot say that a file must be a picture, nor which workflows need models
    that the simulated instances do not have.
    """
    proxy = await start_proxy(*workers)
    left_out = "text-to-image|image-to-image|/api/instances"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run"),
        str(proxy.make_url("/api/openapi.json")),
        *("--max-examples", str(CASES), "--phases", "examples,coverage,fuzzing"),
        *("--exclude-path-regex", left_out, "--exclude-checks", "positive_data_acceptance"),
        *("--generation-deterministic", "--no-color"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=tmp_path,  # where it leaves what it has found
    )
    output, _ = await process.communicate()
    caplog.clear()  # aiohttp logs the heads with which it was tried what is no HTTP
    assert process.returncode == 0, output.decode()
