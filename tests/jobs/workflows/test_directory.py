"""Directories of templates: which files count, and what is told of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from template_files import RAW, described, node, write

from comfy_proxy.jobs.workflows.directory import load_workflows, read_templates

SHIPPED = load_workflows(None).names()


def problems(directory: Path) -> list[str]:
    return [str(one) for one in load_workflows(directory).problems]


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    """One look tells about every file, and none of them stops another one."""
    write(tmp_path, "a.json", "[")
    write(tmp_path, "b.json", {"nodes": []})
    write(tmp_path, "c.json", RAW)
    write(tmp_path, "notes.txt", "ignored")
    registry = load_workflows(tmp_path)
    assert registry.names() == (*SHIPPED, "c")
    assert [one.file for one in registry.problems] == ["a.json", "b.json"]
    assert str(registry.problems[0]).startswith("a.json: is not JSON: ")


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("{not json", "is not JSON"),
        ("", "is not JSON"),
        ([], "must be a JSON object"),
        ({}, "must be a JSON object"),
        ({"nodes": [], "links": []}, "Export (API)"),
        ({**RAW, "9": {"class_type": "SaveImage", "inputs": {"images": ["7", 0]}}}, "node '7'"),
        ({"1": {"class_type": 5, "inputs": {}}}, "1.class_type: input should be a valid string"),
        ({"1": {"class_type": "A"}}, "1.inputs: is missing"),
        ({"1": 5}, "is neither a graph, whose nodes have a class_type, nor a described template"),
        ({"parameters": {}}, "variants: is missing"),
        ({**RAW, "version": 1}, "version: is no node, and a graph has nothing else"),
        ({**RAW, "7": {"inputs": {}}}, "7.class_type: is missing"),
        ({"prompt": {**RAW, "1": 5}, "client_id": "x"}, "1: is no node"),
        ({"prompt": {"1": 5}}, "is neither a graph"),
    ],
)
def test_what_is_no_template_is_told(tmp_path: Path, document: Any, reason: str) -> None:
    """The reason stands behind the name of the file."""
    write(tmp_path, "bad.json", document)
    assert any(line.startswith("bad.json: ") and reason in line for line in problems(tmp_path))
    assert load_workflows(tmp_path).names() == SHIPPED


@pytest.mark.parametrize("name", ["a b", "ä", "-a", ".a", "x" * 65, "a$b"])
def test_a_name_fits_into_a_url(tmp_path: Path, name: str) -> None:
    """A file whose name cannot be a path segment is no workflow, whichever form it has."""
    for document in (RAW, described()):
        write(tmp_path, f"{name}.json", document)
        (line,) = problems(tmp_path)
        assert f"{name!r} cannot be a name" in line


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    """The shipped workflows are there all the same."""
    registry = load_workflows(tmp_path / "nowhere")
    assert registry.names() == SHIPPED
    assert "cannot be read: No such file or directory" in str(registry.problems[0])


def test_a_mapping_without_a_graph_is_told(tmp_path: Path) -> None:
    """A renamed graph leaves its mapping behind: it must not be forgotten in silence."""
    write(tmp_path, "mine.toml", "")
    assert problems(tmp_path) == ["mine.toml: there is no mine.json beside it"]


def test_a_described_template_takes_no_mapping(tmp_path: Path) -> None:
    """It says all of it itself; which of both would win nobody could guess."""
    write(tmp_path, "mine.json", described())
    write(tmp_path, "mine.toml", "")
    assert problems(tmp_path) == ["mine.toml: a described template needs no mapping beside it"]


def test_a_file_that_is_being_written_keeps_its_workflow(tmp_path: Path) -> None:
    """What cannot be read at this moment stays as it was, and goes with its file."""
    write(tmp_path, "mine.json", RAW)
    before = load_workflows(tmp_path)
    write(tmp_path, "mine.json", json_half := '{"1": {"class_type"')
    read = read_templates(tmp_path, before)
    assert read.workflows["mine"] is before.get("mine")
    assert [one.file for one in read.problems] == ["mine.json"], json_half
    (tmp_path / "mine.json").unlink()
    assert "mine" not in read_templates(tmp_path, before).workflows


def test_what_is_named_as_a_template_and_is_no_file_is_told(tmp_path: Path) -> None:
    """A directory, and links that lead nowhere: they hide no other file."""
    (tmp_path / "mine.json").mkdir()
    for name, target in (("loop1", "loop2"), ("loop2", "loop1"), ("dangling", "gone")):
        (tmp_path / f"{name}.json").symlink_to(tmp_path / f"{target}.json")
    write(tmp_path, "target.txt", RAW)
    (tmp_path / "link.json").symlink_to(tmp_path / "target.txt")
    (tmp_path / "mine.toml").symlink_to(tmp_path / "gone.toml")
    (tmp_path / "notes").mkdir()
    assert load_workflows(tmp_path).names() == (*SHIPPED, "link")
    assert problems(tmp_path) == [
        "dangling.json: is a link that leads to no file",
        "loop1.json: is a link that leads to no file",
        "loop2.json: is a link that leads to no file",
        "mine.json: is no file",
        "mine.toml: is a link that leads to no file",
    ]


def test_the_extension_may_be_in_capitals(tmp_path: Path) -> None:
    """As Windows has it; of two names that are the same then one is told."""
    write(tmp_path, "upper.JSON", RAW)
    write(tmp_path, "upper.Toml", 'title = "Upper"')
    write(tmp_path, "inv.TOML", "")
    assert load_workflows(tmp_path).get("upper").title == "Upper"
    write(tmp_path, "upper.json", RAW)
    write(tmp_path, "odd name.JSON", "[")
    assert problems(tmp_path) == [
        "upper.json: has the same name as upper.JSON",
        "inv.TOML: there is no inv.json beside it",
        problems(tmp_path)[-1],
    ]
    assert problems(tmp_path)[-1].startswith("odd name.JSON: is not JSON")


def test_a_saved_body_of_a_prompt_is_a_graph(tmp_path: Path) -> None:
    """``{"prompt": {…}, "client_id": …}``, as developers of the frontend have it."""
    write(tmp_path, "body.json", {"prompt": RAW, "client_id": "x", "extra_data": {"a": 1}})
    write(tmp_path, "graph.json", RAW)
    registry = load_workflows(tmp_path)
    assert registry.problems == ()
    body, graph = registry.get("body"), registry.get("graph")
    assert (body.variants, body.parameters) == (graph.variants, graph.parameters)


def test_a_node_may_be_called_prompt(tmp_path: Path) -> None:
    """Ids are any texts."""
    write(tmp_path, "mine.json", {"prompt": RAW["1"], "9": RAW["9"] | {"inputs": {}}})
    (variant,) = load_workflows(tmp_path).get("mine").variants
    assert set(variant.graph) == {"prompt", "9"}


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be", "latin-1"])
def test_the_encoding_is_utf_8(tmp_path: Path, encoding: str, mark: str) -> None:
    """With the mark that Windows' editors write, or without; what is none is told in words."""
    told = "is not UTF-8; save it as that"
    if encoding.startswith("utf-16"):
        told = "is UTF-16; save it as UTF-8"
    text = mark + json.dumps(described(title="Größe"), ensure_ascii=False)
    title = mark + 'title = "Größe"'
    for name, content in (("mine.json", text), ("other.toml", title)):
        if encoding == "latin-1":
            content = content.removeprefix("\ufeff")
        (tmp_path / name).write_bytes(content.encode(encoding))
    write(tmp_path, "other.json", RAW)
    registry = load_workflows(tmp_path)
    if encoding == "utf-8":
        assert registry.problems == ()
        assert [registry.get(one).title for one in ("mine", "other")] == ["Größe", "Größe"]
    else:
        assert {one.file for one in registry.problems} == {"mine.json", "other.toml"}
        assert str(registry.problems[0]).startswith(f"mine.json: {told}")


def test_an_integer_of_a_graph_is_exact(tmp_path: Path) -> None:
    """More than 64 bits too, though ComfyUI's own nodes take less."""
    write(tmp_path, "mine.json", {"1": node("A", n=12345678901234567890123)})
    (variant,) = load_workflows(tmp_path).get("mine").variants
    assert variant.graph["1"]["inputs"]["n"] == 12345678901234567890123
