"""How far a job is, by the frames of its instance."""

from __future__ import annotations

import json
from typing import Any

import pytest

from comfy_proxy.comfy_api.progress import JobProgress
from comfy_proxy.gateway.events.frame_reader import FrameReader
from comfy_proxy.gateway.events.frames import Seen

NODES = {"1": "LoadImage", "2": "KSampler", "3": "VAEDecode", "4": "SaveImage"}
PROMPT = "p"


def seen(kind: str, **data: Any) -> Seen:
    text = json.dumps({"type": kind, "data": {**data, "prompt_id": PROMPT}})
    return FrameReader(lambda output: output).text(text)


def states(**nodes: tuple[str, int, int]) -> Seen:
    told = {
        name.strip("_"): {"state": state, "value": value, "max": most}
        for name, (state, value, most) in nodes.items()
    }
    text = json.dumps({"type": "progress_state", "data": {"prompt_id": PROMPT, "nodes": told}})
    return FrameReader(lambda output: output).text(text)


def test_steps_of_the_node_that_runs_count() -> None:
    progress = JobProgress(NODES)
    for frame in (
        seen("execution_start"),
        seen("executing", node="1"),
        seen("executing", node="2"),
        seen("progress", node="2", value=5, max=20),
    ):
        assert progress.heard(frame)
    assert progress.snapshot() == {
        "value": (1 + 0.25) / 4,
        "nodes_done": 1,
        "nodes_total": 4,
        "current_node": "2",
        "current_node_class": "KSampler",
        "step": 5,
        "steps": 20,
        "message": "KSampler 5/20",
    }


def test_states_of_nodes_count() -> None:
    """Several may run at once; a node that another one has put in is no part of the graph."""
    progress = JobProgress(NODES)
    running = {"_2": ("running", 1, 2), "_3": ("running", 1, 4)}
    progress.heard(states(_1=("finished", 1, 1), **running, _9=("finished", 1, 1)))
    told = progress.snapshot()
    assert (told["value"], told["nodes_done"]) == ((1 + 0.5 + 0.25) / 4, 1)
    assert told["current_node"] == "2"


def test_what_comes_from_the_cache_is_done() -> None:
    progress = JobProgress(NODES)
    progress.heard(seen("execution_cached", nodes=["1", "2", "x"]))
    assert (progress.snapshot()["value"], progress.snapshot()["nodes_done"]) == (0.5, 2)


def test_it_never_goes_back() -> None:
    """Neither when a node begins its bar anew, nor when the job begins anew elsewhere."""
    progress = JobProgress(NODES)
    progress.heard(states(_1=("finished", 1, 1), _2=("running", 9, 10)))
    before = progress.snapshot()["value"]
    progress.heard(states(_1=("finished", 1, 1), _2=("running", 1, 10)))
    assert progress.snapshot()["value"] == before
    progress.heard(seen("execution_start"))
    told = progress.snapshot()
    assert (told["value"], told["nodes_done"], told["current_node"]) == (before, 0, None)


def test_the_end_is_all_of_it() -> None:
    """Also if a node never ran, because no output needs it."""
    told = JobProgress(NODES).finished()
    assert (told["value"], told["nodes_done"], told["nodes_total"]) == (1.0, 4, 4)


@pytest.mark.parametrize("most", [0, -1, None, float("inf"), "x"])
def test_odd_bars_do_no_harm(most: Any) -> None:
    progress = JobProgress(NODES)
    progress.heard(seen("executing", node="2"))
    progress.heard(seen("progress", node="2", value=1, max=most))
    assert (progress.snapshot()["step"], progress.snapshot()["value"]) == (None, 0.0)


def test_other_frames_tell_nothing() -> None:
    assert not JobProgress(NODES).heard(seen("execution_success"))
    assert JobProgress({}).snapshot()["value"] == 0.0
