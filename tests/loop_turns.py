"""Whether others have their turn while something long is done."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class LoopTurns:
    """``count`` rises with each turn of the event loop."""

    def __init__(self) -> None:
        self.count = 0

    async def run(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)


@contextmanager
def loop_turns() -> Iterator[LoopTurns]:
    """Those of the block."""
    turns = LoopTurns()
    task = asyncio.create_task(turns.run())
    try:
        yield turns
    finally:
        task.cancel()
