"""Logging of the command line: readable lines on standard error, aiohttp's own among them.

Only the command configures logging. ``setup()`` never touches loguru's handlers: they belong to
the host application.
"""

from __future__ import annotations

import logging
import sys

from loguru import logger

_FORMAT = (
    "<green>{time:YYYY-MM-DDTHH:mm:ss.SSS}</green> "
    "<level>{level: <7}</level> <level>{message}</level>"
)
_LEVELS = {"error": "ERROR", "warn": "WARNING", "info": "INFO", "debug": "DEBUG"}


class _ToLoguru(logging.Handler):
    """Standard library records (aiohttp, asyncio) go the same way."""

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname if record.levelname in _LEVELS.values() else record.levelno
        logger.opt(exception=record.exc_info).log(level, record.getMessage())


def configure_console(level: str) -> None:
    """Log to standard error from ``level`` (error, warn, info, debug) on."""
    logger.remove()
    logger.add(sys.stderr, level=_LEVELS[level], format=_FORMAT, diagnose=False)
    logging.basicConfig(handlers=[_ToLoguru()], level=logging.WARNING, force=True)
