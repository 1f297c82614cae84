"""The life of a prompt as the ledger books it: one step at a time, each told once."""

from __future__ import annotations

from typing import Any

import pytest
from ledger_harness import SUCCESS, Bench

from comfy_proxy.ledger import events
from comfy_proxy.ledger.prompt import End, JobRef, Prompt
from comfy_proxy.ledger.states import TRANSITIONS, Ending, IllegalTransitionError, State


@pytest.fixture
def bench() -> Bench:
    return Bench()


def states(bench: Bench) -> list[State]:
    """The states of which the observers have heard, without repetitions."""
    told = [change.new for change in bench.told]
    return [one for n, one in enumerate(told) if n == 0 or told[n - 1] is not one]


def test_every_state_leads_somewhere_but_the_last() -> None:
    assert {state for state, following in TRANSITIONS.items() if not following} == {State.ENDED}
    assert all(State.ENDED in following for following in TRANSITIONS.values() if following)


def test_a_prompt_goes_through_its_life_in_order(bench: Bench) -> None:
    prompt = bench.running()
    bench.ledger.apply(events.EndTold(prompt_id="a", instance=bench.one, end=SUCCESS))
    assert states(bench) == [*list(State)[:4], State.ENDED]
    assert prompt.end is not None
    assert prompt.end.ending is Ending.SUCCESS
    assert not bench.ledger.live()
    assert bench.ledger.owner("a") is bench.one


def test_frames_that_are_faster_than_the_answer_take_effect_with_it(bench: Bench) -> None:
    """A cached prompt has ended before ComfyUI has answered that it took it."""
    prompt = bench.received()
    bench.ledger.apply(events.Sent(prompt=prompt, instance=bench.one))
    bench.ledger.apply(events.Began(prompt_id="a", instance=bench.one))
    bench.ledger.apply(events.EndTold(prompt_id="a", instance=bench.one, end=SUCCESS))
    assert prompt.state is State.SUBMITTING
    bench.ledger.apply(events.Accepted(prompt=prompt, prompt_id="a", number=1))
    assert states(bench)[-2:] == [State.RUNNING, State.ENDED]


def test_what_another_instance_tells_is_no_news(bench: Bench) -> None:
    """Only the current attempt counts."""
    prompt = bench.queued()
    assert not bench.ledger.apply(events.Began(prompt_id="a", instance=bench.two))
    assert not bench.ledger.apply(events.EndTold(prompt_id="a", instance=bench.two, end=SUCCESS))
    assert prompt.state is State.QUEUED


def test_an_ended_prompt_takes_no_event(bench: Bench) -> None:
    prompt = bench.queued()
    bench.ledger.apply(events.Finished(prompt=prompt, end=SUCCESS))
    heard = len(bench.told)
    with pytest.raises(IllegalTransitionError):
        bench.ledger.apply(events.Finished(prompt=prompt, end=End(ending=Ending.ERROR)))
    assert prompt.end is SUCCESS
    assert len(bench.told) == heard


def test_nothing_is_sent_elsewhere_that_may_still_be_there(bench: Bench) -> None:
    """Until it is proven to be away it could run twice."""
    prompt = bench.queued()
    bench.ledger.apply(events.MoveBegan(prompt=prompt, queue_entry=[]))
    with pytest.raises(IllegalTransitionError):
        bench.ledger.apply(events.Sent(prompt=prompt, instance=bench.two))
    bench.ledger.apply(events.TakenAway(prompt=prompt))
    assert bench.ledger.apply(events.Sent(prompt=prompt, instance=bench.two))


def test_the_newer_of_two_prompts_of_one_id_is_the_one_that_counts(bench: Bench) -> None:
    older, newer = bench.moving(), bench.queued("a", bench.two)
    assert older.end is not None
    assert older.end.ending is Ending.REPLACED
    assert bench.ledger.find("a") is newer
    assert len(bench.ledger.transit) == 0


def test_only_as_many_owners_are_kept_but_none_that_lives_is_forgotten(bench: Bench) -> None:
    living = [bench.queued(f"living {n}") for n in range(10)]
    for n in range(10):
        ended = bench.queued(f"ended {n}", bench.two)
        bench.ledger.apply(events.Finished(prompt=ended, end=SUCCESS))
    assert all(bench.ledger.owner(one.prompt_id) is bench.one for one in living)
    kept = [n for n in range(10) if bench.ledger.owner(f"ended {n}") is not None]
    assert kept == [7, 8, 9]


