"""A priority as a number in ComfyUI's order."""

from __future__ import annotations

from manual_clock import ManualClock

from comfy_proxy.comfy_api.priorities import LIMIT, Priorities


def test_none_is_counted_by_the_instance(clock: ManualClock) -> None:
    assert Priorities(clock).number(0) is None


def test_numbers_are_in_the_order_of_priority_and_time(clock: ManualClock) -> None:
    """Those of high priorities below all that an instance counts, those of low ones above."""
    priorities = Priorities(clock)
    asked = [0, 5, -5, LIMIT, -LIMIT, 1, -1, 5, LIMIT, -LIMIT, 1, -1]
    told = [(-one, turn, priorities.number(one)) for turn, one in enumerate(asked) if one]
    numbers = [number for *_, number in sorted(told)]
    assert numbers == sorted(set(numbers))
    assert all((number < 0) == (place < 0) for place, _, number in told)
    assert min(number for place, _, number in told if place > 0) > 1_000_000


def test_ten_thousand_in_one_moment_keep_their_order(clock: ManualClock) -> None:
    for priority in (LIMIT, -LIMIT):
        priorities = Priorities(clock)
        numbers = [priorities.number(priority) for _ in range(10_000)]
        assert numbers == sorted(set(numbers))
