"""What can be wrong with a template: each check adds one line for each problem it finds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from comfy_proxy.jobs.parameters import Parameter, Scalar

UI_EXPORT: Final = "this is the editor's own format; export with 'Export (API)'"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_graph(graph: object, problems: list[str]) -> None:
    """A graph in ComfyUI's API format, every link of which leads to a node."""
    if not isinstance(graph, dict) or not graph:
        problems.append("graph: must be an object in ComfyUI's API format")
        return
    if is_ui_export(graph):
        problems.append(f"graph: {UI_EXPORT}")
        return
    for node, body in graph.items():
        shaped = isinstance(body, dict) and isinstance(body.get("class_type"), str)
        if not shaped or not isinstance(body.get("inputs"), dict):
            problems.append(f"node {node!r}: needs a class_type and inputs")
            continue
        problems += [
            f"node {node!r}: {name!r} is linked to node {value[0]!r}, which is not there"
            for name, value in body["inputs"].items()
            if is_link(value) and value[0] not in graph
        ]


def check_fields(
    document: Mapping[str, object], known: frozenset[str], problems: list[str]
) -> None:
    """No field but the known ones: a misspelt one would be silently without effect."""
    problems += [f"there is no field {name!r}" for name in document if name not in known]


def check_name(name: object, problems: list[str]) -> None:
    """A workflow's name is a part of its URL."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        problems.append(f"{name!r} cannot be a name: letters, digits, '.', '_' and '-' can")


def check_reference(
    value: Scalar,
    parameters: Mapping[str, Parameter],
    types: tuple[str, ...],
    where: str,
    problems: list[str],
) -> None:
    """A literal of one of ``types``, or ``$name`` of a parameter with one, that has a default."""
    if isinstance(value, str):
        parameter = parameters.get(value[1:]) if value[:1] == "$" else None
        if parameter is None or parameter.type not in types or parameter.default is None:
            problems.append(f"{where}: {value!r} is no {' or '.join(types)} parameter with default")
    elif types == ("boolean",):
        if not isinstance(value, bool):
            problems.append(f"{where}: must be true, false or a parameter")
    elif not is_number(value) or value <= 0:
        problems.append(f"{where}: must be a number above 0 or a parameter")


def is_link(value: object) -> bool:
    """Whether an input's value is ``[node id, output slot]``."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and type(value[1]) is int
        and value[1] >= 0
    )


def is_number(value: object) -> bool:
    """Whether it is a JSON number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_ui_export(document: Mapping[str, object]) -> bool:
    """Whether it is what the editor saves, instead of a graph that can be run."""
    return isinstance(document.get("nodes"), list)
