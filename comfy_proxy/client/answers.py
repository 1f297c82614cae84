"""What the proxy said, as values or errors. Pure, no I/O."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from comfy_proxy.client.effects import Answer
from comfy_proxy.client.errors import ApiError, ClientError
from comfy_proxy.client.models import Event, Status

T = TypeVar("T")

NOT_THE_PROXY: Final = "not_the_proxy"
"""Code of the error when something else answers."""


def read_as(answer: Answer, make: Callable[[Any], T]) -> T:
    """What ``make`` makes of the JSON; raises ClientError if that is something else: then something
    else than our proxy answers there."""
    try:
        return make(json.loads(answer.body))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ClientError(
            "The answer is none of comfy_proxy: something else answers at that address.",
            code=NOT_THE_PROXY,
        ) from None


def read_error(answer: Answer) -> ApiError:
    """The error of an answer that is none of success, also of a server in between."""
    try:
        told = json.loads(answer.body)
    except ValueError:
        told = None
    told = told if isinstance(told, dict) else {}
    if answer.status in (404, 405) and not _is_ours(answer, told):
        return ApiError(
            f"No comfy_proxy answers at that address (HTTP {answer.status}): is it another one, or"
            " its path?",
            status=answer.status,
            code=NOT_THE_PROXY,
        )
    details = told.get("details")
    return ApiError(
        str(told.get("error") or f"The answer was HTTP {answer.status}."),
        status=answer.status,
        code=str(told.get("code") or f"http_{answer.status}"),
        details=details if isinstance(details, dict) else None,
        request_id=told.get("request_id") or answer.headers.get("x-request-id"),
        retry_after_s=_seconds(answer.headers.get("retry-after", "")),
    )


def _is_ours(answer: Answer, told: Mapping[str, Any]) -> bool:
    """Whether a 404 or 405 is said by the proxy, or by ComfyUI that it asked, in the JSON of an
    error: whoever knows none of our paths says it in HTML or text, or without our id."""
    return "code" in told or ("error" in told and "x-request-id" in answer.headers)


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
        raise ClientError("An event of the proxy cannot be read.", code=NOT_THE_PROXY) from None


def _seconds(text: str) -> int | None:
    """Whole seconds; a date, which our proxy never sends, counts as nothing said."""
    return int(text) if text.isascii() and text.isdigit() else None
