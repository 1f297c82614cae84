"""A request of a route that no row names, and all its words that may tell whom it concerns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Container
from dataclasses import dataclass
from functools import partial
from typing import Final, Self
from urllib.parse import unquote

from aiohttp import hdrs, web

from comfy_proxy.bodies import ClientBody
from comfy_proxy.full_collections import NoFullCollection
from comfy_proxy.gateway.custom.fields import (
    MAX_FIELDS,
    MAX_READ_BYTES,
    MAX_TEXT,
    Field,
    body_fields,
    is_telling,
    query_fields,
)
from comfy_proxy.gateway.custom.marks import Unmarked, unmarked
from comfy_proxy.gateway.exchange.target import client_target
from comfy_proxy.gateway.files.upload_body import UploadBody
from comfy_proxy.request_path import normal_path
from comfy_proxy.settings import Settings

LONG_BYTES: Final = 32 * 2**10
"""Of a body; a longer one is read in a thread, so that nobody waits behind one that takes long."""


@dataclass(kw_only=True, slots=True)
class Question:
    """What the client asks for. ``target`` is the path with its query, as they came; ``body`` is
    kept here until :meth:`close`, so that it can be sent to several; None if there is none.
    ``unmarked`` is what the instance gets whose names it has. ``path`` is encoded, in the form by
    which routes are told apart. ``fields`` are those of the query, then of the body as far as it
    can be read."""

    request: web.Request
    target: str
    path: str
    unmarked: Unmarked
    fields: list[Field]
    body: UploadBody | None = None
    _words: frozenset[str] | None = None

    @classmethod
    async def of(
        cls,
        request: web.Request,
        settings: Settings,
        marks: Container[str],
        for_all: Callable[[str, str], bool],
    ) -> Self:
        """``request``, its body received; ``marks`` are those of instances.

        A body that is too long to be read here, and is not ``for_all`` instances by its method and
        path, is not received but passes through while it comes. Raises RequestError,
        ClientGoneError, UnavailableError (no room for the body).
        """
        target = client_target(request, settings)
        made = cls(
            request=request,
            target=target,
            path=normal_path(target.partition("?")[0]),
            unmarked=unmarked(target, None, marks),
            fields=query_fields(target),
        )
        if request.body_exists:
            made.body = UploadBody(request)
            too_long = (request.content_length or 0) > MAX_READ_BYTES
            if too_long and not for_all(request.method, made.path):
                return made
            await made.body.receive()
            if made.body.size is not None and made.body.size <= MAX_READ_BYTES:
                raw = b"".join([piece async for piece in made.body.chunks()])
                read = partial(made._read, raw, marks)
                if len(raw) <= LONG_BYTES:
                    read()
                else:
                    quiet = NoFullCollection()
                    await asyncio.to_thread(read)
                    del quiet
        return made

    def _read(self, raw: bytes, marks: Container[str]) -> None:
        read = body_fields(raw, self.request.headers.get(hdrs.CONTENT_TYPE, ""))
        self.fields += read.fields
        self.unmarked = unmarked(self.target, read, marks)

    def close(self) -> None:
        if self.body is not None:
            self.body.close()

    def sent_body(self, raw: bytes | None) -> KeptBody | None:
        """The body for one instance: ``raw`` instead of the client's, if given; None if there is
        none."""
        return None if self.body is None else KeptBody(self.body, raw)

    @property
    def method(self) -> str:
        return self.request.method

    @property
    def segments(self) -> list[str]:
        """Of the path, decoded; the first ones, as of fields."""
        segments = self.path.split("/", MAX_FIELDS)[:MAX_FIELDS]
        return [unquote(one) for one in segments if 0 < len(one) <= MAX_TEXT]

    @property
    def words(self) -> frozenset[str]:
        """Every value that it names anywhere."""
        if self._words is None:
            self._words = frozenset([*self.segments, *(value for _, value in self.fields)])
        return self._words

    @property
    def telling(self) -> frozenset[str]:
        """Those of :attr:`words` that may tell whom it concerns; every segment of the path may."""
        values = (value for name, value in self.fields if is_telling(name, value))
        return frozenset([*self.segments, *values])

    def field(self, *names: str) -> str | None:
        """The first field of one of these names."""
        for name, value in self.fields:
            if name in names:
                return value
        return None


class KeptBody:
    """A body that is sent in place of the client's: ``raw``, or what is kept of it."""

    def __init__(self, kept: UploadBody, raw: bytes | None = None) -> None:
        self._kept = kept
        self._raw = raw

    @property
    def size(self) -> int | None:
        """In bytes; None if the client has not sent all of it yet."""
        return self._kept.size if self._raw is None else len(self._raw)

    @property
    def rest(self) -> ClientBody:
        """What the client has still to send, read while the body is sent on."""
        return self._kept.rest

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes, as often as wanted if they are all here."""
        if self._raw is not None:
            yield self._raw
            return
        async for chunk in self._kept.chunks():
            yield chunk
