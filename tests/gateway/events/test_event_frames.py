"""What a frame of an instance means for a client of several."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from comfy_proxy.gateway.events.frame_reader import FrameReader
from comfy_proxy.gateway.events.frames import (
    Began,
    Ended,
    Executed,
    Flags,
    Pass,
    Status,
    status_frame,
)

JPEG = struct.pack(">II", 1, 1) + b"jpeg"
PNG = struct.pack(">II", 1, 2) + b"png"


def reader() -> FrameReader:
    return FrameReader(lambda output: {**output, "marked": True})


def text(kind: Any, data: Any) -> str:
    return json.dumps({"type": kind, "data": data})


def with_metadata(**metadata: Any) -> bytes:
    body = json.dumps(metadata).encode()
    return struct.pack(">II", 4, len(body)) + body + b"picture"


def test_status_and_flags_are_told_apart() -> None:
    """They are the session's business, whatever else stands in them."""
    assert reader().text(status_frame(3, "sid")) == Status(queue_remaining=3)
    flags = text("feature_flags", {"x": 1})
    assert reader().text(flags) == Flags(text=flags)


@pytest.mark.parametrize(
    "odd",
    [
        "",
        "no json",
        "[1]",
        "3",
        "null",
        '{"type": "x"}',
        "[" * 100_000,
        text("custom", [1, 2]),
        text("custom", "words"),
        text("custom", None),
        text(["executing"], {"node": "1"}),
        text({}, {}),
        text("status", {"status": None}),
        text("status", {"status": {"exec_info": {"queue_remaining": float("inf")}}}),
        text("status", {"sid": "x"}),
        text("execution_start", {"prompt_id": 3}),
        text("executed", {"output": None}),
    ],
)
def test_what_is_not_understood_passes_as_it_is(odd: str) -> None:
    """Custom nodes send events of any shape."""
    assert reader().text(odd) == Pass(data=odd)


def test_odd_data_in_metadata_and_outputs() -> None:
    """A preview names its prompt though there is NaN beside it; an output keeps what it had."""
    one = reader()
    one.text(text("execution_start", {"prompt_id": "p"}))
    theirs = with_metadata(prompt_id="other", x=float("nan"), title="\udce9")
    assert one.binary(theirs) is None
    own = with_metadata(prompt_id="p", image_type="image/jpeg", x=float("nan"))
    assert one.binary(own) == Pass(data=own, droppable=True)
    output = {"text": ["\ud800", float("inf"), 2**70]}
    seen = one.text(text("executed", {"prompt_id": "p", "output": output}))
    assert isinstance(seen, Executed)
    marked = {"prompt_id": "p", "output": {**output, "marked": True}}
    assert seen.frame == Pass(data=text("executed", marked))


def test_an_own_prompt_from_start_to_end() -> None:
    """Its frames pass unchanged, and its beginning and end are known."""
    one = reader()
    start = text("execution_start", {"prompt_id": "p"})
    assert one.text(start) == Began(prompt_id="p", frame=Pass(data=start))
    assert one.binary(PNG) == Pass(data=PNG)
    assert one.binary(JPEG) == Pass(data=JPEG, droppable=True)
    end = text("execution_success", {"prompt_id": "p"})
    assert one.text(end) == Ended(
        prompt_id="p",
        kind="execution_success",
        data=json.loads(end)["data"],
        frame=Pass(data=end),
    )
    assert one.binary(PNG) is None


def test_binary_frames_of_strangers_go_to_nobody() -> None:
    """Whatever their type, named or not, as long as no prompt of the client's own runs."""
    for frame in (
        PNG,
        JPEG,
        b"",
        b"\0\0\0\3",
        struct.pack(">II", 3, 1) + b"1words",
        with_metadata(prompt_id="other"),
        with_metadata(image_type="image/jpeg"),
        struct.pack(">II", 4, 3) + b"[1]",
        struct.pack(">II", 4, 99) + b"cut",
    ):
        assert reader().binary(frame) is None


def test_frames_with_metadata_are_judged_by_it() -> None:
    """One that names another prompt is a stranger's even while an own prompt runs."""
    one = reader()
    one.text(text("execution_start", {"prompt_id": "p"}))
    own = with_metadata(prompt_id="p", image_type="image/jpeg")
    assert one.binary(own) == Pass(data=own, droppable=True)
    assert one.binary(with_metadata(prompt_id="q")) is None
    result = with_metadata(prompt_id="p", image_type="image/png")
    assert one.binary(result) == Pass(data=result)
    nameless = with_metadata(node_id="1")
    assert one.binary(nameless) == Pass(data=nameless)


def test_a_client_that_comes_in_mid_run_gets_the_rest() -> None:
    """``executing`` without prompt_id tells that an own prompt runs (PROTOCOL.md trap 14);
    its end counts."""
    one = reader()
    one.text(text("executing", {"node": "2"}))
    own = with_metadata(prompt_id="p")
    assert one.binary(PNG) == Pass(data=PNG)
    assert one.binary(own) == Pass(data=own)
    end = text("execution_success", {"prompt_id": "p"})
    assert one.text(end) == Ended(
        prompt_id="p",
        kind="execution_success",
        data=json.loads(end)["data"],
        frame=Pass(data=end),
    )
    assert one.binary(PNG) is None


def test_a_strangers_interrupt_is_marked_and_ends_nothing() -> None:
    """ComfyUI tells everybody of the interrupt of a prompt without client_id."""
    one = reader()
    one.text(text("execution_start", {"prompt_id": "p"}))
    other = text("execution_interrupted", {"prompt_id": "q"})
    seen = one.text(other)
    assert isinstance(seen, Ended)
    assert (seen.broadcast, seen.frame) == (True, Pass(data=other))
    assert one.binary(PNG) == Pass(data=PNG)


@pytest.mark.parametrize("kind", ["execution_success", "execution_error"])
def test_a_socket_that_came_in_late_hears_the_end_of_an_own_prompt(kind: str) -> None:
    """Of those ends ComfyUI tells the client of the prompt alone."""
    end = text(kind, {"prompt_id": "p"})
    assert reader().text(end) == Ended(
        prompt_id="p", kind=kind, data={"prompt_id": "p"}, frame=Pass(data=end)
    )


def test_only_the_output_of_executed_is_rewritten() -> None:
    """Numbers, NaN, long integers and lone surrogates around it stay as ComfyUI wrote them."""
    output = (
        '{"n": [NaN, 1.0, 1e+16, 123456789012345678901234567890], "s": "\\udc80", "u": "\\u00e9"}'
    )
    frame = '{"type": "executed", "data": {"node": "1", "output": %s, "prompt_id": "p"}, "more": 1}'
    seen = reader().text(frame % output)
    assert isinstance(seen, Executed)
    assert seen.frame.data == frame % (output[:-1] + ', "marked": true}')
    assert "marked" not in seen.output


def test_an_output_without_files_is_not_touched() -> None:
    """Not even its spaces."""
    frame = '{"type":"executed","data":{"output":{"text":["a"]}}}'
    seen = FrameReader(lambda output: output).text(frame)
    assert seen == Executed(
        prompt_id=None, node=None, output={"text": ["a"]}, frame=Pass(data=frame)
    )
