"""What the Comfy API v2 refuses, and the form in which it tells every error.

``{"error": {"code", "message", "details"}}``; the codes are those of its OpenAPI document where it
has one for the case, else ours. Source: the contract's ``ErrorEnvelope``.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from aiohttp import web

from comfy_proxy.errors import RequestError, UnavailableError
from comfy_proxy.lenient_json import dumps, loads

REQUEST_ID: Final = "X-Comfy-Request-Id"
"""The header in which the SDKs look for the id of a request that failed."""

_CODES: Final[Mapping[str, str]] = {
    "bad_request": "invalid_request",
    "invalid_body": "invalid_request",
    "invalid_parameter": "invalid_request",
    "unsupported_media_type": "invalid_request",
    "idempotency_key_reused": "idempotency_key_reuse",
    "no_instance": "upstream_unreachable",
    "unavailable": "upstream_unreachable",
    "internal_error": "upstream_error",
}
"""Our code → the contract's. All that begins with ``instance_`` is ``upstream_error`` too."""
_STATUSES: Final[Mapping[str, HTTPStatus]] = {"queue_full": HTTPStatus.TOO_MANY_REQUESTS}
"""A full queue is 503 in our own API; the SDKs wait and come back for 429 alone."""


class UnprocessableError(RequestError):
    """The request is well formed, and cannot be served whoever repeats it."""

    status = 422
    code = "invalid_request"


class HashMismatchError(RequestError):
    """The bytes of an upload are not those that its client has hashed."""

    status = 409
    code = "hash_mismatch"


class AssetInUseError(RequestError):
    """The asset cannot be deleted: it is an output of a job that is kept."""

    status = 409
    code = "asset_in_use"


class TooManyStreamsError(UnavailableError):
    """This client has so many event streams open that it gets no other one."""

    status = 429
    code = "too_many_streams"


def in_contract_form(answer: web.Response) -> web.Response:
    """An error of ours in the contract's form; status and headers stay where that has no other."""
    told = loads(answer.body) if isinstance(answer.body, bytes) else {}
    ours = str(told.get("code", "internal_error"))
    code = "upstream_error" if ours.startswith("instance_") else _CODES.get(ours, ours)
    if ours in _STATUSES:
        answer.set_status(_STATUSES[ours])
    error = {"code": code, "message": told.get("error", ""), "details": told.get("details") or None}
    answer.body = dumps({"error": error})
    answer.headers[REQUEST_ID] = str(told.get("request_id", ""))
    return answer
