"""The instances and all that serves them, made and ended as one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import suppress
from contextvars import Context
from functools import partial
from types import MappingProxyType

from loguru import logger
from yarl import URL

from comfy_proxy.clock import Clock, SystemClock
from comfy_proxy.cluster.circuit_breaker import CircuitState
from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.connection_manager import ConnectionManager
from comfy_proxy.cluster.drains import Drains
from comfy_proxy.cluster.gpu_memory import GpuMemory
from comfy_proxy.cluster.hang_watch import HangWatch
from comfy_proxy.cluster.hangs import Hangs
from comfy_proxy.cluster.health_checker import HealthChecker
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.load_balancer import LoadBalancer
from comfy_proxy.cluster.membership import Membership
from comfy_proxy.cluster.newcomers import Newcomers
from comfy_proxy.cluster.object_info.cache import ObjectInfoCache
from comfy_proxy.cluster.object_info.capabilities import Capabilities
from comfy_proxy.cluster.object_info.graph_support import GraphSupport
from comfy_proxy.cluster.planning.costs import Costs
from comfy_proxy.cluster.planning.experience import Experience
from comfy_proxy.cluster.planning.model_files import ModelFiles
from comfy_proxy.cluster.planning.planner import Planner
from comfy_proxy.cluster.roster import ByInstance, Roster
from comfy_proxy.cluster.scheduler import Scheduler
from comfy_proxy.cluster.standstill import Standstills
from comfy_proxy.errors import InstanceError, NoHealthyInstanceError
from comfy_proxy.metrics.records import CircuitRecord, PromptEnd, PromptEvent, PromptRecord
from comfy_proxy.observers import tell
from comfy_proxy.settings import Settings
from comfy_proxy.tls import client_context
from comfy_proxy.tracing import untraced


class Cluster:
    """Makes the parts of the cluster and connects them.

    ``classes`` are the node classes that our workflows may use: what is remembered of an instance's
    ``/object_info`` is reduced to them. ``clock`` None is the system's. ``ids`` are those that
    instances have had before, by their URLs. ``several`` says whether there were several at the
    start: one alone is passed everything as it comes, and stays alone.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        classes: Collection[str] = (),
        clock: Clock | None = None,
        ids: Mapping[URL, str] = MappingProxyType({}),
    ) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        self._made_at = self.clock.monotonic()
        newcomers = Newcomers(settings, self.clock, ids)
        self.instances = Roster(newcomers.configured())
        self.connections = _connections(self.instances, settings, self.clock)
        self.clients = _clients(self.instances, self.connections, settings, self.clock)
        self.load_balancer = LoadBalancer(self.instances)
        self.object_info = ObjectInfoCache(self.clients, clock=self.clock)
        self.capabilities = Capabilities(self.object_info, classes=classes, clock=self.clock)
        self.health_checker = _health_checker(self.instances, self.clients, settings, self.clock)
        self.hang_watch = HangWatch(
            self.instances,
            self.health_checker.check,
            clock=self.clock,
            timeout_s=settings.hang_timeout_s,
        )
        self.graph_support = GraphSupport(self.object_info, self.health_checker, clock=self.clock)
        self.model_files = ModelFiles(self.clients, clock=self.clock)
        self.planner = _planner(self.instances, self.model_files, settings, self.clock)
        self.hangs = Hangs(self.instances, self.hang_watch, self.planner, clock=self.clock)
        self.gpu_memory = GpuMemory(self.clients, self.planner)
        self.experience = Experience(self.planner, self.clock)
        self.scheduler = _scheduler(self, settings)
        self.drains = Drains(self.scheduler, self.clock, self.learn_load)
        self.standstills = _standstills(self, settings.hang_timeout_s)
        self.membership = _membership(self, newcomers)
        self.several = self.membership.several
        self.on_prompt: list[Callable[[PromptRecord], None]] = []
        self.on_prompt_end: list[Callable[[PromptEnd], None]] = []
        self._chores: set[asyncio.Task[None]] = set()
        self._connect()

    def _connect(self) -> None:
        """Have the parts hear of each other what concerns them."""
        self.health_checker.on_success += (self.capabilities.heard, self.gpu_memory.heard)
        self.health_checker.on_success.append(self.standstills.answered)
        self.health_checker.on_queue.append(self.standstills.queue_read)
        self.instances.each(self._connect_one)

    def _connect_one(self, instance: Instance) -> None:
        instance.on_interruption.append(self.object_info.forget)
        instance.on_interruption.append(self.planner.restarted)
        instance.on_doubt.append(self.health_checker.look)
        instance.on_circuit.append(self._circuit_changed)
        instance.on_circuit.append(partial(self._hang_or_return, instance))
        instance.on_circuit.append(lambda change: self.scheduler.door.open())

    @property
    def uptime_s(self) -> float:
        """Seconds since the cluster was made."""
        return self.clock.monotonic() - self._made_at

    async def start(self) -> None:
        """Open the sessions and begin the health checks; returns before any instance has answered.

        So the proxy starts although instances are down.
        """
        await self.connections.start()
        self.hangs.start()
        self.standstills.start()
        await self.health_checker.start()

    async def close(self) -> None:
        """End everything that :meth:`start` and the work since have begun."""
        # The checks first: one that passes begins a chore (_learn). The connections last.
        await self.health_checker.close()
        await self.hangs.close()
        await self.standstills.close()
        await self.scheduler.close()
        for task in tuple(self._chores):
            task.cancel()
        if self._chores:
            await asyncio.wait(tuple(self._chores))
        await self.object_info.close()
        await self.model_files.close()
        await self.connections.close()

    def _circuit_changed(self, change: CircuitRecord) -> None:
        left = [instance.host for instance in self.instances if instance.healthy]
        if change.old == CircuitState.CLOSED and not left:
            logger.error("no ComfyUI instance is healthy: jobs wait, prompts are refused")
        elif change.new == CircuitState.CLOSED and left == [change.instance]:
            logger.warning("the outage is over: {} is healthy again", change.instance)

    def _hang_or_return(self, instance: Instance, change: CircuitRecord) -> None:
        self.hangs.circuit_changed(instance)

    async def healthy(self, among: Iterable[Instance] | None = None) -> list[Instance]:
        """Those of ``among`` (None: of all) that are healthy, in the same order.

        If none is, each is checked once, all at the same time, for HEALTH_CHECK_TIMEOUT at most:
        an instance that answers is healthy again. Callers at the same time share the checks, and
        one whose check has failed is not dialled for the next second
        (``circuit_breaker.COOLDOWN_S``).
        """
        asked = self.instances if among is None else tuple(among)
        if not any(one.healthy for one in asked):
            await asyncio.gather(*map(self.health_checker.check, asked))
        return [one for one in asked if one.healthy]

    async def primary(self, exclude: Collection[Instance] = ()) -> Instance:
        """The first healthy instance, after a look for one that has returned if there is none.

        As :meth:`LoadBalancer.primary`. Raises NoHealthyInstanceError.
        """
        with suppress(NoHealthyInstanceError):
            return self.load_balancer.primary(exclude)
        await self.healthy(one for one in self.instances if one not in exclude)
        return self.load_balancer.primary(exclude)

    def prompt_forwarded(self, instance: Instance) -> None:
        """A client's own prompt went to ``instance``: it counts as load like one of ours.

        ``status`` frames tell when it is gone: a socket is opened to hear them if there is none.
        """
        instance.prompts.external_jobs += 1
        # Here too until a `status` frame tells the true length: when an instance dies before its
        # first frame, this says that it had a prompt to lose.
        instance.prompts.queue_remaining += 1
        self.spawn(self._listen(instance), context=untraced())

    def tell_prompt(
        self,
        event: PromptEvent,
        instance: Instance,
        prompt_id: str | None,
        *,
        job_type: str | None = None,
    ) -> None:
        """Tell the observers what became of a prompt; ``job_type`` if it is one of our jobs'."""
        record = PromptRecord(
            event=event, instance=instance.host, prompt_id=prompt_id, job_type=job_type
        )
        tell(self.on_prompt, record)

    async def learn_load(self, instance: Instance) -> None:
        """Have its ``status`` frames tell how long its queue is; returns when one has told.

        Nothing happens if it does not answer within HEALTH_CHECK_TIMEOUT.
        """
        if self.connections.pool_state(instance).open:
            return
        told = asyncio.Event()
        instance.prompts.on_load.append(told.set)
        try:
            async with self.clock.timeout(self.settings.health_check_timeout_s):
                await self.connections.pool(instance).listen()
                await told.wait()
        except (InstanceError, TimeoutError) as error:
            logger.debug("{} does not tell its queue: {}", instance.host, error)
        finally:
            instance.prompts.on_load.remove(told.set)

    async def _listen(self, instance: Instance) -> None:
        try:
            await self.connections.pool(instance).listen()
        except InstanceError as error:
            logger.debug("the load of {} cannot be heard: {}", instance.host, error.message)

    def spawn(self, chore: Coroutine[None, None, None], *, context: Context | None = None) -> None:
        """Run ``chore`` in the background; it is ended with the cluster at the latest."""
        task = asyncio.create_task(chore, context=context)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)


