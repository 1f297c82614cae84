"""Why a job has failed, as the contract's ``JobError`` tells it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_answers import without_paths
from comfy_proxy.errors import PromptLostError
from comfy_proxy.gateway.exchange.error_answers import without_addresses
from comfy_proxy.ledger.prompt import End
from comfy_proxy.ledger.states import Ending

_VANISHED: Final = (
    "Its ComfyUI instance has it neither in its queue nor in its history: it was deleted there"
    " without this proxy, or its run broke off and left no entry."
)


def job_error(
    end: End, told: Mapping[str, Any] | None, instances: Sequence[Instance]
) -> dict[str, Any]:
    """The ``JobError`` of a job that has failed: ``told`` is what its entry of ``/history`` tells
    of a node's failure, None if it tells nothing; that of a lost one is ours, and tells what
    ``end`` does. No address of ``instances`` is in it, and no traceback: that has paths of the
    instance in it."""
    error = end.error
    if told is not None and (error is None or end.ending is not Ending.LOST):
        text = str(told.get("exception_message") or told.get("exception_type") or "").strip()
        code = "out_of_memory" if error and error.code == "out_of_memory" else None
        found = {
            "code": code or "node_execution_error",
            "message": without_paths(text),
            "node_id": _text(told.get("node_id")),
            "class_type": _text(told.get("node_type")),
        }
    elif error is not None:
        found = {"code": error.code, "message": error.message}
    elif end.ending is Ending.VANISHED:
        found = {"code": PromptLostError.code, "message": _VANISHED}
    else:
        found = {"code": "node_execution_error", "message": "The execution failed."}
    shown = without_addresses(found, instances)
    return {"node_id": None, "class_type": None, "traceback": None, **shown}


def _text(value: object) -> str | None:
    return None if value in (None, "") else str(value)
