"""An entry as text: a JSON line for machines, one with colours for a terminal. Pure."""

from __future__ import annotations

import re
import traceback
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from comfy_proxy.lenient_json import NON_STR_KEYS, dumps
from comfy_proxy.logs.entry import Entry
from comfy_proxy.tracing import Trace

SERVICE = "comfy_proxy"
Line = dict[str, Any]
"""Keys as in the files; values that JSON can hold, free of secrets."""


class Finished(NamedTuple):
    """A line as it is written: its level, its JSON, and the text for people, None where nobody
    reads that; both without a line feed at their end."""

    level: str
    json: str
    text: str | None


MAX_TEXT = 8192
"""Characters of one value; of a longer one the middle is left out. A body does not belong in a
log, and the end of a stack trace says what it was."""
_LIMITS = {"message": 4096, "path": 1024, "user_agent": 256, "method": 64}
"""Characters of values that any client can choose, instead of MAX_TEXT: else anybody could push all
other lines out of the files."""

MAX_KNOWN = 1000
"""Texts of which it is remembered what they are without secrets; then all are forgotten."""

_NOT_DETAILS = {"timestamp", "level", "service", "message", "logger", "exception"}
_NUMBERS = (bool, int, float)
_LEAST_IMAGE_DATA = 256  # characters of base64 from which on it is taken for a picture
_IMAGE_DATA = re.compile(
    r"data:[\w.+-]+/[\w.+-]+;base64,[A-Za-z0-9+/=_-]+"
    rf"|[A-Za-z0-9+/_-]{{{_LEAST_IMAGE_DATA},}}={{0,2}}"
    r"|(?:[A-Za-z0-9+/]{60,76}\r?\n){4,}[A-Za-z0-9+/]*={0,2}"  # MIME's (RFC 2045, 6.8)
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_COLOURS = {"error": "\x1b[31m", "warn": "\x1b[33m", "info": "", "debug": "\x1b[2m"}
_GREY, _RESET = "\x1b[90m", "\x1b[0m"


class Redaction:
    """Takes secrets and image data out of texts.

    ``secrets``: API_KEYS in all their forms (``security.forms_of``); each becomes ``<secret>``.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._hidden: set[str] = set()
        self.hide(secrets)

        self._known: dict[tuple[str, str], str] = {}

    def hide(self, secrets: Iterable[str]) -> None:
        """Take these out too, from now on; what was hidden before stays hidden."""
        self._known = {}
        self._hidden.update(secrets)
        secrets = self._hidden
        alternatives = "|".join(re.escape(one) for one in sorted(secrets, key=len, reverse=True))
        # In any case: %2f and %2F in a path are the same character of a key.
        self._secrets = re.compile(alternatives, re.IGNORECASE) if alternatives else None

    def text(self, text: str, limit: int = MAX_TEXT) -> str:
        """``text`` without secrets and image data, writable as UTF-8.

        Of a text over ``limit`` characters the beginning and the end are kept, half of it each.
        """
        if self._secrets:  # before it is cut: half a key would not be found
            text = self._secrets.sub("<secret>", text)
        if len(text) > limit:
            half = limit // 2
            text = f"{text[:half]} … ({len(text)} characters) … {text[-half:]}"
        if not text.isascii():  # aiohttp makes surrogates of bytes in headers that are not UTF-8
            text = text.encode("utf-8", "backslashreplace").decode()
        if len(text) >= _LEAST_IMAGE_DATA or ";base64," in text:
            text = _IMAGE_DATA.sub("<data>", text)
        return text

    def field(self, name: str, text: str) -> str:
        """As :meth:`text`, with the limit of that field of a line. The last MAX_KNOWN of these are
        remembered: clients send the same again and again."""
        known = self._known.get((name, text))
        if known is None:
            if len(self._known) >= MAX_KNOWN:
                self._known = {}
            known = self._known[name, text] = self.text(text, _LIMITS.get(name, MAX_TEXT))
        return known

    def value(self, value: Any, limit: int = MAX_TEXT) -> Any:
        """``value`` for JSON: numbers and None as they are, all else as text of ``limit``."""
        if value is None or isinstance(value, _NUMBERS):
            return value
        return self.text(value if isinstance(value, str) else str(value), limit)


def head(time_s: float, level: str, message: str, logger: str, trace: Trace | None) -> Line:
    """What every line begins with; ``message`` is free of secrets."""
    line: Line = {
        "timestamp": time_text(time_s),
        "level": level,
        "service": SERVICE,
        "message": message,
        "logger": logger,
    }
    if trace is not None:
        line |= trace.fields
    return line


def line_of(entry: Entry, redaction: Redaction) -> Line:
    """The line for ``entry``, redacted; a field of the entry does not replace a key of the line."""
    message = redaction.text(entry.message, _LIMITS["message"])
    line = head(entry.time_s, entry.level, message, entry.logger, entry.trace)
    for key, value in entry.fields.items():
        if value is not None and key not in line:
            line[key] = redaction.value(value, _LIMITS.get(key, MAX_TEXT))
    if entry.exception is not None:
        line["exception"] = redaction.text(stack_trace(entry.exception))
    return line


def finished(line: Line, *, colours: bool | None, told: Collection[str] | None = None) -> Finished:
    """``line`` as it is written; ``colours`` of the text for people, None: there is none. ``told``
    as of :func:`as_text`."""
    text = None if colours is None else as_text(line, colours=colours, told=told)
    return Finished(line["level"], as_json(line), text)


def as_json(line: Line) -> str:
    """The line as JSON, without a line feed."""
    return dumps(line, option=NON_STR_KEYS, default=str).decode()


def as_text(line: Line, *, colours: bool, told: Collection[str] | None = None) -> str:
    """The line for people: values that the message names are not repeated after it. ``told`` are
    the keys of those values; None if that is not known, then each value is looked for in it.

    A stack trace follows on lines of its own.
    """
    message = _escaped(line["message"])
    details: list[str] = []
    for key, value in line.items():
        if key not in _NOT_DETAILS and (
            key not in told if told is not None else str(value) not in message
        ):
            details.append(f"{key}={value}")
    shown = _escaped(" ".join(details))
    time, level = line["timestamp"], f"{line['level']:<5}"
    if colours:
        time, shown = f"{_GREY}{time}{_RESET}", f"{_GREY}{shown}{_RESET}" if shown else ""
        level = f"{_COLOURS[line['level']]}{level}{_RESET}"
        message = f"{_COLOURS[line['level']]}{message}{_RESET}"
    text = f"{time} {level} {message} {shown}" if shown else f"{time} {level} {message}"
    if "exception" in line:
        text = "\n".join((text, *map(_escaped, line["exception"].split("\n"))))
    return text


def stack_trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()


def time_text(time_s: float) -> str:
    """Seconds since the epoch as ``2026-01-31T23:59:59.999Z``."""
    second, millisecond = divmod(int(time_s * 1000), 1000)
    return f"{_second(second)}.{millisecond:03}Z"


@lru_cache(maxsize=16)
def _second(time_s: int) -> str:
    """The time as text, to the second; cached, because many lines share it."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _escaped(text: str) -> str:
    """``text`` with its control characters escaped.

    Otherwise a client could forge lines of our log or send a terminal its control sequences.
    """
    if text.isprintable():
        return text
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
