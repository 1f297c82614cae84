"""The tree says where things are: imports go one way, and nothing grows past what one can read.

Imports under ``TYPE_CHECKING`` count too: whoever reads a file has to know the other one. Each
exception has its reason beside it; one that is no longer needed fails the test as well.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "comfy_proxy"
MAX_LINES = 300
MAX_METHODS = 16
MAX_FUNCTION_LINES = 40

LAYERS = (
    "cluster",
    "ledger",
    "dispatch",
    "gateway.routes",
    "gateway.exchange",
    "gateway.frontend",
    "gateway.files",
    "gateway.custom",
    "gateway.state",
    "gateway.events",
    "gateway.prompts",
    "gateway.views",
    "gateway.assets",
    "gateway.gateway",
    "gateway.policies",
    "comfy_api",
)
"""A room imports only rooms that stand before it, and itself."""
APART = {("jobs", "gateway"), ("gateway", "jobs"), ("embedded", "gateway"), ("cluster", "jobs"),
         ("ledger", "jobs"), ("dispatch", "jobs"), ("gateway.prompts", "gateway.views"),
         ("gateway.views", "gateway.prompts"), ("client", "jobs"), ("client", "gateway"),
         ("client", "cluster"), ("client", "cli"), ("jobs", "cli"), ("gateway", "cli"),
         ("comfy_api", "jobs"), ("jobs", "comfy_api")}  # fmt: skip
"""``(a, b)``: nothing in ``a`` imports anything of ``b``."""
WITHIN: Mapping[str, tuple[str, frozenset[str]]] = {
    "jobs.media": ("jobs", frozenset()),
    "jobs.workflows": ("jobs", frozenset(("jobs.media",))),
    "jobs.requests": ("jobs", frozenset(("jobs.media", "jobs.workflows"))),
    "jobs.results": ("jobs", frozenset(("jobs.media", "jobs.workflows"))),
}
"""Room → the room around it, and what it may import of that."""

LONG_FILES: Mapping[str, str] = {}
LARGE_CLASSES: Mapping[str, str] = {}
LONG_FUNCTIONS: Mapping[str, str] = {}

FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """``gateway.files.view``; ```` for the package itself."""
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix("__init__").rstrip(".")


MODULES = {module_of(path): path for path in FILES}


def imports_of(path: Path) -> Iterator[str]:
    """The modules of ours that it imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module, *(f"{node.module}.{one.name}" for one in node.names)]
        elif isinstance(node, ast.Import):
            names = [one.name for one in node.names]
        for name in names:
            own = name.removeprefix("comfy_proxy").lstrip(".")
            if name.startswith("comfy_proxy") and own in MODULES and MODULES[own] != path:
                yield own


@functools.cache  # not when the file is imported: each of pytest's workers does that
def graph() -> Mapping[str, set[str]]:
    """Each module and the modules of ours that it imports."""
    return {name: set(imports_of(path)) - {""} for name, path in MODULES.items()}


def room_of(module: str) -> str | None:
    """The longest name in LAYERS that it belongs to."""
    found = [one for one in LAYERS if module == one or module.startswith(f"{one}.")]
    return max(found, key=len, default=None)


def is_in(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def circles() -> list[list[str]]:
    """Sets of modules that import one another, directly or not (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in graph()[module]:
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            circle = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(circle) > 1:
                found.append(sorted(circle))

    for module in graph():
        if module not in index:
            visit(module)
    return found


@functools.cache
def definitions() -> Mapping[str, ast.AST]:
    """Every class and function: ``gateway/files/view.py:FileView.answer``, and its node."""
    return {
        name: node
        for path in FILES
        for name, node in _defined(ast.parse(path.read_text()), f"{path.relative_to(PACKAGE)}:")
    }


def _defined(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}{child.name}", child
            yield from _defined(child, f"{prefix}{child.name}.")


def test_nothing_imports_in_a_circle() -> None:
    """Of two files one can be read without the other."""
    assert circles() == []


def test_imports_go_one_way() -> None:
    """Down the list of LAYERS."""
    wrong = [
        f"{module} imports {other}"
        for module, others in graph().items()
        for other in others
        if (own := room_of(module)) is not None
        and (room := room_of(other)) is not None
        and LAYERS.index(room) > LAYERS.index(own)
    ]
    assert wrong == []


@pytest.mark.parametrize(("a", "b"), sorted(APART))
def test_rooms_that_know_nothing_of_each_other(a: str, b: str) -> None:
    """They are joined in ``app.py`` alone."""
    wrong = [
        f"{module} imports {other}"
        for module, others in graph().items()
        for other in others
        if is_in(module, a) and is_in(other, b)
    ]
    assert wrong == []


@pytest.mark.parametrize("room", sorted(WITHIN))
def test_an_inner_room_knows_little_of_the_one_around_it(room: str) -> None:
    """It can be read, and used, without it."""
    outer, known = WITHIN[room]
    used = {
        next((one for one in known if is_in(other, one)), other)
        for module, others in graph().items()
        for other in others
        if is_in(module, room) and is_in(other, outer) and not is_in(other, room)
    }
    assert used == known


def test_files_are_short() -> None:
    """At most MAX_LINES lines."""
    long = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if len(path.read_text().splitlines()) > MAX_LINES
    }
    assert long == set(LONG_FILES)


def test_classes_are_small() -> None:
    """At most MAX_METHODS methods, properties included."""
    large = {
        name
        for name, node in definitions().items()
        if isinstance(node, ast.ClassDef)
        and sum(isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) for one in node.body)
        > MAX_METHODS
    }
    assert large == set(LARGE_CLASSES)


def test_functions_are_short() -> None:
    """At most MAX_FUNCTION_LINES lines, the docstring included."""
    long = {
        name
        for name, node in definitions().items()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES
    }
    assert long == set(LONG_FUNCTIONS)


def test_a_requests_path_is_asked_for_in_one_place() -> None:
    """``request_path.our_path`` and ``our_target`` leave out the path under which another
    application has us; a request itself does not. In the last two of ``free`` one is a record."""
    free = {"request_path", "our_routes", "logs.access_log", "dashboard.recent_errors"}
    asked = re.compile(r"\brequest\.(raw_path|path|path_qs|url)\b|rel_url\.(raw_)?path")
    wrong = {
        f"{module}: {found[0]}"
        for module, path in MODULES.items()
        if not is_in(module, "embedded") and module not in free
        for found in asked.finditer(path.read_text())
    }
    assert wrong == set()


def test_the_gateway_is_named_by_its_wiring_alone() -> None:
    """Parts take what they use in their constructors."""
    allowed = {"gateway.gateway", "gateway.policies", "app", "keys", "middleware", "observation"}
    naming = {module for module, others in graph().items() if "gateway.gateway" in others}
    assert naming <= allowed
