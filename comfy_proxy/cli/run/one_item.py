"""One item: skipped if it is done, else a job from its submission to its files."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from comfy_proxy.cli.command import CommandError
from comfy_proxy.cli.run.done_book import DoneBook
from comfy_proxy.cli.run.items import Item, Recipe
from comfy_proxy.cli.run.outputs import Outputs, Saved
from comfy_proxy.cli.run.view import View
from comfy_proxy.client.answers import NOT_THE_PROXY
from comfy_proxy.client.asynchronous import AsyncClient, AsyncJob
from comfy_proxy.client.errors import ApiError, ClientError, JobFailedError
from comfy_proxy.client.models import Status
from comfy_proxy.client.operations import raise_if_failed

TRIES: Final = 3
"""How often a job is submitted whose proxy was restarted and has forgotten it, or has dropped its
results (MAX_RESULTS_SIZE) before they were fetched."""
CANCEL_PATIENCE_S: Final = 10.0
"""Seconds in which a job that is not wanted any more is to be cancelled at the proxy; beyond, it is
left to run there."""


@dataclass(frozen=True, kw_only=True)
class ItemRun:
    """How each item of a batch is run. ``file_fields`` are the names by which the proxy may tell of
    a wrong file; ``again``: also what is done already."""

    client: AsyncClient
    workflow: str
    parameters: Mapping[str, str]
    file_fields: Collection[str]
    outputs: Outputs
    book: DoneBook
    view: View
    again: bool = False

    async def run(self, item: Item) -> bool:
        """True once its files are there, False if they were before.

        Raises OSError, CommandError or ClientError. If it is cancelled, so is its job; but one that
        has completed is kept.
        """
        recipe = await asyncio.to_thread(
            item.recipe, self.workflow, self.parameters, self.outputs.target.folder
        )
        if not self.again and (paths := await asyncio.to_thread(self.book.done, recipe)):
            self.view.skipped(item, paths)
            return False
        self.view.began(item)
        try:
            for tries_left in reversed(range(TRIES)):
                job = await self._submit(item)
                try:
                    status = await self._follow(item, job)
                    saved = await self._kept(item, job, recipe)
                except asyncio.CancelledError:
                    await _cancel(job)
                    raise
                except (ApiError, JobFailedError) as error:
                    if not tries_left or not _was_restarted(error):
                        raise
                else:
                    break
        finally:
            self.view.over(item)
        self.view.done(item, saved, status)
        return True

    async def _submit(self, item: Item) -> AsyncJob:
        """Cancelled in its midst, it waits for the id of the job that it may have made: nobody else
        could cancel that."""
        given: dict[str, Any] = {**self.parameters, **item.files}
        submitting = asyncio.create_task(self.client.submit(self.workflow, **given))
        try:
            return await asyncio.shield(submitting)
        except asyncio.CancelledError:
            with suppress(ClientError, OSError, TimeoutError):
                async with asyncio.timeout(CANCEL_PATIENCE_S):
                    await _cancel(await submitting)
            raise

    async def _kept(self, item: Item, job: AsyncJob, recipe: Recipe) -> Saved:
        """The files of a completed job. Cancelled in its midst, it goes on for a while: what is
        there under its name is to be known as done. What goes into a pipe does not: whoever reads
        that may never."""

        async def keep() -> Saved:
            results = await job.results()
            own = await asyncio.to_thread(self.book.own, recipe)
            saved = await self.outputs.save(item, results, own)
            await asyncio.to_thread(self.book.add, recipe, saved.paths)
            return saved

        if self.outputs.target.is_stream:
            return await keep()
        keeping = asyncio.create_task(keep())
        try:
            return await asyncio.shield(keeping)
        except asyncio.CancelledError:
            with suppress(ClientError, CommandError, OSError, TimeoutError):
                async with asyncio.timeout(CANCEL_PATIENCE_S):
                    return await keeping
            raise

    async def _follow(self, item: Item, job: AsyncJob) -> Status:
        """Its last status. Raises JobFailedError."""
        status = job.accepted
        assert status is not None
        async for event in job.progress():
            if event.status is not None:
                status = event.status
                self.view.progressed(item, status)
        raise_if_failed(status)
        return status


async def _cancel(job: AsyncJob) -> None:
    with suppress(ClientError, TimeoutError):
        async with asyncio.timeout(CANCEL_PATIENCE_S):
            await job.cancel()


def _was_restarted(error: ClientError) -> bool:
    """Whether the proxy has forgotten the job or its results, or is about to."""
    if isinstance(error, ApiError):
        return error.status in (404, 410) and error.code != NOT_THE_PROXY
    return error.code == "draining"
