"""What is read of a history entry, however long it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from loop_turns import loop_turns

from comfy_proxy.cluster.prompt_lists import HISTORY, HistoryEntry, read_history
from comfy_proxy.json_scanner import JsonScanner
from comfy_proxy.json_strings import PIECE_BYTES

OUTPUTS = [
    {"9": {"text": ["short"]}},
    {"9": {"text": ["K\u00e4fer\n\udce9" * 100_000, float("inf")]}},
    {"9": {"images": [{"filename": f"{number}.png"} for number in range(5_000)]}},
]


def entry_of(outputs: Any) -> HistoryEntry:
    told = {"id": {"prompt": [7, "id", {}], "outputs": outputs, "status": {"completed": True}}}
    scanner = JsonScanner(HISTORY)
    scanner.feed(json.dumps(told).encode())
    (entry,) = read_history(scanner.result()) or ()
    return entry


@pytest.mark.parametrize("outputs", OUTPUTS)
async def test_in_turns_it_is_the_same_as_at_once(outputs: Any) -> None:
    entry = entry_of(outputs)
    expected = {
        "outputs": outputs,
        "status": {"completed": True},
        "prompt": [7, None, None],
    }
    assert await entry.data_in_turns() == entry.data() == expected


async def test_others_have_their_turn_while_it_is_read() -> None:
    """A node may tell 50 MB of text, which took 100 ms and more."""
    entry = entry_of(OUTPUTS[1])
    assert entry.outputs is not None
    with loop_turns() as turns:
        await entry.data_in_turns()
    assert turns.count >= (entry.outputs.end - entry.outputs.start) // PIECE_BYTES
