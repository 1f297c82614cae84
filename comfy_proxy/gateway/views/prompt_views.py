"""What clients see of prompts and order for them, built and joined: queue, history, jobs."""

from __future__ import annotations

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.gateway.files.made_files import MadeFiles
from comfy_proxy.gateway.files.shared_storage import SharedStorage
from comfy_proxy.gateway.views.by_pattern import ByPattern, Views
from comfy_proxy.gateway.views.commands import Commands
from comfy_proxy.gateway.views.ended_prompts import EndedPrompts
from comfy_proxy.gateway.views.heard_entries import HeardEntries
from comfy_proxy.gateway.views.history import MergedHistory
from comfy_proxy.gateway.views.history_entries import EndsSeen, OwnEntries
from comfy_proxy.gateway.views.history_keeper import HistoryKeeper, Losses
from comfy_proxy.gateway.views.history_numbers import HistoryNumbers
from comfy_proxy.gateway.views.jobs import MergedJobs
from comfy_proxy.gateway.views.kept_entries import KeptEntries
from comfy_proxy.gateway.views.one_prompt import OnePrompt
from comfy_proxy.gateway.views.owner import PromptOwners
from comfy_proxy.gateway.views.queue import MergedQueue
from comfy_proxy.gateway.views.queue_rows import Bodies, LedgerRows
from comfy_proxy.gateway.views.wanted_entries import WantedEntries
from comfy_proxy.ledger.ledger import Ledger


class PromptViews:
    """``by_prompt`` answers what names prompts, ``merged`` what is put together of all instances;
    ``keeper`` keeps what was said of those that have ended, ``ended`` tells it inside of the proxy.
    ``ends_seen`` is told which are."""

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        *,
        own_history: OwnEntries,
        ends_seen: EndsSeen,
        losses: Losses,
        bodies: Bodies,
        made_files: MadeFiles,
        storage: SharedStorage,
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._own_history = own_history
        self._ends_seen = ends_seen
        self._made_files = made_files
        self._storage = storage
        self._numbers = HistoryNumbers()
        self._owners = PromptOwners(cluster, ledger)
        self.kept = KeptEntries()
        wanted = WantedEntries()
        self._known = LedgerRows(ledger, bodies, wanted.at)
        heard = HeardEntries(made_files.outputs, wanted, self._known, storage)
        self.keeper = HistoryKeeper(cluster, storage, self.kept, wanted, heard=heard, losses=losses)
        self.commands = Commands(
            cluster, ledger, self._owners, own_history=own_history, keeper=self.keeper
        )
        self.ended = self._ended()
        self.by_prompt = ByPattern(self.commands.views, self._one_prompt())
        self.merged: tuple[Views, ...] = (
            MergedQueue(cluster, ledger, self._known).views,
            self._history(),
            self._jobs(),
        )

    def _ended(self) -> EndedPrompts:
        return EndedPrompts(
            self._cluster,
            self._owners,
            own_history=self._own_history,
            keeper=self.keeper,
            made_files=self._made_files,
            storage=self._storage,
            numbers=self._numbers,
        )

    def _one_prompt(self) -> Views:
        return OnePrompt(
            self._cluster,
            self._ledger,
            self._owners,
            self._known,
            own_history=self._own_history,
            ends_seen=self._ends_seen,
            keeper=self.keeper,
            made_files=self._made_files,
            storage=self._storage,
            numbers=self._numbers,
        ).views

    def _history(self) -> Views:
        return MergedHistory(
            self._cluster,
            self._ledger,
            own_history=self._own_history,
            ends_seen=self._ends_seen,
            kept=self.kept,
            losses=self.keeper.losses,
            made_files=self._made_files,
            storage=self._storage,
            numbers=self._numbers,
        ).views

    def _jobs(self) -> Views:
        return MergedJobs(
            self._cluster,
            self._ledger,
            self._known,
            own_history=self._own_history,
            kept=self.kept,
            losses=self.keeper.losses,
            made_files=self._made_files,
            storage=self._storage,
        ).views
