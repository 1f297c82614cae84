"""One graph that does a workflow's work, and what an instance must have to run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Protocol

from comfy_proxy.cluster.links import is_link
from comfy_proxy.cluster.object_info.inputs import FILE_INPUTS
from comfy_proxy.cluster.planning.work import MODEL_EXTENSIONS
from comfy_proxy.jobs.workflows.parameter import Scalar
from comfy_proxy.jobs.workflows.plan import (
    FIRST_FRAME_CLASSES,
    PREVIEW_CLASS,
    Input,
    Link,
    Prompt,
)


class NodeCapabilities(Protocol):
    """What one instance can do, from its ``/object_info``."""

    def has_class(self, name: str) -> bool:
        """True if the node class exists there."""

    def declares(self, class_name: str, input_name: str) -> bool:
        """Whether the class has an input of that name."""

    def is_output(self, class_name: str) -> bool | None:
        """Whether results come of such a node; None if that is not known."""

    def choices(self, class_name: str, input_name: str) -> tuple[str, ...] | None:
        """The values that an enum input takes; None if there is no such enum input."""


@dataclass(frozen=True, kw_only=True)
class Choose:
    """A binding that takes the first value an instance offers, by patterns in order.

    ``parameter`` is one that a client may give instead.
    """

    patterns: tuple[str, ...]
    parameter: str | None = None

    def pick(self, choices: tuple[str, ...]) -> str | None:
        """The first choice that matches the earliest pattern (``*``, ``?``, any case), or None."""
        for pattern in self.patterns:
            for choice in choices:
                if fnmatchcase(choice.lower(), pattern.lower()):
                    return choice
        return None


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One graph. ``bind``: (node id, input) → ``"$variable"`` or Choose.

    ``outputs`` is a link (node id, slot) that yields an IMAGE, or the ids of output nodes of the
    graph, none of them for all. ``when``: the variant is for such pictures only (``alpha``,
    ``enlarges``).
    """

    name: str
    graph: Prompt
    bind: Mapping[Input, str | Choose]
    outputs: Link | frozenset[str]
    when: Mapping[str, bool] = field(default_factory=dict)

    @property
    def classes(self) -> frozenset[str]:
        """Node classes of the graph."""
        return frozenset(str(node["class_type"]) for node in self.graph.values())

    def class_of(self, node: str) -> str:
        """The class of a node of the graph."""
        return str(self.graph[node]["class_type"])

    def inputs_of(self, parameter: str) -> tuple[Input, ...]:
        """The inputs into which ``parameter`` goes."""
        return tuple(to for to, source in self.bind.items() if source == f"${parameter}")

    def values(
        self, capabilities: NodeCapabilities, known: Mapping[str, Scalar]
    ) -> dict[Input, Scalar]:
        """What goes into which input; ``known`` are the values of parameters and sizes by name.

        An input whose parameter has no value keeps what the graph's author put there.
        """
        values: dict[Input, Scalar] = {}
        for (node, name), source in self.bind.items():
            if not isinstance(source, Choose):
                value = known.get(source[1:])
            elif (value := known.get(source.parameter or "")) is None:
                offered = capabilities.choices(self.class_of(node), name)
                value = source.pick(offered or ())
            if value is not None:
                values[node, name] = value
        return values

    def lacking(
        self,
        capabilities: NodeCapabilities,
        animated: frozenset[str],
        parameters: Mapping[str, Scalar],
    ) -> list[str]:
        """The node classes and model files that an instance does not have, sorted by kind.

        ``animated``: pictures of which the first frame is to be taken.
        """
        needed = set(self.classes)
        if isinstance(self.outputs, tuple):
            needed.add(PREVIEW_CLASS)
        if animated:
            needed.update(FIRST_FRAME_CLASSES)
        lacking = sorted(name for name in needed if not capabilities.has_class(name))
        if not lacking:
            lacking += self._malformed(capabilities)
        lacking += self._nothing_to_choose(capabilities, parameters, frozenset(lacking))
        return lacking + self._missing_models(capabilities, parameters, frozenset(lacking))

    def _malformed(self, capabilities: NodeCapabilities) -> list[str]:
        """What ComfyUI would refuse whatever is asked for: a graph of which nothing comes, and a
        list that is no link in an input that is validated."""
        if isinstance(self.outputs, tuple):
            ends = [self.outputs[0]]
        else:
            ends = [n for n in self.graph if capabilities.is_output(self.class_of(n)) is not False]
        found, reached = [] if ends else ["an output node"], set(ends)
        while ends:
            node = ends.pop()
            class_name = self.class_of(node)
            for name, value in self.graph[node]["inputs"].items():
                if is_link(value):
                    ends += {value[0]} - reached
                    reached.add(value[0])
                elif (node, name) in self.bind or not isinstance(value, list):
                    continue
                elif capabilities.declares(class_name, name):
                    found.append(f"a link in {class_name}.{name} (node {node}): {value!r:.40}")
        return found

    def no_outputs(self, capabilities: NodeCapabilities) -> list[str]:
        """The nodes whose results count, and of which none may come there."""
        named = sorted(self.outputs) if isinstance(self.outputs, frozenset) else []
        classes = {node: self.class_of(node) for node in named}
        return [
            f"{class_name} (node {node})"
            for node, class_name in classes.items()
            if capabilities.is_output(class_name) is False
        ]

    def _nothing_to_choose(
        self,
        capabilities: NodeCapabilities,
        parameters: Mapping[str, Scalar],
        absent: frozenset[str],
    ) -> list[str]:
        missing = []
        for (node, name), source in self.bind.items():
            class_name = self.class_of(node)
            if not isinstance(source, Choose) or class_name in absent:
                continue
            if source.parameter is not None and parameters.get(source.parameter) is not None:
                continue
            offered = capabilities.choices(class_name, name)
            # None: the input is no enum on that instance, and the graph's own value has to do.
            if offered is not None and source.pick(offered) is None:
                missing.append(f"a model file for {class_name}.{name}")
        return missing

    def _missing_models(
        self,
        capabilities: NodeCapabilities,
        parameters: Mapping[str, Scalar],
        absent: frozenset[str],
    ) -> list[str]:
        """Model files by name that the instance does not list: it would refuse the graph.

        Only what ends like a model file counts: there are classes that take values which they never
        list.
        """
        values = self.values(capabilities, parameters)
        missing: dict[str, None] = {}
        for node, body in self.graph.items():
            class_name = body["class_type"]
            if class_name in absent:
                continue
            for name, literal in body["inputs"].items():
                value = values.get((node, name), literal)
                if not isinstance(value, str) or name in FILE_INPUTS.get(class_name, ()):
                    continue
                if isinstance(self.bind.get((node, name)), Choose) and (node, name) not in values:
                    continue  # told by _nothing_to_choose
                if PurePosixPath(value.lower()).suffix not in MODEL_EXTENSIONS:
                    continue
                offered = capabilities.choices(class_name, name)
                if offered is not None and value not in offered:
                    missing[f"{class_name}.{name}: {value}"] = None
        return list(missing)
