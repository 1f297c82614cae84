"""Ask instances for a queue or a history, which may be of any size: scanned as it comes, and kept.

What :mod:`json_scanner` finds is small and in memory; the text itself is in memory up to
``MEMORY_BYTES`` and in a temporary file beyond, from which parts go on to a client byte for byte.
The time of such an answer is not bounded, but the silence within it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from comfy_proxy.cluster import answer_bodies
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_lists import (
    HISTORY_TO_KEEP,
    HISTORY_WITH_NODES,
    QUEUE,
    HistoryEntry,
    Queue,
    read_history,
    read_queue,
)
from comfy_proxy.full_collections import NoFullCollection
from comfy_proxy.gateway.exchange.blame import told_apart
from comfy_proxy.gateway.exchange.fanout import ASK_TIMEOUT_S, Head, answers_of_all, asked
from comfy_proxy.gateway.exchange.headers import response_headers, sendable
from comfy_proxy.gateway.exchange.pieces import Slice
from comfy_proxy.json_scanner import JsonScanner, Shape, Value
from comfy_proxy.json_steps import feed
from comfy_proxy.stored_bytes import StoredBytes

T = TypeVar("T")

MEMORY_BYTES = 4 * 2**20
"""How much of one answer is kept in memory; a longer one is in a temporary file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScannedAnswer(Head):
    """What one instance said. ``root`` is what was found in it; None if it has not status 200 or
    is no JSON object or array. ``text`` is empty if it was not to be kept. ``quiet`` keeps full
    garbage collections off for as long as a long answer exists; None for a short one."""

    text: StoredBytes = field(repr=False)
    root: Value | None = field(repr=False)
    quiet: NoFullCollection | None = field(default=None, repr=False)

    @property
    def body(self) -> Slice:
        """All of it."""
        return Slice(self.text, 0, self.text.size)

    def member(self, value: Value) -> Slice:
        """The text of ``value`` with its name: ``"name": …``."""
        return Slice(self.text, value.name_start, value.end)

    def part(self, value: Value) -> Slice:
        """The text of ``value``."""
        return Slice(self.text, value.start, value.end)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadHistory:
    """The ``entries`` of a history by prompt id, and their ``data`` as :meth:`HistoryEntry.data`
    has it; None for what is no entry of ComfyUI's. ``answer`` was scanned for HISTORY_TO_KEEP, and
    was asked for at ``asked_at`` (monotonic seconds)."""

    answer: ScannedAnswer
    asked_at: float
    entries: dict[str, HistoryEntry] = field(repr=False)
    data: dict[str, Any] = field(repr=False)


async def ask_scanned(
    instance: Instance,
    cluster: Cluster,
    path: str,
    shape: Shape,
    *,
    timeout_s: float = ASK_TIMEOUT_S,
    keep: bool = True,
    replaceable: bool = False,
    fresh: bool = False,
) -> ScannedAnswer:
    """``GET`` of an encoded ``path`` from ``instance``, looked into as ``shape`` says.

    ``timeout_s`` bounds the wait for the head and for each piece of the body. Without ``keep`` the
    text of an answer with status 200 is dropped as it is scanned. ``replaceable`` as of
    :meth:`HangWatch.over`, ``fresh`` as of :meth:`ConnectionManager.request`. Raises InstanceError;
    UnavailableError if the disk is full.
    """
    text = StoredBytes(memory_bytes=MEMORY_BYTES, hashed=False)
    silence = partial(cluster.clock.timeout, timeout_s)
    hang_watch = cluster.hang_watch.over(instance, replaceable=replaceable)
    with hang_watch as watched, instance.attempt("ask"), told_apart(instance):
        async with asked(
            instance, cluster, "GET", path, head_timeout_s=timeout_s, fresh=fresh
        ) as response:
            watched.answered()
            pieces = answer_bodies.pieces(response, answer_bodies.MAX_SCANNED_BYTES, silence)
            scanner = JsonScanner(shape) if response.status == 200 else None
            quiet = await _take(pieces, scanner, text, keep=keep or scanner is None)
            return ScannedAnswer(
                status=response.status,
                reason=sendable(response.reason or ""),
                headers=response_headers(response, instance, cluster.settings),
                text=text,
                root=_list_or_object(scanner),
                quiet=quiet,
            )


