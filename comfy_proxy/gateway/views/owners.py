"""What concerns prompts by their ids goes to whoever has them; what concerns all goes to all.

The record of owners is asked first; ids that nobody remembers (the proxy was restarted) are found
by asking all. A prompt that moves between two instances while it is deleted or cancelled ends
deleted: its move is marked as cancelled, and the deletion is repeated at all instances for what
moved meanwhile.

Commands whose body is not understood go to all as they came, and the primary's answer is the
client's: so an error is ComfyUI's own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from aiohttp import web

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_lists import HISTORY, HistoryEntry, Queue, read_history
from comfy_proxy.errors import NoHealthyInstanceError
from comfy_proxy.gateway import native
from comfy_proxy.gateway.fanout import Answer, answers_of_all, ask, ask_all, ask_each
from comfy_proxy.gateway.pieces import joined, listed
from comfy_proxy.gateway.prompts.moving import MAX_LOOKS, MovingPrompt
from comfy_proxy.gateway.routes import Match
from comfy_proxy.gateway.scanned import ScannedAnswer, ask_all_scanned, ask_queue
from comfy_proxy.gateway.views.history_entries import OwnEntry, ShownEntry
from comfy_proxy.gateway.views.jobs import JOB, failed_job, job_outputs, marked_text, pending_job
from comfy_proxy.json_scanner import Shape

if TYPE_CHECKING:
    from comfy_proxy.gateway.gateway import Gateway

A = TypeVar("A", Answer, ScannedAnswer)
Asking = Callable[[list[Instance]], Awaitable[dict[Instance, A]]]


async def owner_by_prompt(
    request: web.Request, match: Match, gateway: Gateway
) -> web.StreamResponse:
    """The policy ``owner_by_prompt``."""
    if command := _COMMANDS.get(match.pattern):
        return await command(await native.read_body(request), gateway)
    return await _OF_ONE[match.pattern](request, match.variables["prompt_id"], gateway)


async def broadcast(request: web.Request, match: Match, gateway: Gateway) -> web.StreamResponse:
    """The policy ``broadcast``: all healthy instances do it, the primary's answer is the client's.

    The primary is the first that answers, as everywhere.
    """
    return await _tell_all(match.pattern, await native.read_body(request), gateway)


# --- one prompt, by the id in the path --------------------------------------------------


async def history_of(request: web.Request, prompt_id: str, gateway: Gateway) -> web.StreamResponse:
    """``GET /history/{id}``: its entry; ``{}`` while it has none, and if nobody knows it."""
    if (own := gateway.given_up.entry(prompt_id)) is not None:
        pieces = OwnEntry(prompt_id=prompt_id, entry=own).numbered(gateway.history_numbers)
        body = joined([b"{", *pieces, b"}"])
        return web.Response(body=body, content_type="application/json", charset="utf-8")
    path = f"/history/{quote(prompt_id, safe='')}"
    instance, answer = await _find(prompt_id, _scanning(path, HISTORY, gateway), _entries, gateway)
    if not (entries := _entries(answer)):
        return await native.relayed_scanned(request, answer)
    gateway.made_files.note([gateway.made_files.in_scanned(one, instance) for one in entries])
    shown = [ShownEntry.of(entry, answer, instance, gateway) for entry in entries]
    texts = [entry.numbered(gateway.history_numbers) for entry in shown]
    return await native.reply_pieces(request, [b"{", *listed(texts), b"}"], answer)


def _entries(answer: ScannedAnswer) -> list[HistoryEntry]:
    return read_history(answer.root) or []


async def job_of(request: web.Request, prompt_id: str, gateway: Gateway) -> web.StreamResponse:
    """``GET /api/jobs/{id}``: ComfyUI's own job (2026); one that moves is pending."""
    path = f"/api/jobs/{quote(prompt_id, safe='')}"
    for _ in range(MAX_LOOKS):
        with gateway.moving.watch() as moved:
            asking = _scanning(path, JOB, gateway)
            instance, answer = await _find(prompt_id, asking, _is_object, gateway)
        if _is_object(answer):
            gateway.made_files.jobs_read([job_outputs(answer)], instance)
            shown = marked_text(answer, instance, gateway)
            return await native.reply_pieces(request, shown, answer)
        like = Answer(status=200, headers=answer.headers, body=b"")
        if _knows_jobs(answer) and (own := gateway.given_up.entry(prompt_id)) is not None:
            return native.reply(failed_job(own), like)
        if not _may_move(moved.get(prompt_id), answer):
            break
        if prompt_id in gateway.moving:
            return native.reply(pending_job(moved[prompt_id].queue_entry), like)
    return await native.relayed_scanned(request, answer)


