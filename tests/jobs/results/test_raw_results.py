"""Results of a prompt that has ended, fetched from its instance: all of them, or none is kept."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_proxy.cluster.output_file import OutputFile, ResultFileLostError
from comfy_proxy.errors import ResultError, ResultFrameLostError
from comfy_proxy.jobs.results.raw_results import raw_results
from comfy_proxy.jobs.runs.prompt_execution import PromptExecution
from comfy_proxy.jobs.workflows.graph import Graph
from comfy_proxy.stored_bytes import StoredBytes


class Files:
    """An instance's client that has ``a.mp4`` and nothing else."""

    async def view(self, file: OutputFile, into: StoredBytes) -> None:
        if file.filename != "a.mp4":
            raise ResultFileLostError("gone")
        await into.write(b"video")


def execution(*, by_frame: bool = False, **outputs: Any) -> PromptExecution:
    prompt = {"1": {"class_type": "A", "inputs": {}}}
    made = PromptExecution(Graph(prompt=prompt, output_nodes=frozenset(), by_frame=by_frame), "p")
    made.outputs = {"1": outputs} if outputs else {}
    return made


async def contents(of: PromptExecution) -> list[bytes]:
    client: Any = Files()
    raw = await raw_results(of.graph, of.pictures, of.outputs, client)
    return [await one.body.read() for one in raw]


async def test_files_texts_and_data() -> None:
    """In their order; half characters of file names are replaced."""
    told = execution(gifs=[{"filename": "a.mp4"}], text=["ä", "\ud800"], n=[float("inf"), 2**70])
    assert await contents(told) == [
        b"video", "ä".encode(), b"?", b'{"n":[null,1180591620717411303424]}',
    ]  # fmt: skip


async def test_pictures_that_came_as_frames() -> None:
    """Each of a batch; none at all is a loss that is worth another try."""
    told = execution(by_frame=True)
    told.pictures = [b"one", b"two"]
    assert await contents(told) == [b"one", b"two"]
    with pytest.raises(ResultFrameLostError):
        await contents(execution(by_frame=True))


async def test_nothing_was_told() -> None:
    """A workflow without a result is told as that."""
    with pytest.raises(ResultError, match="without a result"):
        await contents(execution())


@pytest.mark.parametrize("last", [{"images": [{"filename": "b.png"}]}, {"deep": "nested"}])
async def test_one_that_cannot_be_had(spools: list[StoredBytes], last: dict[str, Any]) -> None:
    """Then nothing of the others is kept either; data without end is the node's fault."""
    if "deep" in last:
        deep: Any = 0
        for _ in range(5000):
            deep = [deep]
        last = {"deep": deep}
    with pytest.raises((ResultError, ResultFileLostError)):
        await contents(execution(gifs=[{"filename": "a.mp4"}], **last))
    assert len(spools) == 2
    assert all(one.closed for one in spools)
