"""What of a frame is read, and how often: as little as tells what it means."""

from __future__ import annotations

import json
from typing import Any

import pytest

from comfy_proxy.gateway.events import frame_reader
from comfy_proxy.gateway.events.frame_reader import READ_ONCE, FrameReader
from comfy_proxy.gateway.events.frames import Custom, Executed, NodeStates, Pass, event_frame
from comfy_proxy.gateway.files.instance_prefix import prefix_outputs
from comfy_proxy.lenient_json import loads


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were read as JSON."""
    texts: list[str] = []
    frame_reader._READ_LATELY.clear()

    def note(text: str) -> Any:
        texts.append(text)
        return loads(text)

    monkeypatch.setattr(frame_reader, "loads", note)
    return texts


def reader() -> FrameReader:
    return FrameReader(lambda output: prefix_outputs(output, "1"))


NODES = {"1": {"value": 1, "max": 2, "state": "running"}}


def test_how_far_nodes_are_is_read_only_if_somebody_asks(read: list[str]) -> None:
    """As ComfyUI writes it the prompt stands before the nodes."""
    text = event_frame("progress_state", {"prompt_id": "p", "nodes": NODES})
    seen = reader().text(text)
    assert seen == NodeStates(prompt_id="p", frame=Pass(data=text))
    assert read == []
    assert isinstance(seen, NodeStates)
    assert seen.states() == NODES


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"data": {"nodes": NODES, "prompt_id": "p"}, "type": "progress_state"}),
        '{"type":"progress_state","data":{"prompt_id":"p","nodes":' + json.dumps(NODES) + "}}",
    ],
)
def test_another_spelling_of_it_says_the_same(text: str) -> None:
    """A node may send it itself, by another library."""
    seen = reader().text(text)
    assert isinstance(seen, NodeStates)
    assert (seen.prompt_id, seen.states(), seen.frame.data) == ("p", NODES, text)


@pytest.mark.parametrize("nodes", ["[]", "{]", "{"])
def test_states_that_cannot_be_read_pass_as_they_came(nodes: str) -> None:
    """None is known then."""
    text = '{"type": "progress_state", "data": {"prompt_id": "p", "nodes": ' + nodes + "}}"
    seen = reader().text(text)
    frame = seen.frame if isinstance(seen, NodeStates) else seen
    assert frame == Pass(data=text)
    assert not isinstance(seen, NodeStates) or seen.states() == {}


def test_a_large_broadcast_is_read_once_for_all_sockets(read: list[str]) -> None:
    """It comes on each; what it says is the same, as is what each client gets."""
    text = event_frame("mine", {"points": ["x" * READ_ONCE[0]]})
    seen = [reader().text(text) for _ in range(20)]
    assert read == [text]
    assert all(one == seen[0] for one in seen)
    assert isinstance(seen[0], Custom)
    assert seen[0].frame == Pass(data=text)


def test_one_that_differs_in_its_last_character_is_another_one(read: list[str]) -> None:
    """Whatever came before it, and however many."""
    texts = [event_frame("mine", {"n": "x" * READ_ONCE[0], "at": at}) for at in range(30)]
    for text in texts:
        seen = reader().text(text)
        assert isinstance(seen, Custom)
        assert seen.data["at"] == json.loads(text)["data"]["at"]
    assert read == texts


def test_what_is_remembered_is_bounded() -> None:
    """Eight texts of a million characters, and no larger one."""
    large = event_frame("mine", {"n": "x" * READ_ONCE[1]})
    for _ in range(20):
        reader().text(large)
        reader().text(event_frame("mine", {"n": "x" * READ_ONCE[0]}))
    kept = [text for text, _ in frame_reader._READ_LATELY]
    assert large not in kept
    assert len(kept) <= 8


def test_files_are_marked_however_their_names_are_spelt() -> None:
    """JSON may write any letter as an escape."""
    text = (
        '{"type": "executed", "data": {"node": "1", "prompt_id": "p", "output":'
        ' {"images": [{"\\u0066ilename": "x.png", "type": "temp"}]}}}'
    )
    seen = reader().text(text)
    assert isinstance(seen, Executed)
    (file,) = json.loads(str(seen.frame.data))["data"]["output"]["images"]
    assert file == {"filename": "x.png", "subfolder": "@1", "type": "temp"}


def test_an_output_without_files_passes_byte_for_byte() -> None:
    """However large."""
    output = {"text": ["words\n" * READ_ONCE[0]]}
    text = event_frame("executed", {"node": "1", "prompt_id": "p", "output": output})
    seen = reader().text(text)
    assert isinstance(seen, Executed)
    assert (seen.frame, seen.output) == (Pass(data=text), output)
