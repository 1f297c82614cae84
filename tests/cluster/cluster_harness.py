"""What the tests of the cluster share: instances without a server, graphs, waiting for facts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from manual_clock import ManualClock, settle
from rooms import make_job_prompts
from yarl import URL

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.health_checker import DEMAND_INTERVAL_S
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.submit_once import SECOND_LOOK_S
from comfy_proxy.cluster.websocket_pool import PoolState, PromptSocket, WebSocketPool
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.jobs.runs.prompt_execution import Phase, PromptExecution
from comfy_proxy.jobs.workflows.graph import Graph
from comfy_proxy.ledger.prompt import JobRef

LONG_S = 600.0
"""How long a TimedPass runs that the test itself ends."""


def make_instance(clock: ManualClock, number: int = 1, **options: Any) -> Instance:
    """An instance that no server stands behind."""
    return Instance(id=str(number), url=URL(f"http://gpu{number}:8188"), clock=clock, **options)


async def eventually(condition: Callable[[], object]) -> None:
    """Return as soon as the condition holds; fails the test if it never does."""
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0.001)


async def left_alone(cluster: Cluster, clock: ManualClock) -> None:
    """Let the further checks of those that have begun to fail go by: from then on they are checked
    at the interval, and for whoever waits."""
    checker = cluster.health_checker
    await eventually(lambda: checker._further.busy)
    while checker._further.busy:
        await eventually(lambda: not checker._checks)
        await clock.advance(DEMAND_INTERVAL_S)
        await settle()


async def second_look(clock: ManualClock) -> None:
    """Let the moment go by after which an instance is asked once more for a prompt."""
    await eventually(
        lambda: any(one.deadline - clock.monotonic() < 2 * SECOND_LOOK_S for one in clock._timeouts)
    )
    await clock.advance(2 * SECOND_LOOK_S)


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def graph(*, colour: int = 1, seconds: float | None = None, by_frame: bool = False) -> Graph:
    """A picture of one colour; it takes ``seconds`` if given. Equal graphs are served cached."""
    prompt = {"1": node("EmptyImage", width=16, height=8, batch_size=1, color=colour)}
    source = "1"
    if seconds is not None:
        prompt["2"] = node("TimedPass", image=["1", 0], seconds=seconds, salt=colour)
        source = "2"
    output = "SaveImageWebsocket" if by_frame else "PreviewImage"
    prompt["9"] = node(output, images=[source, 0])
    return Graph(prompt=prompt, output_nodes=frozenset(("9",)), by_frame=by_frame)


def failing_graph() -> Graph:
    prompt = {
        "1": node("EmptyImage", width=16, height=8, batch_size=1, color=1),
        "2": node("FailNode", image=["1", 0], salt=0),
        "9": node("PreviewImage", images=["2", 0]),
    }
    return Graph(prompt=prompt, output_nodes=frozenset(("9",)), by_frame=False)


def state(opened: int = 0, in_use: int = 0, waiting: int = 0) -> PoolState:
    return PoolState(open=opened, in_use=in_use, waiting=waiting)


class Holder:
    """A task that leases a socket and holds it until told to give it back."""

    def __init__(self, pool: WebSocketPool) -> None:
        self.socket: PromptSocket | None = None
        self._let_go = asyncio.Event()
        self.task = asyncio.create_task(self._hold(pool))

    async def _hold(self, pool: WebSocketPool) -> None:
        async with pool.lease() as self.socket:
            await self._let_go.wait()

    async def has_one(self) -> PromptSocket:
        await eventually(lambda: self.socket or self.task.done())
        assert self.socket is not None
        return self.socket

    async def let_go(self) -> None:
        self._let_go.set()
        await self.task

    async def cancel(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


async def holders(pool: WebSocketPool, count: int) -> list[Holder]:
    held = [Holder(pool) for _ in range(count)]
    for holder in held:
        await holder.has_one()
    return held


class Run:
    """A prompt on its way at an instance of a cluster; ``task`` ends as ``PromptRun.run`` does."""

    def __init__(self, cluster: Cluster, graph: Graph, *, at: int = 0) -> None:
        self.instance = cluster.instances[at]
        self.placement = Placement(self.instance)
        self.updates: list[tuple[Phase, float]] = []
        prompts = make_job_prompts(cluster)
        record = prompts.received(JobRef(job_id="job", job_type="test"))
        self.prompt = prompts.run(self.placement, graph, record, self._update)
        self.task = asyncio.create_task(self.prompt.run())

    def offer(self, target: Placement) -> None:
        """As the scheduler does: a place elsewhere, and the move there in the background."""
        self.placement.offer(target)
        assert self.placement.move is not None
        self.moving = asyncio.create_task(self.placement.move())

    def _update(self, execution: PromptExecution) -> None:
        self.updates.append((execution.phase, execution.percentage))

    async def running(self) -> None:
        await eventually(lambda: self.placement.running or self.task.done())
        assert not self.task.done()

    async def waits_there(self, worker: EmbeddedWorker) -> None:
        """Behind one that runs."""
        await eventually(
            lambda: self.prompt.prompt_id in waiting(worker) and running(worker) and self.updates
        )


async def somebody(cluster: Cluster, graph: Graph, prompt_id: str = "theirs") -> None:
    """Another client's prompt at the first instance."""
    client = cluster.clients[cluster.instances[0]]
    await client.submit(graph.prompt, prompt_id=prompt_id, client_id="somebody")


def waiting(worker: EmbeddedWorker) -> list[str]:
    """Ids of the prompts that wait in the worker's own queue."""
    return _ids(worker, "queue_pending")


def running(worker: EmbeddedWorker) -> list[str]:
    return _ids(worker, "queue_running")


def _ids(worker: EmbeddedWorker, kind: str) -> list[str]:
    life = worker._life
    return [] if life is None else [entry[1] for entry in life.instance.queue.snapshot()[kind]]


async def nothing_left(cluster: Cluster, *workers: EmbeddedWorker) -> None:
    """No prompt waits or runs anywhere, no place is taken, no socket leased, no chore left."""
    for worker in workers:
        await eventually(lambda worker=worker: not waiting(worker) and not running(worker))
    await eventually(lambda: not cluster._chores)
    for instance in cluster.instances:
        assert instance.placements == []
        assert cluster.connections.pool_state(instance).in_use == 0
        assert cluster.connections.pool_state(instance).waiting == 0
