"""How a client wants its answer: at once or when the job is done, as a picture or as JSON.

It says so in the query or the body, in ``Prefer`` (RFC 7240) or in ``Accept`` (RFC 9110, 12.5.1).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from comfy_proxy.accept import Accept, highest
from comfy_proxy.errors import InvalidFieldError
from comfy_proxy.jobs.workflows.parameter import TRUTHS

MAX_WAIT_S = 300.0
"""Most seconds of ``?wait=N``; more is refused with 400."""
_MEDIA = ("image", "video", "audio")
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?")  # as JSON writes one


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerMode:
    """How to answer the POST that makes a job.

    ``synchronous``: wait for the result, for ``wait_s`` seconds at most (None: to the job's end),
    then answer as if asynchronous. ``applied``: the preference that was honoured, for the header
    ``Preference-Applied`` (RFC 7240, 3). ``by_default``: the client has said nothing of it.
    """

    synchronous: bool
    wait_s: float | None = None
    applied: str | None = None
    by_default: bool = False


def answer_mode(
    options: Mapping[str, str], *, prefer: str, accept: str, default_mode: str
) -> AnswerMode:
    """The mode by, in this order, ``async`` and ``mode``, ``Prefer``, ``Accept``, DEFAULT_MODE.

    ``options`` has ``async`` and ``mode`` as the client wrote them; InvalidFieldError is raised for
    other values than theirs. A ``Prefer`` that makes no sense is ignored (RFC 7240, 2). An
    ``Accept`` that prefers a picture asks for the result.
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
    if prefers_media(accept):
        return AnswerMode(synchronous=True)
    return AnswerMode(synchronous=default_mode == "sync", by_default=True)


def wait_seconds(text: str | None) -> float:
    """``?wait=N`` in seconds, 0 when absent; raises InvalidFieldError above 300 or below 0."""
    if text is None:
        return 0.0
    seconds = float(text) if _NUMBER.fullmatch(text) else None
    if seconds is None:
        raise InvalidFieldError("wait", f"wait is a number of seconds, not {text[:40]!r}.")
    if seconds > MAX_WAIT_S:
        raise InvalidFieldError("wait", f"wait is at most {MAX_WAIT_S:g} seconds.")
    return seconds


def waits_for_change(until: str | None) -> bool:
    """True for ``?until=change``: a wait ends when the status differs from that at arrival.

    False for ``end`` and for None: it ends with the job. Raises InvalidFieldError for the rest.
    """
    if until not in (None, "end", "change"):
        raise InvalidFieldError("until", "until must be end or change.")
    return until == "change"


def truth(name: str, text: str) -> bool:
    """A flag of the query or the body, in whatever case; raises InvalidFieldError naming it."""
    value = TRUTHS.get(text.lower())
    if value is None:
        raise InvalidFieldError(name, f"{name} must be true or false.")
    return value


def prefers_json(accept: str, media_type: str = "image/png") -> bool:
    """True if ``application/json`` has a higher q than anything of the kind of ``media_type``, a
    result's (any picture for a picture); a tie is no preference."""
    taken, kind = Accept(accept), media_type.partition("/")[0]
    other = taken.quality(media_type) if kind == "application" else taken.best_of(kind)
    return taken.quality("application/json") > other


def prefers_media(accept: str) -> bool:
    """True if a picture, video or sound has a higher q than ``application/json``, and than
    ``text/html`` if that is named.

    Some browsers name pictures besides pages when they navigate or submit a form, others send
    ``*/*`` instead: without ``text/html`` in the rule they would get different answers.
    """
    taken = Accept(accept)
    page_q = highest(taken.naming("text/html"))
    media_q = max(taken.best_of(kind) for kind in _MEDIA)
    return media_q > max(taken.quality("application/json"), page_q)


def wants_zip(accept: str) -> bool:
    """True if ``application/zip`` is named with a q as high as that of JSON."""
    taken = Accept(accept)
    return highest(taken.naming("application/zip")) > 0 and taken.quality(
        "application/zip"
    ) >= taken.quality("application/json")


def _asked_mode(options: Mapping[str, str]) -> str | None:
    found: set[str] = set()
    if (flag := options.get("async")) is not None:
        found.add("async" if truth("async", flag) else "sync")
    if (mode := options.get("mode")) is not None:
        if mode not in ("async", "sync"):
            raise InvalidFieldError("mode", "mode must be async or sync.")
        found.add(mode)
    return "async" if "async" in found else found.pop() if found else None


def _seconds(text: str) -> float | None:
    seconds = float(text) if _SECONDS.fullmatch(text) else math.inf
    return seconds if math.isfinite(seconds) else None


def _preferences(header: str) -> dict[str, str]:
    """The preferences by name; the header is a list of ``name[=value][;parameters]`` (RFC 7240)."""
    result: dict[str, str] = {}
    for item in header.split(","):
        name, _, value = item.partition(";")[0].partition("=")
        result.setdefault(name.strip().lower(), value.strip().strip('"'))
    return result
