"""The one reader of ``Accept``: which media types a client takes, and which it prefers (RFC 9110,
12.5.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

_ITEM = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*"?)+')
"""One item of a list: a comma in a quoted string does not end it."""
_PART = re.compile(r'(?:[^";]|"(?:[^"\\]|\\.)*"?)+')
"""One part of an item, which semicolons divide."""
_QUOTED_PAIR = re.compile(r"\\(.)")
_WEIGHT = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaRange:
    """One item of the header: ``media_type`` (``image/png``, ``image/*`` or ``*/*``), its
    ``parameters`` other than ``q`` by their names, and ``q`` from 0 to 1; all in lower case."""

    media_type: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    q: float = 1.0

    def specificity(self, media_type: str, parameters: Mapping[str, str]) -> tuple[int, int]:
        """How closely it fits: greater is closer, and (0, 0) is not at all.

        A parameter of which ``parameters`` say nothing is no obstacle, though RFC 9110 has it so:
        ``application/json;indent=2`` asks for JSON all the same.
        """
        if any(parameters.get(name, value) != value for name, value in self.parameters.items()):
            return (0, 0)
        kind = media_type.partition("/")[0]
        closeness = {media_type: 3, f"{kind}/*": 2, "*/*": 1}.get(self.media_type, 0)
        return (closeness, len(self.parameters) if closeness else 0)


class Accept:
    """What one request takes. ``header`` is the value of its ``Accept``, several lines joined by
    commas; without an item in it anything is taken, as ``*/*`` says.

    A ``q`` that is no number is 0, one above 1 is 1. Of several items for the same the highest
    counts.
    """

    def __init__(self, header: str) -> None:
        self.ranges = tuple(_ranges(header)) or (MediaRange(media_type="*/*"),)

    def quality(self, media_type: str, **parameters: str) -> float:
        """The q of ``media_type`` (lower case) with ``parameters``: that of the range which fits
        most closely, 0 if none does."""
        fits = [(one.specificity(media_type, parameters), one.q) for one in self.ranges]
        closeness, q = max(fits)
        return q if closeness > (0, 0) else 0.0

    def best_of(self, kind: str) -> float:
        """The highest q that any media type of ``kind`` (``image``) has."""
        named = {
            one.media_type: self.quality(one.media_type)
            for one in self.ranges
            if one.media_type.startswith(f"{kind}/")
        }
        return max(self.quality(f"{kind}/*"), *named.values(), 0.0)

    def naming(self, media_type: str) -> Iterator[MediaRange]:
        """The ranges that name ``media_type`` itself, with whatever parameters: a client that
        knows the type, and does not just take anything."""
        return (one for one in self.ranges if one.media_type == media_type)


def highest(ranges: Iterable[MediaRange]) -> float:
    """The highest q of ``ranges``; 0 if there is none."""
    return max((one.q for one in ranges), default=0.0)


def _ranges(header: str) -> Iterator[MediaRange]:
    for item in _ITEM.findall(header):
        parts = [part.strip() for part in _PART.findall(item)]
        if "/" not in parts[0]:  # an empty item, or nothing that RFC 9110 knows
            continue
        parameters = dict(_parameter(part) for part in parts[1:] if part)
        q = _weight(parameters.pop("q", "1"))
        yield MediaRange(media_type=parts[0].lower(), parameters=parameters, q=q)


def _parameter(part: str) -> tuple[str, str]:
    name, _, value = (text.strip().lower() for text in part.partition("="))
    if value.startswith('"'):
        value = _QUOTED_PAIR.sub(r"\1", value[1:].removesuffix('"'))
    return name, value


def _weight(text: str) -> float:
    return min(float(text), 1.0) if _WEIGHT.fullmatch(text) else 0.0
