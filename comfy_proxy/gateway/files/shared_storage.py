"""Which directories all instances have in common, so that nothing is to be renamed or copied there.

``SHARED_STORAGE`` says it, and nobody else: nothing is looked at to find it out. A directory that
is shared without being named there costs prefixes and looks at files, nothing else: before a file
is put anywhere it is asked whether the same bytes are there already (``file_staging.py``).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.files.file_name import RESULT_TYPES
from comfy_proxy.gateway.files.instance_prefix import prefix_outputs


@dataclass(frozen=True, slots=True)
class SharedStorage:
    """The kinds (input, output, temp) of which there is one directory for all instances."""

    kinds: frozenset[str] = frozenset()

    def is_common(self, kind: str) -> bool:
        """True if all instances have one directory of that kind."""
        return kind in self.kinds

    def same(self, one: Instance, other: Instance, kind: str) -> bool:
        """Whether they have one directory of that kind between them."""
        return one is other or kind in self.kinds

    def place(self, instance: Instance, kind: str) -> Hashable:
        """A key for its directory of that kind: the same one for all instances that share it."""
        return None if kind in self.kinds else instance

    def prefixed(self, output: Any, instance: Instance) -> Any:
        """An output of ``instance`` as clients see it: prefixed where not all have the file."""
        own = RESULT_TYPES - self.kinds
        return prefix_outputs(output, instance.mark, own) if own else output
