"""``comfy-proxy serve --supervised``: what the program that has started us is told, and how it ends
us.

It gives us a pipe as standard input and holds the other end. When that end is closed, however the
program has ended, we end as at SIGTERM: the operating system tells of a kill, too. On standard
output it gets one JSON line as soon as we listen.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

_STANDARD_INPUT: Final = 0
_PIECE: Final = 4096
"""Bytes that are read at a time, and thrown away."""


def end_with_parent(end: Callable[[], None]) -> None:
    """Call ``end`` in the running event loop when standard input ends.

    A thread waits for that, because event loops cannot watch every kind of pipe on Windows. It is a
    daemon: it holds up no exit.
    """
    loop = asyncio.get_running_loop()
    threading.Thread(target=_wait_for_the_end, args=(loop, end), name="parent", daemon=True).start()


def tell_parent(urls: Sequence[str]) -> None:
    """Print ``{"listening": [URL, …], "pid": …}`` on a line of its own."""
    print(json.dumps({"listening": list(urls), "pid": os.getpid()}), flush=True)


def _wait_for_the_end(loop: asyncio.AbstractEventLoop, end: Callable[[], None]) -> None:
    with suppress(OSError):  # on Windows a broken pipe is an error, not an end
        while os.read(_STANDARD_INPUT, _PIECE):
            pass
    with suppress(RuntimeError):  # the loop is closed: it has ended already
        loop.call_soon_threadsafe(end)
