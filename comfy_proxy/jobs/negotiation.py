"""How a client wants its answer: now or later, picture or JSON (contract, Jobs and ``Accept``)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from comfy_proxy.errors import InvalidFieldError

MAX_WAIT_S = 300.0
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerMode:
    """``synchronous``: the answer is the result, waited for at most ``wait_s`` (None: to its end).

    ``applied``: the preference of RFC 7240 that was honoured, for ``Preference-Applied``.
    """

    synchronous: bool
    wait_s: float | None = None
    applied: str | None = None


def answer_mode(
    options: Mapping[str, str], *, prefer: str, accept: str, default_mode: str
) -> AnswerMode:
    """``?async``/``?mode`` win, then ``Prefer``, then an ``Accept`` that prefers a picture.

    ``options`` has ``async`` and ``mode`` as the client wrote them. Raises InvalidFieldError.
    A ``Prefer`` that makes no sense is ignored (RFC 7240, 2).
    """
    asked = _asked_mode(options)
    if asked == "async":
        return AnswerMode(synchronous=False)
    preferences = _preferences(prefer)
    wait_s = _seconds(preferences.get("wait", ""))
    if wait_s is not None:
        return AnswerMode(synchronous=True, wait_s=wait_s, applied=f"wait={preferences['wait']}")
    if asked == "sync":
        return AnswerMode(synchronous=True)
    if "respond-async" in preferences:
        return AnswerMode(synchronous=False, applied="respond-async")
    return AnswerMode(synchronous=prefers_picture(accept) or default_mode == "sync")


def wait_seconds(text: str | None) -> float:
    """``?wait=N`` in seconds, 0 when absent; raises InvalidFieldError above 300 or below 0."""
    if text is None:
        return 0.0
    seconds = _seconds(text)
    if seconds is None:
        raise InvalidFieldError("wait", f"wait is a number of seconds, not {text[:40]!r}.")
    if seconds > MAX_WAIT_S:
        raise InvalidFieldError("wait", f"wait is at most {MAX_WAIT_S:g} seconds.")
    return seconds


def prefers_json(accept: str) -> bool:
    """``application/json`` has a strictly higher q than ``image/*``; a tie is no preference."""
    json_q, image_q, _ = _qualities(accept)
    return json_q > image_q


def prefers_picture(accept: str) -> bool:
    """``image/*`` has a strictly higher q than ``application/json``.

    Not where a page is wanted as much: some browsers name pictures when they navigate or submit a
    form, others send ``*/*`` alone, and all of them are to get the same.
    """
    json_q, image_q, page_q = _qualities(accept)
    return image_q > max(json_q, page_q)


def _asked_mode(options: Mapping[str, str]) -> str | None:
    found: set[str] = set()
    if (flag := options.get("async")) is not None:
        if flag not in ("true", "1", "yes", "on", "false", "0", "no", "off"):
            raise InvalidFieldError("async", "async must be true or false.")
        found.add("async" if flag in ("true", "1", "yes", "on") else "sync")
    if (mode := options.get("mode")) is not None:
        if mode not in ("async", "sync"):
            raise InvalidFieldError("mode", "mode must be async or sync.")
        found.add(mode)
    return "async" if "async" in found else found.pop() if found else None


def _seconds(text: str) -> float | None:
    return float(text) if _SECONDS.fullmatch(text) else None


def _preferences(header: str) -> dict[str, str]:
    """RFC 7240: comma list of ``name[=value][;parameters]``."""
    result: dict[str, str] = {}
    for item in header.split(","):
        name, _, value = item.partition(";")[0].partition("=")
        result.setdefault(name.strip().lower(), value.strip().strip('"'))
    return result


def _qualities(accept: str) -> tuple[float, float, float]:
    """q of JSON, the best q of any picture and q of a page that is named.

    ``*/*`` counts for the first two (RFC 9110, 12.5.1).
    """
    ranges: dict[str, float] = {}
    for item in accept.split(","):
        media_range, *parameters = (part.strip().lower() for part in item.split(";"))
        if media_range:
            ranges[media_range] = max(ranges.get(media_range, 0.0), _q(parameters))
    anything = ranges.get("*/*", 0.0)
    json_q = ranges.get("application/json", ranges.get("application/*", anything))
    pictures = [q for media_range, q in ranges.items() if media_range.startswith("image/")]
    return json_q, max(pictures, default=anything), ranges.get("text/html", 0.0)


def _q(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0
