"""The filters of a list of assets, as ComfyUI reads them from a query. Pure."""

from __future__ import annotations

import string
from dataclasses import dataclass

from multidict import MultiMapping

from comfy_proxy.gateway.assets.twins import Entries

_SMALL = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_PAGING = frozenset({"limit", "offset", "after", "sort", "order"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Filters:
    """What a list lets pass. ``is_told``: nothing else than tags and name is asked for, so that it
    can be told from an :class:`Entry` whether it passes."""

    all_tags: frozenset[str]
    any_tags: frozenset[str]
    no_tags: frozenset[str]
    name_part: str
    is_told: bool

    @classmethod
    def of(cls, query: MultiMapping[str]) -> Filters:
        """``include_tags`` and ``exclude_tags`` are older names of ``tags_all`` and
        ``tags_none``."""
        return cls(
            all_tags=_tags(query, "include_tags", "tags_all"),
            any_tags=_tags(query, "tags_any"),
            no_tags=_tags(query, "exclude_tags", "tags_none"),
            name_part=query.get("name_contains", ""),
            is_told=not query.get("metadata_filter", "").strip(),
        )

    def passing(self, entries: Entries) -> Entries:
        """Those of ``entries`` whose tags and name pass. As in SQLite only the letters of ASCII are
        the same in upper and lower case."""
        part = _folded(self.name_part)
        return {
            asset_id: entry
            for asset_id, entry in entries.items()
            if self.all_tags <= entry.tags
            and not self.no_tags & entry.tags
            and (not self.any_tags or self.any_tags & entry.tags)
            and part in _folded(entry.name)
        }


def without_paging(query: MultiMapping[str]) -> list[tuple[str, str]]:
    """The filters alone, as they came; also those that nobody here knows."""
    return [(name, value) for name, value in query.items() if name not in _PAGING]


def _tags(query: MultiMapping[str], *names: str) -> frozenset[str]:
    texts = [text for name in names for text in query.getall(name, [])]
    return frozenset(tag.strip() for text in texts for tag in text.split(",") if tag.strip())


def _folded(text: str) -> str:
    return text.translate(_SMALL)
