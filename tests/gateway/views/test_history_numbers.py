"""What the numbers of ended prompts promise: they grow as prompts end, wherever they ran."""

from __future__ import annotations

from typing import Any

import pytest
from views_harness import finished, front, get, two_fakes

from comfy_proxy.cluster.prompt_outcomes import ended_at
from comfy_proxy.gateway.views.history_numbers import LATE_MS, HistoryNumbers

NOW = 1_795_483_000_000


def counted(number: float, end: int) -> dict[str, Any]:
    """A history entry with the number that its instance gave."""
    entry = finished("p", end - 100, end)
    entry["prompt"][0] = number
    return entry


def told(numbers: HistoryNumbers, prompt_id: str, end: int) -> int:
    number: int = numbers.shown(prompt_id, end, 3)
    return number


async def test_what_ends_later_has_the_higher_number_whichever_instance_counted_it() -> None:
    """A page that takes only what is above the highest number it knows misses nothing."""
    async with two_fakes() as (one, two), front(one, two) as (client, _):
        one.history = {"a": counted(500, NOW), "c": counted(501, NOW + 2)}
        two.history = {"b": counted(7, NOW + 1), "d": counted(8, NOW + 2)}
        history = await get(client, "/history")
        numbers = [history[prompt_id]["prompt"][0] for prompt_id in "abcd"]
        assert numbers == sorted(set(numbers))
        two.history["e"] = counted(9, NOW + 1)  # its end was before, its entry comes after
        later = await get(client, "/history")
        assert [later[prompt_id]["prompt"][0] for prompt_id in "abcd"] == numbers
        assert later["e"]["prompt"][0] > numbers[-1]
        assert (await get(client, "/history/e"))["e"] == later["e"]
        assert later["e"]["prompt"][1:] == two.history["e"]["prompt"][1:]


@pytest.mark.parametrize("number", [7.0, -3, "first", None, True])
def test_a_number_that_no_instance_counted_stays(number: Any) -> None:
    """Chosen by the client, put in front, or nothing that we know."""
    assert HistoryNumbers().shown("p", NOW, number) is number


@pytest.mark.parametrize(
    "entry",
    [
        *(None, {}, {"prompt": [1, "p"]}, {"prompt": [], "status": finished("p", 1, 2)}),
        {"status": {"messages": [["execution_success", {"timestamp": float("inf")}]]}},
        {"status": {"messages": [["execution_success", {"timestamp": float("nan")}]]}},
    ],
)
def test_an_entry_that_does_not_tell_its_end_keeps_its_number(entry: Any) -> None:
    """Whatever an old ComfyUI or a custom node writes there."""
    assert ended_at(entry) is None
    assert HistoryNumbers().shown("p", None, 1) == 1


def test_a_number_stays_what_it_was_and_is_the_same_after_a_restart() -> None:
    """Pages keep what they have seen."""
    numbers = HistoryNumbers()
    first = told(numbers, "a", NOW)
    told(numbers, "b", NOW + 50)
    assert told(numbers, "a", NOW) == first == told(HistoryNumbers(), "a", NOW)


def test_an_old_entry_that_is_seen_late_stays_old() -> None:
    """Who reads the end of the history first and the rest later finds it in order."""
    numbers = HistoryNumbers()
    newest = told(numbers, "b", NOW)
    assert told(numbers, "a", NOW - LATE_MS) < newest


def test_an_id_that_runs_again_has_a_new_number() -> None:
    """Of two runs under one id the history keeps the last."""
    numbers = HistoryNumbers()
    assert told(numbers, "a", NOW) < told(numbers, "a", NOW + 1)


def test_the_record_is_bounded() -> None:
    """The oldest are forgotten, and then computed anew."""
    numbers = HistoryNumbers(limit=2)
    first = [told(numbers, str(n), NOW + n) for n in range(9)]
    assert repr(numbers) == f"<HistoryNumbers 2 up to {first[-1]}>"
