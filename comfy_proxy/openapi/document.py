"""Operations → an OpenAPI 3.1 document."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from comfy_proxy.openapi.operation import Answer, Operation, Parameter, Schema
from comfy_proxy.version import __version__

_REFERENCE: Final = "#/components/schemas/{model}"
_PATH_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_EVERY_REQUEST: Final = (400, 401, 403)
"""Statuses that any request can get: it makes no sense, has no key, or comes from elsewhere."""
_DESCRIPTION: Final = (
    "Jobs on all ComfyUI instances behind one address. Every other path is ComfyUI's own API and"
    " is forwarded. Errors are JSON, and each answer has an `X-Request-ID`."
)


class Problem(TypedDict):
    """Every error that the proxy answers itself."""

    error: str
    code: str
    details: dict[str, Any]
    request_id: str


class _Schemas:
    """The schemas of types, each under its name in ``components`` and a reference elsewhere."""

    def __init__(self) -> None:
        self.components: dict[str, Any] = {}

    def of(self, kind: Any) -> Schema:
        """The schema of the type ``kind``."""
        schema = TypeAdapter(kind).json_schema(mode="serialization", ref_template=_REFERENCE)
        self.components |= schema.pop("$defs", {})
        title = schema.get("title")
        if title is None or schema.get("type") != "object":
            return schema
        self.components[title] = schema
        return {"$ref": _REFERENCE.format(model=title)}


def openapi_document(operations: Iterable[Operation], *, server: str) -> dict[str, Any]:
    """The document; ``server`` is the path under which the client sees us, "" for the root."""
    schemas = _Schemas()
    problem = schemas.of(Problem)
    paths: dict[str, dict[str, Any]] = {}
    taken: set[str] = set()
    for one in operations:
        told = paths.setdefault(one.path, {})[one.method.lower()] = _operation(
            one, schemas, problem
        )
        told["operationId"] = _distinct(told["operationId"], taken)
    return {
        "openapi": "3.1.0",
        "info": {"title": "comfy_proxy", "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": server or "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        # The empty one: keys are wanted only where API_KEYS is set.
        "security": [{}, {"bearer": []}, {"api_key": []}],
    }


def _operation(one: Operation, schemas: _Schemas, problem: Schema) -> dict[str, Any]:
    named = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PATH_PARAMETER.findall(one.path)
    ]
    answers = {str(status): _answer(answer, schemas) for status, answer in one.answers.items()}
    error = {"description": "see `code`", "content": {"application/json": {"schema": problem}}}
    for status in sorted({*_EVERY_REQUEST, *one.errors}):
        answers.setdefault(str(status), error)
    document = {
        "operationId": _operation_id(one),
        "tags": [one.tag],
        "summary": one.summary,
        "parameters": [*named, *(_parameter(parameter) for parameter in one.parameters)],
        "responses": answers,
    }
    if one.description:
        document["description"] = one.description
    if one.body:
        content = {media_type: {"schema": schema} for media_type, schema in one.body.items()}
        document["requestBody"] = {"required": one.body_required, "content": content}
    return document


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.description,
        "schema": dict(parameter.schema),
    }


def _answer(answer: Answer, schemas: _Schemas) -> dict[str, Any]:
    content: Mapping[str, Any] = {
        media_type: {} if kind is None else {"schema": schemas.of(kind)}
        for media_type, kind in answer.content.items()
    }
    headers = {
        name: {"description": text, "schema": {"type": "string"}}
        for name, text in answer.headers.items()
    }
    document: dict[str, Any] = {"description": answer.description}
    if content:
        document["content"] = content
    return {**document, "headers": headers} if headers else document


def _distinct(name: str, taken: set[str]) -> str:
    """``name``, or that with a number: generators make names of files of them, which differ in more
    than case. It is added to ``taken``, in small letters."""
    number, distinct = 1, name
    while distinct.lower() in taken:
        number += 1
        distinct = f"{name}_{number}"
    taken.add(distinct.lower())
    return distinct


def _operation_id(one: Operation) -> str:
    """Of method and path: a name that generators of clients can use."""
    words = re.sub(r"[^A-Za-z0-9]+", "_", one.path).strip("_")
    return f"{one.method.lower()}_{words}"
