"""Scans of the directories: all instances with assets do them, and one answer tells how it went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.assets.asking import AssetAsking, with_assets
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.fanout import Answer
from comfy_proxy.gateway.exchange.target import client_target
from comfy_proxy.gateway.routes import Match
from comfy_proxy.gateway.views.by_pattern import Views

_BUSIEST_FIRST = ("RUNNING", "CANCELLING", "PAUSED", "IDLE")


class AssetScans:
    """Those that can be reached do it; the others scan by themselves when they start."""

    def __init__(self, asking: AssetAsking) -> None:
        self._asking = asking
        self.views: Views = {
            "/assets/seed": self.seed,
            "/assets/seed/status": self.status,
            "/assets/seed/cancel": self.cancel,
            "/assets/prune": self.prune,
        }

    async def seed(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``POST …/seed``: 409 only if every instance is scanning already. With ``wait`` it takes
        as long as the longest of the scans, and the counts are summed."""
        answers = await self._tell(request)
        taken = {one: answer for one, answer in answers.items() if answer.status < 400}
        like = next(iter((taken or answers).values()))
        done = {one: data for one, data in _read(taken).items() if "progress" in data}
        if not done:
            return native.relayed(like)
        errors = [error for data in done.values() for error in _list(data.get("errors"))]
        body = {"status": "completed", "progress": _progress(done), "errors": errors}
        return native.reply(body, taken[next(iter(done))])

    async def status(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``GET …/seed/status``: that of the busiest instance."""
        target = client_target(request, self._asking.cluster.settings)
        answers, _ = await self._asking.reachable(request, "GET", target)
        having = with_assets(answers) or answers
        states = {one: data.get("state") for one, data in _read(having).items()}
        busiest = min(having, key=lambda one: _rank(states.get(one)))
        return native.relayed(having[busiest])

    async def cancel(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``POST …/seed/cancel``: ``cancelling`` if any of them was scanning."""
        answers = await self._tell(request)
        for instance, data in _read(answers).items():
            if data.get("status") == "cancelling":
                return native.relayed(answers[instance])
        return native.relayed(next(iter(answers.values())))

    async def prune(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``POST …/prune``: how many were marked altogether; 409 if any of them is scanning."""
        answers = await self._tell(request)
        for answer in answers.values():
            if answer.status != 200:
                return native.relayed(answer)
        like = next(iter(answers.values()))
        counts = [data.get("marked") for data in _read(answers).values()]
        marked = sum(count for count in counts if isinstance(count, int))
        return native.reply({"status": "completed", "marked": marked}, like)

    async def _tell(self, request: web.Request) -> dict[Instance, Answer]:
        """The request as it came to all; without the answers of those without assets, if there are
        any with."""
        body = await native.read_body(request)
        target = client_target(request, self._asking.cluster.settings)
        options = body.options if body.raw else {}
        answers, _ = await self._asking.reachable(
            request, request.method, target, timeout_s=None, **options
        )
        return with_assets(answers) or answers


def _read(answers: Mapping[Instance, Answer]) -> dict[Instance, dict[str, Any]]:
    read = {one: answer.json() for one, answer in answers.items()}
    return {one: data for one, data in read.items() if isinstance(data, dict)}


def _rank(state: object) -> int:
    return _BUSIEST_FIRST.index(state) if state in _BUSIEST_FIRST else len(_BUSIEST_FIRST)


def _progress(done: Mapping[Instance, dict[str, Any]]) -> dict[str, int]:
    told = [data["progress"] for data in done.values() if isinstance(data["progress"], dict)]
    return {
        name: sum(one[name] for one in told if isinstance(one.get(name), int))
        for name in ("scanned", "total", "created", "skipped")
    }


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
