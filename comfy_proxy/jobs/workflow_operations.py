"""The operations that run workflows: the table, and one row for each workflow that there is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from comfy_proxy.jobs import api, workflow_api
from comfy_proxy.jobs.view_types import Accepted, LegacyResult, WorkflowList, WorkflowView
from comfy_proxy.jobs.workflows.parameter import TRUTHS, schema_of
from comfy_proxy.jobs.workflows.workflow import FILE_ALIASES, Workflow
from comfy_proxy.openapi.operation import (
    ANY_BYTES,
    Answer,
    Operation,
    Parameter,
    Schema,
    get,
    json,
)

_WORKFLOW: Final = "workflows"
FLAG: Final[Schema] = {"type": "string", "enum": list(TRUTHS)}
"""A flag in the query."""
_MODE: Final = (
    Parameter(name="mode", description="how to answer", schema={"enum": ["async", "sync"]}),
    Parameter(name="async", description="`false`: the result in this answer", schema=FLAG),
    Parameter(
        name="webhook_url",
        description="where the status is posted when the job has ended, if its host is allowed",
        schema={"type": "string", "pattern": "^https?://[!-~]{1,1000}$"},
    ),
    Parameter(
        name="Idempotency-Key",
        place="header",
        description="the same key with the same request gives the same job",
        schema={"type": "string", "minLength": 1, "maxLength": api.MAX_KEY_LENGTH},
    ),
    Parameter(name="Prefer", place="header", description="`wait=N` or `respond-async` (RFC 7240)"),
)
_CREATED: Final[Mapping[int, Answer]] = {
    200: Answer(
        description="the result, for a client that asked for it in this call",
        content={"application/json": LegacyResult, ANY_BYTES: None},
    ),
    202: json(Accepted, "the job was accepted", Location="where to ask about it"),
}
_CREATE_ERRORS: Final = (404, 408, 413, 415, 422, 502, 503, 504)
_ANY_OBJECT: Final[Schema] = {"type": "object", "additionalProperties": True}
_ALIASES: Final = f"The file may also be called {', '.join(FILE_ALIASES)}, or be the whole body."


def described(workflows: Iterable[Workflow]) -> list[Operation]:
    """The operations, and one for each workflow with its own parameters: what OpenAPI shows."""
    by_name = {one.name: one for one in workflows}
    shortcuts = {f"/api{kind}/{name}": name for name in api.SHORTCUTS for kind in ("", "/async")}
    rows = []
    for row in OPERATIONS:
        workflow = by_name.get(shortcuts.get(row.path, ""))
        rows.append(row if workflow is None else _of(workflow, row.path, row.summary))
    for name, workflow in by_name.items():
        path = f"/api/workflows/{name}"
        told = json(WorkflowView, "what it takes, and where it runs")
        rows += [
            get(path, workflow_api.one, workflow.title, answers={200: told}, tag=_WORKFLOW),
            _of(workflow, path, workflow.title),
        ]
    return rows


def _post(path: str, handler: Any, summary: str, **options: Any) -> Operation:
    return Operation(
        method="POST",
        path=path,
        handler=handler,
        tag=_WORKFLOW,
        summary=summary,
        parameters=_MODE,
        answers=_CREATED,
        errors=_CREATE_ERRORS,
        body_required=False,
        **options,
    )


def _shortcuts() -> Iterator[Operation]:
    body = {"multipart/form-data": _ANY_OBJECT}
    for name in api.SHORTCUTS:
        path = f"/api/{name}"
        yield _post(path, api.creator(name), f"Run {name}", body=body)
    for name in api.SHORTCUTS:
        handler = api.creator(name, always_async=True)
        path = f"/api/async/{name}"
        yield _post(path, handler, f"Run {name}, always answered with 202", body=body)


def _of(workflow: Workflow, path: str, summary: str) -> Operation:
    aliases = _ALIASES if len(workflow.files) == 1 else ""
    return _post(
        path,
        api.create_named,
        summary,
        description=" ".join(part for part in (workflow.description, aliases) if part),
        body=_bodies(workflow),
    )


def _bodies(workflow: Workflow) -> dict[str, Schema]:
    """What a request may look like: as a form, as JSON, and as a bare file if it takes only one."""
    form, text, files = (
        schema_of(workflow.parameters),
        schema_of(workflow.parameters),
        workflow.files,
    )
    for name in files:
        kind = text["properties"][name]["x-kind"]
        told = "base64, a data URL, or the URL of a host that is allowed"
        text["properties"][name] = {"type": "string", "description": told, "x-kind": kind}
    bodies: dict[str, Schema] = {"multipart/form-data": form, "application/json": text}
    if not files:
        bodies["application/x-www-form-urlencoded"] = form
    if len(files) == 1 and (media := _bare(workflow, files[0])) is not None:
        bodies[media] = {}
    return bodies


def _bare(workflow: Workflow, name: str) -> str | None:
    kind = workflow.parameters[name].kind
    if kind is None or kind.is_picture:
        return "image/*"
    return f"{kind}/*" if kind in ("video", "audio") else None


OPERATIONS: Final[tuple[Operation, ...]] = (
    *_shortcuts(),
    get("/api/workflows", workflow_api.list_all, "What can be run", WorkflowList, tag=_WORKFLOW),
    get(
        "/api/workflows/{name}",
        workflow_api.one,
        "One workflow, with its parameters as JSON Schema",
        WorkflowView,
        tag=_WORKFLOW,
        errors=(404,),
    ),
    _post(
        "/api/workflows/{name}",
        api.create_named,
        "Run a workflow",
        body={
            "multipart/form-data": _ANY_OBJECT,
            "application/json": _ANY_OBJECT,
            "application/x-www-form-urlencoded": _ANY_OBJECT,
        },
    ),
)
