"""An open dashboard: reads Server-Sent Events as an EventSource does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp.test_utils import TestClient

PATIENCE_S = 20.0
"""Before an event that does not come fails the test."""
PATH = "/dashboard/events"


class Viewer:
    """``fields`` has what came outside of events, such as ``retry``."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.fields: dict[str, str] = {}
        self._rest = b""

    async def next(self) -> tuple[str, Any] | None:
        """The next event's name and data; None at the end of the stream."""
        async with asyncio.timeout(PATIENCE_S):
            while (block := await self._block()) is not None:
                if "data" in block:
                    return block["event"], json.loads(block["data"])
                self.fields |= block
        return None

    async def state(self) -> Any:
        """The next ``state``; pictures before it are passed over."""
        while (event := await self.next()) is not None:
            if event[0] == "state":
                return event[1]
        raise AssertionError("the stream has ended")

    async def until(self, condition: Callable[[Any], object]) -> Any:
        """The first ``state`` for which ``condition`` holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition(state := await self.state()):
                pass
        return state

    async def _block(self) -> dict[str, str] | None:
        """However long it is, which aiohttp's own ``readuntil`` does not allow."""
        parts = [self._rest]
        while b"\n\n" not in parts[-1]:
            part = await self.response.content.readany()
            if not part:
                assert parts == [b""], "the stream ended in the middle of an event"
                return None
            parts.append(part if parts[-1][-1:] != b"\n" else parts.pop() + part)
        block, _, self._rest = b"".join(parts).partition(b"\n\n")
        return dict(line.split(": ", 1) for line in block.decode().split("\n"))


@asynccontextmanager
async def looking(
    client: TestClient[Any, Any], headers: Mapping[str, str] | None = None
) -> AsyncIterator[Viewer]:
    """A viewer that leaves at the end."""
    async with client.get(PATH, headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        yield Viewer(response)
