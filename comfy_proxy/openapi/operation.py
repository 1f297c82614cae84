"""One operation of the API: its route, and what OpenAPI says of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Schema = Mapping[str, Any]
"""A JSON Schema (2020-12)."""

TEXT: Final[Schema] = {"type": "string"}
TRUTH: Final[Schema] = {"type": "string", "enum": ["true", "false"]}
"""What operators' routes take for a truth."""
ANY_BYTES: Final = "*/*"
"""The media type of an answer that is whatever a workflow has made."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One that stands in the query, or in a header. Those of the path need no row."""

    name: str
    description: str
    schema: Schema = field(default_factory=lambda: TEXT)
    place: Literal["query", "header"] = "query"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """``content``: media type → a type that pydantic knows, of which the schema is made; None for
    bytes. Empty for an answer without a body."""

    description: str
    content: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method on one path.

    ``body``: media type → the schema of the request's body. ``errors`` are the statuses of JSON
    errors that belong to it, besides those that any request can get.
    """

    method: str
    path: str
    handler: Handler
    tag: str
    summary: str
    description: str = ""
    parameters: Sequence[Parameter] = ()
    body: Mapping[str, Schema] = field(default_factory=dict)
    body_required: bool = True
    answers: Mapping[int, Answer]
    errors: Sequence[int] = ()
    allow_head: bool = True

    def route(self) -> web.RouteDef:
        """Its route."""
        options = {"allow_head": self.allow_head} if self.method == "GET" else {}
        return web.RouteDef(self.method, self.path, self.handler, options)


def json(kind: Any, description: str, **headers: str) -> Answer:
    """An answer in JSON of the type ``kind``."""
    return Answer(description=description, content={"application/json": kind}, headers=headers)


def get(
    path: str,
    handler: Handler,
    summary: str,
    kind: Any = None,
    *,
    answers: Mapping[int, Answer] | None = None,
    **options: Any,
) -> Operation:
    """A GET; ``kind`` is the type of its JSON where ``answers`` are not given."""
    answers = {200: json(kind, summary)} if answers is None else answers
    return Operation(
        method="GET", path=path, handler=handler, summary=summary, answers=answers, **options
    )


def routes_of(operations: Sequence[Operation]) -> list[web.RouteDef]:
    """The routes of all of them, in their order."""
    return [one.route() for one in operations]


WAIT: Final = Parameter(
    name="wait",
    description="seconds to wait, at most 300",
    schema={"type": "number", "minimum": 0, "maximum": 300},
)
