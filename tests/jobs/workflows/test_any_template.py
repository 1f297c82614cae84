"""Whatever a template file holds: it is a workflow, or there are problems, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_instance import Instance, picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from template_files import RAW, described, node

from comfy_proxy.errors import ComfyProxyError
from comfy_proxy.jobs.media.file_info import FileInfo
from comfy_proxy.jobs.workflows.directory import load_workflows
from comfy_proxy.jobs.workflows.exported_graph import ExportedGraph, MappingFile
from comfy_proxy.jobs.workflows.parameter import schema_of
from comfy_proxy.jobs.workflows.problem import Problem
from comfy_proxy.jobs.workflows.template_text import MAX_TEMPLATE_BYTES
from comfy_proxy.jobs.workflows.workflow import Workflow

WORDS = (
    "name", "title", "description", "parameters", "scale", "conversions", "variants", "graph",
    "bind", "output", "outputs", "when", "alpha", "crop", "choose", "value", "type", "kind",
    "default", "random", "required", "minimum", "maximum", "choices", "node", "input", "automatic",
    "class_type", "inputs", "_meta", "1", "2", "1.image", "2.width", "image", "side", "$side",
    "$image", "$picture", "$width", "integer", "number", "file", "mask", "string", "enum",
    "LoadImage", "KSampler", "CLIPTextEncode", "text", "seed", "positive", "conditioning", "$x",
)  # fmt: skip
TEXT = st.sampled_from(WORDS) | st.text(max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=25,
)
MANY = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def changed(document: Any, at: list[int], value: Any) -> Any:
    """``document`` with another ``value`` at a place to which ``at`` leads."""
    document = json.loads(json.dumps(document))
    place: Any = document
    for step in at:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = keys[step % len(keys)]
        if not isinstance(place[key], dict | list) or step % 5 == 0:
            place[key] = value
            break
        place = place[key]
    return document


def use(workflow: Workflow) -> None:
    """Ask of it all that a request does; only errors for the client may be raised."""
    schema_of(workflow.parameters)
    workflow.required_classes()
    info = FileInfo(media_type="video/mp4", extension=".mp4")
    kinds = {name: workflow.parameters[name].kind for name in workflow.files}
    infos = {n: picture() if k is not None and k.is_picture else info for n, k in kinds.items()}
    try:
        values = workflow.parse_parameters({})
        workflow.target_size(infos, values)
        plan = workflow.choose(Instance(*workflow.required_classes()), infos, values)
        plan.build(dict.fromkeys(workflow.files, "x.png"))
    except ComfyProxyError:
        pass


def check(directory: Path, document: Any, mapping: str | None = None) -> None:
    (directory / "any.json").write_text(json.dumps(document))
    if mapping is not None:
        (directory / "any.toml").write_text(mapping, encoding="utf-8")
    registry = load_workflows(directory)
    shipped = set(load_workflows(None).names())
    own = [one for one in registry if one.name not in shipped]
    assert own or registry.problems
    for problem in registry.problems:
        assert problem.file.startswith("any.")
        assert problem.reason
    for workflow in own:
        use(workflow)


@pytest.mark.long
@MANY
@given(JSON)
def test_any_json(tmp_path: Path, document: Any) -> None:
    """Also what is no template at all."""
    check(tmp_path, document)


@pytest.mark.long
@MANY
@given(st.lists(st.integers(0, 40), max_size=8), JSON)
def test_a_described_template_with_anything_in_it(
    tmp_path: Path, at: list[int], value: Any
) -> None:
    """One value of it is another one."""
    check(tmp_path, changed(described(), at, value))


@pytest.mark.long
@MANY
@given(st.lists(st.integers(0, 40), max_size=8), JSON)
def test_an_exported_graph_with_anything_in_it(tmp_path: Path, at: list[int], value: Any) -> None:
    """One value of it is another one."""
    graph = {
        **RAW,
        "3": node("CLIPTextEncode", text="x"),
        "4": node("KSampler", positive=["3", 0], negative=["3", 0], seed=1, steps=20, cfg=1.5),
        "5": {**node("Odd", a=1, b="x", c=True), "_meta": {"title": "$x"}},
    }
    check(tmp_path, changed(graph, at, value))


@pytest.mark.long
@MANY
@given(st.dictionaries(TEXT, JSON, max_size=4), st.dictionaries(TEXT, JSON, max_size=3))
def test_any_mapping(top: dict[str, Any], parameters: dict[str, Any]) -> None:
    """Whatever TOML could say; nothing but pydantic's own error, which becomes problems."""
    problems: list[Problem] = []
    for document in (top, {"parameters": parameters}, {"parameters": {"x": parameters}}):
        try:
            mapping = MappingFile.model_validate(document)
        except ValueError:
            continue
        graph = {name: {**body} for name, body in RAW.items()}
        workflow = ExportedGraph(graph, "any.toml", problems).workflow("any", mapping)
        if not problems:
            use(workflow)


@pytest.mark.parametrize(
    "text",
    ["x = " + "[" * 2000 + "]" * 2000, "x = 1e999", "x = nan", "x = 9" * 300, "\0", "[a]\n[a]",
     "d = 2026-01-01", "[parameters.x]\nnode = 2026-01-01", "[parameters.x]\nnode='1'\nminimum=nan",
     "[parameters.x]\nnode='2'\ninput='width'\nmaximum=inf"],
)  # fmt: skip
def test_odd_toml(tmp_path: Path, text: str) -> None:
    """Deep, endless and dated: a problem of that file."""
    check(tmp_path, RAW, text)
    assert {one.file for one in load_workflows(tmp_path).problems} == {"any.toml"}


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"1": ' * 900 + "1" + "}" * 900,
        '{"1": {"class_type": "A", "inputs": {"x": ' + "[" * 900 + "]" * 900 + "}}}",
        '{"1": {"class_type": "A", "inputs": {}, "_meta": ' + "[" * 900 + "]" * 900 + "}}",
        '{"1": 1e999}',
        '"\\ud800"',
        '{"\\ud800": {"class_type": "A", "inputs": {}}}',
        "\ufeff{}",
    ],
)
def test_odd_json(tmp_path: Path, text: str) -> None:
    """Deep, endless and half a character: a problem of that file."""
    (tmp_path / "any.json").write_text(text, encoding="utf-8")
    assert {one.file for one in load_workflows(tmp_path).problems} == {"any.json"}


def test_a_template_that_is_too_long(tmp_path: Path) -> None:
    """A graph with a film in it: told, and not read to its end."""
    graph = {"1": node("Odd", film="x" * MAX_TEMPLATE_BYTES)}
    (tmp_path / "any.json").write_text(json.dumps(graph))
    (problem,) = load_workflows(tmp_path).problems
    assert str(problem) == f"any.json: is longer than {MAX_TEMPLATE_BYTES} bytes"


def test_a_mapping_that_is_too_long(tmp_path: Path) -> None:
    """The same for what stands beside it."""
    (tmp_path / "any.json").write_text(json.dumps(RAW))
    (tmp_path / "any.toml").write_text("# " + "x" * MAX_TEMPLATE_BYTES)
    (problem,) = load_workflows(tmp_path).problems
    assert str(problem) == f"any.toml: is longer than {MAX_TEMPLATE_BYTES} bytes"
