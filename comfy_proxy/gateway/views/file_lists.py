"""``GET /internal/files/{type}``: the files of all instances' directories as one list."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.fanout import Answer, ask_all
from comfy_proxy.gateway.routes import Match
from comfy_proxy.gateway.views.by_pattern import Views


class MergedFileLists:
    """An instance that fails is left out. If none gives a list the client gets the first one's own
    answer, if none answers at all a 503."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.views: Views = {"/internal/files/{directory_type}": self.answer}

    async def answer(self, request: web.Request, match: Match) -> web.StreamResponse:
        """The union: each instance's order kept, no name twice."""
        answers = await ask_all(self._cluster, "GET", request.rel_url.raw_path)
        like, lists = native.usable(answers, _list)
        if not lists:
            return native.relayed(like)
        names = {repr(name): name for names in lists.values() for name in names}
        return native.reply(list(names.values()), like)


def _list(answer: Answer) -> list[Any] | None:
    data = native.load(answer)
    return data if isinstance(data, list) else None
