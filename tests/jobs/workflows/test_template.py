"""Described templates: their parameters, and each mistake told with its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_instance import Instance, picture
from template_files import described, with_variant, write

from comfy_proxy.jobs.workflows.directory import load_workflows


def test_a_described_template_has_its_parameters(tmp_path: Path) -> None:
    """A parameter of the file is bound into the graph; an unknown size goes by file."""
    write(tmp_path, "mine.json", described(name="resize"))
    workflow = load_workflows(tmp_path).get("resize")
    values = workflow.parse_parameters({"side": "32"})
    built = workflow.choose(Instance(), {"image": picture()}, values).build({"image": "up.png"})
    assert built.prompt["2"]["inputs"]["width"] == 32
    assert not built.by_frame


def test_an_optional_parameter_leaves_the_graph_s_value(tmp_path: Path) -> None:
    """Without a default and not given, what the author put into the graph stays."""
    write(tmp_path, "mine.json", described(parameters={"side": {"type": "integer"}}))
    workflow = load_workflows(tmp_path).get("mine")
    plan = workflow.choose(Instance(), {"image": picture()}, workflow.parse_parameters({}))
    assert plan.build({"image": "up.png"}).prompt["2"]["inputs"]["width"] == 8


PARAMETER = "parameters.side"
VARIANT = "variants.0"


@pytest.mark.long
@pytest.mark.parametrize(
    ("document", "key", "reason"),
    [
        (described(variants=[]), "variants", "at least 1 item"),
        (described(variants={}), "variants", "a valid list"),
        (described(colour=1), "colour", "there is no such key here"),
        (described(title=5), "title", "a valid string"),
        (described(name="a/b"), "name", "should match pattern"),
        (described(name="upscale-image"), "name", "another workflow named 'upscale-image'"),
        (described(scale="$side2"), "", "scale: '$side2' is no number"),
        (described(scale=-1), "scale", "greater than 0"),
        (described(scale=[]), "scale", "a valid number"),
        (described(conversions={"crop": "$side"}), "", "conversions.crop: '$side' is no boolean"),
        (described(conversions={"turn": 1}), "conversions.turn", "there is no such key here"),
        (described(parameters=[]), "parameters", "must be an object"),
        (described(parameters={"side": 5}), PARAMETER, "must be an object"),
        (described(parameters={"format": {"type": "string"}}), "parameters", "'format': reserved"),
        (described(parameters={"status_url": {"type": "string"}}), "parameters", "reserved"),
        (described(parameters={"image": {"type": "string"}}), "parameters", "'image': reserved"),
        (described(parameters={"Side": {"type": "integer"}}), "parameters", "no name"),
        (
            described(parameters={"side": {"type": "integer", "name": "format"}}),
            "parameters",
            "side: the key is the name",
        ),
        (described(parameters={"side": {}}), f"{PARAMETER}.type", "is missing"),
        (described(parameters={"side": {"type": "colour"}}), f"{PARAMETER}.type", "'number'"),
        (
            described(parameters={"side": {"type": "integer", "minimum": "a"}}),
            f"{PARAMETER}.minimum",
            "should be a valid integer, or input should be a valid number",
        ),
        (
            described(parameters={"side": {"type": "integer", "minimum": 100, "maximum": 50}}),
            PARAMETER,
            "minimum: is above the maximum, 50",
        ),
        (
            described(
                parameters={"side": {"type": "number", "exclusive_minimum": 5, "maximum": 4}}
            ),
            PARAMETER,
            "minimum: is above the maximum, 4",
        ),
        (
            described(parameters={"side": {"type": "integer", "step": 8}}),
            f"{PARAMETER}.step",
            "there is no such key here",
        ),
        (described(parameters={"side": {"type": "enum"}}), PARAMETER, "choices"),
        (described(parameters={"side": {"type": "file"}}), PARAMETER, "kind"),
        (described(parameters={"side": {"type": "number", "random": True}}), PARAMETER, "random"),
        (
            described(parameters={"side": {"type": "integer", "default": "a"}}),
            PARAMETER,
            "whole number",
        ),
        (
            described(parameters={"side": {"type": "integer", "default": 1, "required": True}}),
            PARAMETER,
            "default",
        ),
        (
            with_variant(bind={"1.image": "$picture", "5.width": "$side"}),
            VARIANT,
            "the graph has no node '5'",
        ),
        (
            with_variant(bind={"1.image": "$picture", "2.size": "$side"}),
            VARIANT,
            "node '2' has no input 'size'",
        ),
        (with_variant(bind={"2.width": "$edge"}), "", "there is no $edge"),
        (with_variant(bind={"2.width": 5}), f"{VARIANT}.bind.2.width", "a valid string"),
        (
            with_variant(bind={"2.width": {"choose": []}}),
            f"{VARIANT}.bind.2.width.choose",
            "at least 1 item",
        ),
        (with_variant(output=["5", 0]), VARIANT, "output: the graph has no node '5'"),
        (with_variant(output=[1, 2, 3]), f"{VARIANT}.output", "at most 2 items"),
        (with_variant(output="2"), VARIANT, "neither SaveImage nor PreviewImage"),
        (with_variant(outputs=["2"]), VARIANT, "output and outputs exclude each other"),
        (with_variant(when={"moon": True}), f"{VARIANT}.when.moon", "there is no such key here"),
        (with_variant(graph={"nodes": []}), f"{VARIANT}.graph", "Export (API)"),
        (with_variant(graph={}), f"{VARIANT}.graph", "at least 1 item"),
        (with_variant(graph={"1": {}}), f"{VARIANT}.graph.1.class_type", "is missing"),
        (with_variant(graph={"1": 5}), f"{VARIANT}.graph.1", "must be an object"),
    ],
)
def test_a_mistake_is_told_with_its_key(
    tmp_path: Path, document: Any, key: str, reason: str
) -> None:
    """The file, the path of the key in it, and the reason; the shipped workflows are there."""
    write(tmp_path, "bad.json", document)
    registry = load_workflows(tmp_path)
    assert "bad" not in registry.names()
    assert {problem.file for problem in registry.problems} == {"bad.json"}
    assert any(one.key == key and reason in one.reason for one in registry.problems)


def test_a_required_file_is_bound_in_each_variant(tmp_path: Path) -> None:
    """A variant that drops the client's file would answer with a picture of somebody else's."""
    document = described()
    document["parameters"]["mask"] = {"type": "file", "kind": "mask"}
    write(tmp_path, "bad.json", document)
    (problem,) = load_workflows(tmp_path).problems
    assert str(problem) == "bad.json: variants: only: bind: no input takes $mask"


def test_several_mistakes_come_at_once(tmp_path: Path) -> None:
    """Who mends a file hears of all that is wrong with it."""
    parameters = {"side": {"type": "colour"}, "edge": {"type": "enum"}}
    write(tmp_path, "bad.json", described(colour=1, title=5, parameters=parameters))
    keys = [problem.key for problem in load_workflows(tmp_path).problems]
    assert sorted(keys) == ["colour", "parameters.edge", "parameters.side.type", "title"]
