"""What a difference between two answers is, and how it is hidden or taken back."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from raw_http import Answer

Edit = Callable[[Answer], Answer]
Undo = Callable[[Answer, Answer], Answer]
"""The proxied answer and the direct one → the proxied one without the difference."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One row. ``kinds`` is searched for in the names of requests.

    One of these: ``chance``, done to both answers, for what differs between any two conversations;
    ``undo``: the proxied answer as it would be without this difference, given the direct one;
    ``alike``: done to both where that cannot be told. ``only``: the servers with which it occurs.
    """

    name: str
    reason: str
    kinds: str = ""
    chance: Edit | None = None
    undo: Undo | None = None
    alike: Edit | None = None
    only: str = "real embedded"

    def concerns(self, kind: str) -> bool:
        return re.search(self.kinds, kind) is not None


def hidden(name: bytes, pattern: bytes = rb".+") -> Edit:
    """``pattern`` in the values of a header becomes a dot."""

    def edit(answer: Answer) -> Answer:
        headers = tuple(
            (key, re.sub(pattern, b".", value) if key == name else value)
            for key, value in answer.headers
        )
        return replace(answer, headers=headers)

    return edit


def hidden_in_body(pattern: bytes, replacement: bytes = b".") -> Edit:
    """``pattern`` in the body, or in the frames of a socket."""

    def edit(answer: Answer) -> Answer:
        frames = tuple(re.sub(pattern, replacement, one) for one in answer.frames)
        return replace(answer, body=re.sub(pattern, replacement, answer.body), frames=frames)

    return edit


def hidden_text(pattern: bytes, replacement: bytes) -> Undo:
    """``pattern`` in the proxied body alone."""
    edit = hidden_in_body(pattern, replacement)
    return lambda proxied, _: edit(proxied)


def added(name: bytes, value: bytes = rb".+") -> Undo:
    """A header that the direct answer has not."""

    def undo(proxied: Answer, direct: Answer) -> Answer:
        kept = tuple(
            (key, text)
            for key, text in proxied.headers
            if key != name or not re.fullmatch(value, text) or direct.header(name)
        )
        return replace(proxied, headers=kept)

    return undo


def absent(name: bytes, value: bytes) -> Undo:
    """A header that only the direct answer has, with this value: put where it stands there."""

    def undo(proxied: Answer, direct: Answer) -> Answer:
        if proxied.header(name) or direct.header(name) != value:
            return proxied
        names = [key for key, _ in direct.headers]
        place, headers = names.index(name), list(proxied.headers)
        return replace(proxied, headers=(*headers[:place], (name, value), *headers[place:]))

    return undo


def ours(status: int, code: str) -> Undo:
    """An answer of our own with this code, whatever the direct one is."""

    def undo(proxied: Answer, direct: Answer) -> Answer:
        if proxied.status != status or f'"code":"{code}"'.encode() not in proxied.body:
            return proxied
        return direct

    return undo


def moved_to_the_end(name: bytes) -> Edit:
    def edit(answer: Answer) -> Answer:
        mine = tuple(header for header in answer.headers if header[0] == name)
        return replace(answer, headers=answer.without(name).headers + mine)

    return edit


def sorted_headers(answer: Answer) -> Answer:
    """By their names; those of one name stay in order."""
    return replace(answer, headers=tuple(sorted(answer.headers, key=lambda header: header[0])))


def running_or_not(answer: Answer) -> Answer:
    """The entries of a queue by their age, as one list."""
    queue = json.loads(answer.body)
    entries = queue["queue_running"] + queue["queue_pending"]
    entries.sort(key=lambda entry: entry[3]["create_time"])
    return replace(answer, body=json.dumps(entries).encode())


def decompressed(proxied: Answer, _: Answer) -> Answer:
    if proxied.header(b"Content-Encoding") != b"gzip":
        return proxied
    return replace(proxied.without(b"Content-Encoding"), body=gzip.decompress(proxied.body))


def as_many_devices(proxied: Answer, direct: Answer) -> Answer:
    """The first devices of the proxied answer, as many as one instance tells of."""
    stats, alone = (json.loads(one.body) if one.body else {} for one in (proxied, direct))
    if len(stats.get("devices", ())) <= len(alone.get("devices", ())):
        return proxied
    stats["devices"] = stats["devices"][: len(alone["devices"])]
    return replace(proxied, body=json.dumps(stats).encode())


def of_our_own(word: bytes) -> Undo:
    """An answer of ours with this word in it, where ComfyUI has no such path."""
    return lambda proxied, direct: (
        direct if word in proxied.body and direct.status == 404 else proxied
    )


# --- what reached the server, as the custom node's echo tells it --------------------------


def not_seen(name: str, value: str = ".+") -> Undo:
    """A header that only the direct request had when it arrived: put where it stands there."""

    def edit(proxied: Seen, direct: Seen) -> None:
        for place, header in enumerate(direct):
            if _fits(header, name, value) and header not in proxied:
                proxied.insert(place, header)

    return _seen(edit)


def also_seen(name: str, value: str = ".+") -> Undo:
    """A header that only the proxied request had when it arrived."""

    def edit(proxied: Seen, direct: Seen) -> None:
        for header in list(proxied):
            if _fits(header, name, value) and header not in direct:
                proxied.remove(header)

    return _seen(edit)


Seen = list[list[str]]


def _fits(header: list[str], name: str, value: str) -> bool:
    return bool(re.fullmatch(name, header[0]) and re.fullmatch(value, header[1]))


def _seen(edit: Callable[[Seen, Seen], None]) -> Undo:
    def undo(proxied: Answer, direct: Answer) -> Answer:
        told, true = json.loads(proxied.body), json.loads(direct.body)
        edit(told["headers"], true["headers"])
        return replace(proxied, body=json.dumps(told).encode())

    return undo
