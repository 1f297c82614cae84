"""The README tells the truth of today."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
from shipped_files import check_command

from comfy_proxy.settings import VARIABLES, Variable

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.name)
def test_every_setting_is_in_the_readme_with_its_default_and_meaning(variable: Variable) -> None:
    """The README's row of a variable has the default and the meaning that the code has."""
    row = next(line for line in README.splitlines() if line.startswith(f"| `{variable.name}` "))
    assert variable.default in row
    assert variable.help in row


def test_the_readme_has_no_setting_that_does_not_exist() -> None:
    """Every row of the configuration table is a variable of the code, or an instance."""
    table = README.partition("## Configuration")[2].partition("### Security")[0]
    named = {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")}
    assert named - {variable.name for variable in VARIABLES} == {"COMFYUI_HOST_1", "COMFYUI_NAME_1"}


def test_no_row_of_a_table_is_there_twice() -> None:
    """A second row would be changed at one place only, and then say something else."""
    tables = re.split(r"\n(?!\|)", README)
    for rows in (re.findall(r"^\| .*", table, re.MULTILINE) for table in tables):
        assert not [row for row in set(rows) if rows.count(row) > 1]


def test_every_file_that_the_readme_names_exists() -> None:
    """Scripts, examples and rooms named in the README are there."""
    for name in ("scripts/demo", "scripts/test", "scripts/coverage", "scripts/live-comfyui",
                 "scripts/bench-jobs", "config/comfy-proxy.toml", "config/workflows/sharpen.json",
                 "comfy_proxy/jobs/workflows/templates", "tests/protocol",
                 "tests/live"):  # fmt: skip
        assert name in README
        assert (ROOT / name).exists(), name


def test_every_file_of_a_room_is_there() -> None:
    """Each row of "How it is built" names files of its folders, or of the package itself."""
    package = ROOT / "comfy_proxy"
    rooms = README.partition("| room |")[2].partition("**The way")[0]
    for row in re.findall(r"^\| `.*", rooms, re.MULTILINE):
        named = re.findall(r"`([\w/-]+/)`", row.partition(" | ")[0])
        folders = [package, *(room / one for one in named for room in (package, ROOT))]
        for name in re.findall(r"`([\w/]+\.py)`", row):
            assert any((folder / name).is_file() for folder in folders), name


def test_every_link_within_leads_to_a_heading() -> None:
    """GitHub's name of a heading, or an anchor that stands in the text."""
    heads = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    there = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
    there |= set(re.findall(r'<a id="([\w-]+)">', README))
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= there


def test_every_script_that_the_readme_names_can_be_run() -> None:
    """Also those of a list of which only the first has its folder."""
    for listed in re.findall(r"scripts/([\w-]+(?:, [\w-]+)*)", README):
        for name in listed.split(", "):
            assert os.access(ROOT / "scripts" / name, os.X_OK), name


def test_every_command_that_the_readme_shows_is_taken() -> None:
    """Each ``comfy-proxy`` with its options, in text and in code."""
    alone, with_words = (
        "check|demo|serve|status|jobs|workflows",
        "run|cancel|drain|resume|add|remove",
    )
    commands = re.findall(rf"comfy-proxy (?:(?:{alone})|(?:{with_words}) )[^`#\n]*", README)
    assert len(commands) >= 4
    for command in commands:
        check_command(shlex.split(command.rstrip(".,;:) ")))


def test_every_promise_has_its_test() -> None:
    """Each row of the table names a test that is there."""
    table = README.partition("## What is promised")[2].partition("\n## ")[0]
    named = re.findall(r"`(\S+\.py)::(test_\w+)` \|$", table, re.MULTILINE)
    assert len(named) == len(re.findall(r"^\| ", table, re.MULTILINE)) - 1
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), test


def test_what_is_written_by_hand_is_there() -> None:
    """Each row of that table names files or rooms, the later ones in the folder of the first."""
    table = README.partition("### Written by hand")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| [^|]*\((`[^|]*)\) \|", table, re.MULTILINE)
    assert len(rows) > 20
    for row in rows:
        first, *others = re.findall(r"`([\w/]+(?:/|\.py))`", row)
        folder = ROOT / "comfy_proxy"
        assert (folder / first).exists(), first
        for other in others:
            assert (folder / other).exists() or (folder / first).with_name(other).exists(), other
