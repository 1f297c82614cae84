"""What concerns prompts by their ids goes to whoever has them; what concerns all goes to all.

The record of owners is asked first; ids that nobody remembers (the proxy was restarted) are found
by asking all. A prompt that moves between two instances while it is deleted or cancelled ends
deleted: its move is marked as cancelled, and the deletion is repeated at all instances for what
moved meanwhile.

Commands whose body is not understood go to all as they came, and the primary's answer is the
client's: so an error is ComfyUI's own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_answers import cancelled_answer
from comfy_proxy.cluster.prompt_lists import Queue
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.fanout import (
    Answer,
    answers_of_all,
    ask,
    ask_all,
    ask_each,
    nobody_answers,
)
from comfy_proxy.gateway.exchange.scanned import ask_queue
from comfy_proxy.gateway.routes import Match
from comfy_proxy.gateway.views.one_prompt import (
    cancel_job,
    cancel_moves,
    history_of,
    job_of,
    known_owner,
    was_cancelled,
)
from comfy_proxy.ledger.events import Deleted, Found

if TYPE_CHECKING:
    from comfy_proxy.gateway.gateway import Gateway


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


# --- commands, with ids in the body -----------------------------------------------------


async def change_queue(body: native.Body, gateway: Gateway) -> web.StreamResponse:
    """``POST /queue``: ``clear`` everywhere, ``delete`` where the prompts are."""
    ids = _ids(body, "delete")
    everything = ids is not None and bool(body.json.get("clear"))
    if ids is None or not (ids or everything):
        return await _tell_all("/queue", body, gateway)
    with gateway.ledger.transit.watch() as moved:
        cancel_moves(moved if everything else ids, gateway)
        answers = await _tell_owners("/queue", "delete", body.json, ids, gateway)
    gateway.ledger.apply(Deleted(prompt_ids=None if everything else ids))
    late = set(moved) if everything else moved.keys() & set(ids)
    if late:
        cancel_moves(late, gateway)
        await ask_all(gateway.cluster, "POST", "/queue", json={"delete": sorted(late)})
    return native.relayed(_worst(answers))


async def change_history(body: native.Body, gateway: Gateway) -> web.StreamResponse:
    """``POST /history``: as ``/queue``, but what moves has no history yet."""
    ids = _ids(body, "delete")
    if ids is not None:
        gateway.own_history.delete(ids)
        if body.json.get("clear"):
            gateway.own_history.clear()
    if not ids:
        return await _tell_all("/history", body, gateway)
    answers = await _tell_owners("/history", "delete", body.json, ids, gateway)
    return native.relayed(_worst(answers))


async def cancel_jobs(body: native.Body, gateway: Gateway) -> web.StreamResponse:
    """``POST /api/jobs/cancel``: true if any of them was cancelled anywhere."""
    path, ids = "/api/jobs/cancel", _ids(body, "job_ids")
    if not ids:
        return await _tell_all(path, body, gateway)
    with gateway.ledger.transit.watch() as moved:
        answers = await _tell_owners(path, "job_ids", body.json, ids, gateway)
    worst = _worst(answers)
    if worst.status != 200:
        return native.relayed(worst)
    cancelled = any(was_cancelled(answer) for answer in answers.values())
    gateway.ledger.apply(Deleted(prompt_ids=ids, running=cancelled))
    if late := moved.keys() & set(ids):
        cancelled |= cancel_moves(late, gateway)
        again = await ask_all(gateway.cluster, "POST", path, json={"job_ids": sorted(late)})
        cancelled |= any(was_cancelled(answer) for answer in again.values())
    return native.reply(cancelled_answer(cancelled), worst)


async def interrupt(body: native.Body, gateway: Gateway) -> web.StreamResponse:
    """``POST /interrupt``: with a ``prompt_id`` only where that is, else everywhere.

    Nobody else hears of it: old servers ignore the id and interrupt whatever they run.
    """
    match body.json:
        case {"prompt_id": str(prompt_id)} if prompt_id:
            owner = await known_owner(prompt_id, gateway) or await _runner(prompt_id, gateway)
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
            gateway.ledger.apply(Found(prompt_id=prompt_id, instance=instance))
            return instance
    return None


def _ids(body: native.Body, key: str) -> list[str] | None:
    """The ids under ``key``; None if the body is something else than what ComfyUI expects."""
    ids = body.json.get(key, []) if isinstance(body.json, dict) else None
    if isinstance(ids, list) and all(isinstance(one, str) for one in ids):
        return ids
    return None


async def _tell_owners(
    path: str, key: str, data: Mapping[str, Any], ids: Iterable[str], gateway: Gateway
) -> dict[Instance, Answer]:
    """``data`` to each instance with only its own ids under ``key``; unknown ids to all.

    With ``clear`` each instance hears of it. Those that fail are left out; if all do, the others
    are told as far as they are found again. Raises NoHealthyInstanceError.
    """
    left = list(gateway.cluster.instances)
    owners = {
        one: None if gateway.ledger.transit.find(one) else await known_owner(one, gateway)
        for one in ids
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
    raise nobody_answers()


async def _tell_all(path: str, body: native.Body, gateway: Gateway) -> web.StreamResponse:
    """The body as it came to all healthy instances; the first one's answer is the client's."""
    answers = await ask_all(gateway.cluster, "POST", path, **body.options)
    return native.relayed(next(iter(answers.values())))


def _worst(answers: Mapping[Instance, Answer]) -> Answer:
    return max(answers.values(), key=lambda answer: answer.status != 200)


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
