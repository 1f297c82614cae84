"""What is wrong with a template: which file, which key, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

_WORDS = {
    "extra_forbidden": "there is no such key here",
    "missing": "is missing",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}
"""Our words for some of pydantic's errors; the others are told in its own."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One line of it; ``key`` is a path into the file like ``parameters.side.type``, "" for all of
    it."""

    file: str
    key: str
    reason: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.key, self.reason) if part)


def problems_of(
    error: ValidationError, file: str, document: Any, *, under: str = ""
) -> list[Problem]:
    """Each error that pydantic has found in ``document``, which ``file`` has under the key
    ``under``; "" for all of it. What each alternative of a union says of a value is one of them."""
    reasons: dict[str, dict[str, None]] = {}
    for found in error.errors(include_url=False, include_input=False):
        reasons.setdefault(_key(found, document, under), {})[_reason(found)] = None
    return [
        Problem(file=file, key=key, reason=", or ".join(alternatives))
        for key, alternatives in reasons.items()
    ]


def _key(found: Any, document: Any, under: str) -> str:
    """The path of an error, without the steps that pydantic takes by itself: alternatives of a
    union and functions are no keys of the file."""
    parts, place = [under] if under else [], document
    for part in found["loc"]:
        if (isinstance(place, dict) and part in place) or (
            isinstance(place, list) and isinstance(part, int) and part < len(place)
        ):
            place = place[part]
        elif found["type"] != "missing" or part != found["loc"][-1]:
            continue
        parts.append(str(part))
    return ".".join(parts)


def _reason(found: Any) -> str:
    if (ours := _WORDS.get(found["type"])) is not None:
        return ours
    text = str(found["msg"]).removeprefix("Value error, ")
    return text[:1].lower() + text[1:] if text[:6] == "Input " else text
