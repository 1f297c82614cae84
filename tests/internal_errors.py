"""Faults of the proxy that nobody sees but the log: no test leaves one that it does not expect.

A client may get all that it asked for while its connection is cut behind the answer; the line
"Unhandled exception" of aiohttp's server is then the only sign.
"""

from __future__ import annotations

import contextlib
import logging
import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loguru import logger

import comfy_proxy

_PACKAGE = f"{Path(comfy_proxy.__file__).parent}{os.sep}"
_LOGGERS = ("aiohttp.server", "asyncio")


@contextlib.contextmanager
def collected() -> Iterator[list[str]]:
    """A list that comes to hold what aiohttp's servers, asyncio and the proxy log of faults.

    Instances run in this process too: what a worker or a test's own server met is left out, and so
    is what comes of a client that has left.
    """
    lines: list[str] = []

    def look(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR and _is_a_fault(record):
            lines.append(logging.Formatter("%(name)s: %(message)s").format(record))
        return True

    # Filters, not handlers: with a handler the standard library would print nothing by itself.
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for one in loggers:
        one.addFilter(look)
    sink = logger.add(
        lambda message: lines.append(str(message)),
        level="ERROR",
        format="{message}",
        filter=lambda record: record["exception"] is not None,
    )
    try:
        yield lines
    finally:
        for one in loggers:
            one.removeFilter(look)
        with contextlib.suppress(ValueError):  # a test may have removed all sinks
            logger.remove(sink)


def _is_a_fault(record: Any) -> bool:
    _, error, trace = record.exc_info or (None, None, None)
    if isinstance(error, ConnectionError):
        return False
    files = [frame.filename for frame in traceback.extract_tb(trace)]
    return record.name == "asyncio" or any(map(_is_of_the_proxy, files))


def _is_of_the_proxy(file: str) -> bool:
    return file.startswith(_PACKAGE) and not file.startswith(f"{_PACKAGE}embedded")
