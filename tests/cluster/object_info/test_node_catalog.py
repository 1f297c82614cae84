"""cluster/object_info/catalog.py: choices in both forms, what a graph lacks, the union of all."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.cluster.object_info.inputs import united
from comfy_proxy.cluster.object_info.node_class import NodeClass


def node_class(**inputs: Any) -> dict[str, Any]:
    return {"input": {"required": inputs}, "output": ["IMAGE"], "name": "…"}


def graph(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"1": {"class_type": class_type, "inputs": inputs}}


LOADER = node_class(model_name=[["a.pth", "b.pth"], {}])
LOAD_IMAGE = node_class(image=[["one.png"], {"image_upload": True}])
CLASSES = {"Loader": LOADER, "LoadImage": LOAD_IMAGE}


@pytest.mark.parametrize(
    ("prompt", "lacks"),
    [
        (graph("Loader", model_name="a.pth"), []),
        (graph("Loader", model_name="c.pth"), ["Loader.model_name: c.pth"]),
        (graph("Loader", model_name=["3", 0]), []),
        (graph("LoadImage", image="unknown.png"), []),
        (graph("Empty", name="x"), []),
        (graph("Empty", name="elsewhere"), ["Empty.name: elsewhere"]),
        ({"1": "no node", "2": {"class_type": 3}, "3": {"class_type": "Loader"}}, []),
    ],
)
def test_what_a_graph_lacks(prompt: dict[str, Any], lacks: list[str]) -> None:
    """Model files count, uploads do not, and an empty list only if somebody else has the file."""
    empty, full = (node_class(name=["COMBO", {"options": it}]) for it in ([], ["elsewhere"]))
    catalog = NodeCatalog.from_json({**CLASSES, "Empty": empty})
    assert catalog.missing_for(prompt, [NodeCatalog.from_json({"Empty": full})]) == lacks


@pytest.mark.parametrize(
    ("name", "spec", "listed"),
    [
        ("LoadImage", [["a"], {"image_upload": True}], True),
        ("LoadVideo", ["COMBO", {"video_upload": True, "options": []}], True),
        ("LoadImageOutput", ["COMBO", {"image_upload": True, "remote": {}}], False),
        ("Loader", [["a"], {}], False),
        ("Math", ["INT", {"default": 0}], False),
    ],
)
def test_which_classes_list_uploads(name: str, spec: list[Any], listed: bool) -> None:
    """Those whose lists are in the document; a remote list is asked for by the client itself."""
    assert NodeClass(name, node_class(x=spec)).lists_uploads() is listed


def test_a_union_of_equals_is_the_first_itself() -> None:
    """Nothing is copied where nothing differs."""
    assert united([LOADER, copy.deepcopy(LOADER)]) is LOADER


def test_choices_are_united_in_order_whatever_their_form() -> None:
    """The first one's order, then what only others have; its form and its other options stay."""
    first = node_class(m=[["b", "a"], {"tooltip": "…"}], n=["COMBO", {"options": [1], "x": 2}])
    other = node_class(m=["COMBO", {"options": ["a", "c"]}], n=[[2, 1]], more=["INT"])
    first["output"], other["output"] = [["b", "a"], "IMAGE"], [["a", "c"], "IMAGE"]
    result = united([first, other])
    assert result["input"]["required"] == {
        "m": [["b", "a", "c"], {"tooltip": "…"}],
        "n": ["COMBO", {"options": [1, 2], "x": 2}],
    }
    assert result["output"] == [["b", "a", "c"], "IMAGE"]
    assert first["input"]["required"]["m"][0] == ["b", "a"]
