"""What ``comfy-proxy check`` tells of templates that an instance would refuse whatever they ask."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comfy_proxy.check import check_instances
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.settings import Settings, parse_instance


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


GOOD = {
    "1": node("EmptyImage", width=16, height=8, batch_size=1, color=0),
    "2": node("PreviewImage", images=["1", 0]),
}


@pytest.mark.long
@pytest.mark.parametrize(
    ("graph", "mapping", "told"),
    [
        (GOOD, "", "mine: runs"),
        (GOOD, "outputs = ['2']", "mine: runs"),
        (GOOD, "outputs = ['1']",
         "mine: runs, but its results are to come from EmptyImage (node 1): no output node"),
        ({"1": GOOD["1"]}, "", "mine: cannot run (graph lacks an output node)"),
        ({"1": GOOD["1"]}, "outputs = ['1']", "mine: cannot run (graph lacks an output node)"),
        ({**GOOD, "2": node("PreviewImage", images=[1, 0])}, "",
         "mine: cannot run (graph lacks a link in PreviewImage.images (node 2): [1, 0])"),
        ({**GOOD, "1": node("EmptyImage", width=["1"])}, "",
         "mine: cannot run (graph lacks a link in EmptyImage.width (node 1): ['1'])"),
        # What ComfyUI does not look at is no mistake: undeclared, or no result hangs on it.
        ({**GOOD, "2": node("PreviewImage", images=["1", 0], undeclared=[1, 0])}, "", "mine: runs"),
        ({**GOOD, "3": node("EmptyImage", width=[1, 0])}, "", "mine: runs"),
    ],
)  # fmt: skip
async def test_what_a_graph_of_ones_own_lacks(
    worker: EmbeddedWorker, tmp_path: Path, graph: Any, mapping: str, told: str
) -> None:
    """What only the instance knows is told as what it lacks there."""
    (tmp_path / "mine.json").write_text(json.dumps(graph))
    (tmp_path / "mine.toml").write_text(mapping)
    settings = replace(
        Settings(instances=(parse_instance(worker.url),)),
        log_directory=None,
        workflow_directory=tmp_path,
    )
    lines: list[str] = []
    await check_instances(settings, lines.append)
    assert f"  {told}" in lines


@pytest.fixture
async def worker(workers: tuple[EmbeddedWorker, EmbeddedWorker]) -> EmbeddedWorker:
    """One instance."""
    return workers[0]
