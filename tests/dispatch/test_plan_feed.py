"""dispatch/plan_feed.py: what the ledger hears is what the planner knows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from manual_clock import ManualClock
from plan_harness import LOAD_S, RUN_S, keys, planner_of, work

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.experience import Experience
from comfy_proxy.cluster.planning.line import Line
from comfy_proxy.cluster.planning.work import Work
from comfy_proxy.dispatch.plan_feed import PlanFeed
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import ClientPost, End, PostHeaders, Prompt
from comfy_proxy.ledger.states import Ending

A = work("a")
SUCCESS = End(ending=Ending.SUCCESS)
COLD_S = LOAD_S + RUN_S


class Bench:
    """A ledger, and a planner that is told of it; nothing is learned yet."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.planner = planner_of(clock)
        self.ledger = Ledger(clock)
        self.feed = PlanFeed(self.planner, Experience(self.planner, clock), clock)
        self.ledger.observers.append(self.feed.observe)
        self.one, self.two = self.planner.lines

    def line(self, instance: Instance) -> Line:
        return self.planner.lines[instance]

    def waiting(self, instance: Instance) -> list[str]:
        return [prompt.prompt_id for prompt in keys(self.line(instance))]

    def apply(self, event: Any) -> None:
        self.ledger.apply(event)

    def received(self, prompt_id: str = "p", what: Work | None = A, **post: Any) -> Prompt:
        client = ClientPost(
            path="", client_id="me", headers=PostHeaders({}), body=b"", graph={}, **post
        )
        prompt = Prompt(prompt_id=prompt_id, post=client, work=what)
        self.apply(events.Received(prompt=prompt))
        return prompt

    def sent(self, prompt_id: str = "p", what: Work | None = A, **post: Any) -> Prompt:
        prompt = self.received(prompt_id, what, **post)
        self.apply(events.Sent(prompt=prompt, instance=self.one))
        return prompt

    def accepted(
        self, prompt_id: str = "p", what: Work | None = A, number: float = 1, **post: Any
    ) -> Prompt:
        prompt = self.sent(prompt_id, what, **post)
        self.apply(events.Accepted(prompt=prompt, prompt_id=prompt_id, number=number))
        return prompt

    def began(self, prompt_id: str = "p") -> None:
        self.apply(events.Began(prompt_id=prompt_id, instance=self.one))

    def reached(self, node: str, prompt_id: str = "p") -> None:
        self.apply(events.NodeReached(prompt_id=prompt_id, instance=self.one, node=node))

    def ended(self, prompt_id: str = "p", end: End = SUCCESS) -> None:
        self.apply(events.EndTold(prompt_id=prompt_id, instance=self.one, end=end))

    def ran(self, prompt_id: str, seconds: float, what: Work = A) -> None:
        """Heard from its beginning to its end."""
        self.accepted(prompt_id, what)
        self.began(prompt_id)
        self.reached("9", prompt_id)
        self.clock._now += seconds
        self.ended(prompt_id)


@pytest.fixture
def bench(clock: ManualClock) -> Bench:
    return Bench(clock)


# --- who is where ------------------------------------------------------------------------------


def test_one_waits_where_it_was_sent_and_runs_where_it_began(bench: Bench) -> None:
    bench.received()
    assert bench.waiting(bench.one) == []
    prompt = bench.ledger.live()[0]  # type: ignore[index]
    bench.apply(events.Sent(prompt=prompt, instance=bench.one))
    assert bench.waiting(bench.one) == ["p"]
    bench.apply(events.Accepted(prompt=prompt, prompt_id="p", number=7))
    slot = bench.line(bench.one).find(prompt)
    assert slot is not None
    assert (slot.number, slot.client, slot.fixed) == (7, "me", False)
    bench.began()
    assert bench.line(bench.one).running is slot
    bench.ended()
    assert (len(bench.line(bench.one)), len(bench.line(bench.two))) == (0, 0)