async def _take(
    pieces: AsyncIterator[bytes], scanner: JsonScanner | None, text: StoredBytes, *, keep: bool
) -> NoFullCollection | None:
    """Give each piece to ``scanner``, and with ``keep`` to ``text``. Returns what keeps full
    garbage collections off while what was found is in memory; None if that is not much."""
    quiet, came = None, 0
    async for piece in pieces:
        came += len(piece)
        quiet = quiet or NoFullCollection.for_bytes(came)
        if scanner is not None:
            await feed(scanner, piece)
        if keep:
            await text.write(piece)
    await text.finish()
    return quiet


def _list_or_object(scanner: JsonScanner | None) -> Value | None:
    root = None if scanner is None else scanner.result()
    return None if root is None or root.members is None else root


async def ask_all_scanned(
    cluster: Cluster, path: str, shape: Shape, *, instances: Iterable[Instance] | None = None
) -> dict[Instance, ScannedAnswer]:
    """Ask each healthy instance (of ``instances``, or of all); see :func:`fanout.ask_all`."""
    return await answers_of_all(
        cluster,
        lambda instance: ask_scanned(instance, cluster, path, shape, replaceable=True),
        instances,
    )


async def ask_queue(
    instance: Instance,
    cluster: Cluster,
    *,
    timeout_s: float = ASK_TIMEOUT_S,
    fresh: bool = False,
) -> Queue | None:
    """``/queue``, the text of its entries apart; None if the answer is no queue.

    Raises InstanceError.
    """
    answer = await ask_scanned(
        instance, cluster, "/queue", QUEUE, timeout_s=timeout_s, keep=False, fresh=fresh
    )
    return await _read(answer, read_queue)


async def ask_history(
    instance: Instance,
    cluster: Cluster,
    path: str,
    *,
    timeout_s: float = ASK_TIMEOUT_S,
    fresh: bool = False,
) -> dict[str, Any] | None:
    """``/history…`` as :meth:`HistoryEntry.data` has it, by prompt id; None if it is none.

    Of what is no entry of ComfyUI's the value is None. Raises InstanceError.
    """
    answer = await ask_scanned(
        instance, cluster, path, HISTORY_WITH_NODES, timeout_s=timeout_s, keep=False, fresh=fresh
    )
    return await _read(answer, _history_data)


async def read_entries(instance: Instance, cluster: Cluster, path: str) -> ReadHistory | None:
    """``/history…`` with all that is needed to keep its entries; None if the answer is none. Raises
    InstanceError; UnavailableError if the disk is full."""
    asked_at = cluster.clock.monotonic()
    answer = await ask_scanned(instance, cluster, path, HISTORY_TO_KEEP)
    data = await _read(answer, _history_data)
    if data is None:
        return None
    found = {one.prompt_id: one for one in read_history(answer.root) or () if one.prompt_id}
    return ReadHistory(answer=answer, asked_at=asked_at, entries=found, data=data)


def _history_data(root: Value | None) -> dict[str, Any] | None:
    entries = read_history(root)
    if entries is None:
        return None
    return {
        entry.prompt_id: entry.data() if entry.value.is_object else None
        for entry in entries
        if entry.prompt_id is not None
    }


async def _read(answer: ScannedAnswer, read: Callable[[Value | None], T]) -> T:
    """What ``read`` makes of what was found in ``answer``; in a thread if that is long."""
    return read(answer.root) if answer.quiet is None else await asyncio.to_thread(read, answer.root)
