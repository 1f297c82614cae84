"""Every error as the contract's JSON: ``{"error", "code", "details", "request_id"}``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import hdrs, web
from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import ComfyProxyError, UnauthorizedError
from comfy_proxy.gateway.exchange.context import CONTEXT
from comfy_proxy.lenient_json import dumps

MUCH_UNREAD = 1_048_576
"""Bytes of a refused body that are worth reading to keep the connection."""

DOCS = "/api/docs"
"""Where a client finds what there is; each 404 of ours names it."""
ErrorForm = Callable[[web.Response], web.Response]
"""Makes of an error in our form the same one in that of another contract."""

_CODES = {413: "payload_too_large"}


def error_response(
    request: web.Request, error: Exception, instances: Iterable[Instance] = (), *, root: str = ""
) -> web.Response:
    """``error`` as an answer to ``request``; what is not ours is a 500 without a word about why.

    The log has the rest. Of ``instances`` a client is told names or numbers, no addresses. A 404
    tells where the API is described, for a client that sees us under the path ``root``. The
    connection ends with the answer if much of the body is still to come.
    """
    if isinstance(error, web.HTTPException):
        answer = _of_aiohttp(request, error)
    elif isinstance(error, ComfyProxyError):
        answer = _of_ours(request, error, tuple(instances), root)
    else:
        logger.opt(exception=error).error("{} failed", request[CONTEXT].id)
        answer = _json(request, 500, "Internal error.", "internal_error", {})
    if request.body_exists and request.content.exception() is not None:
        # aiohttp's server would read the broken body once more, and log that as a fault of ours.
        request.content.feed_eof()
        answer.force_close()
    elif _much_is_unread(request):
        answer.force_close()
    return answer


def _of_ours(
    request: web.Request, error: ComfyProxyError, instances: Sequence[Instance], root: str
) -> web.Response:
    request[CONTEXT].reason = f"{error.code}: {error.message}"
    message, details = (without_addresses(one, instances) for one in (error.message, error.details))
    if error.status == HTTPStatus.NOT_FOUND:
        details["docs"] = root + DOCS
    answer = _json(request, error.status, message, error.code, details)
    if error.retry_after_s is not None:
        answer.headers[hdrs.RETRY_AFTER] = str(error.retry_after_s)
    answer.headers.update(error.headers)
    if isinstance(error, UnauthorizedError):  # RFC 9110 15.5.2 wants a challenge
        answer.headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="comfy-proxy"'
    return answer


def without_addresses(told: Any, instances: Sequence[Instance]) -> Any:
    """``told`` (text, or what JSON is made of) with ``instance 2`` for ``gpu2:8188``."""
    if isinstance(told, str):
        for one in instances:
            if one.host in told:  # rarely: then as a whole, not as the beginning of gpu:81889
                address = rf"(?<![\w.-]){re.escape(one.host)}(?!\d)"
                told = f"instance {one.name or one.id}".join(re.split(address, told))
        return told
    if isinstance(told, Mapping):
        return {
            without_addresses(key, instances): without_addresses(value, instances)
            for key, value in told.items()
        }
    if isinstance(told, list | tuple):
        return [without_addresses(one, instances) for one in told]
    return told


def _of_aiohttp(request: web.Request, error: web.HTTPException) -> web.Response:
    """aiohttp's own refusal: its status and headers, and a message that tells nothing inner."""
    status = error.status
    code = _CODES.get(status) or HTTPStatus(status).name.lower()
    answer = _json(request, status, f"{error.reason}.", code, {})
    for name, value in error.headers.items():
        if not name.lower().startswith("content-"):
            answer.headers.add(name, value)
    return answer


def _json(
    request: web.Request, status: int, message: str, code: str, details: dict[str, object]
) -> web.Response:
    body = {
        "error": message,
        "code": code,
        "details": details,
        "request_id": request[CONTEXT].id,
    }
    return web.Response(
        status=status, body=dumps(body, default=str), content_type="application/json"
    )


def _much_is_unread(request: web.Request) -> bool:
    if not request.body_exists or request.content.is_eof():
        return False
    if request.content_length is None:
        return True
    return request.content_length - request.content.total_raw_bytes > MUCH_UNREAD
