"""The parts that make the instances one ComfyUI, built and joined; ``keys.GATEWAY`` holds it."""

from __future__ import annotations

from functools import partial

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance, takes_work
from comfy_proxy.dispatch.dispatcher import Dispatcher
from comfy_proxy.dispatch.zombies import Zombies
from comfy_proxy.gateway.assets.assets import Assets
from comfy_proxy.gateway.custom.askers import Askers
from comfy_proxy.gateway.custom.asking_nodes import AskingNodes
from comfy_proxy.gateway.custom.custom_routes import CustomRoutes
from comfy_proxy.gateway.custom.known_packs import KNOWN_PACKS
from comfy_proxy.gateway.custom.restarts import Restarts
from comfy_proxy.gateway.custom.rows import Rows, read_rows
from comfy_proxy.gateway.custom.rules import Rules
from comfy_proxy.gateway.custom.told import Told
from comfy_proxy.gateway.events.log_subscriptions import LogSubscriptions
from comfy_proxy.gateway.events.sessions import EventSessions
from comfy_proxy.gateway.files.file_holders import FileHolders
from comfy_proxy.gateway.files.file_staging import FileStaging
from comfy_proxy.gateway.files.made_files import MadeFiles
from comfy_proxy.gateway.files.offered_uploads import OfferedUploads
from comfy_proxy.gateway.files.staging import InputStaging
from comfy_proxy.gateway.files.uploads import Uploads
from comfy_proxy.gateway.files.view import FileView
from comfy_proxy.gateway.frontend.first_page import FirstPage
from comfy_proxy.gateway.prompts.failover import Failover
from comfy_proxy.gateway.prompts.hung_prompts import HungPrompts
from comfy_proxy.gateway.prompts.intake import PromptIntake
from comfy_proxy.gateway.prompts.lost_prompts import LostPrompts
from comfy_proxy.gateway.prompts.lost_results import LostResults
from comfy_proxy.gateway.prompts.needs import Needs
from comfy_proxy.gateway.prompts.own_history import OwnHistory
from comfy_proxy.gateway.prompts.prompt_admission import PromptAdmission
from comfy_proxy.gateway.prompts.rebalancer import Rebalancer
from comfy_proxy.gateway.prompts.reconciler import Reconciler
from comfy_proxy.gateway.prompts.removed_prompts import RemovedPrompts
from comfy_proxy.gateway.prompts.reports import PromptReports
from comfy_proxy.gateway.prompts.spool import PromptSpool
from comfy_proxy.gateway.prompts.strangers import Strangers
from comfy_proxy.gateway.prompts.submission import Submissions
from comfy_proxy.gateway.prompts.transfer import Transfer
from comfy_proxy.gateway.state.shared_state import SharedState
from comfy_proxy.gateway.views.by_pattern import ByPattern
from comfy_proxy.gateway.views.features import Features, UploadLimits
from comfy_proxy.gateway.views.file_lists import FirstFound, MergedFileLists
from comfy_proxy.gateway.views.object_info import MergedObjectInfo
from comfy_proxy.gateway.views.prompt_views import PromptViews
from comfy_proxy.ledger import events
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.metrics.records import CircuitRecord


