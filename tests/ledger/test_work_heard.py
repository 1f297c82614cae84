"""Whether a node of a prompt ran is known from the events of its instance, or taken for granted.

Which of its nodes came from the cache, and its place in the queue, are what the instance told last.
"""

from __future__ import annotations

from ledger_harness import SUCCESS, Bench

from comfy_proxy.ledger import events
from comfy_proxy.ledger.prompt import Prompt


def ended(bench: Bench, prompt: Prompt, *nodes: str) -> bool:
    """Whether it worked, by its end, which comes after these nodes."""
    told = {"prompt_id": prompt.prompt_id, "instance": bench.one}
    for node in nodes:
        bench.ledger.apply(events.NodeReached(**told, node=node))
    bench.ledger.apply(events.EndTold(**told, end=SUCCESS))
    end = prompt.end or prompt.attempts[-1].end
    assert end is not None
    return end.worked


def test_one_that_began_and_reached_no_node_came_from_the_cache() -> None:
    bench = Bench()
    assert ended(bench, bench.running()) is False


def test_one_that_reached_a_node_has_worked() -> None:
    bench = Bench()
    assert ended(bench, bench.running(), "1", "2") is True


def test_one_that_nobody_heard_begin_counts_as_having_worked() -> None:
    """Its nodes were told to nobody either."""
    bench = Bench()
    assert ended(bench, bench.queued()) is True


def test_what_ran_before_it_began_anew_does_not_count() -> None:
    """ComfyUI runs a repeated id a second time, from its cache (PROTOCOL.md trap 9)."""
    bench = Bench()
    prompt = bench.running()
    bench.ledger.apply(events.NodeReached(prompt_id="a", instance=bench.one, node="1"))
    bench.ledger.apply(events.Began(prompt_id="a", instance=bench.one))
    assert ended(bench, prompt) is False


def test_the_one_that_runs_is_the_one_an_event_named_last() -> None:
    bench = Bench()
    bench.running("a")
    second = bench.queued("b")
    bench.ledger.apply(events.Began(prompt_id="b", instance=bench.one))
    assert bench.ledger.running(bench.one) is second
    assert bench.ledger.running(bench.two) is None


def cached(bench: Bench, prompt_id: str, *nodes: str) -> bool:
    """Whether it was news that these nodes came from the cache."""
    told = events.NodesCached(prompt_id=prompt_id, instance=bench.one, nodes=frozenset(nodes))
    return bench.ledger.apply(told)


def test_the_nodes_that_came_from_the_cache_are_kept_for_each_attempt() -> None:
    """They come from the memory of one process: those of another instance say nothing of it."""
    bench = Bench()
    prompt = bench.running()
    assert prompt.attempts[-1].cached is None
    assert cached(bench, "a", "1", "2")
    assert prompt.attempts[-1].cached == {"1", "2"}
    assert bench.told[-1].old is bench.told[-1].new is prompt.state
    bench.ledger.apply(events.Lost(prompt=prompt, ran=True))
    bench.ledger.apply(events.Sent(prompt=prompt, instance=bench.two))
    assert prompt.attempts[-1].cached is None


def test_nodes_of_the_cache_do_not_count_as_work() -> None:
    bench = Bench()
    prompt = bench.running()
    cached(bench, "a", "1")
    assert ended(bench, prompt) is False


def test_nodes_of_the_cache_are_no_news_of_a_prompt_that_is_not_there() -> None:
    """Nor of one whose end was told already: the instance has begun something else."""
    bench = Bench()
    prompt = bench.queued()
    assert not cached(bench, "unknown", "1")
    told = events.NodesCached(prompt_id="a", instance=bench.two, nodes=frozenset("1"))
    assert not bench.ledger.apply(told)
    bench.ledger.apply(events.EndTold(prompt_id="a", instance=bench.one, end=SUCCESS))
    assert not cached(bench, "a", "1")
    assert prompt.attempts[-1].cached is None


def test_nodes_of_the_cache_may_be_told_before_the_post_is_answered() -> None:
    bench = Bench()
    prompt = bench.received()
    bench.ledger.apply(events.Sent(prompt=prompt, instance=bench.one, number=2.5))
    bench.ledger.apply(events.Began(prompt_id="a", instance=bench.one))
    assert cached(bench, "a", "1")
    bench.ledger.apply(events.Accepted(prompt=prompt, prompt_id="a", number=2.5))
    assert prompt.attempts[-1].cached == {"1"}


def test_a_number_is_the_instances_and_not_that_with_which_it_was_sent() -> None:
    """Until it answers, ``/queue`` cannot show the prompt there."""
    bench = Bench()
    prompt = bench.received()
    bench.ledger.apply(events.Sent(prompt=prompt, instance=bench.one, number=2.5))
    assert prompt.number == 0
    bench.ledger.apply(events.Accepted(prompt=prompt, prompt_id="a", number=3.5))
    assert prompt.number == 3.5


def test_one_that_tells_no_number_leaves_the_one_that_it_had() -> None:
    bench = Bench()
    prompt = bench.moving()
    prompt.number = 4
    bench.ledger.apply(events.Sent(prompt=prompt, instance=bench.two, number=4))
    bench.ledger.apply(events.Accepted(prompt=prompt, prompt_id="a", number=None))
    assert prompt.number == 4
