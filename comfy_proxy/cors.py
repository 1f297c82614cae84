"""CORS for the origins in CORS_ORIGINS, by aiohttp-cors.

aiohttp-cors serves registered resources only: our own, and the catch-all by which everything
forwarded comes in. The gateway takes ``Access-Control-*`` out of ComfyUI's answers, because
aiohttp-cors asserts that no answer has such a header yet.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import aiohttp_cors
from aiohttp import web

from comfy_proxy.addresses import SHARED_ORIGINS

PREFLIGHT_MAX_AGE_S = 600
"""Seconds for which a browser may use the answer to a preflight again; then it asks anew."""


class AllowedOrigins:
    """Answers preflights for ``resources`` and adds CORS headers to their answers.

    Credentials (our cookie) are allowed to origins that belong to one party, never to ``*``,
    ``null`` or ``file://``: those pages send a key in a header. ``CorsConfig`` is used without
    ``aiohttp_cors.setup``, of which an application can have one only: it may be the host's.
    """

    def __init__(
        self,
        app: web.Application,
        resources: Collection[web.AbstractResource],
        origins: Collection[str],
    ) -> None:
        self._config = aiohttp_cors.CorsConfig(app, defaults={})
        # CorsConfig has just appended a handler of its own to this signal, which costs a fifteenth
        # of a forwarded request even where no origin is allowed: add_headers calls it instead.
        self._add_headers = app.on_response_prepare.pop()
        self.replace(origins)
        for resource in resources:
            self._config.add(resource)

    async def add_headers(self, request: web.Request, answer: web.StreamResponse) -> None:
        """Add CORS headers to ``answer``, whose headers are about to be sent. To be called last:
        one of them names all other headers, so that a page may read them."""
        if self._config.defaults:
            await self._add_headers(request, answer)

    def replace(self, origins: Collection[str]) -> None:
        """These and no others are allowed from now on: all resources share one mapping."""
        make_options: Any = aiohttp_cors.ResourceOptions  # its constructor has no annotations
        self._config.defaults.clear()
        for origin in origins:
            self._config.defaults[origin] = make_options(
                allow_credentials=origin not in ("*", *SHARED_ORIGINS),
                allow_headers="*",
                allow_methods="*",
                expose_headers="*",
                max_age=PREFLIGHT_MAX_AGE_S,
            )
