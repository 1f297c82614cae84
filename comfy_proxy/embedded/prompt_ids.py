"""Ids of prompts: what a client may choose. A ComfyUI of 2026 takes UUIDs only."""

import uuid

from comfy_proxy.embedded.instance import Instance, new_prompt_id
from comfy_proxy.embedded.nodes.node_class import Json
from comfy_proxy.embedded.validation import error_body

WRONG_ID = error_body(
    "invalid_prompt_id",
    "prompt_id must be a valid UUID",
    "prompt_id must be a UUID string in canonical lowercase hyphenated form; "
    "omit it to let the server generate one",
)


def chosen_id(instance: Instance, body: Json) -> str | None:
    """The client's id or a new one; None if the worker does not take the client's.

    A worker that is not of 2026 takes anything, also null.
    """
    asked = body["prompt_id"] if "prompt_id" in body else None  # noqa: SIM401 (maybe a list)
    if "prompt_id" not in body or (asked is None and instance.assets is not None):
        return new_prompt_id()
    return str(asked) if instance.assets is None or is_canonical(asked) else None


def is_canonical(prompt_id: object) -> bool:
    """Whether it is a UUID in the one form that is taken: small letters, hyphens."""
    try:
        return isinstance(prompt_id, str) and str(uuid.UUID(prompt_id)) == prompt_id
    except ValueError:
        return False
