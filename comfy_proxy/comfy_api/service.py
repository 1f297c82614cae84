"""The Comfy API v2 of one application: its parts, built and joined."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from hmac import digest
from typing import Final

from comfy_proxy.comfy_api.assets import Asset, AssetBook
from comfy_proxy.comfy_api.doors import Doors
from comfy_proxy.comfy_api.errors import TooManyStreamsError
from comfy_proxy.comfy_api.follower import Follower
from comfy_proxy.comfy_api.idempotency import Keys
from comfy_proxy.comfy_api.jobs import Job, JobBook
from comfy_proxy.comfy_api.outputs import Output
from comfy_proxy.comfy_api.positions import QueuePositions
from comfy_proxy.comfy_api.references import Find
from comfy_proxy.comfy_api.submission import Submissions
from comfy_proxy.comfy_api.uploads import AssetUploads
from comfy_proxy.errors import NotFoundError
from comfy_proxy.gateway.events.listener import PromptListener
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.ledger.ledger import Ledger

MAX_STREAMS: Final = 100
"""Event streams of one client at the same time; one more is answered 429."""
STREAM_RETRY_S: Final = 5
"""Seconds after which a client that got that 429 is told to come back (``Retry-After``)."""


class ComfyApi:
    """Its jobs, assets and keys; :meth:`start` before the first request, :meth:`close` at the end.

    An ``owner`` is the API key with which a job or an asset came (``""`` while there are no keys):
    only requests with that key see it.
    """

    def __init__(self, ledger: Ledger, doors: Doors) -> None:
        self.doors = doors
        self.ledger = ledger
        self.cluster = doors.cluster
        clock = doors.cluster.clock
        self.jobs = JobBook(clock)
        self.assets = AssetBook(clock)
        self.keys = Keys()
        self.jobs.on_forgotten.append(self.keys.forget)
        self.positions = QueuePositions(ledger)
        self.follower = Follower(self.jobs, ledger, doors)
        self.submissions = Submissions(self.jobs, self.keys, doors, self.follower.resolve)
        self.uploads = AssetUploads(self.assets, doors.offered, doors.cluster.settings, clock)
        self.closing = asyncio.Event()
        self._streams: Counter[str] = Counter()
        self._listener: PromptListener
        ledger.observers += [self.positions.observe, self.follower.observe]

    def __repr__(self) -> str:
        return f"<ComfyApi {self.jobs!r} {self.assets!r}>"

    async def start(self) -> None:
        """Begin to hear of prompts, under a clientId that nobody knows."""
        client_id = f"comfy-api-{digest(self.doors.secret, b'clientId', sha256).hex()[:32]}"
        self.submissions.client_id = self.doors.intake.inside = client_id
        self._listener = self.doors.listen(client_id)
        self._listener.on_heard.append(self.follower.heard)

    def restore(self, job: Job) -> None:
        """A job of before this process."""
        self.jobs.add(job)
        self.keys.restore(job)

    def listen_again(self) -> None:
        """Prompts of before this process are on record: hear of them again."""
        for prompt in self.ledger.live():
            if prompt.client_id == self.submissions.client_id and prompt.instance is not None:
                self._listener.listen_at(prompt.instance)

    def end_streams(self) -> None:
        """The proxy goes down: event streams end, and their clients come again."""
        self.closing.set()
        for job in self.jobs:
            job.changed()

    async def close(self) -> None:
        """End what the requests have begun."""
        await self.submissions.close()
        await self.follower.close()

    def job(self, job_id: str, owner: str) -> Job:
        """Raises NotFoundError, also for another's job: nobody is to learn that it exists."""
        job = self.jobs.find(job_id)
        if job is None or job.owner != owner or not job.accepted:
            raise NotFoundError(f"There is no job {job_id}.")
        return job

    def asset(self, asset_id: str, owner: str) -> Asset | tuple[Job, Output]:
        """The upload, or the output and its job, with that id. Raises NotFoundError."""
        if (asset := self.assets.find(asset_id, owner)) is not None:
            return asset
        job = self.jobs.of_output(asset_id)
        if job is None or job.owner != owner or asset_id not in job.outputs:
            raise NotFoundError(f"There is no asset {asset_id}.")
        return job, job.outputs[asset_id]

    def finding(self, owner: str) -> Find:
        """Finds the files of references in graphs of ``owner``."""

        def find(info: Mapping[str, str]) -> FileName | None:
            try:
                found = self.asset(info.get("id", ""), owner)
            except NotFoundError:
                known = self.assets.by_hash(info.get("hash", ""), owner)
                return None if known is None else self.assets.used(known).file
            if isinstance(found, Asset):
                return self.assets.used(found).file
            return self._at_instance(found[1].file)

        return find

    def _at_instance(self, file: FileName | None) -> FileName | None:
        """A result as a graph is to name it: with its instance, unless there is one only, to which
        nothing is copied."""
        if file is None or self.cluster.several:
            return file
        inner = self.doors.files.owner(file.subfolder, file.type)[1]
        return FileName(filename=file.filename, subfolder=inner, type=file.type)

    @contextmanager
    def streaming(self, client: str) -> Iterator[None]:
        """One more stream of ``client`` inside the block. Raises TooManyStreamsError."""
        if self._streams[client] >= MAX_STREAMS:
            raise TooManyStreamsError(
                f"{MAX_STREAMS} event streams are open; ask for the job's state instead.",
                retry_after_s=STREAM_RETRY_S,
            )
        self._streams[client] += 1
        try:
            yield
        finally:
            self._streams[client] -= 1
            self._streams += Counter()  # drops those that have none
