"""How prompts have ended, for callers inside of the proxy: what ``/history/{id}`` shows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from comfy_proxy.clock import Clock, wait_for_event
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_lists import HISTORY, HistoryEntry, history_path, read_history
from comfy_proxy.errors import NoHealthyInstanceError
from comfy_proxy.gateway.exchange.fanout import answers_of_all
from comfy_proxy.gateway.exchange.pieces import joined
from comfy_proxy.gateway.exchange.scanned import ScannedAnswer, ask_all_scanned, ask_queue
from comfy_proxy.gateway.files.made_files import MadeFiles
from comfy_proxy.gateway.files.shared_storage import SharedStorage
from comfy_proxy.gateway.views.history_entries import OwnEntries
from comfy_proxy.gateway.views.history_keeper import HistoryKeeper
from comfy_proxy.gateway.views.history_numbers import HistoryNumbers
from comfy_proxy.gateway.views.owner import PromptOwners, Told
from comfy_proxy.json_scanner import ANY, TEXT, JsonScanner, Shape, Value
from comfy_proxy.json_steps import feed, written_in_turns

Entry = dict[str, Any]
"""``outputs`` and ``status`` of an entry of the history, in ComfyUI's shape."""
_GRAPH: Shape = {ANY: {b"prompt": {2: TEXT}}}


class EndedPrompts:
    """Reads entries: made here (``own_history``), kept here (``keeper``), or at an instance."""

    def __init__(
        self,
        cluster: Cluster,
        owners: PromptOwners,
        *,
        own_history: OwnEntries,
        keeper: HistoryKeeper,
        made_files: MadeFiles,
        storage: SharedStorage,
        numbers: HistoryNumbers,
    ) -> None:
        self._cluster = cluster
        self._owners = owners
        self._own_history = own_history
        self._keeper = keeper
        self._made_files = made_files
        self._storage = storage
        self._numbers = numbers
        self._changes = _Changes()
        keeper.wanted.on_changed.append(lambda prompt_id: self._changes.tell())

    async def settled(self, prompt_id: str, timeout_s: float) -> bool:
        """Return when the entry of a prompt that has just ended was read, or is not to be; False if
        that takes longer. ComfyUI writes the entry a moment after it has told the end."""

        def is_over() -> bool:
            return self._keeper.wanted.instance_of(prompt_id) is None

        return await self._changes.until(is_over, self._cluster.clock, timeout_s)

    async def entry(self, prompt_id: str) -> Entry | None:
        """The entry, the files in it with their instance, as clients see them; None if there is
        none, or nobody can be asked."""
        if (own := self._own_history.entry(prompt_id)) is not None:
            return {"outputs": own["outputs"], "status": own["status"]}
        if (root := await self._kept(prompt_id, HISTORY)) is not None:
            return await _entry(root)
        told = await self._asked(prompt_id, HISTORY)
        if told is None or (entry := await _entry(told.answer.root)) is None:
            return None
        self._made_files.entries_read({prompt_id: entry}, told.instance)
        return {**entry, "outputs": self._storage.prefixed(entry.get("outputs"), told.instance)}

    async def graph(self, prompt_id: str) -> bytes | None:
        """The text of the graph that has run; None if nobody has it."""
        if (own := self._own_history.entry(prompt_id)) is not None:
            return b"".join(await written_in_turns(own["prompt"][2]))
        root = await self._kept(prompt_id, _GRAPH)
        if root is None and (told := await self._asked(prompt_id, _GRAPH)) is not None:
            root = told.answer.root
        return _graph(root)

    async def place(self, prompt_id: str) -> bool | None:
        """Whether an instance runs it (True) or has it waiting (False), as their queues say; None
        if it is in none. For prompts of which nothing is on record here.

        Raises NoHealthyInstanceError if none answers.
        """
        asking = partial(ask_queue, cluster=self._cluster)
        queues = (await answers_of_all(self._cluster, asking)).values()
        views = [queue.view() for queue in queues if queue is not None]
        if any(prompt_id in view.running for view in views):
            return True
        return False if any(prompt_id in view for view in views) else None

    async def _kept(self, prompt_id: str, shape: Shape) -> Value | None:
        kept = self._keeper.entries.find(prompt_id)
        if kept is None:
            return None
        scanner = JsonScanner(shape)
        await feed(scanner, joined([b"{", *kept.numbered(self._numbers), b"}"]))
        return scanner.result()

    async def _asked(self, prompt_id: str, shape: Shape) -> Told[ScannedAnswer] | None:
        path = history_path(prompt_id)

        async def asking(instances: list[Instance]) -> dict[Instance, ScannedAnswer]:
            return await ask_all_scanned(self._cluster, path, shape, instances=instances)

        try:
            return await self._owners.find(prompt_id, asking, lambda answer: _first(answer.root))
        except NoHealthyInstanceError:
            return None


class _Changes:
    """Wakes all who wait for a change."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def tell(self) -> None:
        """There is one."""
        self._next.set()
        self._next = asyncio.Event()

    async def until(self, condition: Callable[[], bool], clock: Clock, timeout_s: float) -> bool:
        """Whether ``condition()`` holds; it is asked at once, and at each change in that time."""
        deadline = clock.monotonic() + timeout_s
        while not condition():
            left_s = deadline - clock.monotonic()
            if left_s <= 0 or not await wait_for_event(clock, self._next, left_s):
                return condition()
        return True


def _first(root: Value | None) -> HistoryEntry | None:
    entries = read_history(root)
    return entries[0] if entries and entries[0].value.is_object else None


async def _entry(root: Value | None) -> Entry | None:
    entry = _first(root)
    return None if entry is None else await entry.data_in_turns()


def _graph(root: Value | None) -> bytes | None:
    entry = _first(root)
    row = None if entry is None else entry.value.get(b"prompt")
    graph = None if row is None else row.get(2)
    return None if graph is None else graph.text