def _connections(instances: Roster, settings: Settings, clock: Clock) -> ConnectionManager:
    authority = settings.comfyui_ca_file
    return ConnectionManager(
        instances,
        max_connections=settings.max_connections_per_instance,
        clock=clock,
        tls=None if authority is None else client_context(authority),
    )


def _health_checker(
    instances: Roster, clients: Mapping[Instance, ComfyUIClient], settings: Settings, clock: Clock
) -> HealthChecker:
    return HealthChecker(
        instances,
        clients,
        interval_s=settings.health_check_interval_s,
        timeout_s=settings.health_check_timeout_s,
        clock=clock,
    )


def _scheduler(cluster: Cluster, settings: Settings) -> Scheduler:
    return Scheduler(
        cluster.load_balancer,
        cluster.health_checker,
        cluster.planner,
        clock=cluster.clock,
        pending_timeout_s=settings.pending_timeout_s,
    )


def _standstills(cluster: Cluster, timeout_s: float) -> Standstills:
    roster, clients = cluster.instances, cluster.clients
    return Standstills(roster, clients, cluster.drains, clock=cluster.clock, timeout_s=timeout_s)


def _membership(cluster: Cluster, newcomers: Newcomers) -> Membership:
    return Membership(
        cluster.instances,
        newcomers,
        cluster.drains,
        cluster.connections,
        clock=cluster.clock,
        spawn=cluster.spawn,
    )


def _planner(instances: Roster, files: ModelFiles, settings: Settings, clock: Clock) -> Planner:
    return Planner(
        instances,
        clock=clock,
        costs=Costs(files.size),
        files=files,
        patience_s=settings.affinity_patience_s,
    )


def _clients(
    instances: Roster,
    connections: ConnectionManager,
    settings: Settings,
    clock: Clock,
) -> ByInstance[ComfyUIClient]:
    """What speaks with each of them."""
    timeout_s = settings.comfyui_timeout_s
    clients = ByInstance(
        lambda one: ComfyUIClient(one, connections, clock=clock, timeout_s=timeout_s)
    )
    instances.each(clients.__getitem__)
    return clients
