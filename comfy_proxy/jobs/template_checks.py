"""What can be wrong with a template.

Each check adds to ``problems`` one line for each problem it finds, so that all are told together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from comfy_proxy.jobs.parameters import Parameter, Scalar

UI_EXPORT: Final = "this is the editor's own format; export with 'Export (API)'"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_graph(graph: object, problems: list[str]) -> None:
    """``graph`` must be in ComfyUI's API format, and each of its links must lead to a node."""
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
    """``document`` may have the known fields only: a misspelt one would silently do nothing."""
    problems += [f"there is no field {name!r}" for name in document if name not in known]


def check_name(name: object, problems: list[str]) -> None:
    """``name`` must fit into a URL path: ``/api/workflows/{name}``, 64 characters at most."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        problems.append(f"{name!r} cannot be a name: letters, digits, '.', '_' and '-' can")


def check_reference(
    value: Scalar,
    parameters: Mapping[str, Parameter],
    types: tuple[str, ...],
    where: str,
    problems: list[str],
) -> None:
    """``value`` must be a literal of one of ``types``, or ``$name`` of such a parameter.

    The parameter must have a default, because each request needs a value.
    """
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
    """True if an input's value is ``[node id, output slot]``."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and type(value[1]) is int
        and value[1] >= 0
    )


def is_number(value: object) -> bool:
    """True for a JSON number; Python takes True and False for numbers too."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_ui_export(document: Mapping[str, object]) -> bool:
    """True for what ComfyUI's editor saves, which cannot be run: "Export (API)" makes a graph."""
    return isinstance(document.get("nodes"), list)
