"""One prompt on one instance: from the listener in place to the picture, or to nothing left."""

from __future__ import annotations

import asyncio
import io
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cluster_harness import (
    LONG_S,
    Run,
    eventually,
    failing_graph,
    graph,
    node,
    nothing_left,
    running,
    somebody,
    waiting,
)
from manual_clock import ManualClock, settle
from PIL import Image

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.comfyui_frames import PromptFrame, decode_text
from comfy_proxy.cluster.websocket_pool import WebSocketPool
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.errors import (
    InstanceRefusedError,
    InterruptedPromptError,
    PromptLostError,
    PromptRejectedError,
    ResultError,
    WorkflowError,
)
from comfy_proxy.jobs.results.raw_results import RawResults
from comfy_proxy.jobs.runs.prompt_execution import Phase
from comfy_proxy.jobs.workflows.graph import Graph


async def opened(task: Awaitable[RawResults]) -> Image.Image:
    (made,) = await task
    return Image.open(io.BytesIO(await made.body.read()))


@pytest.mark.parametrize("by_frame", [False, True])
async def test_picture(cluster: Cluster, worker: EmbeddedWorker, by_frame: bool) -> None:
    """The picture comes by file or by frame, with progress up to 100, and the place is free."""
    run = Run(cluster, graph(colour=0xFF0000, seconds=0.1, by_frame=by_frame))
    picture = await opened(run.task)
    assert (picture.size, picture.getpixel((0, 0))) == ((16, 8), (255, 0, 0))
    assert str(uuid.UUID(run.prompt.prompt_id)) == run.prompt.prompt_id
    assert worker.executed == [run.prompt.prompt_id]
    percentages = [percentage for _, percentage in run.updates]
    assert percentages == sorted(percentages)
    assert run.updates[0] == (Phase.QUEUED, 0)
    assert run.updates[-1] == (Phase.SUCCEEDED, 100)
    assert len(set(percentages)) > 3
    await nothing_left(cluster, worker)


async def test_server_without_metadata(
    connected: Callable[..., Awaitable[Cluster]], tmp_path: Path
) -> None:
    """An older server's frames name nobody; the picture is found all the same."""
    async with EmbeddedWorker(base_directory=tmp_path, preview_metadata=False) as worker:
        cluster = await connected(worker)
        run = Run(cluster, graph(colour=255, by_frame=True))
        assert (await opened(run.task)).getpixel((0, 0)) == (0, 0, 255)
        await cluster.close()


@pytest.mark.parametrize("by_frame", [False, True])
async def test_cached_prompts_lose_nothing(
    cluster: Cluster, worker: EmbeddedWorker, by_frame: bool
) -> None:
    """Prompts that end in milliseconds are heard: the listener is there first (trap 1)."""
    runs = []
    for _ in range(3):
        batch = [Run(cluster, graph(by_frame=by_frame)) for _ in range(3)]
        await asyncio.gather(*(run.task for run in batch))
        runs += batch
    assert worker.executed == [run.prompt.prompt_id for run in runs]
    await nothing_left(cluster, worker)


