"""The fields of requests to the Comfy API, read and checked; what is wrong is named. Pure.

Two kinds of ``metadata`` are taken: a map of labels, as the SDKs send it, and a text, as
comfy-api-proxy takes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from comfy_proxy.comfy_api.errors import UnprocessableError
from comfy_proxy.comfy_api.priorities import LIMIT
from comfy_proxy.errors import InvalidFieldError, RequestError

MAX_METADATA_BYTES: Final = 1024  # of a text, in UTF-8
MAX_LABELS: Final = 16  # of one job; with more it is refused with 422
MAX_LABEL_BYTES: Final = 256  # of the value of one, in UTF-8
MAX_KEY_LENGTH: Final = 255  # characters of an Idempotency-Key
MAX_NAME_LENGTH: Final = 1024
"""Characters of a node's id and of its class. A graph with longer ones is refused with 422: they
are told, compared and repeated at many places."""
KEEP_S: Final = (60, 7 * 24 * 3600)
"""Seconds that ``expires_in`` may be, from a minute to a week."""
_LABEL_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that cannot be seen, or change the order in which others are read."""
_PARTNER_KEY: Final = "api_key_comfy_org"

Json = dict[str, Any]
Metadata = str | Mapping[str, str] | None


def json_object(document: Any) -> Json:
    """Raises RequestError for anything but an object."""
    if not isinstance(document, dict):
        raise RequestError("The body must be a JSON object.")
    return document


def workflow(document: Mapping[str, Any]) -> Json:
    """The graph, in API format. Raises UnprocessableError."""
    for name in ("webhook_url", "inputs"):
        if document.get(name) is not None:
            raise _refused(name, f"{name} is reserved and not accepted.", "invalid_workflow")
    graph = document.get("workflow")
    if not isinstance(graph, dict):
        message = "workflow is missing: a graph in API format."
        raise _refused("workflow", message, "invalid_workflow")
    if isinstance(graph.get("nodes"), list) and "links" in graph:
        message = "workflow is an export for the editor. Export it in API format."
        raise _refused("workflow", message, "workflow_format_ui")
    return graph


def classes(graph: Mapping[str, Any]) -> dict[str, str]:
    """The nodes of ``graph`` with their classes. Raises UnprocessableError for one that has none:
    ComfyUI answers 500 to it, as if the fault were its own; and for a name over MAX_NAME_LENGTH."""
    found: dict[str, str] = {}
    for node_id, node in graph.items():
        name = node.get("class_type") if isinstance(node, dict) else None
        if not isinstance(name, str):
            message = f"workflow: node {node_id[:40]!r} is no object with a class_type."
            raise _refused("workflow", message, "invalid_workflow")
        if len(node_id) > MAX_NAME_LENGTH or len(name) > MAX_NAME_LENGTH:
            message = (
                f"workflow: the id or class of node {node_id[:40]!r} is longer than"
                f" {MAX_NAME_LENGTH} characters."
            )
            raise _refused("workflow", message, "invalid_workflow")
        found[node_id] = name
    return found


def extra_data(document: Mapping[str, Any]) -> Json | None:
    """What is passed on to partner nodes; it is never shown. Raises InvalidFieldError."""
    extra = document.get("extra_data")
    if extra is None:
        return None
    if not isinstance(extra, dict) or extra.keys() - {_PARTNER_KEY}:
        raise InvalidFieldError("extra_data", f"extra_data takes {_PARTNER_KEY} only.")
    if not all(isinstance(value, str) for value in extra.values()):
        raise InvalidFieldError("extra_data", f"extra_data.{_PARTNER_KEY} must be a text.")
    return extra


def metadata(document: Mapping[str, Any]) -> Metadata:
    """Labels, or a text. Raises UnprocessableError."""
    given = document.get("metadata")
    match given:
        case None:
            return None
        case str():
            if _is_longer(given, MAX_METADATA_BYTES):
                raise _no_metadata(f"metadata is longer than {MAX_METADATA_BYTES} bytes.")
        case dict():
            if len(given) > MAX_LABELS:
                raise _no_metadata(f"metadata has {len(given)} labels; {MAX_LABELS} are allowed.")
            for name, value in given.items():
                if (wrong := wrong_label(name, value)) is not None:
                    raise _no_metadata(f"The label {name[:40]!r}: {wrong}")
        case _:
            raise _no_metadata("metadata must be labels, or a text.")
    return given


def wrong_label(name: str, value: Any) -> str | None:
    """What is wrong with a label, by the rules of Comfy's own servers; None if nothing is."""
    if not _LABEL_NAME.fullmatch(name):
        return "its name is 1 to 40 characters of A-Z a-z 0-9 _ - and the full stop."
    if not isinstance(value, str) or _is_longer(value, MAX_LABEL_BYTES):
        return f"its value is a text of at most {MAX_LABEL_BYTES} bytes."
    if _CONTROLS.search(value):
        return "its value has a control character."
    return None


def priority(document: Mapping[str, Any]) -> int | None:
    """Raises UnprocessableError."""
    given = document.get("priority")
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or abs(given) > LIMIT:
        message = f"priority must be a whole number from -{LIMIT} to {LIMIT}."
        raise _refused("priority", message)
    return given


def idempotency_key(key: str | None) -> str | None:
    """Raises InvalidFieldError."""
    if key is not None and not 0 < len(key) <= MAX_KEY_LENGTH:
        message = f"Idempotency-Key has 1 to {MAX_KEY_LENGTH} characters."
        raise InvalidFieldError("Idempotency-Key", message)
    return key


def keep_s(given: Any) -> int | None:
    """``expires_in`` in seconds, as a number or its text. Raises UnprocessableError."""
    if given in (None, ""):
        return None
    least, most = KEEP_S
    seconds = whole_number(given) if isinstance(given, str) else given
    if type(seconds) is not int or not least <= seconds <= most:
        raise _refused("expires_in", f"expires_in must be from {least} to {most} seconds.")
    return seconds


def whole_number(text: str) -> int | None:
    """The number that ``text`` is, written in up to 9 digits; None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None


def _is_longer(text: str, limit: int) -> bool:
    """Than ``limit`` bytes in UTF-8; 16 MB are not encoded to know that."""
    return len(text) > limit or len(text.encode("utf-8", "surrogatepass")) > limit


def _refused(field: str, message: str, code: str | None = None) -> UnprocessableError:
    return UnprocessableError(message, code=code, details={"field": field})


def _no_metadata(message: str) -> UnprocessableError:
    return _refused("metadata", message, "metadata_invalid")
