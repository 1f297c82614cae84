"""CORS for the origins that the operator allowed, by aiohttp-cors.

It serves registered resources only: our own, and the catch-all under which everything forwarded
comes in. Upstream ``Access-Control-*`` is taken out by the gateway, since aiohttp-cors asserts that
it is the first to answer.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import aiohttp_cors
from aiohttp import web

from comfy_proxy.addresses import SHARED_ORIGINS

PREFLIGHT_MAX_AGE_S = 600


def allow_origins(
    app: web.Application, resources: Collection[web.AbstractResource], origins: Collection[str]
) -> None:
    """Answer preflights for ``resources`` and add CORS headers to their answers.

    Credentials go with origins that are one party's, never with ``*``, ``null`` or ``file://``:
    pages there bring a key in a header instead of the browser's cookie. ``CorsConfig`` is used
    without ``aiohttp_cors.setup``: an application has one of those, and it may be the host's.
    """
    make_options: Any = aiohttp_cors.ResourceOptions  # its constructor has no annotations
    defaults = {
        origin: make_options(
            allow_credentials=origin not in ("*", *SHARED_ORIGINS),
            allow_headers="*",
            allow_methods="*",
            expose_headers="*",
            max_age=PREFLIGHT_MAX_AGE_S,
        )
        for origin in origins
    }
    config = aiohttp_cors.CorsConfig(app, defaults=defaults)
    for resource in resources:
        config.add(resource)
