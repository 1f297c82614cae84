"""fatal_graph.py: what ComfyUI would find too late, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_proxy.cluster.links import MAX_CHAIN
from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.cluster.object_info.fatal_graph import fatal_flaw

CATALOG = NodeCatalog.from_json(
    {
        "Make": {"input": {"required": {"size": ["INT"]}}, "output_node": False},
        "Scale": {"input": {"required": {"image": ["IMAGE"]}, "optional": {"mask": ["MASK"]}}},
        "Save": {"input": {"required": {"images": ["IMAGE"]}}, "output_node": True},
    }
)


def flaw(node_id: str, input_name: str, target: str) -> str:
    return (
        f"The input {input_name} of node {node_id} is linked to node {target}, which is not there."
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
    assert fatal_flaw(graph(more=["99", slot]), CATALOG) == flaw("2", "more", "99")


def test_one_behind_such_an_input_though_it_is_declared() -> None:
    """What only an input leads to that nobody declares is not checked either."""
    found = graph(more=["4", 0]) | {"4": node("Scale", image=["99", 0])}
    assert fatal_flaw(found, CATALOG) == flaw("4", "image", "99")


@pytest.mark.parametrize("target", [None, [], {"class_type": "Make"}, {"inputs": []}])
def test_what_it_leads_to_has_no_inputs(target: Any) -> None:
    assert fatal_flaw(graph(more=["4", 0]) | {"4": target}, CATALOG) == flaw("2", "more", "4")


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
    assert fatal_flaw(found, CATALOG) is None


def test_of_no_class_is_it_known_what_it_declares() -> None:
    assert fatal_flaw(graph(more=["99", 0]), NodeCatalog()) is None


def chain(length: int, **last: Any) -> dict[str, Any]:
    """So many nodes, each of which reads the one before it, by an input that it declares."""
    found = {str(at): node("Scale", image=[str(at - 1), 0]) for at in range(2, length)}
    return found | {"1": node("Make", **last), "save": node("Save", images=[str(length - 1), 0])}


def test_a_chain_that_comfyui_cannot_follow() -> None:
    """Also where no class is known, and what is in a circle counts as a chain."""
    refused = f"More than {MAX_CHAIN} nodes of the prompt hang one behind the other."
    assert fatal_flaw(chain(MAX_CHAIN), CATALOG) is None
    assert fatal_flaw(chain(MAX_CHAIN + 1), NodeCatalog()) == refused
    assert fatal_flaw(chain(MAX_CHAIN + 1, more=["save", 0]), CATALOG) == refused


def test_many_nodes_side_by_side_are_no_chain() -> None:
    wide = {str(at): node("Scale", image=["1", 0]) for at in range(2, 2 * MAX_CHAIN)}
    assert fatal_flaw(graph() | wide, CATALOG) is None
