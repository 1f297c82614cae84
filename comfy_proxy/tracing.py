"""One id through everything: from a client's request over its job to the instance and back.

The middleware sets :data:`TRACE` for a request; a job keeps the one that made it. Log lines carry
it, requests to instances too (``X-Request-ID``, W3C ``traceparent``). What a line is about beside
that (``job_id``, ``prompt_id``, ``instance``) is told by :func:`about`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from types import MappingProxyType

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)
"""https://www.w3.org/TR/trace-context/#traceparent-header"""


@dataclass(frozen=True, slots=True)
class Trace:
    """``traceparent`` is the client's own header, None if it sent none or an invalid one."""

    request_id: str
    traceparent: str | None = None

    @property
    def trace_id(self) -> str | None:
        return self.traceparent.split("-")[1] if self.traceparent else None

    @property
    def headers(self) -> Mapping[str, str]:
        """What a request on behalf of this one is sent with."""
        headers = {"X-Request-ID": self.request_id}
        if self.traceparent is not None:
            headers["traceparent"] = self.traceparent
        return headers


TRACE: ContextVar[Trace | None] = ContextVar("comfy_proxy.trace", default=None)

_NOTHING: Mapping[str, str] = MappingProxyType({})
_ABOUT: ContextVar[Mapping[str, str]] = ContextVar("comfy_proxy.about", default=_NOTHING)
# Not loguru's contextualize(): nobody can take that out of a task's context again.


def valid_traceparent(header: str | None) -> str | None:
    """``header`` if it is one that may be passed on."""
    match = _TRACEPARENT.fullmatch(header or "")
    if match is None or len(match[0]) > 512 or (match[1] and match[0].startswith("00")):
        return None  # only later versions may be longer
    return match[0]


@contextmanager
def traced(trace: Trace | None) -> Iterator[None]:
    """Inside the block, and in tasks made there, everything is on behalf of ``trace``."""
    token = TRACE.set(trace)
    try:
        yield
    finally:
        TRACE.reset(token)


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """Inside the block, and in tasks made there, log lines carry ``fields`` too."""
    token = _ABOUT.set({**_ABOUT.get(), **fields})
    try:
        yield
    finally:
        _ABOUT.reset(token)


def subject() -> Mapping[str, str]:
    """What log lines are about here, by :func:`about`."""
    return _ABOUT.get()


def trace_headers() -> Mapping[str, str]:
    """What a request to an instance is sent with here; empty if it is on nobody's behalf."""
    trace = TRACE.get()
    return _NOTHING if trace is None else trace.headers


def untraced() -> Context:
    """A context for a task that outlives the request or job in which it happens to be made, or
    that many of them wait for."""
    context = copy_context()
    context.run(TRACE.set, None)
    context.run(_ABOUT.set, _NOTHING)
    return context
