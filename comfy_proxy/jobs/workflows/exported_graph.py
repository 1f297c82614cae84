"""A graph as ComfyUI's "Export (API)" writes it becomes a workflow: its parameters are found.

Three ways, of which the later ones win: inputs of the usual nodes (``usual_nodes.py``), titles that
begin with ``$`` on any node, and the mapping beside the file (``NAME.toml`` for ``NAME.json``).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from comfy_proxy.jobs.workflows.conditioning_roles import text_roles
from comfy_proxy.jobs.workflows.parameter import (
    MAX_TEXT_LENGTH,
    Parameter,
    common_parameters,
)
from comfy_proxy.jobs.workflows.plan import Input, Prompt
from comfy_proxy.jobs.workflows.problem import Problem, problems_of
from comfy_proxy.jobs.workflows.template import (
    PARAMETER_NAME,
    RESERVED_PARAMETERS,
    named,
    subject_of,
)
from comfy_proxy.jobs.workflows.usual_nodes import OWN_TITLES, USUAL_NODES
from comfy_proxy.jobs.workflows.variant import Variant
from comfy_proxy.jobs.workflows.workflow import FILE_ALIASES, Workflow

_NO_NAME: Final = re.compile(r"[^a-z0-9]+")
_NAME_LENGTH: Final = 48
"""Characters of a name that is made of a title; the rest is cut off."""
_TITLE_LENGTH: Final = 8
"""Characters of the title that stay in front of the longest name of an input."""
_ROLES: Final = {"positive": "prompt", "negative": "negative_prompt"}


class MappingFile(BaseModel):
    """``NAME.toml`` beside ``NAME.json``.

    A parameter is a table with ``node`` (its id, or its title) and ``input``, and whatever a
    described template says of a parameter; what it does not say is taken from the graph.
    ``automatic = false``: no other parameters are found. ``outputs`` are the ids or titles of the
    nodes whose results count; without it those of all output nodes do.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    title: str | None = None
    description: str = ""
    automatic: bool = True
    outputs: list[str] = []
    parameters: dict[str, Annotated[dict[str, Any], Field(min_length=1)]] = {}

    @field_validator("parameters", mode="before")
    @classmethod
    def _named(cls, parameters: Any) -> Any:
        return named(parameters)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """An input that becomes a parameter; ``body`` is its description but for the name."""

    name: str
    to: Input
    body: dict[str, Any]


