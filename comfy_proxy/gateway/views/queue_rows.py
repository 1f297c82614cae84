"""Entries of the queue as they are shown: those of instances, and those that only we know.

An instance that cannot be asked still has its prompts. Those that came through the proxy are in the
ledger and are shown from there, so that no prompt is missing from a queue and no sum falls because
an instance is away. Prompts that others gave that instance directly are not shown meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_lists import QueueEntry, extra_data, finite
from comfy_proxy.gateway.exchange.native import LONG_BYTES
from comfy_proxy.gateway.exchange.pieces import Piece
from comfy_proxy.gateway.exchange.scanned import ScannedAnswer
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.states import State
from comfy_proxy.lenient_json import decoded, dumps_exact, loads_exact

MAX_GRAPH_BYTES = 64 * 2**20
"""Bytes of all bodies that are read for one answer. Beyond them the other prompts are shown with an
empty graph: a queue is asked for places and ids mostly."""
_SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")
"""Keys of ``extra_data`` that are not shown, as ComfyUI does not show them."""


class Bodies(Protocol):
    """Where the bodies of prompts are: ``prompts/spool.py``."""

    async def body(self, prompt: Prompt, /) -> bytes:
        """The body with which a client posted it; empty if it is not there any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """An entry of the queue as it is shown: ``text``. ``prompt_id`` is None for what is no entry of
    ComfyUI's; ``created`` is in milliseconds since the epoch, 0 if it is not told."""

    number: float
    prompt_id: str | None
    created: float
    text: Piece

    @classmethod
    def told(cls, entry: QueueEntry, answer: ScannedAnswer) -> Row:
        """An entry in the answer of an instance."""
        return cls(
            number=entry.number,
            prompt_id=entry.prompt_id,
            created=entry.created,
            text=answer.part(entry.value),
        )

    @classmethod
    def known(cls, entry: list[Any]) -> Row:
        """One that is put together here."""
        return cls(
            number=finite(entry[0]),
            prompt_id=entry[1],
            created=finite(extra_data(entry).get("create_time")),
            text=dumps_exact(entry),
        )


class LedgerRows:
    """What the ledger knows to wait or run, as entries of a queue.

    ``unread`` gives those that have ended at an instance and are in no history that can be read:
    they are shown as running, where ComfyUI too shows a prompt until its history has it. In neither
    a poller would take it for lost (PROTOCOL.md trap 15).
    """

    def __init__(
        self, ledger: Ledger, bodies: Bodies, unread: Callable[[Instance], Iterable[Prompt]]
    ) -> None:
        self._ledger = ledger
        self._bodies = bodies
        self._unread = unread

    def at(self, instances: Iterable[Instance]) -> list[Prompt]:
        """The prompts that wait or run at these instances, those of our own jobs included, and
        those that have ended there while no history that can be read has them."""
        return [
            prompt
            for instance in instances
            for prompt in (*self._ledger.at(instance), *self._unread(instance))
            if prompt.ended or not prompt.deleted
        ]

    async def entries(self, prompts: Iterable[Prompt]) -> list[list[Any]]:
        """``[number, id, graph, extra_data, outputs]`` for each, as ComfyUI would write it, except
        that ``outputs`` is empty, and for a prompt of our own jobs ``graph`` too."""
        entries, read = [], 0
        for prompt in tuple(prompts):
            if prompt.queue_entry is not None and extra_data(prompt.queue_entry):
                entries.append(prompt.queue_entry)  # its instance's own
                continue
            body = await self._bodies.body(prompt) if read < MAX_GRAPH_BYTES else b""
            read += len(body)
            if len(body) > LONG_BYTES:
                entries.append(await asyncio.to_thread(_entry, prompt, body))
            else:
                entries.append(_entry(prompt, body))
        return entries

    def runs(self, prompt: Prompt) -> bool:
        """Whether ``prompt`` is shown as running: it has ended, or runs as far as is known."""
        if prompt.ended:
            return True
        instance = prompt.instance
        there = prompt.state in (State.QUEUED, State.RUNNING) and instance is not None
        return there and instance is not None and self._ledger.running(instance) is prompt


def _entry(prompt: Prompt, body: bytes) -> list[Any]:
    document = _document(prompt, body)
    graph, extra = document.get("prompt"), document.get("extra_data")
    shown = dict(extra) if isinstance(extra, dict) else {}
    for secret in _SECRETS:
        shown.pop(secret, None)
    if prompt.client_id is not None:
        shown["client_id"] = prompt.client_id
    if prompt.accepted_time is not None:
        shown["create_time"] = int(prompt.accepted_time * 1000)
    return [
        prompt.number,
        prompt.prompt_id,
        graph if isinstance(graph, dict) else {},
        shown,
        [],
    ]


def _document(prompt: Prompt, body: bytes) -> dict[str, Any]:
    try:
        charset = "utf-8" if prompt.post is None else prompt.post.charset
        text = decoded(body) if charset.lower() == "utf-8" else body.decode(charset)
        document = loads_exact(text)
    except (ValueError, LookupError):
        return {}
    return document if isinstance(document, dict) else {}
