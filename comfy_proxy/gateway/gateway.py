"""The parts that make the instances one ComfyUI, built and joined; ``keys.GATEWAY`` holds it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.events.sessions import EventSessions
from comfy_proxy.gateway.files.file_holders import FileHolders
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.gateway.files.file_staging import FileStaging
from comfy_proxy.gateway.files.made_files import MadeFiles
from comfy_proxy.gateway.files.staging import InputStaging
from comfy_proxy.gateway.files.storage_discovery import StorageDiscovery
from comfy_proxy.gateway.files.uploads import Uploads
from comfy_proxy.gateway.files.view import FileView
from comfy_proxy.gateway.prompts.failover import Failover
from comfy_proxy.gateway.prompts.intake import PromptIntake
from comfy_proxy.gateway.prompts.own_history import OwnHistory
from comfy_proxy.gateway.prompts.rebalancer import Rebalancer
from comfy_proxy.gateway.prompts.reconciler import Reconciler
from comfy_proxy.gateway.prompts.reports import PromptReports
from comfy_proxy.gateway.prompts.spool import PromptSpool
from comfy_proxy.gateway.prompts.submission import Submissions
from comfy_proxy.gateway.prompts.transfer import Transfer
from comfy_proxy.gateway.state.shared_state import SharedState
from comfy_proxy.gateway.views.features import Features, UploadLimits
from comfy_proxy.gateway.views.history_numbers import HistoryNumbers
from comfy_proxy.gateway.views.object_info import MergedObjectInfo
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.metrics.records import CircuitRecord

OBJECT_INFO_TIMEOUT_S = 5.0
"""How long a prompt waits to learn what an instance can run that was never asked."""
UNKNOWN_LACK = 0.5
"""Better than one that lacks something, worse than one that lacks nothing."""


class Gateway:
    """The instances as one ComfyUI."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.ledger = Ledger(cluster.clock)
        self.object_info = MergedObjectInfo(cluster, cluster.object_info)
        self.files = FileHolders(cluster)
        self.storage_discovery = StorageDiscovery(cluster, self.files.storage)
        self.staging = FileStaging(self.files)
        self.inputs = InputStaging(self.files, self.staging, self.node_info, several=self.several)
        self.uploads = Uploads(self.files, self.staging, self.object_info.uploads_changed)
        self.file_view = FileView(self.files, self.staging)
        self.state = SharedState(cluster)
        self.upload_limits = UploadLimits(cluster)
        self.features = Features(cluster, self.upload_limits)
        self.history_numbers = HistoryNumbers()
        self.made_files = MadeFiles(self.files, cluster.clock, unended=self.ledger)
        self.events = EventSessions(
            cluster,
            self.ledger,
            made_files=self.made_files,
            prefixed=self.files.storage.marked,
            limits=self.upload_limits,
        )
        self.spool = PromptSpool()
        self.own_history = OwnHistory(cluster.clock)
        self._watch_ledger()
        self.reconciler = Reconciler(
            cluster, self.ledger, made_files=self.made_files, listens=self.events.listens
        )
        self._build_prompts()

    def _watch_ledger(self) -> None:
        """Who hears of changes, in this order: an entry of the history is there before its end is
        told to anybody."""
        reports = PromptReports(
            self.cluster.clock, self.cluster.on_prompt, self.cluster.on_prompt_end
        )
        self.ledger.observers += [
            self.spool.observe,
            self.own_history.observe,
            self._count_load,
            reports.observe,
            self.events.observe,
            self._tell_lost,
        ]

    def _build_prompts(self) -> None:
        cluster, ledger = self.cluster, self.ledger
        transfer = Transfer(cluster, ledger, self._stage)
        self.submissions = Submissions(
            cluster,
            ledger,
            stage=self._stage,
            held=self._held,
            files_of=self._files_of,
            ready=self._ready,
            lacks=self._lacks,
        )
        self.intake = PromptIntake(cluster, ledger, self.submissions)
        self.rebalancer = Rebalancer(
            cluster,
            ledger,
            transfer=transfer,
            spool=self.spool,
            stage=self._stage,
            ready=self._ready,
            lacks=self._lacks,
        )
        self.failover = Failover(
            cluster,
            ledger,
            reconciler=self.reconciler,
            transfer=transfer,
            spool=self.spool,
            listens=self.events.listens,
            stage=self._stage,
            ready=self._ready,
            lacks=self._lacks,
        )

    @property
    def several(self) -> bool:
        """False with one instance: then nothing is prefixed, merged or copied."""
        return len(self.cluster.instances) > 1

    async def start(self) -> None:
        """Begin to listen: to loads, to instances that return."""
        if not self.several:
            return
        self.storage_discovery.start()
        heard = (self.state.heard, self.cluster.object_info.heard, self.storage_discovery.heard)
        # One that returns idle says nothing by itself: no frame tells that it could take work.
        for callback in (self.events.wake, *heard, self.failover.answered, self._considered):
            self.cluster.health_checker.on_success.append(callback)
        for instance in self.cluster.instances:
            instance.on_load.append(self.rebalancer.consider)
            instance.on_load.append(partial(self.reconciler.load_changed, instance))
            instance.on_output.append(partial(self.made_files.heard, instance=instance))
            instance.on_history.append(partial(self.made_files.entries_read, instance=instance))
            # A socket that cannot be opened tells of a death seconds before the circuit opens.
            instance.on_doubt.append(self.failover.doubt)
            instance.on_interruption.append(self.failover.doubt)
            instance.on_circuit.append(partial(self._circuit_changed, instance))
            instance.on_interruption.append(self.state.interrupted)
            instance.on_interruption.append(self.upload_limits.forget)

    def _considered(self, instance: Instance) -> None:
        self.rebalancer.consider()

    def _circuit_changed(self, instance: Instance, change: CircuitRecord) -> None:
        if not instance.healthy:
            self.failover.doubt(instance)

    async def close(self) -> None:
        """End what :meth:`start` and the requests since have begun."""
        await self.intake.close()
        await self.failover.close()
        await self.rebalancer.close()
        await self.spool.close()
        await self.reconciler.close()
        await self.storage_discovery.close()
        await self.uploads.close()
        self.files.close()
        await self.state.close()

    # --- what instances can do ---------------------------------------------------------------

    def node_info(self, instance: Instance) -> Mapping[str, Any]:
        """Its ``/object_info``, as far as it is known."""
        return self.cluster.object_info.known(instance) or {}

    async def lacks(self, graph: Mapping[str, Any], instance: Instance) -> float:
        """How many node classes and model files of ``graph`` it lacks; UNKNOWN_LACK if unknown."""
        cache = self.cluster.object_info
        try:
            if cache.known(instance) is None:
                if not await self.cluster.health_checker.check(instance):
                    return UNKNOWN_LACK
                async with self.cluster.clock.timeout(OBJECT_INFO_TIMEOUT_S):
                    await cache.of(instance)
            else:
                await cache.of(instance)  # at once; asked anew in the background if it is old
        except (InstanceError, TimeoutError):
            return UNKNOWN_LACK
        missing = cache.missing_for(graph, instance)
        return UNKNOWN_LACK if missing is None else len(missing)

    # --- what parts ask of others ------------------------------------------------------------

    async def _lacks(self, prompt: Prompt, instance: Instance) -> float:
        return await self.lacks(_graph(prompt), instance)

    async def _stage(self, prompt: Prompt, instance: Instance, *, fresh: bool = False) -> bool:
        return await self.inputs.stage(_graph(prompt), instance, fresh=fresh)

    def _held(self, prompt: Prompt, instance: Instance) -> int:
        return self.inputs.held(_graph(prompt), instance)

    def _files_of(self, prompt: Prompt, instance: Instance) -> list[FileName]:
        return self.inputs.files_in(_graph(prompt), instance)

    async def _ready(self, prompt: Prompt, instance: Instance) -> bool:
        return await self.events.ready(prompt.client_id, instance)

    def _count_load(self, change: Change) -> None:
        """An observer of the ledger: a client's prompt counts as load of its instance at once."""
        instance = change.prompt.instance
        if change.is_acceptance and change.prompt.job is None and instance is not None:
            self.cluster.prompt_forwarded(instance)

    def _tell_lost(self, change: Change) -> None:
        """An observer of the ledger: a client hears of an end that no instance tells."""
        prompt = change.prompt
        error = self.own_history.error_of(prompt.prompt_id) if change.is_end else None
        if error is not None:
            self.events.tell(prompt.client_id, "execution_error", error)
            over = {"node": None, "prompt_id": prompt.prompt_id}
            self.events.tell(prompt.client_id, "executing", over)


def _graph(prompt: Prompt) -> Mapping[str, Any]:
    return {} if prompt.post is None else prompt.post.graph
