"""What nodes have told: files, texts and data, in an order, and nothing is dropped."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_proxy.cluster.output_file import OutputFile
from comfy_proxy.errors import ResultError
from comfy_proxy.jobs.results import prompt_outputs
from comfy_proxy.jobs.results.prompt_outputs import MAX_RESULTS, ToldData, ToldText, told_results

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
KEYS = st.sampled_from(("images", "gifs", "audio", "text", "result", "3d", "animated")) | st.text()


def file(name: str, folder: str = "", kind: str = "output") -> OutputFile:
    return OutputFile(filename=name, subfolder=folder, type=kind)


def entry(name: str, **more: Any) -> dict[str, Any]:
    return {"filename": name, **more}


@pytest.mark.parametrize(
    ("output", "results"),
    [
        ({"images": [entry("a.png", subfolder="s", type="temp")]}, [file("a.png", "s", "temp")]),
        ({"images": [entry("a.png")], "animated": [True]}, [file("a.png")]),
        ({"gifs": [entry("a.mp4", type="output", format="video/h264-mp4")]}, [file("a.mp4")]),
        ({"audio": [entry("a.flac", subfolder=None, type=None)]}, [file("a.flac")]),
        ({"video": entry("a.webm")}, [file("a.webm")]),
        ({"3d": [entry("a.glb")]}, [file("a.glb")]),
        ({"result": ["3d\\x/a.GLB", {"fov": 3}, None]},
         [file("a.GLB", "3d/x"), ToldData(node="1", data={"result": [{"fov": 3}]})]),
        ({"result": ["a.glb"]}, [file("a.glb")]),
        ({"result": ["no model"]}, [ToldText(node="1", text="no model")]),
        ({"text": ["a", "a", ""]}, [ToldText(node="1", text=one) for one in ("a", "a", "")]),
        ({"text": "a"}, [ToldText(node="1", text="a")]),
        ({"tags": [1, {"a": 2}], "x": 0.5},
         [ToldData(node="1", data={"tags": [1, {"a": 2}]}), ToldData(node="1", data={"x": [0.5]})]),
        ({"images": [{"filename": 5}]}, [ToldData(node="1", data={"images": [{"filename": 5}]})]),
        ({"images": []}, []),
        ({"images": [None]}, []),
    ],
)  # fmt: skip
def test_each_kind_of_output(output: dict[str, Any], results: list[Any]) -> None:
    """Keys as ComfyUI and well-known custom nodes write them."""
    assert told_results({"1": output}, ["1"]) == results


def test_saved_ones_come_before_previews_then_nodes_of_the_graph() -> None:
    """The order is that of the graph, not that in which nodes ended; strangers come last."""
    outputs = {
        "x": {"images": [entry("x.png")]},
        "3": {"images": [entry("3.png")]},
        "2": {"images": [entry("2.png", type="temp")]},
        "1": {"text": ["one"]},
    }
    told = told_results(outputs, ["1", "2", "3"])
    assert told == [
        ToldText(node="1", text="one"), file("3.png"), file("x.png"), file("2.png", kind="temp"),
    ]  # fmt: skip


def test_a_file_that_two_nodes_tell_of_is_one_result() -> None:
    """As a saved and shown one is; two texts that are alike are two."""
    outputs = {one: {"images": [entry("a.png")], "text": ["same"]} for one in ("1", "2")}
    assert told_results(outputs, ["1", "2"]) == [
        file("a.png"), ToldText(node="1", text="same"), ToldText(node="2", text="same"),
    ]  # fmt: skip


def test_too_many_results_end_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a reason; as many as are allowed do not."""
    monkeypatch.setattr(prompt_outputs, "MAX_RESULTS", 3)
    assert len(told_results({"1": {"text": ["a"] * 3}}, [])) == 3
    with pytest.raises(ResultError, match="more than 3 results"):
        told_results({"1": {"text": ["a"] * 4}}, [])


@pytest.mark.long
def test_a_file_that_is_told_a_million_times_is_one_result() -> None:
    """A node in a loop may do that; only what differs counts."""
    one = entry("a.png")
    assert told_results({"1": {"images": [one] * 1_000_000}}, []) == [file("a.png")]
    with pytest.raises(ResultError):
        told_results({"1": {"text": ["x"] * (MAX_RESULTS + 1)}}, [])


@pytest.mark.long
@given(st.dictionaries(st.text(), st.dictionaries(KEYS, JSON, max_size=4), max_size=4))
def test_any_json_has_results_or_none(outputs: dict[str, dict[str, Any]]) -> None:
    """Whatever a custom node tells, nothing but ResultError is raised, and no text is lost."""
    told = told_results(outputs, list(outputs)[:2])
    texts = [one for out in outputs.values() for one in (out.get("text"),) if isinstance(one, str)]
    assert sum(isinstance(one, ToldText) for one in told) >= len(texts)
