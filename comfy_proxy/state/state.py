"""The room as a whole: what is restored at the start, in which order, and what writes from then on.

* Before anything is connected (:meth:`State.start`): the file is opened; who we are, who is
  drained, the learned costs, who made which file, what is kept of instances' histories, the jobs
  and assets of the Comfy API.
* Once all rooms run, and before the first request (:meth:`State.restore`): clients' prompts,
  webhooks, then jobs. Jobs' prompts of the process before are withdrawn (``orphans.py``).
* At the end (:meth:`State.close`), after all rooms: costs are written, and the file is closed.

Without STATE_FILE only the orphans are seen to.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from functools import partial

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.comfy_api.service import ComfyApi
from comfy_proxy.gateway.files.disks import Disks
from comfy_proxy.gateway.files.makers import Makers
from comfy_proxy.gateway.prompts.own_history import OwnHistory
from comfy_proxy.gateway.prompts.reconciler import Reconciler
from comfy_proxy.gateway.views.history_keeper import HistoryKeeper
from comfy_proxy.gateway.views.kept_entries import KeptEntries
from comfy_proxy.jobs.service import JobService
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.state import identity, instance_ids
from comfy_proxy.state.comfy_api_state import ComfyApiState
from comfy_proxy.state.drained import DrainedInstances
from comfy_proxy.state.job_state import JobState
from comfy_proxy.state.kept_history import KEPT, KeptHistory
from comfy_proxy.state.known_files import KnownFiles, LostEntries
from comfy_proxy.state.learned_costs import LearnedCosts
from comfy_proxy.state.orphans import Orphans
from comfy_proxy.state.prompt_recovery import PromptRecovery
from comfy_proxy.state.prompt_state import PromptState
from comfy_proxy.state.sqlite_store import SqliteStore
from comfy_proxy.state.unread_ends import UnreadEnds
from comfy_proxy.state.webhook_state import WebhookState
from comfy_proxy.webhooks.webhooks import Webhooks


@dataclass(frozen=True, kw_only=True, slots=True)
class Rooms:
    """The parts of the application whose state is kept."""

    cluster: Cluster
    ledger: Ledger
    jobs: JobService
    makers: Makers
    disks: Disks
    own_history: OwnHistory
    kept: KeptEntries
    keeper: HistoryKeeper
    reconciler: Reconciler
    webhooks: Webhooks
    comfy_api: ComfyApi


class State:
    """One for each application; ``dispatcher`` and ``jobs`` wait for its writes before they tell a
    client that anything is accepted."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._lock = identity.Lock()
        self._settings = rooms.cluster.settings
        path = self._settings.state_file
        self._store = None if path is None else SqliteStore(path, expendable=(KEPT,))
        self._costs: LearnedCosts | None = None
        self._drained: DrainedInstances | None = None
        self._own: identity.Identity | None = None

    async def start(self) -> None:
        """Before the cluster connects."""
        store = self._store
        if store is not None and not await store.open():
            await store.close()
            store = self._store = None
        self._own = await self._identity(store)
        if self._own is not None:
            self._rooms.cluster.connections.client_prefix = self._own.now
        if store is not None:
            await self._know_again(store)

    async def restore(self) -> None:
        """To be called when all rooms run: what had not ended goes on."""
        if self._drained is not None:
            self._drained.listen()
        spared = set() if self._store is None else await self._go_on(self._store)
        if self._own is not None:
            Orphans(self._rooms.cluster, self._own, spared).start()

    async def _go_on(self, store: SqliteStore) -> set[str]:
        """Restore prompts and jobs. Returns the ids of jobs' prompts that are to run on."""
        rooms, prompts = self._rooms, 0
        written = PromptState(store)
        if rooms.cluster.several:
            recovery = PromptRecovery(
                store, written, rooms.cluster, rooms.ledger, rooms.reconciler.look_for
            )
            rooms.ledger.observers.append(written.observe)
            prompts = await recovery.restore()
        else:  # nobody follows the prompts of a single one; those of years ago are not to run again
            await written.clear()
        webhooks = WebhookState(store, rooms.webhooks)
        await webhooks.restore()
        rooms.comfy_api.listen_again()
        jobs = JobState(store, rooms.jobs)
        jobs.watch()
        going_on = await jobs.restore()
        webhooks.forget_jobless(rooms.jobs.manager)
        if prompts or going_on:
            logger.info("{} jobs and {} prompts go on", going_on, prompts)
        return jobs.unfinished

    async def close(self) -> None:
        """After all rooms have ended."""
        if self._costs is not None:
            self._costs.save()
        if self._store is not None:
            await self._store.close()
        self._lock.release()

    async def sent(self, prompt: Prompt) -> None:
        """Returns when the file says that ``prompt`` is being sent.

        A job's prompt need not be in the file: its clientId tells that it is ours, and its job was
        written before its client was told of it.
        """
        if prompt.job is None:
            await self.durable()

    async def durable(self) -> None:
        """Returns when what was put until now is in the file, or cannot be written."""
        if self._store is not None:
            await self._store.flush()

    async def _identity(self, store: SqliteStore | None) -> identity.Identity | None:
        """Our identity; None if there is neither a file nor a lock that would prove it."""
        if store is not None:
            known = [value.decode() for _, value in await store.entries("identity")]
            name = known[0] if known else uuid.uuid4().hex[:16]
            store.put("identity", "name", name.encode())
            return identity.identity_of(name)
        name = identity.name_by_place(self._settings)
        locked = self._settings.port != 0 and self._lock.take(name)
        return identity.identity_of(name) if locked else None

    async def _know_again(self, store: SqliteStore) -> None:
        rooms = self._rooms
        cluster = rooms.cluster
        await instance_ids.restore_marks(store, cluster.instances)
        cluster.instances.each(partial(instance_ids.keep_mark, store))
        rooms.disks.on_new.append(partial(instance_ids.keep_mark, store))
        self._drained = DrainedInstances(store, cluster)
        await self._drained.restore()
        self._costs = LearnedCosts(store, cluster)
        await self._costs.restore()
        rooms.ledger.observers.append(self._costs.observe)
        await KnownFiles(store, rooms.makers, cluster).restore()
        await LostEntries(store, rooms.own_history).restore()
        await KeptHistory(store, rooms.kept, cluster, rooms.ledger).restore()
        await UnreadEnds(store, rooms.keeper.wanted, cluster, rooms.ledger).restore()
        await ComfyApiState(store, rooms.comfy_api).restore()
