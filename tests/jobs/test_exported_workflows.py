"""Exported graphs as endpoints, through two instances: files in each place, variants, what runs."""

from __future__ import annotations

import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData
from job_client import JobClient, encode, form, noise, open_picture, until
from PIL import Image

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.jobs.model import Job
from comfy_proxy.keys import CLUSTER

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Awaitable[JobClient]]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


MASKED = {
    "1": node("LoadImage", image="x.png"),
    "2": node("LoadImageMask", image="m.png", channel="red"),
    "3": node("JoinImageWithAlpha", image=["1", 0], alpha=["2", 0]),
    "9": node("SaveImage", images=["3", 0], filename_prefix="masked"),
}
SIZED = {
    "1": node("EmptyImage", width=16, height=8, batch_size=1, color=0),
    "9": node("PreviewImage", images=["1", 0]),
}


SCALED = {
    "1": node("LoadImage", image="x.png"),
    "2": {
        **node("ImageScale", image=["1", 0], upscale_method="area", width=8, height=8,
               crop="disabled"),
        "_meta": {"title": "$how"},
    },
    "9": node("PreviewImage", images=["2", 0]),
}  # fmt: skip


def statuses(jobs: JobClient) -> list[str]:
    """The statuses that jobs have from now on, each as it changes."""
    seen: list[str] = []

    def note(job: Job) -> None:
        if not seen or seen[-1] != str(job.status):
            seen.append(str(job.status))

    jobs.service.manager.on_changed.append(note)
    return seen


def write(directory: Path, **graphs: Any) -> None:
    for name, graph in graphs.items():
        (directory / f"{name}.json").write_text(json.dumps(graph))


def files(**contents: bytes) -> FormData:
    data = FormData()
    for name, content in contents.items():
        data.add_field(name, io.BytesIO(content), filename="p.png")
    return data


async def run(jobs: JobClient, name: str, **sent: Any) -> dict[str, Any]:
    async with jobs.http.post(f"/api/workflows/{name}", **sent) as answer:
        body = await answer.json()
        assert answer.status == 202, body
    return await jobs.ends(body["job_id"])


async def test_a_picture_and_a_mask(start_jobs: Start, workers: Pair, templates: Path) -> None:
    """Each file gets to its own loader: the mask makes half of the picture transparent."""
    write(templates, masked=MASKED)
    jobs = await start_jobs(*workers)
    mask = Image.new("L", (16, 12), 0)
    mask.paste(255, (0, 0, 8, 12))
    end = await run(jobs, "masked", data=files(mask=encode(mask), image=noise()))
    assert (end["status"], end["variant"]) == ("completed", "graph")
    made = open_picture(await jobs.result(end["job_id"]))
    assert made.size == (16, 12)
    assert {made.getchannel("A").getpixel((0, 0)), made.getchannel("A").getpixel((15, 0))} == {
        0, 255,
    }  # fmt: skip


async def test_an_optional_file_that_is_left_out(
    start_jobs: Start, workers: Pair, templates: Path
) -> None:
    """The author's own name stays in the graph: the file must be at the instances."""
    write(templates, masked=MASKED)
    mapping = '[parameters.mask]\nnode = "2"\ninput = "image"\nrequired = false'
    (templates / "masked.toml").write_text(mapping)
    for worker in workers:
        (worker.folders.input / "m.png").write_bytes(encode(Image.new("L", (16, 12), 255)))
    jobs = await start_jobs(*workers)
    end = await run(jobs, "masked", data=form(noise()))
    assert end["status"] == "completed"


async def test_a_graph_that_the_instances_refuse(
    start_jobs: Start, workers: Pair, templates: Path
) -> None:
    """An input is missing in it: told in ComfyUI's own words, and tried nowhere else."""
    write(templates, sized={**SIZED, "1": node("EmptyImage", width=16, height=8, color=0)})
    jobs = await start_jobs(*workers)
    seen = statuses(jobs)
    end = await run(jobs, "sized", json={"width": 32})
    assert (end["status"], end["error"]["code"]) == ("failed", "workflow_error")
    assert "batch_size" in end["error"]["message"]
    assert seen == ["pending", "processing", "failed"]


async def test_a_value_that_no_instance_lists(
    start_jobs: Start, workers: Pair, templates: Path
) -> None:
    """All would refuse it: it is tried once, and its status never goes back."""
    write(templates, scaled=SCALED)
    jobs = await start_jobs(*workers)
    cluster = jobs.http.app[CLUSTER]
    await until(lambda: all(map(cluster.capabilities.known, cluster.instances)))
    seen = statuses(jobs)
    end = await run(jobs, "scaled", data=form(noise(), how_upscale_method="no such"))
    assert "'no such' not in" in end["error"]["message"]
    assert seen == ["pending", "processing", "failed"]