def _is_object(answer: ScannedAnswer) -> bool:
    return answer.root is not None and answer.root.is_object


def _may_move(prompt: MovingPrompt | None, answer: ScannedAnswer) -> bool:
    """Whether a 404 is to be doubted."""
    return _knows_jobs(answer) and prompt is not None and not prompt.cancelled


def _knows_jobs(answer: ScannedAnswer) -> bool:
    """False for a 404 in plain text: that of a server without the route."""
    return answer.headers.get("content-type", "").startswith("application/json")


async def cancel_job(_request: web.Request, prompt_id: str, gateway: Gateway) -> web.StreamResponse:
    """``POST /api/jobs/{id}/cancel``, waiting, running or on its way."""
    path = f"/api/jobs/{quote(prompt_id, safe='')}/cancel"

    async def posting(instances: list[Instance]) -> dict[Instance, Answer]:
        return await ask_all(gateway.cluster, "POST", path, instances=instances)

    for _ in range(MAX_LOOKS):
        with gateway.moving.watch() as moved:
            _, answer = await _find(prompt_id, posting, _was_cancelled, gateway)
        if _was_cancelled(answer):
            gateway.mover.discard(prompt_id)  # it is not lost if its instance is
            gateway.outcomes.deleted([prompt_id])
        if answer.status != 200 or _was_cancelled(answer) or prompt_id not in moved:
            break
        if prompt_id in gateway.moving:
            _cancel_moves([prompt_id], gateway)
            await ask_all(gateway.cluster, "POST", "/queue", json={"delete": [prompt_id]})
            return native.reply({"cancelled": True}, answer)
    return native.relayed(answer)


def _scanning(path: str, shape: Shape, gateway: Gateway) -> Asking[ScannedAnswer]:
    async def asking(instances: list[Instance]) -> dict[Instance, ScannedAnswer]:
        return await ask_all_scanned(gateway.cluster, path, shape, instances=instances)

    return asking


async def _find(
    prompt_id: str, asking: Asking[A], found: Callable[[A], Any], gateway: Gateway
) -> tuple[Instance, A]:
    """The instance whose answer is ``found``, recorded as the owner; any other if none has it.

    Raises NoHealthyInstanceError.
    """
    record = gateway.ownership.prompts
    owner = await _known_owner(prompt_id, gateway)
    others = [one for one in gateway.cluster.instances if one is not owner]
    answers: dict[Instance, A] = {}
    for group in ([owner] if owner else []), others:
        try:
            told = await asking(group)
        except NoHealthyInstanceError:
            continue
        answers |= told
        for instance, answer in told.items():
            if found(answer):
                record.record(prompt_id, instance)
                return instance, answer
    if not answers:
        raise _nobody()
    return min(answers.items(), key=lambda item: item[1].status != 200)


def _was_cancelled(answer: Answer) -> bool:
    match native.load(answer):
        case {"cancelled": True}:
            return True
    return False


# --- commands, with ids in the body -----------------------------------------------------


async def change_queue(body: native.Body, gateway: Gateway) -> web.StreamResponse:
    """``POST /queue``: ``clear`` everywhere, ``delete`` where the prompts are."""
    ids = _ids(body, "delete")
    everything = ids is not None and bool(body.json.get("clear"))
    if ids is None or not (ids or everything):
        return await _tell_all("/queue", body, gateway)
    with gateway.moving.watch() as moved:
        _cancel_moves(moved if everything else ids, gateway)
        answers = await _tell_owners("/queue", "delete", body.json, ids, gateway)
    gateway.prompts_deleted(None if everything else ids)
    late = set(moved) if everything else moved.keys() & set(ids)
    if late:
        _cancel_moves(late, gateway)
        await ask_all(gateway.cluster, "POST", "/queue", json={"delete": sorted(late)})
    return native.relayed(_worst(answers))


async def change_history(body: native.Body, gateway: Gateway) -> web.StreamResponse:
    """``POST /history``: as ``/queue``, but what moves has no history yet."""
    ids = _ids(body, "delete")
    if ids is not None:
        gateway.given_up.delete(ids)
        if body.json.get("clear"):
            gateway.given_up.clear()
    if not ids:
        return await _tell_all("/history", body, gateway)
    answers = await _tell_owners("/history", "delete", body.json, ids, gateway)
    return native.relayed(_worst(answers))


