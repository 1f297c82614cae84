"""The union of what several instances say of their node classes, as the bytes that clients get.

Joined class by class from the instances' own bytes. Only a class of which they say different things
is read, and its choices united; what that came to is kept for the next union, as most of them stay
as they are when an instance is asked again. Long work is cut into steps, between which the loop has
its turn, or done in a thread where that does not hold the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar

from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.cluster.object_info.node_class import NodeClass, united_text
from comfy_proxy.json_steps import loads_long
from comfy_proxy.lenient_json import dumps_exact, loads_exact

GZIP_LEVEL = 6
STEP_BYTES = 32_768
"""Bytes of the union after which a step ends, as they are copied; it takes up to 1 ms. A byte of a
class that is united counts as UNITED of them: it is read and written."""
UNITED = 16
ASKED = 200  # bytes as which it counts to ask one catalog for one class
LONG_BYTES = 2**20
"""So much is joined, compressed and digested in a thread: these do not hold the lock. A class of
which so much is said is united in one too: 50 ms for lists of 20,000 files, in which it holds the
lock for 10 ms at once."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A body to send, with its strong ETag; ``coding`` is its Content-Encoding."""

    body: bytes = field(repr=False)
    etag: str
    coding: str | None = None


class Union:
    """The union of some catalogs: the first one's classes in its order, then what only others have.

    ``before`` is the previous one: classes that were united for it are taken from it if they have
    not changed. Nothing is made before it is asked for.
    """

    def __init__(self, documents: Sequence[NodeCatalog], before: Union | None = None) -> None:
        self.documents = tuple(documents)
        self._different = tuple({id(one): one for one in documents}.values())
        self._before: Mapping[str, tuple[bytes, bytes]] = before._united if before else {}
        self._united: dict[str, tuple[bytes, bytes]] = {}
        """Class → the digest of all that is said of it, and what that is united."""
        self._whole: Text | None = None
        self._gzipped: Text | None = None

    def is_of(self, documents: Sequence[NodeCatalog]) -> bool:
        """True if it was made of these very objects: documents are never changed."""
        return len(documents) == len(self.documents) and all(
            mine is theirs for mine, theirs in zip(self.documents, documents, strict=True)
        )

    async def whole(self) -> Text:
        """All classes; to be asked for by one at a time."""
        if self._whole is None:
            body = self._different[0].native if len(self._different) == 1 else None
            if body is None:
                pieces: list[bytes] = []
                for step in self.steps(pieces):
                    await (asyncio.sleep(0) if isinstance(step, int) else asyncio.to_thread(step))
                body = await _apart(sum(map(len, pieces)), b"".join, pieces)
            self._whole = await _apart(len(body), _text, body)
        return self._whole

    async def gzipped(self) -> Text:
        """All classes, compressed; to be asked for by one at a time."""
        if self._gzipped is None:
            whole = await self.whole()
            body = await _apart(len(whole.body), _compressed, whole.body)
            self._gzipped = Text(body=body, etag=f"{whole.etag}-gzip", coding="gzip")
        return self._gzipped

    async def one(self, name: str) -> Text:
        """One class; ``{}`` for an unknown one, as ComfyUI answers."""
        texts = self._said(name)
        if not texts:
            return _text(b"{}")
        return _text(b"{%s}" % await _apart(sum(map(len, texts)), self._member, name, texts))

    def steps(self, pieces: list[bytes]) -> Iterator[int | Callable[[], object]]:
        """Appends the text of the whole to ``pieces``; yields the bytes that a step counts for, or
        long work that is to be done in a thread before the next step."""
        names: dict[str, None] = {}
        for document in self._different:
            names.update(dict.fromkeys(document))
            yield len(document)
        step, done, between = [b"{"], 0, b""
        for name in names:
            texts = self._said(name)
            if len(texts) > 1 and sum(map(len, texts)) >= LONG_BYTES:
                yield partial(self._of_different, name, texts)
                member = _named(name, self._united[name][1])  # without a digest of it once more
            else:
                member = self._member(name, texts)
            step += (between, member)
            between = b", "
            done += len(member) * (UNITED if len(texts) > 1 else 1) + ASKED * len(self._different)
            if done >= STEP_BYTES:
                pieces.append(b"".join(step))
                step.clear()
                yield done
                done = 0
        pieces.append(b"".join((*step, b"}")))

    def _said(self, name: str) -> list[bytes]:
        """What the instances say of that class, each text once; nothing if none has it."""
        tables = {id(table): table for one in self._different if name in (table := one.where(name))}
        texts = dict.fromkeys(table.text(name) for table in tables.values())
        return [text for text in texts if text is not None]

    def _member(self, name: str, texts: Sequence[bytes]) -> bytes:
        """``"name": {…}``, of what is said of it."""
        text = texts[0]
        if len(texts) > 1:
            text = self._of_different(name, texts)
        elif not text.isascii():  # ComfyUI writes escapes, and a client may not read other bytes
            text = dumps_exact(loads_exact(text))
        return _named(name, text)

    def _of_different(self, name: str, texts: Sequence[bytes]) -> bytes:
        digest = hashlib.blake2b(b"\0".join(texts), digest_size=16).digest()
        known = self._united.get(name) or self._before.get(name)
        if known is None or known[0] != digest:
            known = digest, united_text([NodeClass(name, loads_long(text)) for text in texts])
        self._united[name] = known
        return known[1]


def _named(name: str, text: bytes) -> bytes:
    return b"%s: %s" % (dumps_exact(name), text)


async def _apart(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What ``work`` gives for ``args``, in a thread if that is work for many bytes."""
    if size < LONG_BYTES:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def _text(body: bytes) -> Text:
    return Text(body=body, etag=hashlib.blake2b(body, digest_size=16).hexdigest())


def _compressed(body: bytes) -> bytes:
    return gzip.compress(body, GZIP_LEVEL, mtime=0)