def test_its_number_is_its_place(bench: Bench) -> None:
    for prompt_id, number in (("third", 3.0), ("first", 1.0), ("second", 2.5)):
        bench.accepted(prompt_id, number=number, placed=True)
    assert bench.waiting(bench.one) == ["first", "second", "third"]
    assert all(slot.fixed for slot in bench.line(bench.one).waiting)


def test_one_that_began_before_its_answer_runs(bench: Bench) -> None:
    """The answer to its POST may come after its first event; so may that of its end."""
    prompt = bench.sent()
    bench.began()
    bench.apply(events.Accepted(prompt=prompt, prompt_id="p", number=1))
    running = bench.line(bench.one).running
    assert running is not None
    assert running.key is prompt
    bench.ended()
    assert len(bench.line(bench.one)) == 0


def test_one_that_ended_before_its_answer_is_gone(bench: Bench) -> None:
    prompt = bench.sent()
    bench.began()
    bench.ended()
    bench.apply(events.Accepted(prompt=prompt, prompt_id="p", number=1))
    assert prompt.ended
    assert len(bench.line(bench.one)) == 0


@pytest.mark.parametrize("how", ["refused", "finished", "lost", "moved", "deleted"])
def test_one_that_is_not_there_any_more_has_left(bench: Bench, how: str) -> None:
    """However it went; one that moved waits where it is now."""
    if how == "refused":
        prompt = bench.sent()
        bench.apply(events.Refused(prompt=prompt, instance=bench.one))
    else:
        prompt = bench.accepted()
    if how == "finished":
        bench.apply(events.Finished(prompt=prompt, end=End(ending=Ending.ERROR)))
    elif how == "lost":
        bench.apply(events.Lost(prompt=prompt, ran=False))
    elif how == "deleted":
        bench.apply(events.Deleted(prompt_ids=["p"]))
        bench.apply(events.Finished(prompt=prompt, end=End(ending=Ending.CANCELLED)))
    elif how == "moved":
        bench.apply(events.MoveBegan(prompt=prompt, queue_entry=[]))
        assert bench.waiting(bench.one) == ["p"]
        bench.apply(events.TakenAway(prompt=prompt))
        bench.apply(events.Sent(prompt=prompt, instance=bench.two))
        bench.apply(events.Accepted(prompt=prompt, prompt_id="p", number=1))
        assert bench.waiting(bench.two) == ["p"]
    assert len(bench.line(bench.one)) == 0


def test_one_that_moved_has_been_overtaken_where_it_was(bench: Bench) -> None:
    """Its patience does not begin anew."""
    prompt = bench.accepted()
    slot = bench.line(bench.one).find(prompt)
    assert slot is not None
    slot.overtaken_s = 7.0
    bench.apply(events.MoveBegan(prompt=prompt, queue_entry=[]))
    bench.apply(events.TakenAway(prompt=prompt))
    bench.apply(events.Sent(prompt=prompt, instance=bench.two))
    slot = bench.line(bench.two).find(prompt)
    assert slot is not None
    assert slot.overtaken_s == 7.0


def test_one_whose_work_nobody_could_read_is_in_no_line(bench: Bench) -> None:
    bench.accepted(what=None)
    bench.began()
    bench.ended()
    assert len(bench.line(bench.one)) == 0


# --- what is learned ---------------------------------------------------------------------------


def test_a_run_teaches_by_its_events(bench: Bench) -> None:
    bench.ran("1", COLD_S)
    assert bench.line(bench.one).loaded.names() == ["a"]
    bench.ran("2", RUN_S)
    assert bench.planner.costs.run_s(bench.one, A) == pytest.approx(RUN_S)
    assert bench.planner.costs.load_s(bench.one, ("a",)) == pytest.approx(LOAD_S)