async def test_others_in_the_queue(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """Ours ends when it ends, whatever waits behind it or ran before it (trap 3)."""
    await somebody(cluster, graph(seconds=LONG_S), "before")
    run = Run(cluster, graph(colour=2, seconds=0.05))
    await run.waits_there(worker)
    assert not run.placement.running
    await somebody(cluster, graph(colour=3, seconds=LONG_S), "behind")
    client = cluster.clients[run.instance]
    await client.interrupt("before")
    await run.task
    assert running(worker) == ["behind"]
    await eventually(lambda: run.instance.prompts.external_jobs == 1)
    await client.interrupt("behind")
    await nothing_left(cluster, worker)


async def test_load_right_after_the_end(cluster: Cluster, pool: WebSocketPool) -> None:
    """The status that follows our end hides nothing of what others queued, read at once or not."""
    run = Run(cluster, graph(seconds=LONG_S))
    await run.running()
    (socket,) = pool._in_use
    success = PromptFrame(type="execution_success", prompt_id=run.prompt.prompt_id, data={})
    socket.on_prompt_end(success.prompt_id)
    status = '{"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 1}}}}'
    socket._take(decode_text(status))
    assert run.instance.prompts.external_jobs == 1
    run.placement.in_queue = True
    run.task.cancel()
    await asyncio.wait([run.task])


async def test_strangers_picture(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """A picture that is broadcast to every socket is not taken for ours (trap 10)."""
    await somebody(cluster, graph(seconds=LONG_S), "before")
    theirs = {
        "1": node("EmptyImage", width=99, height=99, batch_size=1, color=7),
        "9": node("SaveImageWebsocket", images=["1", 0]),
    }
    session = cluster.connections.session(cluster.instances[0])
    await session.post(f"{worker.url}/prompt", json={"prompt": theirs})
    run = Run(cluster, graph(by_frame=True))
    await run.waits_there(worker)
    await cluster.clients[run.instance].interrupt("before")
    assert (await opened(run.task)).size == (16, 8)


async def test_error_of_a_node(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """ComfyUI's own text is the job's error; the instance is not to blame."""
    run = Run(cluster, failing_graph())
    with pytest.raises(WorkflowError, match="out of memory"):
        await run.task
    assert run.instance.breaker.consecutive_failures == 0
    await nothing_left(cluster, worker)


async def test_rejected_graph(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """A graph that does not fit ends at once, and nothing was queued."""
    prompt = {"9": node("NoSuchNode")}
    run = Run(cluster, Graph(prompt=prompt, output_nodes=frozenset(("9",)), by_frame=False))
    with pytest.raises(PromptRejectedError):
        await run.task
    assert worker.submitted == []
    await nothing_left(cluster, worker)


async def test_a_graph_that_would_run_in_part(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """ComfyUI takes it and leaves an output out (trap 25): it is withdrawn, and the reason told."""
    await somebody(cluster, graph(seconds=LONG_S), "before")
    prompt = {
        **graph(colour=5).prompt,
        "2": node("EmptyImage", width=10**6, height=8, batch_size=1, color=0),
        "8": node("PreviewImage", images=["2", 0]),
    }
    run = Run(cluster, Graph(prompt=prompt, output_nodes=frozenset(), by_frame=False))
    with pytest.raises(PromptRejectedError, match=r"in part: EmptyImage \(node 2\): Value 1000000"):
        await run.task
    assert worker.submitted == ["before", run.prompt.prompt_id]
    assert not run.placement.in_queue
    await cluster.clients[run.instance].interrupt("before")
    await nothing_left(cluster, worker)
    assert worker.started == ["before"]


async def test_an_output_that_does_not_count_may_be_left_out(cluster: Cluster) -> None:
    """The results that the workflow names are all there."""
    prompt = {
        **graph(colour=6).prompt,
        "7": node("PreviewImage"),
    }
    run = Run(cluster, Graph(prompt=prompt, output_nodes=frozenset(("9",)), by_frame=False))
    assert (await opened(run.task)).size == (16, 8)


async def test_interrupted_by_somebody(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """Somebody's interrupt at the instance ends the job and says so."""
    run = Run(cluster, graph(seconds=LONG_S))
    await run.running()
    await cluster.clients[run.instance].interrupt(run.prompt.prompt_id)
    with pytest.raises(InterruptedPromptError):
        await run.task


async def test_no_picture(cluster: Cluster) -> None:
    """A workflow that ends without its picture is told as that."""
    prompt = graph().prompt
    run = Run(cluster, Graph(prompt=prompt, output_nodes=frozenset(("1",)), by_frame=False))
    with pytest.raises(ResultError):
        await run.task


@pytest.mark.parametrize(
    ("answer", "error"), [("404", PromptLostError), ("500", InstanceRefusedError)]
)
async def test_result_file_is_gone(
    cluster: Cluster, worker: EmbeddedWorker, answer: str, error: type
) -> None:
    """A file lost between the end and the download (trap 5) is the instance's fault."""
    worker.faults.answers = {"/view": answer}
    run = Run(cluster, graph())
    with pytest.raises(error):
        await run.task
    await nothing_left(cluster, worker)


async def test_cancelled_while_running(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """A cancelled job is interrupted at the instance before the cancellation goes on."""
    run = Run(cluster, graph(seconds=LONG_S))
    await run.running()
    run.task.cancel()
    await asyncio.wait([run.task])
    assert run.task.cancelled()
    await nothing_left(cluster, worker)
    assert worker.executed == []


async def test_cancelled_while_waiting(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """A cancelled job is taken out of the instance's queue; others' prompts go on."""
    await somebody(cluster, graph(seconds=LONG_S))
    run = Run(cluster, graph(colour=2))
    await run.waits_there(worker)
    run.task.cancel()
    await asyncio.wait([run.task])
    assert waiting(worker) == []
    assert running(worker) == ["theirs"]


async def test_cancelled_in_mid_submission(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """A POST that is under way is waited for, so that what it queues is withdrawn."""
    worker.faults.hang = ("/prompt",)
    run = Run(cluster, graph(seconds=LONG_S))
    await eventually(lambda: worker.faults._waiters)
    run.task.cancel()
    await settle()
    assert not run.task.done()
    worker.faults.clear()
    await asyncio.wait([run.task])
    assert run.task.cancelled()
    await nothing_left(cluster, worker)
    assert worker.submitted == [run.prompt.prompt_id]


@pytest.mark.parametrize("again", [False, True])
async def test_cancelled_at_a_hung_instance(
    cluster: Cluster, worker: EmbeddedWorker, clock: ManualClock, again: bool
) -> None:
    """Withdrawing from an instance that hangs is given up after five seconds."""
    worker.faults.hang = ("/prompt",)
    run = Run(cluster, graph())
    await eventually(lambda: worker.faults._waiters)
    run.task.cancel()
    await settle()
    if again:
        run.task.cancel()
    await clock.advance(4.9)
    assert not run.task.done()
    await clock.advance(0.2)
    await asyncio.wait([run.task])
    assert run.task.cancelled()
    assert run.instance.placements == []


async def test_cancelled_while_it_waits_for_a_socket(
    connected: Callable[..., Awaitable[Cluster]], worker: EmbeddedWorker
) -> None:
    """Nothing was sent, so nothing is withdrawn, and the next one gets the socket."""
    cluster = await connected(worker, max_connections_per_instance=1)
    first = Run(cluster, graph(seconds=0.1))
    second, third = Run(cluster, graph(colour=2)), Run(cluster, graph(colour=3))
    await first.running()
    second.task.cancel()
    await third.task
    assert worker.submitted == [first.prompt.prompt_id, third.prompt.prompt_id]
    await nothing_left(cluster, worker)
