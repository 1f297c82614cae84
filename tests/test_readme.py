"""The README and the examples in config/ tell the truth of today."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from comfy_proxy.jobs.workflow_files import load_workflows
from comfy_proxy.settings import VARIABLES, Variable, load_settings

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
    table = README.partition("## Configuration")[2].partition("Security:")[0]
    named = {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")}
    assert named - {variable.name for variable in VARIABLES} == {"COMFYUI_HOST_1"}


def test_every_file_that_the_readme_names_exists() -> None:
    """Scripts, examples and rooms named in the README are there."""
    for name in ("scripts/demo", "scripts/test", "scripts/coverage", "scripts/live-comfyui",
                 "scripts/bench-jobs", "config/comfy-proxy.toml", "config/workflows/sharpen.json",
                 "comfy_proxy/jobs/templates", "tests/protocol", "tests/live"):  # fmt: skip
        assert name in README
        assert (ROOT / name).exists(), name
    rooms = README.partition("| room |")[2].partition("**The way")[0]
    for folder in ("", "cluster/", "jobs/", "gateway/"):
        for line in rooms.splitlines():
            if line.startswith(f"| `{folder}`") and folder:
                for word in line.split("`"):
                    if word.endswith(".py"):
                        assert (ROOT / "comfy_proxy" / folder / word).is_file(), word


def test_the_example_configuration_is_accepted() -> None:
    """config/comfy-proxy.toml loads as it is, and its commented settings are real ones."""
    path = ROOT / "config" / "comfy-proxy.toml"
    settings = load_settings({}, path)
    assert len(settings.instances) == 2
    known = {variable.name.lower() for variable in VARIABLES} | {"comfyui_host_3"}
    for line in path.read_text().splitlines():
        if line.startswith("# ") and " = " in line:
            assert tomllib.loads(line[2:]).keys() <= known


def test_the_example_workflows_load() -> None:
    """Each template in config/workflows becomes a workflow of its name."""
    folder = ROOT / "config" / "workflows"
    names = {path.stem for path in folder.glob("*.json")}
    assert names <= set(load_workflows(folder).names())
    assert all(json.loads(path.read_text()) for path in folder.glob("*.json"))
