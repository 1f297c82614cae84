"""The logs of one application: where their lines come from, and which lines are theirs.

Lines come from three sources: loguru (our own), the standard library's ``logging`` (aiohttp,
asyncio), and one record for each request. The last goes to the writer directly: through loguru it
would cost a request as much again as the line. A line belongs to the application in whose context
it was logged, so two applications in one process keep theirs apart.

The host's handlers, loguru's and ``logging``'s, get what they would get without us: nothing of
theirs is touched, and what is added here is taken away here. (A host's loguru handler gets our
lines too, but without request ids: those are in :mod:`comfy_proxy.tracing`, not in the record.)
"""

from __future__ import annotations

import logging
import sys
import time
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

from aiohttp import log as aiohttp_log
from aiohttp.http import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError
from loguru import logger

from comfy_proxy.logs.access_log import AccessLog
from comfy_proxy.logs.entry import LEVELS, Entry
from comfy_proxy.logs.lines import Redaction
from comfy_proxy.logs.log_writer import LogWriter
from comfy_proxy.security import forms_of
from comfy_proxy.tracing import TRACE, Trace, subject
from comfy_proxy.webhook_settings import secret_texts

if TYPE_CHECKING:
    from comfy_proxy.metrics.records import RequestRecord
    from comfy_proxy.settings import Settings

_TO_LOGURU = {"error": "ERROR", "warn": "WARNING", "info": "INFO", "debug": "DEBUG"}
_AT = {level: frozenset(LEVELS[: index + 1]) for index, level in enumerate(LEVELS)}
"""Level of an application → the levels whose lines it writes."""
_OURS = "comfy_proxy"
_AIOHTTP = (  # its access log is not among them: ours has a line for each request
    aiohttp_log.client_logger,
    aiohttp_log.internal_logger,
    aiohttp_log.server_logger,
    aiohttp_log.web_logger,
    aiohttp_log.ws_logger,
)
_FORMAT = (
    "<green>{time:YYYY-MM-DDTHH:mm:ss.SSS}</green> "
    "<level>{level: <7}</level> <level>{message}</level>"
)

_CURRENT: ContextVar[AppLogs | None] = ContextVar("comfy_proxy.logs", default=None)


class AppLogs:
    """Takes lines, chooses by level and application, and hands them to a LogWriter.

    ``level`` is one of LEVELS; change it with :meth:`set_level`, also while it runs. ``redaction``
    takes keys out of the lines.
    """

    def __init__(self, settings: Settings) -> None:
        self.level = settings.log_level
        self._settings = settings
        self.redaction = Redaction(
            forms_of(settings.api_keys) | secret_texts(settings.webhook_secrets)
        )
        self._writer: LogWriter | None = None
        self._access: AccessLog | None = None
        self._owns_process = False
        self._handler_id: int | None = None
        self._standard = _FromLogging(self)

    @property
    def dropped(self) -> int:
        """Lines lost since the start: the writer's queue was full, or the disk failed."""
        return self._writer.dropped if self._writer is not None else 0

    @property
    def written(self) -> dict[str, int]:
        """Lines written since the start, by level; a level without any counts 0."""
        written = self._writer.written if self._writer is not None else {}
        return {level: written.get(level, 0) for level in LEVELS}

    def start(self, console: TextIO | None = None, *, owns_process: bool = False) -> bool:
        """Begin to take and write lines; False if it has begun already. Whoever gets True ends it.

        ``owns_process`` is for the command, which has no host beside it: lines logged outside any
        application are taken too, and other handlers of loguru and ``logging`` are removed. Else
        only this application's lines are taken. ``console`` gets readable lines.
        """
        if self._writer is not None:
            return False
        self._owns_process = owns_process
        self._writer = LogWriter(
            directory=self._settings.log_directory,
            console=console,
            redaction=self.redaction,
        )
        self._access = AccessLog(self._writer, self.redaction)
        self._writer.start()
        if owns_process:
            logger.remove()
            logging.basicConfig(handlers=[self._standard], level=logging.WARNING, force=True)
        else:
            # A filter, not a handler: where a logger has one, logging's handler of last resort
            # prints nothing, and records that are not ours would be printed by nobody.
            for source in _AIOHTTP:
                source.addFilter(self._standard.overhear)
        self._listen()
        return True

    def close(self) -> None:
        """Take no more lines and write what is left, for STOP_TIMEOUT_S at most."""
        if self._writer is None:
            return
        self._stop_listening()
        for source in _AIOHTTP:
            source.removeFilter(self._standard.overhear)
            if self._owns_process:
                source.setLevel(logging.NOTSET)
        if self._owns_process:
            logging.getLogger().removeHandler(self._standard)
        if self._access is not None:
            self._access.flush()
        self._writer.stop()

    def set_level(self, level: str) -> None:
        """From now on write lines of ``level`` and more important ones.

        Raises ValueError if ``level`` is not one of LEVELS.
        """
        if level not in LEVELS:
            raise ValueError(f"{level!r} is none of {', '.join(LEVELS)}.")
        self.level = level
        if self._handler_id is not None:
            self._stop_listening()
            self._listen()
        if self._writer is not None:
            message = f"the log level is {level} now"
            # Past :meth:`put`, which would leave an "info" out at the levels error and warn.
            self._writer.put(
                Entry(time_s=time.time(), level="info", message=message, logger=__name__)
            )

    def current(self, trace: Trace | None = None) -> Current:
        """Lines logged inside the block, and in tasks made there, are this application's, and on
        behalf of the request ``trace``; None: of no request."""
        return Current(self, trace)

    def record_request(self, request: RequestRecord) -> None:
        """The access log: a line for each request, faults of ours or an instance's as warnings."""
        level = "warn" if request.is_fault else "info"
        if self._access is not None and self.takes(level):
            self._access.record(request, level)

    def put(self, entry: Entry) -> None:
        """Log ``entry`` if its level is logged now."""
        if self._writer is not None and self.takes(entry.level):
            self._writer.put(entry)

    def takes(self, level: str) -> bool:
        """Whether lines of that level are written now."""
        return level in _AT[self.level]

    def is_mine(self) -> bool:
        """Whether a line that is logged in this context belongs to this application."""
        current = _CURRENT.get()
        return current is self or (self._owns_process and current is None)

    def _listen(self) -> None:
        # The format is empty: loguru formats on the caller's side, which is the event loop. Only
        # exceptions are formatted there nevertheless.
        self._handler_id = logger.add(
            self._take,
            level=_TO_LOGURU[self.level],
            format=_nothing,
            catch=True,
            backtrace=False,
            diagnose=False,
        )
        if self._owns_process:
            for source in _AIOHTTP:
                source.setLevel(_TO_LOGURU[self.level])

    def _stop_listening(self) -> None:
        if self._handler_id is not None:
            with suppress(ValueError):  # the host called logger.remove(), which removed ours too
                logger.remove(self._handler_id)
            self._handler_id = None

    def _take(self, message: Any) -> None:
        """A line of loguru."""
        record = message.record
        name = record["name"] or ""
        if self._writer is None or not self.is_mine():
            return
        if not self._owns_process and name.partition(".")[0] != _OURS:
            return  # a line of the host, or one that it passes to loguru from ``logging``
        exception = record["exception"]
        self._writer.put(
            Entry(
                time_s=record["time"].timestamp(),
                level=_level(record["level"].no),
                message=record["message"],
                logger=name,
                site=(name, record["line"]),
                fields={**subject(), **record["extra"]},
                exception=exception.value if exception is not None else None,
                trace=TRACE.get(),
            )
        )


