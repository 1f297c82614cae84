"""How far a prompt is, from the recordings of a real ComfyUI."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cluster_harness import graph

from comfy_proxy.cluster.comfyui_client import OutputFile
from comfy_proxy.cluster.comfyui_frames import (
    PictureFrame,
    PromptFrame,
    decode_binary,
    decode_text,
)
from comfy_proxy.errors import InterruptedPromptError, InvalidAnswerError, WorkflowError
from comfy_proxy.jobs.results.prompt_outputs import told_results
from comfy_proxy.jobs.runs.prompt_execution import Phase, PromptExecution
from comfy_proxy.jobs.workflows.graph import Graph

RECORDINGS = Path(__file__).parents[1] / "protocol" / "recordings"
PNG = b"\x89PNG\r\n\x1a\n"


class Replay:
    """A recorded conversation: its prompt as sent, its frames decoded by our own decoders."""

    def __init__(self, name: str, *, output_node: str = "3", by_frame: bool = False) -> None:
        lines = (RECORDINGS / f"{name}.jsonl").read_text().splitlines()
        self.records = [json.loads(line) for line in lines]
        posted = [r for r in self.records if r.get("request") == "POST /prompt"]
        self.submission = posted[0]["json"]
        prompt_id = posted[0]["body"]["prompt_id"]
        self.execution = PromptExecution(
            Graph(
                prompt=self.submission["prompt"],
                output_nodes=frozenset((output_node,)),
                by_frame=by_frame,
            ),
            prompt_id,
        )
        self.percentages: list[float] = []
        self.nodes: list[str | None] = []

    def frames(self) -> list[Any]:
        return [frame for record in self.records if (frame := _decoded(record)) is not None]

    def play(self) -> PromptExecution:
        for frame in self.frames():
            if isinstance(frame, PromptFrame | PictureFrame):
                self.execution.feed(frame)
                self.percentages.append(self.execution.percentage)
                self.nodes.append(self.execution.current_node)
        return self.execution

    def history(self) -> dict[str, Any]:
        for record in self.records:
            if record.get("request", "").startswith("GET /history/") and record["body"]:
                return record["body"][self.execution.prompt_id]
        raise AssertionError("no history in this recording")


def _decoded(record: dict[str, Any]) -> Any:
    if record["kind"] == "ws-text":
        return decode_text(json.dumps(record["data"]))
    if record["kind"] == "ws-binary":  # recorded without the picture's tail
        return decode_binary(base64.b64decode(record["head_base64"]))
    return None


def fed(execution: PromptExecution, kind: str, **data: Any) -> bool:
    return execution.feed(PromptFrame(type=kind, prompt_id=execution.prompt_id, data=data))


@pytest.fixture
def execution() -> PromptExecution:
    return PromptExecution(graph(seconds=1), "ours")


def files_of(execution: PromptExecution) -> list[Any]:
    return list(told_results(execution.outputs, list(execution.graph.prompt)))


def picture(data: bytes = PNG, **names: str) -> PictureFrame:
    return PictureFrame(media_type="image/png", data=data, **names)


def test_saved_picture() -> None:
    """A recorded run ends as succeeded with its file, every node seen in turn."""
    replay = Replay("save-image")
    execution = replay.play()
    assert execution.phase is Phase.SUCCEEDED
    assert files_of(execution) == [
        OutputFile(filename="rec_00001_.png", subfolder="", type="output")
    ]
    assert [node for node in dict.fromkeys(replay.nodes) if node] == ["1", "2", "3"]
    assert replay.percentages[-1] == 100.0


@pytest.mark.parametrize(
    "name", ["save-image", "save-image-fully-cached", "node-with-progress", "execution-error"]
)
def test_progress_never_falls(name: str) -> None:
    """From frame to frame of a recorded run the percentage stays or grows, within 0 and 100."""
    replay = Replay(name)
    replay.play()
    assert replay.percentages == sorted(replay.percentages)
    assert replay.percentages[0] == 0
    assert replay.percentages[-1] <= 100


def test_progress_of_a_node_with_a_bar() -> None:
    """A bar at 3 of 5 in the second of three nodes is 1.6 of 3."""
    replay = Replay("node-with-progress")
    replay.play()
    assert any(percentage == pytest.approx(100 * 1.6 / 3) for percentage in replay.percentages)


def test_cached() -> None:
    """A prompt served from the cache runs no node and still has its file."""
    replay = Replay("save-image-fully-cached")
    execution = replay.play()
    assert execution.phase is Phase.SUCCEEDED
    assert [one.filename for one in files_of(execution)] == ["rec_00001_.png"]
    assert set(replay.nodes) == {None}


def test_error() -> None:
    """ComfyUI's own error text, the failing node named; the end that follows changes nothing."""
    execution = Replay("execution-error").play()
    assert execution.phase is Phase.FAILED
    assert isinstance(execution.error, WorkflowError)
    assert "(node 2)" in execution.error.message
    assert "out of memory" in execution.error.message


def test_interrupt() -> None:
    """Somebody's interrupt is told as such."""
    execution = Replay("interrupt-running").play()
    assert execution.phase is Phase.FAILED
    assert isinstance(execution.error, InterruptedPromptError)


