"""Whether a node of a prompt ran is known from the events of its instance, or taken for granted."""

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
