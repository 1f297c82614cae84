"""An entry as text: a JSON line for machines, one with colours for a terminal. Pure."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from comfy_proxy.clock import iso
from comfy_proxy.logs.entry import Entry

SERVICE = "comfy_proxy"
MAX_TEXT = 8192
"""Of one value: nobody reads more, and a body does not belong into a log."""

_NUMBERS = (bool, int, float)
_LEAST_IMAGE_DATA = 256
_IMAGE_DATA = re.compile(
    rf"data:[\w.+-]+/[\w.+-]+;base64,[A-Za-z0-9+/=_-]+|[A-Za-z0-9+/]{{{_LEAST_IMAGE_DATA},}}={{0,2}}"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_COLOURS = {"error": "\x1b[31m", "warn": "\x1b[33m", "info": "", "debug": "\x1b[2m"}
_GREY, _RESET = "\x1b[90m", "\x1b[0m"


class Redaction:
    """Takes secrets and image data out of texts. ``secrets`` are the keys of the settings."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        alternatives = "|".join(re.escape(one) for one in sorted(secrets, key=len, reverse=True))
        self._secrets = re.compile(alternatives) if alternatives else None

    def text(self, text: str) -> str:
        """``text`` without them, no longer than MAX_TEXT and writable as UTF-8."""
        if len(text) > MAX_TEXT:
            text = f"{text[:MAX_TEXT]}… ({len(text)} characters)"
        if not text.isascii():  # aiohttp makes surrogates of bytes that are no UTF-8
            text = text.encode("utf-8", "backslashreplace").decode()
        if len(text) >= _LEAST_IMAGE_DATA or ";base64," in text:
            text = _IMAGE_DATA.sub("<data>", text)
        return self._secrets.sub("<secret>", text) if self._secrets else text

    def value(self, value: Any) -> Any:
        """``value`` as JSON can hold it."""
        if value is None or isinstance(value, _NUMBERS):
            return value
        return self.text(value if isinstance(value, str) else str(value))


def as_json(entry: Entry, redaction: Redaction) -> str:
    """One line without its end. Later keys are the entry's own fields."""
    line: dict[str, Any] = {
        "timestamp": _time(entry),
        "level": entry.level,
        "service": SERVICE,
        "message": redaction.text(entry.message),
        "logger": entry.logger,
        **_context(entry),
    }
    for key, value in entry.fields.items():
        if value is not None:
            line.setdefault(key, redaction.value(value))
    if entry.exception is not None:
        line["exception"] = redaction.text(stack_trace(entry.exception))
    return orjson.dumps(line, option=orjson.OPT_NON_STR_KEYS, default=str).decode()


def as_text(entry: Entry, redaction: Redaction, *, colours: bool) -> str:
    """For people: what is in the message is not repeated, a stack trace is on lines of its own."""
    message = _escaped(redaction.text(entry.message))
    details = {**_context(entry), **entry.fields}
    texts = {key: str(value) for key, value in details.items() if value is not None}
    shown = " ".join(
        f"{key}={text if len(text) <= MAX_TEXT else redaction.text(text)}"
        for key, text in texts.items()
        if text not in message
    )
    shown = _escaped(redaction.text(shown))
    time, level = _time(entry), f"{entry.level:<5}"
    if colours:
        time, shown = f"{_GREY}{time}{_RESET}", f"{_GREY}{shown}{_RESET}" if shown else ""
        level = f"{_COLOURS[entry.level]}{level}{_RESET}"
        message = f"{_COLOURS[entry.level]}{message}{_RESET}"
    line = " ".join(part for part in (time, level, message, shown) if part)
    if entry.exception is not None:
        trace = redaction.text(stack_trace(entry.exception))
        line = "\n".join((line, *map(_escaped, trace.split("\n"))))
    return line


def stack_trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()


def _time(entry: Entry) -> str | None:
    return iso(datetime.fromtimestamp(entry.time_s, UTC))


def _context(entry: Entry) -> Mapping[str, Any]:
    if entry.trace is None:
        return {}
    context = {"request_id": entry.trace.request_id}
    if (trace_id := entry.trace.trace_id) is not None:
        context["trace_id"] = trace_id
    return context


def _escaped(text: str) -> str:
    """Nobody outside gets to write lines of our log, or to a terminal's controls."""
    if text.isprintable():
        return text
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
