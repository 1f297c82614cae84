"""One answer of all instances' answers: the queue, its length, the history, the lists of files.

What is healthy answers; an instance that fails is left out. If none gives a usable answer the
client gets the first one's own (its 400 or 500), if none answers at all a 503.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway import native
from comfy_proxy.gateway.fanout import Answer, ask_all
from comfy_proxy.gateway.files.made_files import ToldOutputs
from comfy_proxy.gateway.forward import forward_balanced
from comfy_proxy.gateway.prompts.moving import MAX_LOOKS
from comfy_proxy.gateway.routes import Match
from comfy_proxy.gateway.views.history_numbers import ended_at
from comfy_proxy.gateway.views.jobs import jobs

if TYPE_CHECKING:
    from comfy_proxy.gateway.gateway import Gateway

Entry = list[Any]
"""``[number, id, prompt, extra_data, outputs]``."""


async def merged(request: web.Request, match: Match, gateway: Gateway) -> web.StreamResponse:
    """The policy ``merged``: each pattern has its own way to put the answers together."""
    return await _VIEWS[match.pattern](request, match, gateway)


# --- /queue and /prompt -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeQueue:
    """All instances' queues as one; ``like`` is one of the answers."""

    running: list[Entry]
    pending: list[Entry]
    like: Answer

    @property
    def remaining(self) -> int:
        return len(self.running) + len(self.pending)


async def queue(request: web.Request, match: Match, gateway: Gateway) -> web.StreamResponse:
    """``GET /queue``: pending ones by number, then by age."""
    found = await whole_queue(gateway)
    if isinstance(found, Answer):
        return native.relayed(found)
    body = {"queue_running": found.running, "queue_pending": found.pending}
    return native.reply(body, found.like)


async def queue_length(request: web.Request, match: Match, gateway: Gateway) -> web.StreamResponse:
    """``GET /prompt``: how many wait or run. While prompts move they are counted one by one."""
    with gateway.moving.watch() as moved:
        answers = await ask_all(gateway.cluster, "GET", "/prompt")
    like, usable = native.usable(answers, _is_length)
    if not usable:
        return native.relayed(like)
    remaining = sum(info["exec_info"]["queue_remaining"] for info in usable.values())
    if moved:
        found = await whole_queue(gateway)
        remaining = remaining if isinstance(found, Answer) else found.remaining
    return native.reply({"exec_info": {"queue_remaining": remaining}}, like)


async def whole_queue(gateway: Gateway) -> WholeQueue | Answer:
    """Every prompt that waits or runs, each id where it has got furthest, none missing.

    An Answer instead if no instance gave a queue. Raises NoHealthyInstanceError.
    """
    for looks_left in reversed(range(MAX_LOOKS)):
        with gateway.moving.watch() as moved:
            answers = await ask_all(gateway.cluster, "GET", "/queue")
        like, queues = native.usable(answers, is_queue)
        if not queues:
            return like
        running, pending = _join(queues.values())
        shown = {entry[1] for entry in (*running, *pending)}
        nowhere = [prompt for prompt in moved.values() if prompt.prompt_id not in shown]
        if not looks_left or all(prompt.prompt_id in gateway.moving for prompt in nowhere):
            break  # else one has arrived since: it is at its place now, or has ended already
    pending += [prompt.queue_entry for prompt in nowhere if not prompt.cancelled]
    return WholeQueue(running=running, pending=sorted(pending, key=_turn), like=like)


def _join(queues: Iterable[Mapping[str, Any]]) -> tuple[list[Entry], list[Entry]]:
    """Running and pending entries; of an id that several instances show only the furthest.

    An id twice on ONE instance are two prompts (trap 9), and stay two.
    """
    queues = list(queues)
    results: tuple[list[Entry], list[Entry]] = ([], [])
    seen: set[str] = set()
    for key, result in zip(("queue_running", "queue_pending"), results, strict=True):
        for one in queues:
            mine = {entry[1] for entry in one["queue_running"]} if result is results[1] else set()
            result += [entry for entry in one[key] if entry[1] not in seen or entry[1] in mine]
            seen |= {entry[1] for entry in result}
    return results


def _turn(entry: Entry) -> tuple[float, float]:
    extra_data = entry[3] if len(entry) > 3 and isinstance(entry[3], dict) else {}
    return _number(entry[0]), _number(extra_data.get("create_time"))


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) else 0


# --- /history ---------------------------------------------------------------------------


