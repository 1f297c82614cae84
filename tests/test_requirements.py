"""What setup.cfg requires is what the package imports, and the README says what for."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
OF_USERS = ("compress", "speed", "client", "cli", "embedded", "docs")
"""The extras with which the package does more; the others are for its developers."""


def config() -> configparser.ConfigParser:
    made = configparser.ConfigParser()
    made.read(ROOT / "setup.cfg")
    return made


def names_in(requirements: str) -> list[str]:
    """The distributions of one list of setup.cfg, without our own extras."""
    found = re.findall(r"^[\w-]+", requirements, re.MULTILINE)
    return [name for name in found if name != "comfyui-proxy"]


def imported() -> set[str]:
    """The first names of all modules that the package imports from elsewhere."""
    modules: set[str] = set()
    for path in (ROOT / "comfy_proxy").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules |= set(_names(node))
    return modules - sys.stdlib_module_names - {"comfy_proxy"}


def _names(node: ast.AST) -> Iterable[str]:
    if isinstance(node, ast.Import):
        return [one.name.partition(".")[0] for one in node.names]
    if isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
        return [node.module.partition(".")[0]]
    return []


def test_every_library_that_is_imported_is_required() -> None:
    """One that only comes along with another may be gone with that one's next version."""
    extras = config()["options.extras_require"]
    lists = [config()["options"]["install_requires"], *(extras[name] for name in OF_USERS)]
    required = {name.lower() for one in lists for name in names_in(one)}
    owners = metadata.packages_distributions()  # of what is installed here; uvloop need not be
    lacking = {
        module
        for module in imported()
        if not required & {name.lower() for name in owners.get(module, [module])}
    }
    assert not lacking


def test_every_requirement_is_in_the_readme_with_its_reason() -> None:
    """The table has what setup.cfg wants of everybody, and nothing else."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("### Runtime dependencies")[2]
    table = section.partition("|---|---|")[2].partition("\n\n")[0]
    named = re.findall(r"^\| ([\w, -]+) \| \S", table, re.MULTILINE)
    wanted = names_in(config()["options"]["install_requires"])
    assert sorted(", ".join(named).split(", ")) == sorted(wanted)
