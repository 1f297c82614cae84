"""Node classes as values: what an instance has, which inputs name files, what a graph lacks there.

Whoever wants to know what an instance can run asks these; the JSON behind them stays in this
folder, so that it can be kept in another form without a change elsewhere. Values never change: an
instance that has learnt something gets a new catalog, which shares the classes that are the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from comfy_proxy.cluster.object_info import inputs


@dataclass(frozen=True, slots=True)
class NodeClass:
    """One class as one instance describes it. Two are equal if they say the same."""

    name: str
    _info: inputs.NodeInfo = field(repr=False)

    def choices(self, input_name: str) -> tuple[str, ...] | None:
        """The values that an input lets choose from (model files, methods), as text.

        None if it is no such input, or the class has no input of that name.
        """
        for _, name, spec in inputs.specs(self._info):
            if name == input_name and (listed := inputs.choices(spec)) is not None:
                return tuple(str(item) for item in listed)
        return None

    def file_inputs(self) -> tuple[str, ...]:
        """The names of the inputs whose values name files of the instance's directories."""
        marked = (name for _, name, spec in inputs.specs(self._info) if inputs.names_file(spec))
        return tuple(dict.fromkeys((*inputs.FILE_INPUTS.get(self.name, ()), *marked)))

    def chooses(self, input_name: str) -> bool | None:
        """True if the input chooses from a list, be it empty, that is not one of clients' files.

        None if the class describes no input of that name: some take more than they tell.
        """
        spec = inputs.spec_of(self._info, input_name)
        if spec is None:
            return None
        is_file = inputs.is_upload(spec) or inputs.names_file(spec)
        known_file = input_name in inputs.FILE_INPUTS.get(self.name, ())
        return inputs.choices(spec) is not None and not is_file and not known_file

    def lists_uploads(self) -> bool:
        """True if an upload changes what the instance says of this class."""
        return any(
            inputs.is_upload(spec) and inputs.choices(spec) is not None
            for _, _, spec in inputs.specs(self._info)
        )

    def lists_folders(self, folders: Set[str]) -> bool:
        """True if an input chooses from the input directory's folders; ``folders`` are known."""
        return any(inputs.lists_folders(spec, folders) for _, _, spec in inputs.specs(self._info))

    def lacks(
        self,
        input_name: str,
        value: str,
        elsewhere: Sequence[NodeClass],
        folders: Set[str] = frozenset(),
    ) -> bool:
        """True if the input chooses from a list in which ``value`` is missing; uploads never are,
        nor are the ``folders`` that files were uploaded to.

        With an EMPTY list only if a class of ``elsewhere``, the same one at other instances, lists
        the value: some classes list nothing and take anything, and a folder may be empty here.
        """
        spec = inputs.spec_of(self._info, input_name)
        listed = inputs.choices(spec)
        if listed is None or value in listed or value in folders or inputs.is_upload(spec):
            return False
        return bool(listed) or any(
            value in (inputs.choices(inputs.spec_of(other._info, input_name)) or ())
            for other in elsewhere
        )


@dataclass(frozen=True, slots=True)
class NodeCatalog:
    """The classes of one instance, in its order; a collection of their names."""

    _classes: Mapping[str, NodeClass] = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, infos: Mapping[str, inputs.NodeInfo]) -> NodeCatalog:
        """Of what ``/object_info`` says: class name → its description."""
        return cls({name: NodeClass(name, info) for name, info in infos.items()})

    def __len__(self) -> int:
        return len(self._classes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def get(self, name: str) -> NodeClass | None:
        """The class of that name; None if the instance has none."""
        return self._classes.get(name)

    def has_class(self, name: str) -> bool:
        """Whether the instance has a class of that name."""
        return name in self._classes

    def choices(self, class_name: str, input_name: str) -> tuple[str, ...] | None:
        """As :meth:`NodeClass.choices`; None also for a class that is not here."""
        node_class = self._classes.get(class_name)
        return None if node_class is None else node_class.choices(input_name)

    def file_inputs(self, class_name: str) -> tuple[str, ...]:
        """As :meth:`NodeClass.file_inputs`; of a class that is not here what all ComfyUIs agree on.

        Nothing for a class that is known to nobody.
        """
        node_class = self._classes.get(class_name)
        if node_class is None:
            return inputs.FILE_INPUTS.get(class_name, ())
        return node_class.file_inputs()

    def that_list_uploads(self, folders: Set[str] = frozenset()) -> list[str]:
        """The names of the classes of which an instance says something else after an upload.

        ``folders`` of the input directory are known: classes that list folders are among them.
        """
        classes = self._classes.items()
        return [name for name, it in classes if it.lists_uploads() or it.lists_folders(folders)]

    def that_lists_folders(self, folders: Set[str]) -> str | None:
        """The first class that lists the input directory's folders, by those that are known."""
        listing = (name for name, one in self._classes.items() if one.lists_folders(folders))
        return next(listing, None)

    def missing_for(
        self,
        graph: Mapping[str, Any],
        elsewhere: Sequence[NodeCatalog],
        folders: Set[str] = frozenset(),
    ) -> list[str]:
        """What ``graph`` (node id → node) names and is not here, each once; ``[]``: nothing.

        Node classes by name, chosen values (model files) as ``Class.input: value``. ``elsewhere``:
        the other instances' catalogs, and ``folders``: see :meth:`NodeClass.lacks`. What is no node
        is passed over.
        """
        missing: dict[str, None] = {}
        for node in graph.values():
            if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
                continue
            name, values = node["class_type"], node.get("inputs")
            node_class = self._classes.get(name)
            if node_class is None:
                missing[name] = None
                continue
            others = [one for other in elsewhere if (one := other.get(name)) is not None]
            for input_name, value in values.items() if isinstance(values, dict) else ():
                if isinstance(value, str) and node_class.lacks(input_name, value, others, folders):
                    missing[f"{name}.{input_name}: {value}"] = None
        return list(missing)

    def with_news(self, names: Sequence[str], news: NodeCatalog) -> NodeCatalog:
        """This catalog with the classes ``names`` as ``news`` has them; gone if it has not.

        The same object if that changes nothing; the other classes are the same objects.
        """
        if all(self._classes.get(name) == news.get(name) for name in names):
            return self
        classes = dict(self._classes)
        for name in names:
            node_class = news.get(name)
            if node_class is None:
                classes.pop(name, None)
            elif node_class != classes.get(name):
                classes[name] = node_class
        return NodeCatalog(classes)


def united_text(classes: Sequence[NodeClass]) -> str:
    """One class as several instances describe it, as the JSON text of its description.

    The first one's, with everybody's choices: in its order, then what only others have. Where all
    agree it is what the first one's instance writes.
    """
    return json.dumps(inputs.united([one._info for one in classes]))
