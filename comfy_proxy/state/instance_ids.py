"""The mark of each instance's results, by its URL, so that ``@2`` in a name leads to the same
instance after the order in the configuration has changed. The mark is the instance's number, and
``2.1`` once that instance came back with an empty disk (``gateway/files/disks.py``).

An instance keeps its number for ever, also while it is not in the configuration. A new one gets the
number of its place if no instance has had that, else the lowest that none has had.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from itertools import chain, count
from pathlib import Path
from typing import Final

from loguru import logger
from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.state import sqlite_rows
from comfy_proxy.state.by_url import usual
from comfy_proxy.state.store import StateStore

ID: Final = "instance-id"
_TIMEOUT_S: Final = 2.0
"""Seconds to wait while a process that is just ending has the file; then no number is known."""


def known_ids(path: Path) -> dict[str, str]:
    """URL in its usual spelling → number, as the file tells; nothing if it is not there or cannot
    be read.

    Read when the application is made, because its parts are given their instances then.
    """
    if not path.is_file():
        return {}
    try:
        with closing(sqlite3.connect(path, timeout=_TIMEOUT_S)) as database:
            known = sqlite_rows.entries(database, ID)
            return {usual(url): value.decode().partition(".")[0] for url, value in known}
    except (sqlite3.Error, ValueError) as error:
        logger.warning("STATE_FILE {} does not say which instance is which: {}", path, error)
        return {}


def ids_for(urls: Sequence[URL], known: Mapping[str, str]) -> dict[URL, str]:
    """A number for each of ``urls``, which are in the order of the configuration."""
    spelt = {url: usual(str(url)) for url in urls}
    ids = {url: known[text] for url, text in spelt.items() if text in known}
    taken = set(known.values())
    for place, url in enumerate(urls, start=1):
        if url not in ids:
            free = map(str, chain((place,), count(1)))
            ids[url] = next(number for number in free if number not in taken)
            taken.add(ids[url])
    return ids


async def restore_marks(store: StateStore, instances: Iterable[Instance]) -> None:
    """Give each instance the mark that its results had last."""
    known = {url: value.decode() for url, value in await store.entries(ID)}
    spelt = {usual(url): mark for url, mark in known.items()}
    for instance in instances:
        url = str(instance.url)
        mark = known.get(url) or spelt.get(usual(url), "")
        if mark.partition(".")[0] == instance.id:
            instance.mark = mark


def keep_mark(store: StateStore, instance: Instance) -> None:
    """Write down the mark of ``instance``."""
    store.put(ID, str(instance.url), instance.mark.encode())