class Current:
    """See :meth:`AppLogs.current`."""

    __slots__ = ("_logs", "_logs_token", "_trace", "_trace_token")

    def __init__(self, logs: AppLogs, trace: Trace | None) -> None:
        self._logs = logs
        self._trace = trace

    def __enter__(self) -> None:
        self._logs_token = _CURRENT.set(self._logs)
        self._trace_token = TRACE.set(self._trace)

    def __exit__(self, *error: object) -> None:
        TRACE.reset(self._trace_token)
        _CURRENT.reset(self._logs_token)


class _FromLogging(logging.Handler):
    """Records of the standard library: aiohttp's server and client, asyncio."""

    def __init__(self, logs: AppLogs) -> None:
        super().__init__()
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        if not self._logs.is_mine():
            return
        error = record.exc_info[1] if record.exc_info else None
        level, message = _level(record.levelno), record.getMessage()
        if isinstance(error, RequestPayloadError):
            error = error.__cause__  # a body that its client has not coded as it says
        if isinstance(error, HttpProcessingError):
            # The client sent no valid HTTP: a warning, not an error of ours. The error's text is
            # left out, because it quotes the client: a cookie in a header that is too long.
            level, message, error = "warn", f"{message}: {error.code} {type(error).__name__}", None
        entry = Entry(
            time_s=record.created,
            level=level,
            message=message,
            logger=record.name,
            site=(record.name, record.lineno),
            fields=subject(),
            exception=error,
            trace=TRACE.get(),
        )
        self._logs.put(entry)

    def overhear(self, record: logging.LogRecord) -> bool:
        """A filter that lets everything through and logs it here: the host's handlers stay."""
        with suppress(Exception):  # a record that cannot be formatted: the host's handlers say so
            self.emit(record)
        return True


def configure_console(level: str) -> None:
    """Have loguru write readable lines on standard error, for the commands `check` and `demo`."""
    logger.remove()
    logger.add(sys.stderr, level=_TO_LOGURU[level], format=_FORMAT, diagnose=False)


def _nothing(record: Any) -> str:
    return ""


def _level(number: int) -> str:
    """The level for a number of loguru or ``logging``, which have the same numbers."""
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warn"
    return "info" if number >= logging.INFO else "debug"
