"""Directories of templates: which files count, and what is told of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from template_files import RAW, described, write

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
        ({"1": 5}, "variants: is missing"),
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


def test_a_directory_named_as_a_template_is_no_file(tmp_path: Path) -> None:
    """Only files count."""
    (tmp_path / "mine.json").mkdir()
    assert load_workflows(tmp_path).names() == SHIPPED
    assert problems(tmp_path) == []
