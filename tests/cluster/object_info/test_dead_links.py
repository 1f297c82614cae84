"""dead_links.py: links to nothing that ComfyUI would find too late, and no others."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.cluster.object_info.dead_links import DeadLink, dead_link

CATALOG = NodeCatalog.from_json(
    {
        "Make": {"input": {"required": {"size": ["INT"]}}, "output_node": False},
        "Scale": {"input": {"required": {"image": ["IMAGE"]}, "optional": {"mask": ["MASK"]}}},
        "Save": {"input": {"required": {"images": ["IMAGE"]}}, "output_node": True},
    }
)


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def graph(**scale: Any) -> dict[str, Any]:
    """Make → Scale → Save, and those other inputs of Scale."""
    return {
        "1": node("Make", size=8),
        "2": node("Scale", image=["1", 0], **scale),
        "3": node("Save", images=["2", 0]),
    }


@pytest.mark.parametrize("slot", [0, 0.5, -1, True])
def test_an_input_that_nobody_declares(slot: Any) -> None:
    """ComfyUI takes any number for a link's."""
    assert dead_link(graph(more=["99", slot]), CATALOG) == DeadLink("2", "more", "99")


def test_one_behind_such_an_input_though_it_is_declared() -> None:
    """What only an input leads to that nobody declares is not checked either."""
    found = graph(more=["4", 0]) | {"4": node("Scale", image=["99", 0])}
    assert dead_link(found, CATALOG) == DeadLink("4", "image", "99")


@pytest.mark.parametrize("target", [None, [], {"class_type": "Make"}, {"inputs": []}])
def test_what_it_leads_to_has_no_inputs(target: Any) -> None:
    assert dead_link(graph(more=["4", 0]) | {"4": target}, CATALOG) == DeadLink("2", "more", "4")


@pytest.mark.parametrize(
    "found",
    [
        graph(),
        graph(mask=["99", 0]),  # ComfyUI says so itself
        graph(more=["1", 0]),
        graph(more=["99", 0, 1]),
        graph(more=["99", "0"]),
        graph(more=["1", 0]) | {"4": node("Scale", image=["99", 0], more=["99", 0])},
        graph() | {"4": None, "5": node("Nobody has it", more=["99", 0])},
        graph(more=["2", 0]),  # a circle
    ],
)
def test_what_comfyui_runs_or_refuses_itself(found: dict[str, Any]) -> None:
    assert dead_link(found, CATALOG) is None


def test_of_no_class_is_it_known_what_it_declares() -> None:
    assert dead_link(graph(more=["99", 0]), NodeCatalog()) is None
