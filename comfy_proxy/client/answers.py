"""What the proxy said, as values or errors. Pure, no I/O."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any, TypeVar

from comfy_proxy.client.effects import Answer
from comfy_proxy.client.errors import ApiError, ClientError
from comfy_proxy.client.models import Event, Status

T = TypeVar("T")


def read_as(answer: Answer, make: Callable[[Any], T]) -> T:
    """What ``make`` makes of the JSON; raises ClientError if that is something else: then something
    else than our proxy answers there."""
    try:
        return make(json.loads(answer.body))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ClientError(
            "The answer is none of comfy_proxy: something else answers at that address.",
            code="not_the_proxy",
        ) from None


def read_error(answer: Answer) -> ApiError:
    """The error of an answer that is none of success, also of a server in between."""
    try:
        told = json.loads(answer.body)
    except ValueError:
        told = None
    told = told if isinstance(told, dict) else {}
    details = told.get("details")
    return ApiError(
        str(told.get("error") or f"The answer was HTTP {answer.status}."),
        status=answer.status,
        code=str(told.get("code") or f"http_{answer.status}"),
        details=details if isinstance(details, dict) else None,
        request_id=told.get("request_id") or answer.headers.get("x-request-id"),
        retry_after_s=_seconds(answer.headers.get("retry-after", "")),
    )


def read_event(name: str, data: str) -> Event:
    """A Server-Sent Event of a job. Raises ClientError if it is none that we know how to read."""
    try:
        told = json.loads(data)
        if name == "preview":
            return Event(
                name=name,
                preview=base64.b64decode(told["image_base64"]),
                preview_media_type=told["mime_type"],
            )
        return Event(name=name, status=Status.read(told))
    except (ValueError, KeyError, TypeError):
        raise ClientError("An event of the proxy cannot be read.", code="not_the_proxy") from None


def _seconds(text: str) -> int | None:
    """Whole seconds; a date, which our proxy never sends, counts as nothing said."""
    return int(text) if text.isascii() and text.isdigit() else None
