"""One id through everything: from a client's request over its job to the instance and back.

The middleware sets :data:`TRACE` for a request; a job keeps the trace of the request that made it.
Log lines carry the id, and so do requests to instances (``X-Request-ID``, W3C ``traceparent``).
:func:`about` adds to log lines what else they concern (``job_id``, ``prompt_id``, ``instance``).
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from types import MappingProxyType
from typing import NamedTuple

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)
"""https://www.w3.org/TR/trace-context/#traceparent-header"""


_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def valid_request_id(given: str, keys: Collection[str]) -> str:
    """A client's X-Request-ID if it is 1 to 128 plain characters without one of ``keys`` in it,
    else one of ours.

    It goes into every log line and to the instances, where a key must not be.
    """
    if _SANE_ID.fullmatch(given) and not any(key in given for key in keys):
        return given
    return f"{random.getrandbits(128):032x}"


class Trace(NamedTuple):
    """The request on whose behalf something is done.

    ``traceparent`` is the client's own header, None if it sent none or an invalid one.
    """

    request_id: str
    traceparent: str | None = None

    @property
    def fields(self) -> Mapping[str, str]:
        """Its ids as a log line has them. They need no redaction: they were checked when the
        request came."""
        if self.traceparent is None:
            return {"request_id": self.request_id}
        return {"request_id": self.request_id, "trace_id": self.traceparent.split("-")[1]}

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers for a request to an instance on behalf of this one."""
        headers = {"X-Request-ID": self.request_id}
        if self.traceparent is not None:
            headers["traceparent"] = self.traceparent
        return headers


TRACE: ContextVar[Trace | None] = ContextVar("comfy_proxy.trace", default=None)

_NOTHING: Mapping[str, str] = MappingProxyType({})
_ABOUT: ContextVar[Mapping[str, str]] = ContextVar("comfy_proxy.about", default=_NOTHING)
# loguru's contextualize() would do the same, but a task that outlives the request (untraced) could
# not get rid of its fields.


def valid_traceparent(header: str | None) -> str | None:
    """``header`` if it is a valid ``traceparent`` of at most 512 characters, else None."""
    match = _TRACEPARENT.fullmatch(header or "")
    # Version 00 ends after the flags; only later versions may have more.
    if match is None or len(match[0]) > 512 or (match[1] and match[0].startswith("00")):
        return None
    return match[0]


class traced:  # noqa: N801 - reads as what it does: ``with traced(trace)``
    """Inside the block, and in tasks made there, everything is on behalf of ``trace``."""

    __slots__ = ("_token", "_trace")

    def __init__(self, trace: Trace | None) -> None:
        self._trace = trace

    def __enter__(self) -> None:
        self._token = TRACE.set(self._trace)

    def __exit__(self, *error: object) -> None:
        TRACE.reset(self._token)


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """Inside the block, and in tasks made there, log lines carry ``fields`` too."""
    token = _ABOUT.set({**_ABOUT.get(), **fields})
    try:
        yield
    finally:
        _ABOUT.reset(token)


def subject() -> Mapping[str, str]:
    """The fields that :func:`about` gave to log lines in this context."""
    return _ABOUT.get()


def trace_headers() -> Mapping[str, str]:
    """Headers for a request to an instance in this context; empty if it is on nobody's behalf."""
    trace = TRACE.get()
    return _NOTHING if trace is None else trace.headers


def untraced() -> Context:
    """A copy of this context without trace and fields, for :func:`asyncio.create_task`.

    For a task that outlives the request or job in which it happens to be made, or for which many of
    them wait: its log lines must not carry the id of one.
    """
    context = copy_context()
    context.run(TRACE.set, None)
    context.run(_ABOUT.set, _NOTHING)
    return context
