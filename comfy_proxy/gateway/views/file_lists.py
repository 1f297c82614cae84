"""Lists of files and models, and the devices: of all instances as one.

``/internal/files/{type}``, ``/models``, ``/models/{folder}``, ``/embeddings`` and the two of
``/experiment/models`` are lists. A model file that one instance alone has is listed too: prompts
that name it are sent there. Each instance's order is kept and nothing stands there twice; of a
model file with a path index the same name under another index is another file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable
from typing import Any

from aiohttp import web

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.errors import InstanceError, InstanceTimeoutError, InstanceUnreachableError
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.fanout import Answer
from comfy_proxy.gateway.exchange.first_found import first_found
from comfy_proxy.gateway.exchange.forward import forward_balanced
from comfy_proxy.gateway.exchange.target import client_target
from comfy_proxy.gateway.routes import Match
from comfy_proxy.gateway.views.by_pattern import Views
from comfy_proxy.gateway.views.latest_answers import LatestAnswers
from comfy_proxy.json_pieces import MANY
from comfy_proxy.json_steps import written_in_turns

LISTS = (
    "/internal/files/{directory_type}",
    "/models",
    "/models/{folder}",
    "/embeddings",
    "/experiment/models",
    "/experiment/models/{folder}",
)
"""The rows of ``routes.py`` that are answered by a list."""


class MergedFileLists:
    """An instance that fails is left out; one that is slow is known by what it said last. If none
    gives a list the client gets the first one's own answer, if none answers at all a 503."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._latest = LatestAnswers(cluster)
        self.views: Views = {
            **dict.fromkeys(LISTS, self.entries),
            "/system_stats": self.system_stats,
        }

    async def entries(self, request: web.Request, match: Match) -> web.StreamResponse:
        """The union of the lists."""
        answers = await self._latest.to(client_target(request, self._cluster.settings))
        lists = {one: await native.read_long(answer) for one, answer in answers.items()}
        lists = {one: listed for one, listed in lists.items() if isinstance(listed, list)}
        like = answers[next(iter(lists or answers))]
        if not lists:
            return native.relayed(like)
        pieces = await written_in_turns(await _united(lists.values()))
        return await native.reply_pieces(request, pieces, like)

    async def system_stats(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``GET /system_stats``: the primary's, with the devices of all instances behind its own.

        Clients look at the first device for what a prompt may use, so the primary's stay first.
        """
        target = client_target(request, self._cluster.settings)
        answers = await self._latest.to(target, primary=True)
        like, stats = native.usable(answers, _with_devices)
        if not stats:
            return native.relayed(like)
        first, *others = stats.values()
        if not others:
            return native.relayed(like)
        devices = [device for one in (first, *others) for device in one["devices"]]
        return native.reply({**first, "devices": devices}, like)


class FirstFound:
    """What one file's owner answers: the primary, or where it has nothing (404) the next one."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def answer(self, request: web.Request, match: Match) -> web.StreamResponse:
        """The first answer that is not 404; if there is none, the primary's own 404.

        An instance that cannot be reached is passed over: another one may have the file too.
        """
        healthy = await self._cluster.healthy()
        found, _ = await first_found(request, self._cluster, healthy, pass_over=_is_away)
        return await forward_balanced(request, self._cluster) if found is None else found


def _is_away(error: InstanceError) -> bool:
    return isinstance(error, InstanceUnreachableError | InstanceTimeoutError)


async def _united(lists: Iterable[list[Any]]) -> list[Any]:
    """Each entry once, in the order in which they come."""
    united: dict[Hashable, Any] = {}
    for listed in lists:
        for at in range(0, len(listed), MANY):
            for entry in listed[at : at + MANY]:
                united.setdefault(_key(entry), entry)
            await asyncio.sleep(0)
    return list(united.values())


def _with_devices(answer: Answer) -> dict[str, Any] | None:
    data = native.load(answer)
    has_devices = isinstance(data, dict) and isinstance(data.get("devices"), list)
    return data if has_devices else None


def _key(entry: Any) -> Hashable:
    """What makes two entries the same one: a folder's name, a model file's name and path index."""
    if isinstance(entry, dict) and "name" in entry:
        return repr(entry["name"]), repr(entry.get("pathIndex"))
    return entry if isinstance(entry, str) else (repr(entry),)
