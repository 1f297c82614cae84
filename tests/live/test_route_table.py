"""The table of routes against the router of a running ComfyUI, asked by its 405 answers."""

from __future__ import annotations

import re

import aiohttp
from yarl import URL

from comfy_proxy.gateway.routes import TABLE, Prefix, match

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
READS = {"GET", "HEAD"}
"""Every path has them there: static files may be anywhere."""


async def test_the_methods_of_each_path_are_those_of_the_server(
    live_urls: tuple[str, str],
) -> None:
    """What writes at a path is in the table, and what the table says writes exists there.

    Routes of 2026 may be missing on an older server, but only all of a path.
    """
    async with aiohttp.ClientSession() as session:
        for path in sorted({path for row in TABLE for path in paths(row.pattern, row.prefix)}):
            if path.startswith("/api/assets"):
                continue  # the table has them as a whole
            expected = {method for method in METHODS if match(method, path).pattern} - READS
            url = URL(f"{live_urls[0]}{path}", encoded=True)
            async with session.request("PROPFIND", url) as answer:
                allowed = set(answer.headers.get("Allow", "").split(",")) - READS - {""}
            older = path.startswith("/api/jobs") and not allowed
            assert older or allowed == expected, path


def paths(pattern: str, prefix: Prefix) -> list[str]:
    """Examples that fit a row."""
    path = re.sub(r"\{\w+…?\}", "a", pattern)
    return {Prefix.BOTH: [path, f"/api{path}"], Prefix.BARE: [path], Prefix.API: [f"/api{path}"]}[
        prefix
    ]
