"""Whatever comes to a line, in any order: nothing is lost, and nobody waits for ever.

``pytest --hypothesis-profile=thorough tests/cluster/planning`` tries ten thousand of each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_harness import LOAD_S, RUN_S, keys, line_of, slot, work

from comfy_proxy.cluster.planning.joining import PATIENCE_LOADS, number_of, option
from comfy_proxy.cluster.planning.line import Line
from comfy_proxy.cluster.planning.slot import Slot
from comfy_proxy.cluster.planning.work import Work, names_result_of

NUMBERS = st.one_of(st.just(None), st.integers(-3, 9))
STEPS = st.lists(
    st.tuples(
        st.sampled_from(("join", "join", "begin", "leave", "numbered", "forget", "look")),
        st.integers(0, 9),
        st.sampled_from("abc"),
        NUMBERS,
    ),
    max_size=40,
)


@pytest.mark.long
@given(STEPS, st.integers(1, 3))
def test_the_order_is_by_number_and_nobody_is_lost(steps: list[Any], sets: int) -> None:
    """Ends rise along the line, and what is asked in between changes nothing."""
    line, known, running = line_of(sets=sets), set[int](), None
    for now, (step, key, model, number) in enumerate(steps):
        if step == "join":
            new = slot(key, work(model))
            line.leave(key)
            line.join(new, option(line, new).before)
            running = None if running == key else running
            known.add(key)
        elif step == "begin" and line.begin(key, float(now)) is not None:
            known.discard(running)  # type: ignore[arg-type]
            running = key
        elif step == "leave":
            line.leave(key)
            running = None if running == key else running
            known.discard(key)
        elif step == "numbered" and number is not None:
            line.numbered(key, number)
        elif step == "forget":
            line.loaded.forget()
        elif step == "look":
            option(line, slot("new", work(model)))
            number_of(line, key)
        check(line, known, running)


def check(line: Line, known: set[int], running: int | None) -> None:
    waiting = line.waiting
    assert len(line) == len(known)
    assert {one.key for one in waiting} == known - {running}
    assert (None if line.running is None else line.running.key) == running
    numbers = [one.number for one in waiting if one.number < inf]
    assert numbers == sorted(numbers)
    ends = [one.end_s for one in waiting]
    assert all(later >= earlier + RUN_S for earlier, later in pairwise((0.0, *ends)))
    assert line.after()[1] == (ends[-1] if ends else 0.0)
    line.changed()
    assert [one.end_s for one in line.waiting] == ends  # one by one, or planned as one: the same


# --- an instance as it is: it runs what has the lowest number -------------------------------------


@dataclass
class Instance:
    """Runs what waits, one after the other, and takes new prompts as a proxy sends them."""

    line: Line
    now: float = 0.0
    counter: int = 0
    ran: list[Slot] = field(default_factory=list)
    began: dict[Any, float] = field(default_factory=dict)
    placed: set[Slot] = field(default_factory=set)

    def post(self, new: Slot, number: float | None = None) -> Slot:
        """A prompt comes; ``number`` is its client's own."""
        new.fixed = number is not None
        self.line.join(new, option(self.line, new).before)
        if number is None and (number := number_of(self.line, new.key)) is not None:
            self.placed.add(new)
        if number is None:
            number, self.counter = self.counter, self.counter + 1
        self.line.numbered(new.key, number)
        return new

    def run_next(self) -> None:
        """What runs there comes to its end; then the one with the lowest number begins."""
        line = self.line
        if line.running is not None:
            self.now += line.free_in_s(self.now)
            line.leave(line.running.key)
        if not line.waiting:
            return
        first = line.waiting[0]
        assert first.number == min(one.number for one in line.waiting)
        line.begin(first.key, self.now)
        self.began[first.key] = self.now
        self.ran.append(first)


def endless(patience_s: float | None, rare: int, *, load_s: float = LOAD_S) -> float:
    """How long the first of ``rare`` prompts waits that need another model than an endless stream,
    of which three are there before it and two more come for each one that runs."""
    instance = Instance(line_of(loaded=["a"], patience_s=patience_s, load_s=load_s))
    for count in range(3):
        instance.post(slot(f"a{count}", work("a")))
    for count in range(rare):
        instance.post(slot(f"b{count}", work("b")))
    for count in range(3, 2000, 2):
        if "b0" in instance.began:
            return instance.began["b0"]
        instance.run_next()
        instance.post(slot(f"a{count}", work("a")))
        instance.post(slot(f"a{count + 1}", work("a")))
    raise AssertionError("it never ran")


