"""A new job: which files and parameters are sent, and how it is sent once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

from comfy_proxy.client.answers import read_as
from comfy_proxy.client.effects import Call, Do, Operation
from comfy_proxy.client.errors import ClientError, InvalidValueError
from comfy_proxy.client.exchange import exchange
from comfy_proxy.client.models import Status, Workflow
from comfy_proxy.client.paths import segment
from comfy_proxy.client.policy import Policy
from comfy_proxy.client.uploads import FileInput, Upload, close_all, is_file, open_upload

ONLY_FILE = "image"
"""The field of the file of a workflow that takes one, whatever that parameter is called."""


def submit(
    workflow: str,
    files: Sequence[FileInput],
    parameters: Mapping[str, Any],
    *,
    key: str | None,
    policy: Policy,
) -> Operation[Status]:
    """Make a job; returns its first status, with the whole answer as ``raw``.

    The request has an ``Idempotency-Key`` (``key``, else a new one): if the connection breaks it is
    sent again, and is one job all the same. A file that cannot be read twice is sent once. Raises
    ClientError, and OSError if a file cannot be opened.
    """
    named = {name: value for name, value in parameters.items() if is_file(value)}
    fields = {
        name: value for name, value in parameters.items() if name not in named and value is not None
    }
    _check(fields, key, as_form=bool(named or files))
    named |= yield from _named_files(workflow, files, named, policy)
    uploads: dict[str, Upload] = {}
    try:
        for name, value in named.items():
            opening: Callable[[], Upload] = partial(open_upload, value)
            uploads[name] = yield Do(opening)
        answer = yield from exchange(_call(workflow, uploads, fields, key), policy)
    finally:
        close_all(uploads)
    return read_as(answer, Status.read)


def get_workflow(name: str, policy: Policy) -> Operation[Workflow]:
    """What the proxy tells of one workflow. Raises ApiError (404) if it has none of that name."""
    call = Call(method="GET", path=_path(name))
    answer = yield from exchange(call, policy)
    return read_as(answer, Workflow.read)


def _named_files(
    workflow: str, files: Sequence[FileInput], named: Mapping[str, Any], policy: Policy
) -> Operation[dict[str, FileInput]]:
    """``files`` by the names of parameters that have no file yet, in the workflow's order."""
    if not files:
        return {}
    if len(files) == 1 and not named:
        return {ONLY_FILE: files[0]}
    known = yield from get_workflow(workflow, policy)
    free = [name for name in known.file_parameters if name not in named]
    if len(files) > len(free):
        takes = ", ".join(known.file_parameters) or "none"
        raise ClientError(
            f"{len(files) + len(named)} files for {workflow!r}, which takes: {takes}.",
            code="too_many_files",
        )
    return dict(zip(free, files, strict=False))


def _call(
    workflow: str, uploads: Mapping[str, Upload], fields: Mapping[str, Any], key: str | None
) -> Call:
    return Call(
        method="POST",
        path=_path(workflow),
        query={"mode": "async"},  # also where DEFAULT_MODE is sync
        headers={"Idempotency-Key": str(uuid4()) if key is None else key},
        json=None if uploads else dict(fields),
        form={name: _text(value) for name, value in fields.items()} if uploads else {},
        files=uploads,
        repeatable=all(upload.repeatable for upload in uploads.values()),
    )


def _path(workflow: str) -> str:
    return f"api/workflows/{segment(workflow, 'the name of a workflow')}"


def _check(fields: Mapping[str, Any], key: str | None, *, as_form: bool) -> None:
    """Raises InvalidValueError for what neither the body nor a header can carry. Beside a file all
    values are texts, so there whatever is one for Python will do, as NumPy's numbers."""
    if key is not None and not (key and key.isascii() and key.isprintable()):
        message = f"The idempotency key {key!r} is empty, or has characters that no header has."
        raise InvalidValueError(message, field="Idempotency-Key")
    for name, value in fields.items():
        try:
            told = {name: _text(value) if as_form and value == value else value}  # NaN is not
            json.dumps(told, allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidValueError(f"{name} cannot be sent: {error}.", field=name) from None


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
