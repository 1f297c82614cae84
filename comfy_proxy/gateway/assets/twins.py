"""One file that stands in several asset databases: each lists it, and clients are to see it once.

An upload is put on every instance under the same path, and each instance registers it with an id of
its own. Such entries are twins: the same kind, the same path, the same size, and not two different
hashes (a file that a scan has found may have none yet). Models are alike: every instance that has
the file lists it. A result has twins only where ``SHARED_STORAGE`` says that all instances have one
directory. An entry without a path (made from a hash alone) is at one instance only and has none.

The one that was created first is shown, and the others are hidden. So what a client named its
upload is seen, not the copies; and which one is shown does not change as long as it exists.

To know them, the inputs and models of each instance are kept here, and looked at again for each
question: the page of what was updated last shows whether anything has changed, because nothing in
the database changes without a new time or another count.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.assets.asking import AssetAsking
from comfy_proxy.gateway.assets.pages import MAX_PAGE, AssetPage, read_page
from comfy_proxy.gateway.exchange.context import USER_HEADER
from comfy_proxy.gateway.exchange.fanout import Answer
from comfy_proxy.gateway.files.file_name import RESULT_TYPES
from comfy_proxy.gateway.files.shared_storage import SharedStorage

MAX_ENTRIES = 20_000
"""How many inputs and models of one instance are known. Of the others, those that were updated
longest ago, each instance's entry is shown."""
MAX_KEPT = 2 * MAX_ENTRIES
"""Entries that are kept for each instance, those of all users of ``--multi-user`` together: 40 MB.
Those of whoever asked longest ago go first, and are read again."""
MANY = 1_000
"""Entries that take some milliseconds to be compared; more are compared in a thread."""
LATEST = 50
"""Entries that are looked at to see whether anything has changed; beyond, all are read again."""
_KINDS = ("input", "models")
_ALL_KINDS = ("temp", "output", "models", "input")
"""In this order: a file in the directory of ``temp`` may have the tag ``input`` too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """An asset of one instance. ``kind`` is empty if it is of none that has twins, ``path`` if it
    has no file of its own; the times are ISO 8601 in UTC."""

    asset_id: str
    name: str
    kind: str
    path: str
    size: Any
    hash: str | None
    tags: frozenset[str]
    created_at: str
    updated_at: str

    @classmethod
    def of(cls, asset: Any, kinds: Collection[str]) -> Entry | None:
        """None for what is no asset."""
        if not isinstance(asset, dict) or not isinstance(asset.get("id"), str):
            return None
        path, own_hash, told = asset.get("display_name"), asset.get("hash"), asset.get("tags")
        tags = [tag for tag in told if isinstance(tag, str)] if isinstance(told, list) else []
        kind = next((one for one in _ALL_KINDS if one in tags), "")
        return cls(
            asset_id=asset["id"],
            name=str(asset.get("name", "")),
            kind=kind if kind in kinds else "",
            path=path if isinstance(path, str) else "",
            size=asset.get("size") if isinstance(asset.get("size"), int) else None,
            hash=own_hash if isinstance(own_hash, str) else None,
            tags=frozenset(tags),
            created_at=str(asset.get("created_at", "")),
            updated_at=str(asset.get("updated_at", "")),
        )

    @property
    def has_file(self) -> bool:
        """Whether it can have a twin."""
        return bool(self.kind and self.path)

    def is_twin(self, other: Entry) -> bool:
        """Whether both are one file."""
        if (self.kind, self.path, self.size) != (other.kind, other.path, other.size):
            return False
        if not self.has_file:
            return False
        return None in (self.hash, other.hash) or self.hash == other.hash


Entries = Mapping[str, Entry]
"""By the ids."""
Known = Mapping[Instance, Entries]


class AssetTwins:
    """The twins at the instances of ``asking``; ``storage`` tells what directories they share."""

    def __init__(self, asking: AssetAsking, storage: SharedStorage) -> None:
        self._asking = asking
        self._kinds = (*_KINDS, *sorted(RESULT_TYPES & storage.kinds))
        self._known: OrderedDict[tuple[Instance, str], Entries] = OrderedDict()
        self._latest: tuple[Known, Known] | None = None  # what was known, and what of it is hidden
        asking.cluster.instances.each(lambda one: one.on_interruption.append(self._forget))
        asking.cluster.instances.on_removed.append(self._forget)

    def __repr__(self) -> str:
        return f"<AssetTwins {sum(map(len, self._known.values()))} entries>"

    async def hidden(
        self, request: web.Request, instances: Iterable[Instance]
    ) -> Mapping[Instance, Entries]:
        """What is not to be shown of each of ``instances``. Raises UnavailableError."""
        known = await self._look(request, list(instances))
        if self._latest is None or not _are_same(known, self._latest[0]):
            work = partial(_hidden, known)
            many = sum(map(len, known.values())) > MANY
            self._latest = known, (await asyncio.to_thread(work) if many else work())
        return self._latest[1]

    async def of(
        self, request: web.Request, asset: Any, owner: Instance
    ) -> list[tuple[Instance, str]]:
        """The twins of ``asset`` (JSON of ``owner``), and where they are.

        An entry with its own id is none: it is in a database that several have.
        Raises UnavailableError if one who may have one is away; nobody is asked if it has none.
        """
        entry = Entry.of(asset, self._kinds)
        if entry is None or not entry.kind or not entry.path:
            return []
        others = [one for one in self._asking.cluster.instances if one is not owner]
        known = await self._look(request, others)
        return [
            (instance, other.asset_id)
            for instance, entries in known.items()
            for other in entries.values()
            if entry.is_twin(other) and other.asset_id != entry.asset_id
        ]

    async def _look(
        self, request: web.Request, instances: list[Instance]
    ) -> dict[Instance, Entries]:
        found = await asyncio.gather(*(self._entries(request, one) for one in instances))
        return dict(zip(instances, found, strict=True))

    async def _entries(self, request: web.Request, instance: Instance) -> Entries:
        """All entries of ``instance`` now; none if it has no assets."""
        key = instance, request.headers.get(USER_HEADER, "")
        known = self._known.get(key)
        if known is not None:
            latest = await self._page(request, instance, {"limit": str(LATEST)})
            if latest is None:
                return {}
            if (same := _updated(known, latest, self._kinds)) is not None:
                self._keep(key, same)
                return same
        entries = await self._read(request, instance)
        self._keep(key, entries)
        return entries

    def _keep(self, key: tuple[Instance, str], entries: Entries) -> None:
        if key[0].left:
            return
        self._known[key] = entries
        self._known.move_to_end(key)
        limit = MAX_KEPT * len(self._asking.cluster.instances)
        while sum(map(len, self._known.values())) > limit and len(self._known) > 1:
            self._known.popitem(last=False)

    async def _read(self, request: web.Request, instance: Instance) -> Entries:
        entries: dict[str, Entry] = {}
        read, query, before = 0, {"limit": str(MAX_PAGE)}, None
        while page := await self._page(request, instance, query):
            if page == before:
                break  # it would give the same one again and again
            before = page
            read += len(page.assets)
            entries |= _of_page(page, self._kinds)
            if not page.has_more or not page.assets or len(entries) >= MAX_ENTRIES:
                break
            place = {"after": page.next_cursor} if page.next_cursor else {"offset": str(read)}
            query = {"limit": str(MAX_PAGE), **place}
        return entries

    async def _page(
        self,
        request: web.Request,
        instance: Instance,
        place: Mapping[str, str],
    ) -> AssetPage | None:
        query = {"tags_any": ",".join(self._kinds), "sort": "updated_at", "order": "desc", **place}
        path = f"/api/assets?{urlencode(query)}"
        answer: Answer = await self._asking.one(request, instance, "GET", path)
        return await read_page(answer)

    def _forget(self, instance: Instance) -> None:
        for key in [key for key in self._known if key[0] is instance]:
            del self._known[key]
        self._latest = None


def _are_same(known: Known, before: Known) -> bool:
    """Whether nothing has changed: entries that have are in another mapping (:func:`_updated`)."""
    same = (before.get(instance) is entries for instance, entries in known.items())
    return list(known) == list(before) and all(same)


def _hidden(known: Known) -> Known:
    """Of twins all but the first."""
    hidden: dict[Instance, dict[str, Entry]] = {instance: {} for instance in known}
    shown: dict[tuple[str, str, Any], list[tuple[Instance, Entry]]] = {}
    order = {instance: number for number, instance in enumerate(known)}
    # Without a file any number would be alike, and each would be compared with all: 4,000 took 2 s.
    dated = [
        (one, instance) for instance in known for one in known[instance].values() if one.has_file
    ]
    dated.sort(key=lambda item: (item[0].created_at, order[item[1]]))
    for entry, instance in dated:
        others = shown.setdefault((entry.kind, entry.path, entry.size), [])
        if any(at is not instance and entry.is_twin(other) for at, other in others):
            hidden[instance][entry.asset_id] = entry
        else:
            others.append((instance, entry))
    return hidden


def _of_page(page: AssetPage, kinds: Collection[str]) -> dict[str, Entry]:
    found = (Entry.of(asset, kinds) for asset in page.assets)
    return {entry.asset_id: entry for entry in found if entry is not None}


def _updated(known: Entries, latest: AssetPage, kinds: Collection[str]) -> Entries | None:
    """``known`` with what has changed since; None if that cannot be told from ``latest``.

    It can if the oldest entry there is as it was, so that all older ones are, and the count fits,
    so that none has gone. Of more than MAX_ENTRIES not all are known, and the count says nothing.
    """
    told = _of_page(latest, kinds)
    news = {one: entry for one, entry in told.items() if known.get(one) != entry}
    entries = {**known, **news} if news else known
    last = Entry.of(latest.assets[-1], kinds) if latest.assets else None
    before = None if last is None else known.get(last.asset_id)
    if latest.has_more and (last is None or before is None or before.updated_at != last.updated_at):
        return None
    fits = latest.total == len(entries) or len(known) >= MAX_ENTRIES
    return entries if fits and len(entries) < 2 * MAX_ENTRIES else None