def test_who_ran_when_an_instance_was_first_found_away_is_the_suspect(bench: Bench) -> None:
    """Later signs of the same outage change nothing; of the next outage somebody else is."""
    first, second = bench.queued("a"), bench.queued("b", number=1)
    bench.ledger.apply(events.Doubted(instance=bench.one))
    assert bench.ledger.suspect(bench.one) is first
    bench.ledger.apply(events.Finished(prompt=first, end=SUCCESS))
    bench.ledger.apply(events.Doubted(instance=bench.one))
    assert bench.ledger.suspect(bench.one) is first
    bench.ledger.apply(events.Cleared(instance=bench.one, doubt=bench.ledger.doubt))
    assert bench.ledger.suspect(bench.one) is None
    bench.ledger.apply(events.Doubted(instance=bench.one))
    assert bench.ledger.suspect(bench.one) is second


def test_a_suspect_of_an_outage_that_came_to_nothing_is_forgotten(bench: Bench) -> None:
    """All that was in doubt has ended by itself, and nobody asked."""
    first = bench.queued("a")
    bench.ledger.apply(events.Doubted(instance=bench.one))
    bench.ledger.apply(events.Finished(prompt=first, end=SUCCESS))
    second = bench.queued("b")
    bench.ledger.apply(events.Doubted(instance=bench.one))
    assert bench.ledger.suspect(bench.one) is second


def test_a_doubt_that_arises_while_the_instance_is_asked_stays(bench: Bench) -> None:
    prompt = bench.queued()
    bench.ledger.apply(events.Doubted(instance=bench.one))
    asked = bench.ledger.doubt
    bench.ledger.apply(events.Doubted(instance=bench.one))
    bench.ledger.apply(events.Cleared(instance=bench.one, doubt=asked))
    assert bench.ledger.doubtful(bench.one) == [prompt]


def test_an_end_that_was_told_is_not_lost_with_the_process(bench: Bench) -> None:
    """Only its times were still to be read in the history."""
    prompt = bench.queued()
    bench.ledger.apply(events.EndTold(prompt_id="a", instance=bench.one, end=SUCCESS))
    bench.ledger.apply(events.Lost(prompt=prompt, ran=True))
    assert prompt.end is not None
    assert prompt.end.ending is Ending.SUCCESS
    assert prompt.tries.losses == 0


def test_one_that_ran_twice_when_its_process_ended_is_fatal(bench: Bench) -> None:
    prompt = bench.running()
    bench.ledger.apply(events.Lost(prompt=prompt, ran=True))
    assert prompt.fatal is None
    bench.ledger.apply(events.Sent(prompt=prompt, instance=bench.two))
    bench.ledger.apply(events.Refused(prompt=prompt, instance=bench.two, died=True))
    assert prompt.fatal is not None


def test_a_deletion_is_for_what_waits(bench: Bench) -> None:
    waiting, running, moving = bench.queued("a"), bench.running("b"), bench.moving("c")
    bench.ledger.apply(events.Deleted(prompt_ids=["a", "b", "c", "unknown"]))
    assert [one.deleted for one in (waiting, running, moving)] == [True, False, True]
    bench.ledger.apply(events.Deleted(prompt_ids=["b"], running=True))
    assert running.deleted


def test_whoever_watches_sees_a_move_that_has_come_and_gone(bench: Bench) -> None:
    with bench.ledger.transit.watch() as seen:
        prompt = bench.moving()
        bench.ledger.apply(events.Sent(prompt=prompt, instance=bench.two))
        bench.ledger.apply(events.Accepted(prompt=prompt, prompt_id="a", number=0))
        assert len(bench.ledger.transit) == 0
        assert seen == {"a": prompt}


def test_a_jobs_prompt_in_transit_is_shown_to_nobody(bench: Bench) -> None:
    prompt = Prompt(prompt_id="a", job=JobRef(job_id="j", job_type="t"))
    bench.ledger.apply(events.Received(prompt=prompt))
    bench.ledger.apply(events.Sent(prompt=prompt, instance=bench.one))
    bench.ledger.apply(events.Accepted(prompt=prompt, prompt_id="a", number=0))
    bench.ledger.apply(events.MoveBegan(prompt=prompt, queue_entry=[]))
    assert prompt.in_transit
    assert list(bench.ledger.transit) == []
    assert not bench.ledger.apply(events.Doubted(instance=bench.one))


def test_an_observer_must_not_write(bench: Bench) -> None:
    """It would be told of its own change in the middle of another."""
    caught: list[Exception] = []

    def meddle(change: Any) -> None:
        try:
            bench.ledger.apply(events.Deleted(prompt_ids=None))
        except RuntimeError as error:
            caught.append(error)

    bench.ledger.observers.append(meddle)
    bench.queued()
    assert caught
