"""A client's HTTP: whatever happens to a request is an answer, never an exception."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

TIMEOUT_S = 30.0  # longer than anybody waits for an answer of a server that is said to be up
NO_ANSWER = 0


class Http:
    """Asks the proxy. A request that got no answer has the status NO_ANSWER, its body says why."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, bytes]:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with self.session.request(
                method, self.url + path, timeout=timeout, **more
            ) as answer:
                return answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return NO_ANSWER, f"{type(error).__name__} {error}".encode()

    async def ask_json(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        """The document, or the text if it is none."""
        status, body = await self.ask(method, path, **more)
        try:
            return status, json.loads(body)
        except ValueError:
            return status, body.decode(errors="replace")[:300]