async def history(request: web.Request, match: Match, gateway: Gateway) -> web.StreamResponse:
    """``GET /history``: oldest first, which is the order in which prompts ended.

    By the end and not by the start: so new entries come at the end, as on one server, and a page
    that was read stays what it was.
    """
    query = request.rel_url.query
    try:
        max_items = int(query["max_items"]) if "max_items" in query else None
        offset = int(query.get("offset", -1))
    except ValueError:  # ComfyUI's own 500
        return await forward_balanced(request, gateway.cluster)
    path = f"/history{_enough(max_items, offset)}"
    answers = await ask_all(gateway.cluster, "GET", path)
    like, ordered, made = await native.off_loop(answers, lambda: _in_order(answers, gateway))
    if ordered is None:
        return native.relayed(like)
    gateway.made_files.note(made)
    numbered = gateway.history_numbers.numbered
    shown = page(ordered, max_items, offset)
    shown = {prompt_id: numbered(prompt_id, entry) for prompt_id, entry in shown.items()}
    body = await native.off_loop(answers, lambda: native.encoded(shown))
    return native.reply_encoded(body, like)


def _enough(max_items: int | None, offset: int) -> str:
    """The query for as much of one instance's history as a page of the whole may need."""
    if max_items is None:
        return ""
    if offset < 0:
        return f"?max_items={max(max_items, 0)}"
    return f"?max_items={offset + max(max_items, 1)}&offset=0"


def page(entries: Mapping[str, Any], max_items: int | None, offset: int) -> dict[str, Any]:
    """What ComfyUI gives for these parameters; at an offset it gives one entry at least."""
    if offset < 0 and max_items is not None:
        offset = len(entries) - max_items
    ids = list(entries)[max(offset, 0) :]
    if max_items is not None:
        ids = ids[: max(max_items, 1)]
    return {prompt_id: entries[prompt_id] for prompt_id in ids}


def _in_order(
    answers: Mapping[Instance, Answer], gateway: Gateway
) -> tuple[Answer, dict[str, Any] | None, list[ToldOutputs | None]]:
    """All entries by their ends, None if nobody gave any, and what they tell of files.

    Reads only, a thread may do it.
    """
    like, histories = native.usable(answers, _is_dict)
    made: list[ToldOutputs | None] = []
    if not histories:
        return like, None, made
    dated: list[tuple[float, str, Any]] = []
    for instance, entries in histories.items():
        ended = 0.0
        for prompt_id, entry in entries.items():
            ended = ended_at(entry) or ended
            made.append(gateway.made_files.in_entry(prompt_id, entry, instance))
            dated.append((ended, prompt_id, marked_entry(entry, instance, gateway)))
    dated.sort(key=lambda item: item[0])
    return like, {prompt_id: entry for _, prompt_id, entry in dated}, made


def marked_entry(entry: Any, instance: Instance, gateway: Gateway) -> Any:
    """A history entry with the instance in the names of its outputs."""
    if not isinstance(entry, dict) or "outputs" not in entry:
        return entry
    return {**entry, "outputs": gateway.files.storage.marked(entry["outputs"], instance)}


# --- /internal/files --------------------------------------------------------------------


async def files(request: web.Request, match: Match, gateway: Gateway) -> web.StreamResponse:
    """``GET /internal/files/{type}``: the union, each instance's order kept, no name twice."""
    path = request.rel_url.raw_path
    answers = await ask_all(gateway.cluster, "GET", path)
    like, lists = native.usable(answers, _is_list)
    if not lists:
        return native.relayed(like)
    names = dict.fromkeys(name for names in lists.values() for name in names)
    return native.reply(list(names), like)


# --- the shapes -------------------------------------------------------------------


def is_queue(data: Any) -> bool:
    """Whether ``data`` has the shape of ``GET /queue``."""
    return isinstance(data, dict) and all(
        isinstance(data.get(key), list)
        and all(isinstance(entry, list) and len(entry) > 1 for entry in data[key])
        for key in ("queue_running", "queue_pending")
    )


def _is_length(data: Any) -> bool:
    match data:
        case {"exec_info": {"queue_remaining": int()}}:
            return True
    return False


def _is_dict(data: Any) -> bool:
    return isinstance(data, dict)


def _is_list(data: Any) -> bool:
    return isinstance(data, list) and all(isinstance(name, str) for name in data)


_VIEWS = {
    "/queue": queue,
    "/prompt": queue_length,
    "/history": history,
    "/jobs": jobs,
    "/internal/files/{directory_type}": files,
}
