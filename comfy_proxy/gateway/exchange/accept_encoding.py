"""Which content codings a client takes (RFC 9110 12.5.3): the one reader of ``Accept-Encoding``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from aiohttp import hdrs, web

_WEIGHT = re.compile(r"0(?:\.\d{0,3})?|1(?:\.0{0,3})?")
_OTHER_NAMES = {"x-gzip": "gzip"}  # RFC 9110 8.4.1.3


def chosen_coding(request: web.Request, offered: Sequence[str]) -> str | None:
    """The one of ``offered`` that the client weighs most, the first of equals; None for none.

    A client that says nothing gets none, and so does one that would rather have none: it gives
    ``identity`` a weight of its own that is higher.
    """
    if hdrs.ACCEPT_ENCODING not in request.headers:
        return None
    return _chosen(",".join(request.headers.getall(hdrs.ACCEPT_ENCODING)), tuple(offered))


def accepts_gzip(request: web.Request) -> bool:
    """True if the client takes gzip; one that says nothing gets none."""
    return chosen_coding(request, ("gzip",)) is not None


@lru_cache(maxsize=256)  # a browser says the same with each of its requests
def _chosen(text: str, offered: tuple[str, ...]) -> str | None:
    weights = _weights(text)
    others = weights.get("*", 0.0)
    best = max(offered, key=lambda coding: weights.get(coding, others))
    weight = weights.get(best, others)
    return best if weight > 0 and weight >= weights.get("identity", 0.0) else None


def _weights(text: str) -> dict[str, float]:
    """Coding → weight, 1 unless one is given; 0, which means never, if that cannot be read."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        coding, _, parameter = (word.strip().lower() for word in part.partition(";"))
        name, _, value = (word.strip() for word in parameter.partition("="))
        if name != "q":
            value = "1" if not parameter else "0"
        weights[_OTHER_NAMES.get(coding, coding)] = (
            float(value) if _WEIGHT.fullmatch(value) else 0.0
        )
    return weights
