"""Nodes that write a file and tell its path as a text, as those of meshes do."""

from __future__ import annotations

from typing import Any

from comfy_proxy.embedded.nodes.node_class import Context, NodeClass, Result, entry
from comfy_proxy.embedded.worker import EmbeddedWorker

TEXT = ["STRING", {"default": ""}]


def _write(context: Context, inputs: dict[str, Any]) -> Result:
    directory = context.folders.by_type("output")
    assert directory is not None
    target = directory / inputs["path"]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(inputs["text"])
    return Result(outputs=(inputs["told"],))


def _show(_context: Context, inputs: dict[str, Any]) -> Result:
    return Result(ui={"result": [inputs["model_file"], None]})


NODES = (
    NodeClass(
        name="WriteMesh",
        entry=entry(
            "WriteMesh",
            "WriteMesh",
            category="testing",
            inputs={"text": TEXT, "path": TEXT, "told": TEXT},
            outputs=("STRING",),
        ),
        run=_write,
    ),
    NodeClass(
        name="Preview3D",
        entry=entry(
            "Preview3D",
            "Preview 3D",
            category="3d",
            inputs={"model_file": TEXT},
            output_node=True,
        ),
        run=_show,
    ),
)


def install(*workers: EmbeddedWorker) -> None:
    """Give the workers these nodes."""
    for worker in workers:
        worker._classes.update({node.name: node for node in NODES})


def mesh(text: str, told: str = "3d/mesh.glb") -> dict[str, Any]:
    """A graph that writes ``text`` to ``output/3d/mesh.glb``; ``told`` is what it says of where."""
    inputs = {"text": text, "path": "3d/mesh.glb", "told": told}
    write = {"class_type": "WriteMesh", "inputs": inputs}
    show = {"class_type": "Preview3D", "inputs": {"model_file": ["1", 0]}}
    return {"1": write, "2": show}