def test_one_that_nobody_heard_teaches_by_the_times_of_the_history(bench: Bench) -> None:
    """And has loaded its models."""
    prompt = bench.accepted()
    bench.clock._now += 100
    end = replace(SUCCESS, execution_s=COLD_S, cached=frozenset())
    bench.apply(events.Finished(prompt=prompt, end=end))
    assert bench.planner.costs.mean_run_s(bench.one) is not None
    assert bench.line(bench.one).loaded.names() == ["a"]
    prompt = bench.accepted("q")
    end = replace(SUCCESS, execution_s=RUN_S, cached=frozenset("1"))
    bench.apply(events.Finished(prompt=prompt, end=end))
    assert bench.planner.costs.run_s(bench.one, A) == pytest.approx(RUN_S)
    assert bench.planner.costs.load_s(bench.one, ("a",)) == pytest.approx(LOAD_S)


def test_one_that_nobody_heard_and_nobody_timed_teaches_nothing(bench: Bench) -> None:
    prompt = bench.accepted()
    bench.apply(events.Finished(prompt=prompt, end=SUCCESS))
    assert bench.planner.costs.mean_run_s(bench.one) is None


@pytest.mark.parametrize("ending", [Ending.ERROR, Ending.INTERRUPTED])
def test_one_that_did_not_succeed_teaches_nothing(bench: Bench, ending: Ending) -> None:
    """It ended somewhere on its way."""
    bench.accepted()
    bench.began()
    bench.reached("1")
    bench.clock._now += 5
    bench.ended(end=End(ending=ending))
    assert bench.planner.costs.mean_run_s(bench.one) is None


def test_one_that_came_from_the_cache_teaches_nothing(bench: Bench) -> None:
    bench.accepted()
    bench.began()
    bench.ended()
    assert bench.planner.costs.mean_run_s(bench.one) is None


def test_its_loaders_time_is_that_of_loading(bench: Bench) -> None:
    """From when the loader is reached until the next node is."""
    bench.accepted()
    bench.began()
    for node, seconds in (("1", LOAD_S), ("2", RUN_S)):
        bench.reached(node)
        bench.clock._now += seconds
    bench.ended()
    assert bench.planner.costs.load_s(bench.one, ("a",)) == pytest.approx(LOAD_S)
    assert bench.planner.costs.run_s(bench.one, A) == pytest.approx(RUN_S)


def test_a_loader_that_came_from_the_cache_has_loaded_nothing(bench: Bench) -> None:
    """Although nobody here knew that its model was there."""
    bench.accepted()
    bench.began()
    bench.apply(events.NodesCached(prompt_id="p", instance=bench.one, nodes=frozenset("1")))
    bench.reached("2")
    bench.clock._now += RUN_S
    bench.ended()
    assert bench.planner.costs.samples(bench.one, A) == 1
    assert bench.planner.costs.run_s(bench.one, A) == pytest.approx(RUN_S)


def test_one_that_nobody_heard_does_not_end_what_runs_there_now(bench: Bench) -> None:
    """Its entry of the history is read later: by then another one runs, and has its models."""
    unheard = bench.accepted()
    running = bench.accepted("q", work("b"), number=2)
    bench.began("q")
    end = replace(SUCCESS, execution_s=COLD_S, cached=frozenset())
    bench.apply(events.Finished(prompt=unheard, end=end))
    line = bench.line(bench.one)
    assert line.running is not None
    assert line.running.key is running
    assert (len(line), line.loaded.names()) == (1, ["b"])
    assert bench.planner.costs.mean_run_s(bench.one) is not None


def test_a_run_that_ended_before_its_answer_teaches_too(bench: Bench) -> None:
    """Several changes are told at once then; the time is that of the last one."""
    bench.ran("before", COLD_S)
    prompt = bench.sent()
    bench.began()
    bench.reached("9")
    bench.clock._now += RUN_S
    bench.ended()
    bench.apply(events.Accepted(prompt=prompt, prompt_id="p", number=2))
    assert bench.planner.costs.run_s(bench.one, A) == pytest.approx(RUN_S)


def test_what_was_refused_is_no_demand(bench: Bench) -> None:
    """A client may name what it likes."""
    prompt = bench.sent()
    bench.apply(events.Refused(prompt=prompt, instance=bench.one))
    assert not bench.planner._demand._asked
    bench.accepted("q")
    assert list(bench.planner._demand._asked) == [A.models]