@pytest.mark.parametrize("metadata", ["with", "without"])
def test_result_by_frame(metadata: str) -> None:
    """The frame of the output node is the picture, whether or not its metadata names it."""
    execution = Replay(f"save-image-websocket-{metadata}-metadata", by_frame=True).play()
    assert execution.phase is Phase.SUCCEEDED
    assert execution.pictures[0].startswith(PNG)
    assert execution.preview is None


@pytest.mark.parametrize(
    "name", ["save-image", "save-image-fully-cached", "execution-error", "interrupt-running"]
)
def test_history_tells_the_same(name: str) -> None:
    """Who missed all events learns the same end from /history."""
    seen, missed = Replay(name), Replay(name)
    seen.play()
    missed.execution.take_history(missed.history())
    for told in ("phase", "outputs"):
        assert getattr(missed.execution, told) == getattr(seen.execution, told)
    assert str(missed.execution.error) == str(seen.execution.error)
    assert type(missed.execution.error) is type(seen.execution.error)


def test_history_with_an_error_of_unknown_kind(execution: PromptExecution) -> None:
    """An error that history does not explain is an error all the same."""
    execution.take_history({"status": {"status_str": "error", "messages": []}, "outputs": {}})
    assert isinstance(execution.error, WorkflowError)


def test_history_without_status_is_success(execution: PromptExecution) -> None:
    """Very old servers write outputs alone."""
    execution.take_history({"outputs": {"9": {"images": [{"filename": "a.png"}]}}})
    assert execution.phase is Phase.SUCCEEDED
    assert files_of(execution) == [OutputFile(filename="a.png", subfolder="", type="output")]


@pytest.mark.parametrize(
    "entry", [{"status": [1]}, {"outputs": [1]}, {"status": {"messages": [1]}}]
)
def test_history_that_is_none(execution: PromptExecution, entry: dict[str, Any]) -> None:
    """An entry that ComfyUI never writes is the instance's fault, not ours."""
    with pytest.raises(InvalidAnswerError):
        execution.take_history(entry)


def test_strangers_frames(execution: PromptExecution) -> None:
    """Frames of other prompts, and pictures when none of ours can come, are no news (trap 10)."""
    stranger = PromptFrame(type="executing", prompt_id="theirs", data={"node": "1"})
    assert not execution.feed(stranger)
    assert not execution.feed(picture())  # waiting
    assert not fed(execution, "progress_state", nodes={})
    fed(execution, "execution_start")
    assert not execution.feed(picture())  # started, but no node runs
    fed(execution, "executing", node="2")
    assert not execution.feed(picture(prompt_id="theirs", node_id="9"))
    assert (execution.pictures, execution.preview) == ([], None)
    fed(execution, "execution_success")
    assert not execution.feed(picture(prompt_id="ours", node_id="9"))
    assert not fed(execution, "executing", node="1")
    assert execution.phase is Phase.SUCCEEDED


def test_previews_are_not_the_result() -> None:
    """Frames of a sampler on its way are previews; of the output node's, the first counts."""
    execution = PromptExecution(graph(seconds=1, by_frame=True), "ours")
    fed(execution, "executing", node="2")
    assert execution.feed(picture(b"preview"))
    assert (execution.preview or picture()).data == b"preview"
    fed(execution, "executing", node="9")
    assert not execution.feed(picture(b"first"))
    assert not execution.feed(picture(b"second", prompt_id="ours", node_id="9"))
    assert execution.pictures == [b"first", b"second"]


def test_old_server(execution: PromptExecution) -> None:
    """``executing{null}`` alone is the end where there is no ``execution_success`` yet."""
    fed(execution, "executing", node="1")
    fed(execution, "executing", node=None)
    assert execution.phase is Phase.SUCCEEDED


def test_nodes_made_at_run_time_do_not_count(execution: PromptExecution) -> None:
    """Nodes that a node expands into are shown, but the percentage stays that of our graph."""
    for number in range(10):
        fed(execution, "executing", node=f"2.0.0.{number}")
        assert execution.current_node == f"2.0.0.{number}"
    fed(execution, "executing", node="9")
    assert execution.percentage == 0


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("progress", {"value": "x", "max": 3}),
        ("progress", {"value": 1, "max": [1]}),
        ("executed", {"node": "9", "output": "x"}),
        ("execution_cached", {"nodes": 5}),
        ("execution_cached", {"nodes": [["1"]]}),
        ("no such event", {}),
    ],
)
def test_malformed_frames_are_no_news(
    execution: PromptExecution, kind: str, data: dict[str, Any]
) -> None:
    """A custom node's broken frame neither ends the prompt nor raises."""
    assert not fed(execution, kind, **data)
    assert execution.phase is Phase.QUEUED


def test_a_bar_beyond_its_end(execution: PromptExecution) -> None:
    """A bar that overshoots, or that has no length, does not push the percentage too far."""
    fed(execution, "executing", node="1")
    fed(execution, "progress", value=9, max=3)
    fed(execution, "progress", value=9, max=0)
    assert execution.percentage == pytest.approx(100 / 3)


def test_error_texts_carry_no_paths(execution: PromptExecution) -> None:
    """What a client sees of an error names no directory of the instance."""
    fed(
        execution,
        "execution_error",
        node_id="1",
        node_type="Loader",
        exception_type="OSError",
        exception_message="No such file: '/srv/comfy/models/x.pth'\n",
    )
    assert str(execution.error) == "Loader (node 1): No such file: 'x.pth'"
