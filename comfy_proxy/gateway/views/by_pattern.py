"""A policy whose rows are answered by several parts: each row's pattern has a method of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Set

from aiohttp import web

from comfy_proxy.gateway.routes import Match

View = Callable[[web.Request, Match], Awaitable[web.StreamResponse]]
"""How a part answers one row of ``routes.py``: a bound method of it."""
Views = Mapping[str, View]
"""By the pattern of the row."""


class ByPattern:
    """Answers each row of its policy by the method that one of ``parts`` has for its pattern."""

    def __init__(self, *parts: Views) -> None:
        self._views: Views = {pattern: view for part in parts for pattern, view in part.items()}

    def __repr__(self) -> str:
        return f"<ByPattern {', '.join(self._views)}>"

    @property
    def patterns(self) -> Set[str]:
        """Those that it can answer; there must be one for each row of the policy."""
        return self._views.keys()

    async def answer(self, request: web.Request, match: Match) -> web.StreamResponse:
        """The policy."""
        return await self._views[match.pattern](request, match)
