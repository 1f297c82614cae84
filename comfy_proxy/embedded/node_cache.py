"""Results of the previous prompt, by what they were made of (`CacheKeySetInputSignature`)."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from comfy_proxy.embedded.folders import Folders
from comfy_proxy.embedded.graph import Key, cache_key
from comfy_proxy.embedded.nodes.node_class import Json, NodeClass

# ComfyUI's own alphabet, misprint included.
LETTERS = "abcdefghijklmnopqrstupvxyz"


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """What a node gave: its outputs by slot, and its UI result if it had one."""

    outputs: tuple[Any, ...]
    ui: Json | None


class NodeCache:
    """Keeps a result as long as each following prompt has a node with the same key."""

    def __init__(self) -> None:
        self._entries: dict[Key, CacheEntry] = {}
        self._keys: dict[str, Key] = {}
        self._prefixes: dict[tuple[str, str], str] = {}

    def set_prompt(self, graph: Json, classes: Mapping[str, NodeClass], folders: Folders) -> None:
        """Compute the keys of a graph's nodes, and drop all results that it does not use.

        Fingerprints are written into the graph's nodes as `is_changed`, as ComfyUI does.
        """
        fingerprints = {
            node_id: _fingerprint(node, classes[node["class_type"]], folders)
            for node_id, node in graph.items()
        }
        self._keys = {node_id: cache_key(graph, node_id, fingerprints) for node_id in graph}
        used = set(self._keys.values())
        self._entries = {key: entry for key, entry in self._entries.items() if key in used}
        names = {(node_id, node["class_type"]) for node_id, node in graph.items()}
        self._prefixes = {name: text for name, text in self._prefixes.items() if name in names}

    def get(self, node_id: str) -> CacheEntry | None:
        return self._entries.get(self._keys[node_id]) if node_id in self._keys else None

    def set(self, node_id: str, entry: CacheEntry) -> None:
        self._entries[self._keys[node_id]] = entry

    def temp_prefix(self, node_id: str, class_type: str) -> str:
        """`_temp_` and five random letters, the same while each prompt has that node."""
        fresh = "_temp_" + "".join(random.choices(LETTERS, k=5))
        return self._prefixes.setdefault((node_id, class_type), fresh)


def _fingerprint(node: Json, node_class: NodeClass, folders: Folders) -> object:
    if node_class.fingerprint is None:
        return False
    if "is_changed" not in node:
        try:
            node["is_changed"] = [node_class.fingerprint(folders, node["inputs"])]
        except (OSError, KeyError, TypeError, AttributeError):
            # No such file, or its name comes from another node: never the same again.
            node["is_changed"] = float("nan")
    return node["is_changed"]
