"""What an instance has, which inputs name files, what a graph lacks there: node classes as values.

Whoever wants to know what an instance can run asks these; the JSON behind them stays in this
folder. Values never change: an instance that has learnt something gets a new catalog, which shares
all that is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import chain
from typing import Any

from comfy_proxy.cluster.object_info import inputs
from comfy_proxy.cluster.object_info.class_table import ClassTable
from comfy_proxy.cluster.object_info.classes import Changed, Classes
from comfy_proxy.cluster.object_info.node_class import NodeClass
from comfy_proxy.cluster.object_info.table_maker import TableMaker
from comfy_proxy.lenient_json import dumps_exact


class NodeCatalog(Classes):
    """The classes of one instance, in its order; a collection of their names."""

    __slots__ = ("_folders", "_listing")

    def __init__(self, table: ClassTable | None = None, changed: Changed | None = None) -> None:
        super().__init__(table, changed)
        self._folders: frozenset[str] = frozenset()  # those that were asked for last,
        self._listing: list[str] = []  # and the classes that list one of them

    @classmethod
    def from_json(cls, infos: Mapping[str, inputs.NodeInfo]) -> NodeCatalog:
        """Of what ``/object_info`` says: class name → its description. For a few classes."""
        maker = TableMaker(dumps_exact(infos), None, "an instance")
        for _ in maker.steps():
            pass
        return cls(maker.table)

    def has_class(self, name: str) -> bool:
        """Whether the instance has a class of that name."""
        return name in self

    def choices(self, class_name: str, input_name: str) -> tuple[str, ...] | None:
        """As :meth:`NodeClass.choices`; None also for a class that is not here."""
        node_class = self.get(class_name)
        return None if node_class is None else node_class.choices(input_name)

    def declares(self, class_name: str, input_name: str) -> bool:
        """As :meth:`NodeClass.declares`; False also for a class that is not here."""
        node_class = self.get(class_name)
        return node_class is not None and node_class.declares(input_name)

    def is_output(self, class_name: str) -> bool | None:
        """As :attr:`NodeClass.is_output`; None also for a class that is not here."""
        node_class = self.get(class_name)
        return None if node_class is None else node_class.is_output

    def file_inputs(self, class_name: str) -> tuple[str, ...]:
        """As :meth:`NodeClass.file_inputs`; of a class that is not here what all ComfyUIs agree on.

        Nothing for a class that is known to nobody.
        """
        node_class = self.get(class_name)
        if node_class is None:
            return inputs.FILE_INPUTS.get(class_name, ())
        return node_class.file_inputs()

    def that_list_uploads(self, folders: Set[str] = frozenset()) -> list[str]:
        """The names of the classes of which an instance says something else after an upload.

        ``folders`` of the input directory are known: classes that list folders are among them.
        """
        folder_classes = self._listing_folders(folders)
        return self.found(lambda table: chain(table.listing_uploads(), folder_classes))

    def that_lists_folders(self, folders: Set[str]) -> str | None:
        """The first class that lists the input directory's folders, by those that are known."""
        return next(iter(self._listing_folders(folders)), None)

    def missing_for(
        self,
        graph: Mapping[str, Any],
        elsewhere: Iterable[NodeCatalog],
        folders: Set[str] = frozenset(),
    ) -> list[str]:
        """What ``graph`` (node id → node) names and is not here, each once; ``[]``: nothing.

        Node classes by name, chosen values (model files) as ``Class.input: value``. ``elsewhere``:
        the other instances' catalogs, gone through when they are needed, and ``folders``: see
        :meth:`NodeClass.lacks`. What is no node
        is passed over.
        """
        missing: dict[str, None] = {}
        for node in graph.values():
            if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
                continue
            name, values = node["class_type"], node.get("inputs")
            node_class = self.get(name)
            if node_class is None:
                missing[name] = None
                continue
            others = _others(name, elsewhere)
            for input_name, value in values.items() if isinstance(values, dict) else ():
                if isinstance(value, str) and node_class.lacks(input_name, value, others, folders):
                    missing[f"{name}.{input_name}: {value}"] = None
        return list(missing)

    def with_news(self, names: Sequence[str], news: NodeCatalog) -> NodeCatalog:
        """This catalog with the classes ``names`` as ``news`` has them; gone if it has not.

        The same object if that changes nothing.
        """
        changed = self.news(names, news)
        return NodeCatalog(self.table, changed) if changed else self

    def _listing_folders(self, folders: Set[str]) -> list[str]:
        """The names of the classes that list one of ``folders``; looked for once for the same."""
        if self._folders != folders:
            self._folders = frozenset(folders)
            self._listing = self.found(lambda table: table.listing_folders(folders))
        return self._listing


def _others(name: str, elsewhere: Iterable[NodeCatalog]) -> Callable[[], list[NodeClass]]:
    return lambda: [one for other in elsewhere if (one := other.get(name)) is not None]