async def cancel_jobs(body: native.Body, gateway: Gateway) -> web.StreamResponse:
    """``POST /api/jobs/cancel``: true if any of them was cancelled anywhere."""
    path, ids = "/api/jobs/cancel", _ids(body, "job_ids")
    if not ids:
        return await _tell_all(path, body, gateway)
    with gateway.moving.watch() as moved:
        answers = await _tell_owners(path, "job_ids", body.json, ids, gateway)
    worst = _worst(answers)
    if worst.status != 200:
        return native.relayed(worst)
    cancelled = any(_was_cancelled(answer) for answer in answers.values())
    gateway.prompts_deleted(ids)
    if late := moved.keys() & set(ids):
        cancelled |= _cancel_moves(late, gateway)
        again = await ask_all(gateway.cluster, "POST", path, json={"job_ids": sorted(late)})
        cancelled |= any(_was_cancelled(answer) for answer in again.values())
    return native.reply({"cancelled": cancelled}, worst)


async def interrupt(body: native.Body, gateway: Gateway) -> web.StreamResponse:
    """``POST /interrupt``: with a ``prompt_id`` only where that is, else everywhere.

    Nobody else hears of it: old servers ignore the id and interrupt whatever they run.
    """
    match body.json:
        case {"prompt_id": str(prompt_id)} if prompt_id:
            owner = await _known_owner(prompt_id, gateway) or await _runner(prompt_id, gateway)
        case _:
            return await _tell_all("/interrupt", body, gateway)
    if owner is None:
        return web.Response(status=200)  # what ComfyUI says when that prompt does not run
    answer = await ask(owner, gateway.cluster, "POST", "/interrupt", **body.options)
    return native.relayed(answer)


async def _runner(prompt_id: str, gateway: Gateway) -> Instance | None:
    def asking(instance: Instance) -> Awaitable[Queue | None]:
        return ask_queue(instance, gateway.cluster)

    queues = await answers_of_all(gateway.cluster, asking)
    for instance, queue in queues.items():
        if queue is not None and prompt_id in queue.view().running:
            gateway.ownership.prompts.record(prompt_id, instance)
            return instance
    return None


def _ids(body: native.Body, key: str) -> list[str] | None:
    """The ids under ``key``; None if the body is something else than what ComfyUI expects."""
    ids = body.json.get(key, []) if isinstance(body.json, dict) else None
    if isinstance(ids, list) and all(isinstance(one, str) for one in ids):
        return ids
    return None


def _cancel_moves(ids: Iterable[str], gateway: Gateway) -> bool:
    """Have whoever moves these prompts withdraw them at the end; False if none of them moves."""
    moving = gateway.moving.keys() & set(ids)
    for prompt_id in moving:
        gateway.moving[prompt_id].cancelled = True
    return bool(moving)


async def _tell_owners(
    path: str, key: str, data: Mapping[str, Any], ids: Iterable[str], gateway: Gateway
) -> dict[Instance, Answer]:
    """``data`` to each instance with only its own ids under ``key``; unknown ids to all.

    With ``clear`` each instance hears of it. Those that fail are left out; if all do, the others
    are told as far as they are found again. Raises NoHealthyInstanceError.
    """
    left = list(gateway.cluster.instances)
    owners = {
        one: None if one in gateway.moving else await _known_owner(one, gateway) for one in ids
    }
    while told := await gateway.cluster.healthy(left):
        theirs: dict[Instance, list[str]] = {instance: [] for instance in told}
        for prompt_id, owner in owners.items():
            for instance in [owner] if owner in theirs else told:
                theirs[instance].append(prompt_id)
        bodies = {
            one: {"json": {**data, key: own}}
            for one, own in theirs.items()
            if own or data.get("clear")
        }
        if answers := await ask_each(gateway.cluster, "POST", path, bodies):
            return answers
        left = [one for one in left if one not in told]
    raise _nobody()


async def _tell_all(path: str, body: native.Body, gateway: Gateway) -> web.StreamResponse:
    """The body as it came to all healthy instances; the first one's answer is the client's."""
    answers = await ask_all(gateway.cluster, "POST", path, **body.options)
    return native.relayed(next(iter(answers.values())))


def _worst(answers: Mapping[Instance, Answer]) -> Answer:
    return max(answers.values(), key=lambda answer: answer.status != 200)


# --- who --------------------------------------------------------------------------------


async def _known_owner(prompt_id: str, gateway: Gateway) -> Instance | None:
    """The one that is on record, unless it is away."""
    owner = gateway.ownership.prompts.owner(prompt_id)
    return owner if owner is not None and await gateway.cluster.healthy([owner]) else None


def _nobody() -> NoHealthyInstanceError:
    return NoHealthyInstanceError("No ComfyUI instance answers.", retry_after_s=5)


_COMMANDS = {
    "/queue": change_queue,
    "/history": change_history,
    "/interrupt": interrupt,
    "/jobs/cancel": cancel_jobs,
}
_OF_ONE = {
    "/history/{prompt_id}": history_of,
    "/jobs/{prompt_id}": job_of,
    "/jobs/{prompt_id}/cancel": cancel_job,
}