async def test_a_file_that_one_instance_lists(
    start_jobs: Start, workers: Pair, templates: Path
) -> None:
    """The graph names a picture of the instances' own: the job ends up where that is."""
    write(templates, scaled=SCALED)
    mapping = '[parameters.picture_name]\nnode = "1"\ninput = "image"\ntype = "string"'
    (templates / "scaled.toml").write_text(mapping)
    (workers[1].folders.input / "here.png").write_bytes(noise())
    jobs = await start_jobs(*workers)
    cluster = jobs.http.app[CLUSTER]
    await until(lambda: all(map(cluster.capabilities.known, cluster.instances)))
    for _ in range(2):
        end = await run(jobs, "scaled", json={"picture_name": "here.png"})
        assert (end["status"], end["comfyui_instance"]) == ("completed", workers[1].host)


async def test_results_that_comfyui_would_leave_out(
    start_jobs: Start, workers: Pair, templates: Path
) -> None:
    """It answers 200 and would run the rest: the job fails, once, with its reason."""
    second = {"2": node("EmptyImage", width=16, height=10**6, batch_size=1, color=0)}
    second["8"] = node("PreviewImage", images=["2", 0])
    write(templates, both={**SIZED, **second})
    (templates / "both.toml").write_text("automatic = false")
    jobs = await start_jobs(*workers)
    seen = statuses(jobs)
    end = await run(jobs, "both")
    assert (end["status"], end["error"]["code"]) == ("failed", "workflow_error")
    assert "EmptyImage (node 2): Value 1000000 bigger" in end["error"]["message"]
    assert seen == ["pending", "processing", "failed"]


@pytest.mark.parametrize("fields", [{"width": 0}, {"width": 20_000}, {"batch_size": 5000}])
async def test_bounds_of_usual_nodes(
    start_jobs: Start, workers: Pair, templates: Path, fields: dict[str, int]
) -> None:
    """What no instance takes is refused before there is a job."""
    write(templates, sized=SIZED)
    jobs = await start_jobs(*workers)
    async with jobs.http.post("/api/workflows/sized", json=fields) as answer:
        body = await answer.json()
    assert (answer.status, body["details"]["field"]) == (400, next(iter(fields)))


async def test_the_variant_that_ran_is_told(
    start_jobs: Start, tmp_path: Path, workers: Pair, templates: Path
) -> None:
    """Each instance runs the first one that it can, and the status says which it was."""
    plain = {**SIZED, "1": node("LoadImage", image="x.png")}
    variants = [{"name": "better", "graph": SIZED}, {"name": "plain", "graph": plain}]
    write(templates, either={"variants": variants})
    lacking = EmbeddedWorker(
        base_directory=tmp_path / "three", missing_nodes=("EmptyImage",), test_nodes=True
    )
    async with lacking:
        (lacking.folders.input / "x.png").write_bytes(noise())
        jobs = await start_jobs(workers[0], lacking)
        cluster = jobs.http.app[CLUSTER]
        await until(lambda: all(map(cluster.capabilities.known, cluster.instances)))
        view = await jobs.get("/api/workflows/either")
        assert view["file_parameters"] == []
        by_name = {one["name"]: one for one in view["variants"]}
        assert by_name["better"]["runs_on"] == [workers[0].host]
        assert by_name["better"]["missing"] == {lacking.host: ["EmptyImage"]}
        assert set(by_name["plain"]["runs_on"]) == {workers[0].host, lacking.host}
        ran = set()
        for _ in range(2):
            end = await run(jobs, "either")
            assert end["status"] == "completed"
            ran.add((end["comfyui_instance"], end["variant"]))
        assert ran <= {(workers[0].host, "better"), (lacking.host, "plain")}
        await jobs.http.server.close()


async def test_the_parameters_of_a_graph_are_shown(
    start_jobs: Start, workers: Pair, templates: Path
) -> None:
    """As a JSON Schema, files first; mistakes of other files beside them."""
    write(templates, masked=MASKED, bad={"nodes": []})
    jobs = await start_jobs(*workers)
    view = await jobs.get("/api/workflows/masked")
    assert view["file_parameters"] == ["image", "mask"]
    schema = view["parameters"]
    assert list(schema["properties"]) == ["image", "mask", "format", "quality"]
    assert schema["properties"]["mask"] == {
        "type": "string", "format": "binary", "x-kind": "mask",
    }  # fmt: skip
    assert schema["required"] == ["image", "mask"]
    listed = await jobs.get("/api/workflows")
    assert [one["file"] for one in listed["problems"]] == ["bad.json"]
    assert "masked" in [one["name"] for one in listed["workflows"]]
