"""Whose the rows of the file are: they name instances by their URLs, in any spelling.

A configuration that says ``127.0.0.1`` where it said ``localhost`` means the same instance, with
the prompts that wait there: taken for another one they would run once more elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.instance_settings import canonical


def usual(url: str) -> str:
    """The same text for all spellings of one address. Raises ValueError for what is none."""
    return str(canonical(URL(url, encoded=True)))


class ByUrl(Mapping[str, Instance]):
    """``instances`` by their URLs; KeyError also for what is no URL."""

    def __init__(self, instances: Iterable[Instance]) -> None:
        self._by_url = {usual(str(one.url)): one for one in instances}

    def __repr__(self) -> str:
        return f"<ByUrl {list(self._by_url)}>"

    def __getitem__(self, url: str) -> Instance:
        try:
            return self._by_url[usual(url)]
        except (TypeError, ValueError):
            raise KeyError(url) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_url)

    def __len__(self) -> int:
        return len(self._by_url)
