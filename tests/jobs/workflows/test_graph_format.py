"""Graphs that a template file may have: none that ComfyUI would accept and then die of."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from template_files import node

from comfy_proxy.cluster.links import MAX_CHAIN, is_link
from comfy_proxy.embedded.graph import is_link as is_link_there
from comfy_proxy.jobs.workflows.graph_format import GraphInFile

GRAPH: TypeAdapter[Any] = TypeAdapter(GraphInFile)
LINKS = [["1", 0], ["1", 0.5], ["1", -1], ["1", True], ["1", -0.0]]
"""All that ComfyUI takes for a link."""
VALUES = [[1, 0], ["1", "0"], ["1"], ["1", 0, 0], ["1", None], "1", 0, None, {"1": 0}, [["1"], 0]]


def reason(graph: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        GRAPH.validate_python(graph)
    return str(caught.value)


def chain(length: int, name: str = "anything") -> dict[str, Any]:
    """Nodes of which each reads the one before."""
    links = {str(at): node("PreviewAny", **{name: [str(at - 1), 0]}) for at in range(1, length)}
    return {"0": node("PrimitiveInt", value=1), **links}


@pytest.mark.parametrize("value", [*LINKS, *VALUES])
def test_a_link_is_what_comfyui_takes_for_one(value: Any) -> None:
    """The worker's rule is that of ComfyUI."""
    assert is_link(value) is is_link_there(value) is (value in LINKS)


@pytest.mark.parametrize("link", LINKS)
def test_a_link_to_nowhere_is_found_whatever_its_slot(link: list[Any]) -> None:
    """ComfyUI accepts the graph if the input is not declared, and its executor dies of it."""
    graph = chain(2)
    graph["1"]["inputs"]["undeclared"] = ["99", link[1]]
    assert "node '1': 'undeclared' is linked to node '99', which is not there" in reason(graph)


def test_links_in_a_circle_are_found() -> None:
    """Also one from a node to itself, and one of nodes from which no result comes."""
    graph = chain(4)
    graph["1"]["inputs"]["undeclared"] = ["3", 0]
    assert "the links go round in a circle: 1 → 3 → 2 → 1" in reason(graph)
    graph["1"]["inputs"]["undeclared"] = ["1", 0.5]
    assert "the links go round in a circle: 1 → 1" in reason(graph)


def test_a_chain_is_bounded() -> None:
    """The recursion of ComfyUI ends its executor's thread beyond some 980 nodes."""
    assert len(GRAPH.validate_python(chain(MAX_CHAIN))) == MAX_CHAIN
    assert f"{MAX_CHAIN + 1} nodes hang one behind the other" in reason(chain(MAX_CHAIN + 1))


def test_a_node_that_is_read_twice_is_no_circle() -> None:
    """Two ways to the same node, and the same link twice."""
    graph = {**chain(3), "9": node("X", a=["0", 0], b=["1", 0], c=["2", 0], d=["2", 0])}
    assert GRAPH.validate_python(graph) == graph
