"""Values in the body of a prompt that ComfyUI takes, and that stop it when the prompt's turn comes.

It checks none of these when the prompt is posted. What comes of them is no failed prompt: the
thread that runs prompts ends, or the whole process does, and the next instance that gets the prompt
ends like the first. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_proxy.errors import RequestError


def require_harmless(document: Mapping[str, Any]) -> None:
    """Raises RequestError (``invalid_prompt``), which names the field, if ``document``, whose
    ``prompt`` is an object, has one of

    * ``extra_data`` that is no object: it is copied and searched by name in that thread;
    * a ``client_id`` that is a list or an object, in ``extra_data`` too: it is looked up among the
      sockets by the task that sends events (``server.py``), whose end is that of the process;
    * a node of a class whose ``inputs`` are missing or no object. Those of a node that is to run
      are refused by ComfyUI; but the inputs of all nodes are read before the first one runs
      (``caching.py``), and there the exception ends that thread.
    """
    extra = document.get("extra_data", {})
    if not isinstance(extra, dict):
        raise _refused("extra_data must be an object.", field="extra_data")
    if isinstance(document.get("client_id"), list | dict):
        raise _refused("client_id must be a text.", field="client_id")
    if isinstance(extra.get("client_id"), list | dict):
        raise _refused("extra_data.client_id must be a text.", field="extra_data.client_id")
    for node_id, node in document["prompt"].items():
        is_node = isinstance(node, dict) and isinstance(node.get("class_type"), str)
        if is_node and not isinstance(node.get("inputs"), dict):
            raise _refused(f"The inputs of node {node_id} must be an object.", node_id=node_id)


def _refused(message: str, **details: str) -> RequestError:
    return RequestError(message, code="invalid_prompt", details=details)
