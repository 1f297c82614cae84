"""What is asked of one prompt by the id in the path: its history, its job, to cancel it.

The owner on record is asked first, then everybody else; whoever has it is the owner from then on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from aiohttp import web

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_answers import cancelled_answer, read_cancelled
from comfy_proxy.cluster.prompt_jobs import JOB, failed_job, pending_job, read_job
from comfy_proxy.cluster.prompt_lists import HISTORY, HistoryEntry, read_history
from comfy_proxy.errors import NoHealthyInstanceError
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.fanout import Answer, ask_all, nobody_answers
from comfy_proxy.gateway.exchange.pieces import joined, listed
from comfy_proxy.gateway.exchange.scanned import ScannedAnswer, ask_all_scanned
from comfy_proxy.gateway.views.history_entries import OwnEntry, ShownEntry
from comfy_proxy.gateway.views.jobs import marked_text
from comfy_proxy.json_scanner import Shape
from comfy_proxy.ledger.events import Deleted, Found
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.transit import MAX_LOOKS

if TYPE_CHECKING:
    from comfy_proxy.gateway.gateway import Gateway

A = TypeVar("A", Answer, ScannedAnswer)
Asking = Callable[[list[Instance]], Awaitable[dict[Instance, A]]]


async def history_of(request: web.Request, prompt_id: str, gateway: Gateway) -> web.StreamResponse:
    """``GET /history/{id}``: its entry; ``{}`` while it has none, and if nobody knows it."""
    if (own := gateway.own_history.entry(prompt_id)) is not None:
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
        with gateway.ledger.transit.watch() as moved:
            asking = _scanning(path, JOB, gateway)
            instance, answer = await _find(prompt_id, asking, _is_object, gateway)
        if _is_object(answer):
            gateway.made_files.jobs_read([read_job(answer.root)], instance)
            shown = marked_text(answer, instance, gateway)
            return await native.reply_pieces(request, shown, answer)
        like = Answer(status=200, headers=answer.headers, body=b"")
        if _knows_jobs(answer) and (own := gateway.own_history.entry(prompt_id)) is not None:
            return native.reply(failed_job(own), like)
        prompt = moved.get(prompt_id)
        if prompt is None or not _may_move(prompt, answer):
            break
        if prompt.in_transit and prompt.queue_entry is not None:
            return native.reply(pending_job(prompt.queue_entry), like)
    return await native.relayed_scanned(request, answer)


def _is_object(answer: ScannedAnswer) -> bool:
    return answer.root is not None and answer.root.is_object


def _may_move(prompt: Prompt, answer: ScannedAnswer) -> bool:
    """Whether a 404 is to be doubted."""
    return _knows_jobs(answer) and not prompt.deleted


def _knows_jobs(answer: ScannedAnswer) -> bool:
    """False for a 404 in plain text: that of a server without the route."""
    return answer.headers.get("content-type", "").startswith("application/json")


async def cancel_job(_request: web.Request, prompt_id: str, gateway: Gateway) -> web.StreamResponse:
    """``POST /api/jobs/{id}/cancel``, waiting, running or on its way."""
    path = f"/api/jobs/{quote(prompt_id, safe='')}/cancel"

    async def posting(instances: list[Instance]) -> dict[Instance, Answer]:
        return await ask_all(gateway.cluster, "POST", path, instances=instances)

    for _ in range(MAX_LOOKS):
        with gateway.ledger.transit.watch() as moved:
            _, answer = await _find(prompt_id, posting, was_cancelled, gateway)
        if was_cancelled(answer):
            gateway.ledger.apply(Deleted(prompt_ids=[prompt_id], running=True))
        if answer.status != 200 or was_cancelled(answer) or prompt_id not in moved:
            break
        if gateway.ledger.transit.find(prompt_id) is not None:
            cancel_moves([prompt_id], gateway)
            await ask_all(gateway.cluster, "POST", "/queue", json={"delete": [prompt_id]})
            return native.reply(cancelled_answer(True), answer)
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
    owner = await known_owner(prompt_id, gateway)
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
                gateway.ledger.apply(Found(prompt_id=prompt_id, instance=instance))
                return instance, answer
    if not answers:
        raise nobody_answers()
    return min(answers.items(), key=lambda item: item[1].status != 200)


def was_cancelled(answer: Answer) -> bool:
    return read_cancelled(native.load(answer))


def cancel_moves(ids: Iterable[str], gateway: Gateway) -> bool:
    """Have whoever moves these prompts withdraw them at the end; False if none of them moves."""
    moving = {prompt.prompt_id for prompt in gateway.ledger.transit} & set(ids)
    return gateway.ledger.apply(Deleted(prompt_ids=moving))


async def known_owner(prompt_id: str, gateway: Gateway) -> Instance | None:
    """The one that is on record, unless it is away."""
    owner = gateway.ledger.owner(prompt_id)
    return owner if owner is not None and await gateway.cluster.healthy([owner]) else None
