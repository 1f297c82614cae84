"""Several jobs in flight, as many as keep all instances busy; each file fails for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from comfy_proxy.cli.command import CommandError
from comfy_proxy.cli.proxy_address import ProxyAddress
from comfy_proxy.cli.run.items import Item
from comfy_proxy.cli.run.one_item import ItemRun
from comfy_proxy.cli.run.view import Report
from comfy_proxy.cli.snapshots import one_snapshot
from comfy_proxy.cli.talk import command_error, sentence
from comfy_proxy.client.answers import NOT_THE_PROXY
from comfy_proxy.client.errors import ApiError, ClientError, JobFailedError

JOBS_AN_INSTANCE: Final = 3
"""One runs, one is ready behind it, one is on its way: no instance waits for an upload."""
MAX_IN_FLIGHT: Final = 64
ASK_AGAIN_S: Final = 15.0
"""Seconds after which the proxy is asked again how many instances it has."""


class Batch:
    """Runs ``items``; ``report`` tells what has become of them, also of one that was cut short.

    A mistake that would fail every item (a wrong key or parameter, no proxy) ends it: it raises
    CommandError. Whoever cancels :meth:`run` has the unfinished jobs cancelled at the proxy.
    """

    def __init__(
        self, runs: ItemRun, items: Sequence[Item], proxy: ProxyAddress, report: Report
    ) -> None:
        self.report = report
        self._runs = runs
        self._items = list(reversed(items))
        self._proxy = proxy
        self._tasks: dict[asyncio.Task[bool], Item] = {}
        self._limit = 1
        self._asked_at: float | None = None

    async def run(self) -> None:
        try:
            while self._items or self._tasks:
                await self._ask_limit()
                while self._items and len(self._tasks) < self._limit:
                    item = self._items.pop()
                    self._tasks[asyncio.create_task(self._runs.run(item))] = item
                done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self._ended(self._tasks.pop(task), task)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for task in self._tasks:
                if not task.cancelled() and task.exception() is None:
                    self._count(task)

    def _ended(self, item: Item, task: asyncio.Task[bool]) -> None:
        error = task.exception()
        if error is None:
            self._count(task)
        elif isinstance(error, ClientError) and self._concerns_all(error):
            raise command_error(error, self._proxy)
        elif isinstance(error, ClientError | OSError | CommandError) and not isinstance(
            error,
            BrokenPipeError,  # of our standard output: whoever read it has gone
        ):
            why = self._why(error)
            self.report.failures.append((item.label, why))
            self._runs.view.failed(item, why)
        else:
            raise error

    def _count(self, task: asyncio.Task[bool]) -> None:
        if task.result():
            self.report.done += 1
        else:
            self.report.skipped += 1

    def _concerns_all(self, error: ClientError) -> bool:
        if isinstance(error, ApiError) and error.code != NOT_THE_PROXY:
            wrong = error.field is not None and error.field not in self._runs.file_fields
            return error.status in (401, 403) or (error.status == 400 and wrong)
        return not isinstance(error, JobFailedError)

    def _why(self, error: Exception) -> str:
        if isinstance(error, ClientError):
            return sentence(error, self._proxy)
        if isinstance(error, OSError):
            return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        return str(error)

    async def _ask_limit(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._asked_at is not None and now - self._asked_at < ASK_AGAIN_S:
            return
        try:
            client = self._runs.client
            self._limit = in_flight(await client.perform(one_snapshot(client.policy)))
        except ClientError as error:
            if self._asked_at is None:
                raise command_error(error, self._proxy) from None
        self._asked_at = now


def in_flight(snapshot: Mapping[str, Any]) -> int:
    """How many jobs keep the instances busy that take work now, by what the proxy tells."""
    usable: int = sum(
        one["status"] == "healthy" and not (one["draining"] or one.get("stands_still"))
        for one in snapshot["instances"]
    )
    allowed = int(snapshot["queue"]["max_concurrent_jobs"]) + 1  # one waits for the next place
    return max(2, min(usable * JOBS_AN_INSTANCE, allowed, MAX_IN_FLIGHT))