@pytest.mark.parametrize("patience_s", [0, 5, 30, 120])
def test_a_rare_model_does_not_starve_beyond_the_patience(patience_s: float) -> None:
    """It begins so much later than in its turn at most."""
    assert endless(patience_s, 1) <= patience_s + 3 * RUN_S
    assert endless(120, 1) > 100  # what it is good for: a hundred run without a load in between


@pytest.mark.parametrize("rare", [1, 5])
@pytest.mark.parametrize("load_s", [1.0, LOAD_S])
def test_a_rare_model_does_not_starve_beyond_what_was_learned(rare: int, load_s: float) -> None:
    """Four loads, and the time of all that waits with that model."""
    bound = PATIENCE_LOADS * load_s + rare * RUN_S
    assert endless(None, rare, load_s=load_s) <= bound + 3 * RUN_S


POST = st.tuples(
    st.sampled_from("ab"),  # its model
    st.sampled_from(("me", "you")),  # its client
    st.sampled_from("kl"),  # its kind
    st.sampled_from(("", "", "x")),  # what it makes
    st.sampled_from(("", "", "x")),  # what it names
    st.sampled_from((*[None] * 10, -1, 3)),  # its number
)
ARRIVALS = st.lists(st.tuples(st.sampled_from((0, 0, 0, 1)), POST), min_size=8, max_size=25)
"""How many run before one more comes, and that one."""


@pytest.mark.long
@given(ARRIVALS, st.sampled_from((None, None, 20.0)), st.integers(1, 2))
def test_what_is_to_keep_its_order_keeps_it(
    arrivals: list[Any], patience_s: float | None, sets: int
) -> None:
    """One kind of one client, results before what names them, and numbers that clients chose."""
    instance, posted = Instance(line_of(sets=sets, patience_s=patience_s)), []
    for count, (runs, (model, client, kind, makes, names, number)) in enumerate(arrivals):
        for _ in range(runs):
            instance.run_next()
        graph = work(
            model,
            kind=kind,
            writes=[makes] if makes else (),
            reads=[f"{names}_00001_.png"] if names else (),
        )
        posted.append(instance.post(slot(count, graph, client=client), number))
    while len(instance.line):
        instance.run_next()
    assert sorted(one.key for one in instance.ran) == [one.key for one in posted]
    ended_at = {one.key: at for at, one in enumerate(instance.ran)}
    for at, later in enumerate(posted):
        for earlier in posted[:at]:
            if is_ordered(earlier, later):
                assert ended_at[earlier.key] < ended_at[later.key]
    overtaken(posted, instance)


def is_ordered(earlier: Slot, later: Slot) -> bool:
    if earlier.fixed or later.fixed:
        return False  # a client's number is a wish to be elsewhere than in turn
    kinds: tuple[Work, Work] = earlier.work, later.work
    same = earlier.client == later.client and kinds[0].kind == kinds[1].kind
    return same or names_result_of(later.work, earlier.work)


def overtaken(posted: list[Slot], instance: Instance) -> None:
    """Nobody who has a number of its own is overtaken by a prompt that we have put ahead."""
    began = instance.began
    for fixed in (one for one in posted if one.fixed):
        for other in posted[posted.index(fixed) + 1 :]:
            assert other not in instance.placed or began[other.key] > began[fixed.key]


def test_a_crowd_of_two_models_in_turn_pays_a_load_for_each_batch() -> None:
    """The promise that all this is for: not one load for each prompt."""
    instance = Instance(line_of(loaded=["a"]))
    for count in range(40):
        instance.post(slot(count, work("ab"[count % 2])))
    assert keys(instance.line)[:3] == [0, 2, 4]
    while len(instance.line):
        instance.run_next()
    loads = sum(one.load_s > 0 for one in instance.ran)
    assert loads <= 3
