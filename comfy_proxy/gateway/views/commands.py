"""What clients order: to delete, to cancel, to interrupt; those who have the prompts do it.

What names prompts by their ids goes to whoever has them, what concerns all goes to all. The record
of owners is asked first; ids that nobody remembers (the proxy was restarted) go to all.

A prompt that moves between two instances while it is deleted or cancelled ends deleted: whoever
moves it withdraws it, and the deletion is repeated at all instances for what moved meanwhile,
because it may have arrived where the first deletion had already passed.

What is on record at an instance that does not answer is ended here at once, and there when it is
back (``untold_prompts.py``). What runs there is left alone by ``/queue``, as ComfyUI does.

Commands whose body is not understood go to all as they came, and the primary's answer is the
client's: so an error is ComfyUI's own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Iterable, Mapping
from urllib.parse import quote

from aiohttp import web

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_answers import cancelled_answer, read_cancelled
from comfy_proxy.errors import NoHealthyInstanceError
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.fanout import Answer, ask, ask_all
from comfy_proxy.gateway.routes import Match
from comfy_proxy.gateway.views.by_pattern import Views
from comfy_proxy.gateway.views.history_entries import OwnEntries
from comfy_proxy.gateway.views.history_keeper import HistoryKeeper
from comfy_proxy.gateway.views.late_deletions import LateDeletions
from comfy_proxy.gateway.views.owner import PromptOwners
from comfy_proxy.gateway.views.owner_orders import OwnerOrders
from comfy_proxy.gateway.views.untold_prompts import UntoldPrompts
from comfy_proxy.ledger.events import Deleted
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.transit import MAX_LOOKS


class Commands:
    """Has them done; ``own_history`` are entries that no instance has, and ``keeper`` keeps those
    of instances: both are to be deleted here. ``durable`` returns when that outlives this process,
    if it is to."""

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        owners: PromptOwners,
        *,
        own_history: OwnEntries,
        keeper: HistoryKeeper,
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._owners = owners
        self._own_history = own_history
        self._keeper = keeper
        self._orders = OwnerOrders(cluster, ledger, owners)
        self._untold = UntoldPrompts(ledger)
        self.late = LateDeletions(cluster)
        self.durable: Callable[[], Awaitable[None]] = _in_memory
        self.views: Views = {
            "/queue": self.change_queue,
            "/history": self.change_history,
            "/interrupt": self.interrupt,
            "/jobs/cancel": self.cancel_jobs,
            "/jobs/{prompt_id}/cancel": self.cancel_job,
        }

    async def broadcast(self, request: web.Request, match: Match) -> web.StreamResponse:
        """The policy ``broadcast``: all healthy instances do it, the primary's answer is the
        client's. The primary is the first that answers, as everywhere."""
        body = await native.read_body(request)
        answers = await ask_all(self._cluster, "POST", match.pattern, **body.options)
        if match.pattern == "/free" and _frees_memory(body):
            for instance, answer in answers.items():
                if answer.status == 200:
                    self._cluster.planner.forget_loaded(instance)
        return native.relayed(next(iter(answers.values())))

    async def change_queue(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``POST /queue``: ``clear`` everywhere, ``delete`` where the prompts are."""
        body = await native.read_body(request)
        ids = _ids(body, "delete")
        everything = ids is not None and bool(body.json.get("clear"))
        if ids is None or not (ids or everything):
            return await self._tell_all("/queue", body)
        with self._ledger.transit.watch() as moved:
            self._withdraw_moving(moved if everything else ids)
            answers, refusal = await self._orders.tell("/queue", "delete", body.json, ids)
        meant = [one.prompt_id for one in self._ledger.live()] if everything else ids
        untold = self._untold.among(meant, answers)
        if refusal is not None and (everything or len(untold) < len(set(ids))):
            raise refusal
        spared = {one.prompt_id for one in untold if self._untold.running(one)}
        self._ledger.apply(Deleted(prompt_ids=[one for one in meant if one not in spared]))
        self._untold.end([one for one in untold if one.prompt_id not in spared])
        late = set(moved) if everything else moved.keys() & set(ids)
        if late:
            self._withdraw_moving(late)
            await ask_all(self._cluster, "POST", "/queue", json={"delete": sorted(late)})
        return native.relayed(_worst(answers)) if answers else web.Response()

    async def change_history(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``POST /history``: as ``/queue``, but what moves has no history yet. Entries of an
        instance that does not answer are deleted there when it does (``late_deletions.py``)."""
        body = await native.read_body(request)
        ids = _ids(body, "delete")
        if ids is not None:
            self._own_history.delete(ids)
            self._keeper.delete(ids)
            if body.json.get("clear"):
                self._own_history.clear()
                self._keeper.clear()
            await self.durable()
        if not ids:
            return await self._tell_all("/history", body)
        answers, refusal = await self._orders.tell("/history", "delete", body.json, ids)
        late = [one for one in ids if self._ledger.owner(one) not in (None, *answers)]
        if refusal is not None and len(late) < len(ids):
            raise refusal
        for one in late:
            owner = self._ledger.owner(one)
            if owner is not None and one not in self._ledger:
                self.late.add(one, owner)
        return native.relayed(_worst(answers)) if answers else web.Response()

    async def interrupt(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``POST /interrupt``: with a ``prompt_id`` only where that is, else everywhere.

        Nobody else hears of it: old servers ignore the id and interrupt whatever they run.
        """
        body = await native.read_body(request)
        match body.json:
            case {"prompt_id": str(prompt_id)} if prompt_id:
                owner = await self._owners.known(prompt_id) or await self._owners.runner(prompt_id)
            case _:
                return await self._tell_all("/interrupt", body)
        if owner is None:
            return web.Response(status=200)  # what ComfyUI says when that prompt does not run
        answer = await ask(owner, self._cluster, "POST", "/interrupt", **body.options)
        return native.relayed(answer)

    async def cancel_jobs(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``POST /api/jobs/cancel``: true if any of them was cancelled anywhere."""
        body = await native.read_body(request)
        path, ids = "/api/jobs/cancel", _ids(body, "job_ids")
        if not ids:
            return await self._tell_all(path, body)
        with self._ledger.transit.watch() as moved:
            answers, refusal = await self._orders.tell(path, "job_ids", body.json, ids)
        untold = self._untold.among(ids, answers)
        if refusal is not None and len(untold) < len(set(ids)):
            raise refusal
        worst = _worst(answers) if answers else None
        if worst is not None and worst.status != 200:
            return native.relayed(worst)
        self._untold.end(untold)
        cancelled = bool(untold) or any(map(_was_cancelled, answers.values()))
        self._ledger.apply(Deleted(prompt_ids=ids, running=cancelled))
        if late := moved.keys() & set(ids):
            cancelled |= self._withdraw_moving(late)
            again = await ask_all(self._cluster, "POST", path, json={"job_ids": sorted(late)})
            cancelled |= any(_was_cancelled(answer) for answer in again.values())
        if worst is None:
            return web.json_response(cancelled_answer(cancelled))
        return native.reply(cancelled_answer(cancelled), worst)

    async def cancel_job(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``POST /api/jobs/{id}/cancel``, waiting, running or on its way.

        If it has arrived before it was cancelled there, this is repeated, up to MAX_LOOKS times.
        """
        prompt_id = match.variables["prompt_id"]
        path = f"/api/jobs/{quote(prompt_id, safe='')}/cancel"

        async def posting(instances: list[Instance]) -> dict[Instance, Answer]:
            return await ask_all(self._cluster, "POST", path, instances=instances)

        for _ in range(MAX_LOOKS):
            with self._ledger.transit.watch() as moved:
                try:
                    told = await self._owners.find(prompt_id, posting, _was_cancelled)
                except NoHealthyInstanceError:
                    if self._end_untold(prompt_id, ()):
                        return web.json_response(cancelled_answer(True))
                    raise
            answer = told.answer
            if not _was_cancelled(answer) and self._end_untold(prompt_id, told.asked):
                return web.json_response(cancelled_answer(True))
            if _was_cancelled(answer):
                self._ledger.apply(Deleted(prompt_ids=[prompt_id], running=True))
            if answer.status != 200 or _was_cancelled(answer) or prompt_id not in moved:
                break
            if self._ledger.transit.find(prompt_id) is not None:
                self._withdraw_moving([prompt_id])
                await ask_all(self._cluster, "POST", "/queue", json={"delete": [prompt_id]})
                return native.reply(cancelled_answer(True), answer)
        return native.relayed(answer)

    async def cancel(self, prompt_id: str) -> None:
        """End that prompt, wherever it waits, runs or moves, for a caller inside of the proxy; what
        runs ends with its node. Nothing happens if nobody has it.

        Raises NoHealthyInstanceError, InstanceError.
        """
        with self._ledger.transit.watch() as moved:
            self._withdraw_moving([prompt_id])
            answers, refusal = await self._orders.tell("/queue", "delete", {}, [prompt_id])
        if self._end_untold(prompt_id, answers):
            return
        if refusal is not None:
            raise refusal
        self._ledger.apply(Deleted(prompt_ids=[prompt_id]))
        if prompt_id in moved:
            self._withdraw_moving([prompt_id])
            await ask_all(self._cluster, "POST", "/queue", json={"delete": [prompt_id]})
        # Who runs it is asked: an old server interrupts whatever it runs, whichever id is named.
        if (owner := await self._owners.runner(prompt_id)) is not None:
            body = {"prompt_id": prompt_id}
            await ask(owner, self._cluster, "POST", "/interrupt", json=body)
            self._ledger.apply(Deleted(prompt_ids=[prompt_id], running=True))

    def _end_untold(self, prompt_id: str, answered: Container[Instance]) -> bool:
        """End that prompt, waiting or running, if it is at an instance that did not answer."""
        untold = self._untold.among([prompt_id], answered)
        self._untold.end(untold)
        return bool(untold)

    def _withdraw_moving(self, ids: Iterable[str]) -> bool:
        """Have whoever moves these prompts withdraw them at the end; False if none of them
        moves."""
        moving = {prompt.prompt_id for prompt in self._ledger.transit} & set(ids)
        return self._ledger.apply(Deleted(prompt_ids=moving))

    async def _tell_all(self, path: str, body: native.Body) -> web.StreamResponse:
        """The body as it came to all healthy instances; the first one's answer is the client's."""
        answers = await ask_all(self._cluster, "POST", path, **body.options)
        return native.relayed(next(iter(answers.values())))


async def _in_memory() -> None:
    """Nothing outlives this process."""


def _ids(body: native.Body, key: str) -> list[str] | None:
    """The ids under ``key``; None if the body is something else than what ComfyUI expects."""
    ids = body.json.get(key, []) if isinstance(body.json, dict) else None
    if isinstance(ids, list) and all(isinstance(one, str) for one in ids):
        return ids
    return None


def _frees_memory(body: native.Body) -> bool:
    """ComfyUI unloads all models for either of the two."""
    asked = body.json if isinstance(body.json, dict) else {}
    return bool(asked.get("unload_models") or asked.get("free_memory"))


def _worst(answers: Mapping[Instance, Answer]) -> Answer:
    return max(answers.values(), key=lambda answer: answer.status != 200)


def _was_cancelled(answer: Answer) -> bool:
    return read_cancelled(native.load(answer))
