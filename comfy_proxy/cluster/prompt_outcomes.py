"""What ComfyUI says of how a prompt ended: by a frame, or by its entry in the history. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from comfy_proxy.cluster.prompt_answers import without_paths
from comfy_proxy.cluster.prompt_lists import finite
from comfy_proxy.errors import ComfyProxyError, GpuMemoryError, WorkflowError
from comfy_proxy.metrics.records import Outcome

ENDS: Mapping[str, Outcome] = {
    "execution_success": Outcome.COMPLETED,
    "execution_error": Outcome.FAILED,
    "execution_interrupted": Outcome.CANCELLED,
}
"""By the type of the event."""
_OUT_OF_MEMORY = (
    "you ran out of memory on your gpu",
    "out of memory. tried to allocate",
    "cuda error: out of memory",
    "mps backend out of memory",
    "memory: you tried to allocate",
)
"""Each alone says that memory was wanting: ComfyUI's own words, then torch's for all sorts of GPU,
CUDA's, Apple's and a CPU's. Less than that may be in the words of any node."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What frames or ``/history`` tell of an end; seconds, and since the epoch, None if they do
    not. ``worked`` is False if all came from ComfyUI's cache, ``cached`` are the nodes that did."""

    outcome: Outcome
    execution_s: float | None = None
    began_time: float | None = None
    error: ComfyProxyError | None = None
    worked: bool = True
    cached: frozenset[str] | None = None


def cached_nodes(data: Any) -> frozenset[str]:
    """The nodes that an event ``execution_cached`` names."""
    nodes = data.get("nodes") if isinstance(data, Mapping) else None
    return frozenset(map(str, nodes)) if isinstance(nodes, list) else frozenset()


def told_by_frame(kind: str, data: Mapping[str, Any]) -> Told:
    """What the last event of a prompt says."""
    error = node_error(data) if kind == "execution_error" else None
    return Told(outcome=ENDS[kind], error=error)


def told_by(entry: Any) -> Told | None:
    """What an entry of ``/history`` says; None if it is none of ComfyUI's."""
    try:
        return _read(entry)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None


def messages_of(entry: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The events that an entry of ``/history`` tells of, by type; of what is none of ComfyUI's
    none. Raises AttributeError, TypeError for an odd ``status``."""
    status = entry.get("status") or {}
    return {
        event[0]: event[1]
        for event in status.get("messages") or ()
        if isinstance(event, list)
        and len(event) == 2
        and isinstance(event[0], str)
        and isinstance(event[1], dict)
    }


def _read(entry: Mapping[str, Any]) -> Told:
    status = entry.get("status") or {}
    events = messages_of(entry)
    kind = next((kind for kind in ENDS if kind in events), None)
    if kind is None:
        failed = status.get("status_str") == "error"
        why = WorkflowError("ComfyUI reports an error without a reason.") if failed else None
        return Told(outcome=Outcome.FAILED if failed else Outcome.COMPLETED, error=why)
    begin, end = (events.get(name, {}).get("timestamp") for name in ("execution_start", kind))
    began_time = begin / 1000 if isinstance(begin, int | float) else None
    execution_s = None
    if began_time is not None and isinstance(end, int | float):
        execution_s = max(0.0, end / 1000 - began_time)
    cached = cached_nodes(events.get("execution_cached"))
    prompt = entry.get("prompt")
    return Told(
        outcome=ENDS[kind],
        execution_s=execution_s,
        began_time=began_time,
        error=node_error(events[kind]) if kind == "execution_error" else None,
        worked=not prompt or not set(prompt[2]) <= cached,
        cached=cached if "execution_cached" in events else None,
    )


def ended_at(entry: Any) -> float | None:
    """When a prompt of the history ended, in ms; None if the entry does not tell."""
    status = entry.get("status") if isinstance(entry, dict) else None
    messages = status.get("messages") if isinstance(status, dict) else None
    for message in reversed(messages if isinstance(messages, list) else []):
        match message:
            case [str(event), {"timestamp": int() | float() as timestamp}] if event in ENDS:
                return finite(timestamp) or None
    return None


def is_out_of_memory(data: Mapping[str, Any]) -> bool:
    """Whether an ``execution_error`` is for want of memory, by the type of the exception (torch has
    moved it) or by its words (old versions raise a RuntimeError)."""
    kind = str(data.get("exception_type")).rpartition(".")[2]
    text = str(data.get("exception_message")).lower()
    if kind == "OutOfMemoryError" or text.startswith("allocation on device"):
        return True
    return any(words in text for words in _OUT_OF_MEMORY)


def node_error(data: Mapping[str, Any]) -> WorkflowError:
    """What an ``execution_error`` says: which node raised what."""
    text = str(data.get("exception_message") or data.get("exception_type") or "unknown error")
    where = f"{data.get('node_type')} (node {data.get('node_id')})"
    details = {"type": data.get("exception_type")}
    if is_out_of_memory(data):
        words = without_paths(text).partition("\n")[0].rstrip(" .")
        message = f"{where}: the GPU ran out of memory ({words})."
        error: WorkflowError = GpuMemoryError(message, details=details)
    else:
        error = WorkflowError(f"{where}: {without_paths(text)}", details=details)
    lines = data.get("traceback")
    if isinstance(lines, list):
        error.node_traceback = "".join(map(str, lines)).rstrip() or None
    return error
