"""Who is a member, who hears of it, and what is kept of each."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence

import pytest
from manual_clock import ManualClock
from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.newcomers import Newcomers
from comfy_proxy.cluster.roster import ByInstance, Roster
from comfy_proxy.settings import Settings, parse_instance


def instance(number: int) -> Instance:
    return Instance(id=str(number), url=URL(f"http://gpu{number}:8188"), clock=ManualClock())


@pytest.fixture
def three() -> list[Instance]:
    return [instance(number) for number in (1, 2, 3)]


def test_members_are_in_the_order_in_which_they_came(three: list[Instance]) -> None:
    """Whoever iterates sees those of the moment in which that began."""
    roster = Roster(three[:2])
    assert isinstance(roster, Sequence)
    seen = iter(roster)
    roster.add(three[2])
    roster.remove(three[0])
    assert list(seen) == three[:2]
    assert list(roster) == three[1:]
    assert (roster[0], roster[-1], len(roster)) == (three[1], three[2], 2)
    assert three[0] not in roster
    assert (set(roster.by_id), roster.former) == ({"2", "3"}, {"1"})
    assert Roster.of(roster) is roster
    assert list(Roster.of(three)) == three


def test_each_is_told_of_those_that_are_there_and_of_those_that_join(
    three: list[Instance],
) -> None:
    """And of who leaves, who is none any more by then, and not healthy."""
    roster, joined, left = Roster(three[:1]), [], []
    roster.each(joined.append)
    roster.on_removed.append(lambda one: left.append((one, one in roster, one.healthy)))
    roster.add(three[1])
    roster.remove(three[0])
    assert joined == three[:2]
    assert left == [(three[0], False, False)]


@pytest.mark.logs_faults
def test_a_part_that_fails_keeps_nobody_from_leaving(three: list[Instance]) -> None:
    """The others hear of it all the same."""
    roster, heard = Roster(three), []
    roster.on_removed += (lambda one: 1 / 0, heard.append)
    roster.remove(three[0])
    assert (heard, len(roster)) == (three[:1], 2)


def test_what_is_kept_is_forgotten_with_its_instance(three: list[Instance]) -> None:
    """In each mapping; who leaves keeps none of them alive, and none of them it."""
    roster = Roster(three)
    plain, made = ByInstance[int](), ByInstance[list[int]](lambda one: [])
    plain[three[0]] = 1
    plain.setdefault(three[1], 2)
    made[three[0]].append(1)
    roster.remove(three[0])
    assert (dict(plain), dict(made)) == ({three[1]: 2}, {})
    with pytest.raises(KeyError):
        plain[three[0]]
    gone = weakref.ref(three.pop(0))
    gc.collect()
    assert gone() is None


def test_nothing_is_kept_of_one_that_has_left(three: list[Instance]) -> None:
    """Who still asks for it gets a new value each time."""
    roster = Roster(three)
    roster.remove(three[0])
    made = ByInstance[list[int]](lambda one: [])
    made[three[0]].append(1)
    made.setdefault(three[0], [2])
    made[three[0]] = [3]
    assert (made[three[0]], dict(made)) == ([], {})


def test_numbers() -> None:
    """That of before, else that of its place; later ones get one that nobody has had."""
    urls = tuple(map(parse_instance, ("a:1", "b:1")))
    before = {parse_instance("b:1"): "7", parse_instance("c:1"): "4"}
    newcomers = Newcomers(Settings(instances=urls), ManualClock(), before)
    assert [one.id for one in newcomers.configured()] == ["1", "7"]
    made = [newcomers.make(parse_instance(text), None).id for text in ("c:1", "d:1", "e:1", "d:1")]
    assert made == ["4", "8", "9", "8"]