class ExportedGraph:
    """One file; :meth:`workflow` once. What is wrong is added to ``problems``."""

    def __init__(self, graph: Prompt, file: str, problems: list[Problem]) -> None:
        self._graph = graph
        self._file = file
        self._problems = problems
        self._places = {node: at for at, node in enumerate(graph)}

    def workflow(self, name: str, mapping: MappingFile) -> Workflow:
        """The workflow ``name``. Only to be used if no problem was added."""
        mapped = list(self._mapped(mapping))
        taken = {one.to for one in mapped}
        names = {one.name for one in mapped}
        found = [one for one in self._automatic() if one.to not in taken]
        found = list(_distinct(found if mapping.automatic else [], names))
        parameters: dict[str, Parameter] = {}
        bind: dict[Input, str] = {}
        for one in sorted([*mapped, *found], key=self._place):
            self._add(one, parameters, bind)
        outputs = [self._node(node, "outputs") for node in mapping.outputs]
        common = common_parameters(default_format=None)
        return Workflow(
            name=name,
            title=mapping.title or name,
            description=mapping.description,
            parameters={**parameters, **{one.name: one for one in common}},
            variants=(
                Variant(
                    name="graph",
                    graph=self._graph,
                    bind=bind,
                    outputs=frozenset(node for node in outputs if node is not None),
                ),
            ),
            subject=subject_of(parameters),
            source=name,
        )

    def _add(self, one: _Found, parameters: dict[str, Parameter], bind: dict[Input, str]) -> None:
        body = {**one.body, "name": one.name}
        try:
            parameters[one.name] = Parameter.model_validate(body)
        except ValidationError as error:
            under = f"parameters.{one.name}"
            self._problems += problems_of(error, self._file, body, under=under)
        bind[one.to] = f"${one.name}"

    def _place(self, one: _Found) -> tuple[int, int]:
        """Files first, then prompts, then the others in the order of the graph."""
        kind = 1 if one.name in _ROLES.values() else 2
        is_file = one.body.get("type") == "file"
        return 0 if is_file else kind, self._places[one.to[0]]

    # --- the mapping -------------------------------------------------------------------------

    def _mapped(self, mapping: MappingFile) -> Iterator[_Found]:
        taken: dict[Input, str] = {}
        for name, body in mapping.parameters.items():
            key = f"parameters.{name}"
            own = {k: v for k, v in body.items() if k not in ("node", "input", "name")}
            node = self._node(body.get("node"), f"{key}.node")
            if node is None:
                continue
            literals = self._literals(node)
            chosen = body.get("input")
            if chosen is None and len(literals) == 1:
                chosen = next(iter(literals))
            if not isinstance(chosen, str) or chosen not in literals:
                self._problem(f"{key}.input", f"must be one of {', '.join(literals)}")
                continue
            to = (node, chosen)
            if to in taken:
                self._problem(f"{key}.input", f"is that of {taken[to]}, too")
                continue
            taken[to] = key
            if own.get("type") == "file" and not isinstance(literals[chosen], str):
                self._problem(f"{key}.type", f"{chosen} takes no file's name: it is no text")
                continue
            known = self._body(to, random=own.get("random") is not False)
            if own.get("random") or own.get("required"):
                known.pop("default", None)
            if own.get("type", known["type"]) != known["type"]:
                known = {} if own["type"] == "file" else {"default": known.get("default")}
            yield _Found(name=name, to=to, body={**known, **own})

    def _node(self, wanted: Any, key: str) -> str | None:
        """The id of the node that is meant by an id or a title."""
        wanted = str(wanted) if isinstance(wanted, int) else wanted
        if not isinstance(wanted, str) or not wanted:
            self._problem(key, "must be the id or the title of a node")
            return None
        if wanted in self._graph:
            return wanted
        titled = [node for node in self._graph if self._title(node) == wanted]
        if len(titled) == 1:
            return titled[0]
        several = f"{len(titled)} nodes have the title" if titled else "no node has the id or title"
        self._problem(key, f"{several} {wanted!r}")
        return None

    def _problem(self, key: str, reason: str) -> None:
        self._problems.append(Problem(file=self._file, key=key, reason=reason))

    # --- by themselves -----------------------------------------------------------------------

    def _automatic(self) -> Iterator[_Found]:
        roles = text_roles(self._graph)
        for node, body in self._graph.items():
            usual = USUAL_NODES.get(body["class_type"], {})
            literals = self._literals(node)
            title = self._title(node)
            dollar = title.startswith("$")
            inputs = list(literals) if dollar else [one for one in usual if one in literals]
            own = _slug(title) if dollar or self._is_titled(node) else ""
            for name in inputs:
                base = usual[name].name if name in usual else name
                if base == "text" and node in roles:
                    base = _ROLES[roles[node]]
                called = _slug(base)
                if own and not base.startswith(f"{own}_"):
                    called = own if len(inputs) == 1 else _joined(own, base)
                to, called = (node, name), called or "value"
                yield _Found(name=_allowed(called, self._body(to)), to=to, body=self._body(to))

    def _literals(self, node: str) -> dict[str, Any]:
        """The inputs of a node that are no links, and of a type that a parameter can have."""
        inputs = self._graph[node]["inputs"]
        return {name: one for name, one in inputs.items() if isinstance(one, str | int | float)}

    def _body(self, to: Input, *, random: bool = True) -> dict[str, Any]:
        """What the graph and the table say of an input, as a template would say it."""
        node = self._graph[to[0]]
        literal = node["inputs"][to[1]]
        usual = USUAL_NODES.get(node["class_type"], {}).get(to[1])
        if usual is None:
            too_long = isinstance(literal, str) and len(literal) > MAX_TEXT_LENGTH
            return {"type": _type_of(literal), **({} if too_long else {"default": literal})}
        body = {k: v for k, v in asdict(usual).items() if k != "name" and v not in (None, "")}
        body["random"] = usual.random and random
        if usual.type == "file" or body["random"]:
            return body
        try:
            Parameter.model_validate({**body, "name": usual.name, "default": literal})
        except ValidationError:  # its author knows better: it stays in the graph, and is not told
            return body
        return {**body, "default": literal}

    def _title(self, node: str) -> str:
        meta = self._graph[node].get("_meta")
        title = meta.get("title") if isinstance(meta, dict) else None
        return title.strip() if isinstance(title, str) else ""

    def _is_titled(self, node: str) -> bool:
        """Its title is its author's, not the editor's."""
        class_name, title = self._graph[node]["class_type"], self._title(node)
        return title not in ("", class_name, OWN_TITLES.get(class_name))


def _distinct(found: list[_Found], taken: set[str]) -> Iterator[_Found]:
    """Each name once: a second ``seed`` is ``seed_2``."""
    used = set(taken)
    numbers: Counter[str] = Counter()
    for one in found:
        name = one.name
        while name in used:
            numbers[one.name] += 1
            name = f"{one.name}_{numbers[one.name] + 1}"
        used.add(name)
        yield _Found(name=name, to=one.to, body=one.body)


def _allowed(name: str, body: dict[str, Any]) -> str:
    """``name``, or that with a word behind it if it means something else in a request."""
    reserved = name in RESERVED_PARAMETERS or (name in FILE_ALIASES and body["type"] != "file")
    return f"{name}_value" if reserved else name


def _slug(title: str) -> str:
    """A title as the name of a parameter; "" if nothing of it can be one."""
    text = _plain(title)[:_NAME_LENGTH]
    return text if PARAMETER_NAME.fullmatch(text) else ""


def _joined(own: str, base: str) -> str:
    """The name of one of several inputs of a node that its title calls ``own``. Of a long title the
    end is cut off: by ``base`` the inputs are told apart."""
    end = _plain(base)[:_NAME_LENGTH]
    room = max(_NAME_LENGTH - len(end) - 1, _TITLE_LENGTH)
    return f"{own[:room].rstrip('_')}_{end}".strip("_")


def _plain(text: str) -> str:
    """In small letters of ASCII, digits and ``_``: ``Größe`` is ``grosse``."""
    parts = unicodedata.normalize("NFKD", text.casefold())
    letters = "".join(one for one in parts if not unicodedata.combining(one))
    return _NO_NAME.sub("_", letters).strip("_")


def _type_of(literal: Any) -> str:
    if isinstance(literal, bool):
        return "boolean"
    if isinstance(literal, str):
        return "string"
    return "integer" if isinstance(literal, int) else "number"
