"""cluster/planning/tied.py: a prompt that reads a result of an earlier one stays behind it."""

from __future__ import annotations

import pytest
from plan_harness import line_of, slot, work

from comfy_proxy.cluster.planning.tied import is_tied

MAKER = work(kind="make", writes=["mine/x"])
READER = work(kind="read", reads=["mine/x_00001_.png"], writes=["mine/y"])
OTHER = work(kind="other", reads=["else.png"], writes=["else"])


def test_a_reader_stays_with_its_maker_and_the_maker_with_its_reader() -> None:
    """Whatever waits between them, which may go."""
    line = line_of(slot("maker", MAKER), slot("other", OTHER), slot("reader", READER))
    assert [is_tied(line, key) for key in ("maker", "other", "reader")] == [True, False, True]


def test_a_reader_stays_while_its_maker_runs_and_may_go_once_that_has_ended() -> None:
    line = line_of(slot("maker", MAKER), slot("reader", READER))
    line.begin("maker", 0)
    assert is_tied(line, "reader")
    line.leave("maker")
    assert not is_tied(line, "reader")


def test_a_maker_need_not_wait_for_one_that_comes_before_it() -> None:
    """That reads what was there before."""
    line = line_of(slot("reader", READER), slot("maker", MAKER))
    assert not is_tied(line, "maker")


@pytest.mark.parametrize("client", ["me", "another"])
def test_only_prompts_of_one_client_are_tied(client: str) -> None:
    line = line_of(slot("maker", MAKER, client="me"), slot("reader", READER, client=client))
    assert is_tied(line, "reader") == is_tied(line, "maker") == (client == "me")


def test_nobody_is_tied_to_itself_and_what_is_not_there_to_nobody() -> None:
    """One that goes on from its own last result has its name in both places."""
    line = line_of(slot("one", work(reads=["x_1.png"], writes=["x"])))
    assert not is_tied(line, "one")
    assert not is_tied(line, "absent")