class Gateway:
    """The instances as one ComfyUI."""

    def __init__(self, cluster: Cluster, ledger: Ledger, dispatcher: Dispatcher) -> None:
        self.cluster = cluster
        self.ledger = ledger
        self.object_info = MergedObjectInfo(cluster, cluster.object_info)
        self.files = FileHolders(cluster)
        self.staging = FileStaging(self.files)
        self.inputs = InputStaging(
            self.files, self.staging, cluster.graph_support.node_info, several=self.several
        )
        self.uploads = Uploads(self.files, self.staging, self.object_info.uploads_changed)
        self.offered = OfferedUploads(self.uploads)
        self.file_view = FileView(self.files, self.staging)
        self.state = SharedState(cluster)
        self.assets = Assets(self.uploads, self.object_info.uploads_changed)
        self.upload_limits = UploadLimits(cluster)
        self.features = Features(cluster, self.upload_limits)
        self.made_files = MadeFiles(self.files, cluster.clock, unended=self.ledger)
        self.askers = Askers(cluster.clock)
        self.asking = AskingNodes(ledger)
        self.told = Told(cluster.clock)
        self.log_subscriptions = LogSubscriptions(cluster)
        self._build_events()
        self.spool = PromptSpool()
        self.zombies = Zombies(cluster)
        self.own_history = OwnHistory(cluster.clock, self.clients.tell)
        self.reconciler = Reconciler(
            cluster, self.ledger, made_files=self.made_files, listeners=self.clients
        )
        self._build_views()
        self._watch_ledger()
        self.strangers = Strangers(cluster, self.ledger)
        self._build_prompts(dispatcher)
        self.custom = self._custom_routes()

    def _build_events(self) -> None:
        self.events = EventSessions(
            self.cluster,
            self.ledger,
            made_files=self.made_files,
            askers=self.askers,
            connected=self._client_connected,
            everywhere=self.log_subscriptions.wanted,
            prefixed=self.files.storage.prefixed,
            limits=self.upload_limits,
        )
        self.clients = self.log_subscriptions.clients = self.events.clients
        self.events.start()

    def _watch_ledger(self) -> None:
        """Who hears of changes, in this order: an entry of the history is there before its end is
        told to anybody."""
        self.removed = RemovedPrompts(self.cluster, self.ledger, self.zombies)
        self.admission = PromptAdmission(self.cluster.clock, self.cluster.settings.max_spool_size)
        self.ledger.observers += [
            self.admission.observe,
            self.spool.observe,
            self.own_history.observe,
            self.lost_results.observe,
            self.views.keeper.observe,
            self.commands.late.observe,
            self._count_load,
            self.zombies.observe,
            self.removed.observe,
            PromptReports(self.cluster).observe,
            self.askers.observe,
            self.asking.observe,
            self.events.corrections.observe,
        ]

    def _build_prompts(self, dispatcher: Dispatcher) -> None:
        cluster, ledger = self.cluster, self.ledger
        dispatcher.left_behind = self.zombies.left_behind
        needs = Needs(
            self.inputs,
            self.clients,
            cluster.graph_support,
            cluster.planner,
            told=self.told,
            asking=self.asking,
        )
        transfer = Transfer(cluster, ledger, dispatcher, needs)
        submissions = Submissions(cluster, ledger, dispatcher, needs)
        self.intake = PromptIntake(cluster, ledger, submissions, self.admission)
        self.rebalancer = Rebalancer(
            cluster, ledger, dispatcher, needs, transfer=transfer, spool=self.spool
        )
        self.failover = Failover(
            cluster,
            ledger,
            dispatcher,
            needs,
            lost_prompts=LostPrompts(cluster, ledger),
            transfer=transfer,
            spool=self.spool,
        )

    def _build_views(self) -> None:
        self.first_page = FirstPage(self.cluster)
        self.lost_results = LostResults(
            self.cluster, self.ledger, self.own_history, self.clients.listens
        )
        self.views = PromptViews(
            self.cluster,
            self.ledger,
            own_history=self.own_history,
            ends_seen=self.reconciler.seen,
            losses=self.lost_results,
            bodies=self.spool,
            made_files=self.made_files,
            storage=self.files.storage,
        )
        self.reconciler.keep = self.views.keeper.read
        self.commands, self.by_prompt = self.views.commands, self.views.by_prompt
        self.first_found = FirstFound(self.cluster)
        self.merged = ByPattern(*self.views.merged, MergedFileLists(self.cluster).views)

    def _custom_routes(self) -> CustomRoutes:
        path = self.cluster.settings.routes_file
        self.rows = Rows(read_rows(path) if path else (), KNOWN_PACKS)
        rules = Rules(
            self.cluster,
            self.ledger,
            self.files,
            rows=self.rows,
            askers=self.askers,
            asking=self.asking,
            clients=self.clients,
        )
        return CustomRoutes(
            self.cluster, rules, self.told, Restarts(self.cluster.drains, self.cluster.clock)
        )

    @property
    def several(self) -> bool:
        """False with one instance: then nothing is prefixed, merged or copied."""
        return self.cluster.several

    async def start(self) -> None:
        """Begin to listen: to loads, to instances that return."""
        answered = self.cluster.health_checker.on_success
        answered += (self.zombies.heard, self.commands.late.heard)
        # What its thread had in hand when it died is in no list: that is looked for.
        self.cluster.standstills.on_found.append(
            lambda instance: self.ledger.apply(events.Doubted(instance=instance))
        )
        if not self.several:
            self._follow_of_one()
            return
        heard = (self.state.heard, self.cluster.object_info.heard)
        answered += (self.events.shared.wake, self.clients.wake, *heard, self.failover.answered)
        answered += (self.files.disks.heard, self.views.keeper.look)
        hung = HungPrompts(self.ledger)
        self.cluster.hangs.on_away.append(hung.away)
        self.cluster.hangs.on_hung.append(hung.hung)
        # One that returns idle says nothing by itself: no frame tells that it could take work.
        answered.append(lambda instance: self.rebalancer.consider(checked=instance))
        self.cluster.drains.on_change.append(self._takes_work_or_not)
        # The `status` that tells of a job's end may come before its place is given back.
        self.cluster.scheduler.on_job_left.append(self.rebalancer.consider)
        self.cluster.instances.each(self._listen)
        self.cluster.instances.on_removed.append(self._removed)
        self.cluster.membership.has_more = self.removed.has_more
        self.cluster.membership.on_leaving.append(self.removed.leaving)
        self.cluster.membership.farewells.append(self.removed.farewell)

    def _listen(self, instance: Instance) -> None:
        instance.prompts.on_load.append(self.rebalancer.consider)
        instance.prompts.on_load.append(partial(self.reconciler.load_changed, instance))
        instance.prompts.on_load.append(partial(self.strangers.load_changed, instance))
        instance.prompts.on_load.append(partial(self.views.keeper.look, instance))
        instance.on_output.append(partial(self.made_files.heard, instance=instance))
        instance.on_history.append(partial(self.made_files.entries_read, instance=instance))
        # A socket that cannot be opened tells of a death seconds before the circuit opens.
        instance.on_doubt.append(self.failover.doubt)
        instance.on_interruption.append(self.failover.doubt)
        instance.on_circuit.append(partial(self._circuit_changed, instance))
        instance.on_interruption.append(self.state.interrupted)
        instance.on_interruption.append(self.upload_limits.forget)
        instance.on_interruption.append(self.made_files.outputs.interrupted)
        instance.on_interruption.append(self.told.interrupted)
        instance.on_interruption.append(self.files.disks.interrupted)

    def _follow_of_one(self) -> None:
        """With one instance clients' prompts pass unread, and are not on record; those of the Comfy
        API are, and are followed as where there are several."""
        answered = self.cluster.health_checker.on_success
        answered += (self.clients.wake, self.failover.answered, self.views.keeper.look)
        instance = self.cluster.instances[0]
        instance.prompts.on_load.append(partial(self.reconciler.load_changed, instance))
        instance.prompts.on_load.append(partial(self.views.keeper.look, instance))
        instance.on_doubt.append(self.failover.doubt)
        instance.on_interruption.append(self.failover.doubt)
        instance.on_circuit.append(partial(self._circuit_changed, instance))

    def _removed(self, instance: Instance) -> None:
        self.told.removed(instance)
        self.ledger.apply(events.Removed(instance=instance))

    def _takes_work_or_not(self, instance: Instance) -> None:
        """It is to run empty from now on, or takes work again: lost prompts may wait for that."""
        self.rebalancer.consider()
        if takes_work(instance):
            self.failover.answered(instance)

    def _client_connected(self, client_id: str, instance: Instance) -> None:
        self.log_subscriptions.connected(client_id, instance)
        self.reconciler.reconnected(client_id, instance)

    def _circuit_changed(self, instance: Instance, change: CircuitRecord) -> None:
        if not instance.healthy:
            self.failover.doubt(instance)

    async def close(self) -> None:
        """End what :meth:`start` and the requests since have begun."""
        await self.intake.close()
        await self.first_page.close()
        await self.custom.close()
        await self.events.close()
        await self.log_subscriptions.close()
        await self.failover.close()
        await self.zombies.close()
        await self.rebalancer.close()
        await self.spool.close()
        await self.reconciler.close()
        await self.views.keeper.close()
        await self.commands.late.close()
        await self.strangers.close()
        await self.uploads.close()
        await self.files.disks.close()
        self.files.close()
        await self.state.close()

    # --- what hears of the ledger ------------------------------------------------------------

    def _count_load(self, change: Change) -> None:
        """An observer of the ledger: a client's prompt counts as load of its instance at once."""
        instance = change.prompt.instance
        if change.is_acceptance and change.prompt.job is None and instance is not None:
            self.cluster.prompt_forwarded(instance)
