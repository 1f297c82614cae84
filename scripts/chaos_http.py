"""A client's HTTP: whatever happens to a request is an answer, never an exception."""

from __future__ import annotations

import json
import time
from typing import Any

import aiohttp
from chaos_records import SLOW_S, clock

TIMEOUT_S = 30.0  # of a request; longer than the proxy may take while any instance is well
NO_ANSWER = 0


class Http:
    """Asks the proxy; what took long is noted in ``slow``.

    A request that got no answer has the status NO_ANSWER, its body says why.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, slow: list[str]) -> None:
        self.session = session
        self.url = url
        self._slow = slow

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, bytes]:
        begun = time.time()
        answer = await self._ask(method, path, **more)
        if (took := time.time() - begun) > SLOW_S:
            self._slow.append(f"{method} {path} at {clock(begun)}: {answer[0]} after {took:.1f} s")
        return answer

    async def _ask(self, method: str, path: str, **more: Any) -> tuple[int, bytes]:
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
