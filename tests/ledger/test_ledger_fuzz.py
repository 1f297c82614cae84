"""Whatever instances, clients and we ourselves tell the ledger, in any order: its books are right.

``pytest --hypothesis-profile=thorough tests/ledger`` tries ten thousand sequences.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_harness import SUCCESS, Bench

from comfy_proxy.ledger import events
from comfy_proxy.ledger.prompt import Attempt, ClientPost, End, PostHeaders, Prompt, is_open
from comfy_proxy.ledger.states import TRANSITIONS, Ending, IllegalTransitionError, State

IDS = ("a", "b", "c")
ENDS = (SUCCESS, End(ending=Ending.ERROR), End(ending=Ending.CANCELLED))

_of_id = st.tuples(
    st.sampled_from(("began", "node", "cached", "end told", "found")),
    st.sampled_from(IDS),
    st.booleans(),
)
_of_prompt = st.tuples(
    st.sampled_from(
        (
            "sent", "sent to a place", "refused", "died", "accepted", "accepted without number",
            "renamed", "finished", "undone", "move", "taken away", "stayed", "lost",
            "lost running", "out of memory", "begins anew",
            "received again",
        )
    ),
    st.integers(0, 5),
    st.booleans(),
)  # fmt: skip
_of_instance = st.tuples(
    st.sampled_from(("doubted", "cleared", "restarted", "over")), st.just(0), st.booleans()
)
_of_all = st.tuples(
    st.sampled_from(("received", "anew", "deleted", "clear", "later")),
    st.sampled_from(IDS),
    st.booleans(),
)
_carry = st.tuples(st.just("carry"), st.integers(0, 5), st.booleans())
SEQUENCES = st.lists(
    st.one_of(_carry, _carry, _of_prompt, _of_id, _of_instance, _of_all), min_size=25, max_size=60
)


class Fuzz(Bench):
    """Applies one step after the other and looks at the books after each."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts: list[Prompt] = []
        self.states: dict[Prompt, State] = {}
        self.ends: dict[Prompt, int] = {}
        self.worked: dict[Attempt, bool] = {}
        self.cached: dict[Attempt, frozenset[str]] = {}
        self.numbers: dict[Prompt, float] = {}
        self.wrong: list[events.Change] = []
        self.ledger.observers.append(self._hear)

    def _hear(self, change: events.Change) -> None:
        # An observer that raises is logged only: what is wrong is noted, and judged by `check`.
        if change.old is not self.states.get(change.prompt, State.RECEIVED):
            self.wrong.append(change)
        if change.new is not change.old and change.new not in TRANSITIONS[change.old]:
            self.wrong.append(change)
        self.states[change.prompt] = change.new
        self._hear_work(change)
        self._hear_number(change)
        self.ends[change.prompt] = self.ends.get(change.prompt, 0) + change.is_end

    def _hear_number(self, change: events.Change) -> None:
        """The number is the one that an instance told last; one that tells none changes none."""
        event = change.event
        own = isinstance(event, events.Accepted) and event.prompt is change.prompt
        if own and event.number is not None:
            self.numbers[change.prompt] = event.number

    def _hear_work(self, change: events.Change) -> None:
        """Whether a node ran: a fresh beginning forgets, a node tells, an end takes over."""
        event, attempt = change.event, change.prompt.attempt
        if isinstance(event, events.Began | events.NodeReached) and attempt is not None:
            named = change.prompt.prompt_id == event.prompt_id
            if named and attempt.instance is event.instance:
                self.worked[attempt] = isinstance(event, events.NodeReached)
        if isinstance(event, events.NodesCached) and attempt is not None:
            self.cached[attempt] = event.nodes
        if isinstance(event, events.EndTold) and attempt is not None:
            told = change.prompt.end or attempt.end
            worked = self.worked.get(attempt, False) or attempt.began_at is None
            if told is None or told.worked is not worked:
                self.wrong.append(change)

    def step(self, kind: str, which: Any, second: bool) -> None:
        for event in self._events(kind, which, self.two if second else self.one):
            before = self._snapshot()
            try:
                self.ledger.apply(event)
            except IllegalTransitionError:
                assert self._snapshot() == before
        self.check()

    def _events(self, kind: str, which: Any, instance: Any) -> list[events.Event]:
        if kind in _BY_ID:
            return [_BY_ID[kind](which, instance)]
        if kind in _BY_INSTANCE:
            return [_BY_INSTANCE[kind](self, instance)]
        if kind == "received":
            post = ClientPost(path="", client_id=None, headers=PostHeaders({}), body=b"", graph={})
            self.prompts.append(Prompt(prompt_id=which, post=post))
            return [events.Received(prompt=self.prompts[-1])]
        if kind == "anew":
            self.prompts.append(Prompt(prompt_id=which))
            return [events.BeginsAnew(prompt=self.prompts[-1], instance=instance)]
        if kind == "later":
            self.clock.seconds += 1
            return []
        if not self.prompts:
            return []
        prompt = self.prompts[which % len(self.prompts)]
        if kind == "carry":
            kind = _next(prompt)
        return [_BY_PROMPT[kind](prompt, instance)]

    def _snapshot(self) -> Any:
        return (
            [
                (p.prompt_id, p.state, p.deleted, p.tries.losses, [repr(one) for one in p.attempts])
                for p in self.prompts
            ],
            [list(self.ledger.at(one)) for one in self.instances],
            list(self.ledger.transit),
        )

    def check(self) -> None:
        ledger = self.ledger
        assert not self.wrong
        living = [one for one in self.prompts if one in self.states and not one.ended]
        assert set(ledger.live()) == set(living)  # nothing alive is forgotten, nothing dead kept
        for prompt in self.prompts:
            assert [is_open(one) for one in prompt.attempts[:-1]] == [False] * (
                max(0, len(prompt.attempts) - 1)
            )  # at most one current attempt
            assert self.ends.get(prompt, 0) == prompt.ended  # told exactly once
            assert (prompt.end is not None) == prompt.ended
            assert prompt.number == self.numbers.get(prompt, 0)
            for one in prompt.attempts:
                assert one.worked == self.worked.get(one, False)
                assert one.cached == self.cached.get(one)
        there = [one for instance in self.instances for one in ledger.at(instance)]
        assert len(there) == len(set(there))
        at_none = [one for one in living if one not in there]
        fresh = [one for one in at_none if one.accepted_at is None]
        assert {one for one in at_none if one not in fresh} <= set(ledger.transit)
        assert all(one.in_transit for one in ledger.transit)
        assert all(one.state in (State.RECEIVED, State.SUBMITTING) for one in fresh)
        assert not any(
            one.end and one.began_at for p in living for one in p.attempts if is_open(one)
        )
        on_the_wire = [one for one in living if one.state is State.SUBMITTING]
        assert sum(len(ledger.submitting(at)) for at in self.instances) == len(on_the_wire)
        for instance in self.instances:
            assert all(one.at(instance) for one in ledger.at(instance))
            assert all(one.target is instance for one in ledger.submitting(instance))
            assert set(ledger.doubtful(instance)) <= set(ledger.at(instance))
        for prompt_id in IDS:
            accepted = [
                one for one in living if one.prompt_id == prompt_id and one.accepted_at is not None
            ]
            assert len(accepted) <= 1
            assert ledger.find(prompt_id) is (accepted[0] if accepted else None)
            if accepted:
                assert ledger.owner(prompt_id) is accepted[0].instance


def _next(prompt: Prompt) -> str:
    """What usually comes next for it; without this few sequences would get as far as a move."""
    if prompt.state is State.MOVING and any(map(is_open, prompt.attempts)):
        return "taken away"
    return {State.RECEIVED: "sent", State.MOVING: "sent", State.QUEUED: "move"}.get(
        prompt.state, "accepted"
    )


_BY_ID: dict[str, Any] = {
    "began": lambda key, at: events.Began(prompt_id=key, instance=at),
    "node": lambda key, at: events.NodeReached(prompt_id=key, instance=at, node="7"),
    "cached": lambda key, at: events.NodesCached(prompt_id=key, instance=at, nodes=frozenset(key)),
    "end told": lambda key, at: events.EndTold(prompt_id=key, instance=at, end=SUCCESS),
    "found": lambda key, at: events.Found(prompt_id=key, instance=at),
    "deleted": lambda key, at: events.Deleted(prompt_ids=[key]),
    "clear": lambda key, at: events.Deleted(prompt_ids=None, running=True),
}
_BY_INSTANCE: dict[str, Any] = {
    "doubted": lambda fuzz, at: events.Doubted(instance=at),
    "over": lambda fuzz, at: events.Doubted(instance=at, over=fuzz.ledger.at(at)[:1]),
    "cleared": lambda fuzz, at: events.Cleared(instance=at, doubt=fuzz.ledger.doubt),
    "restarted": lambda fuzz, at: events.Restarted(instance=at),
    "removed": lambda fuzz, at: events.Removed(instance=at),
}
_BY_PROMPT: dict[str, Any] = {
    "received again": lambda prompt, at: events.Received(prompt=prompt),
    "sent": lambda prompt, at: events.Sent(prompt=prompt, instance=at),
    "sent to a place": lambda prompt, at: events.Sent(prompt=prompt, instance=at, number=1.5),
    "refused": lambda prompt, at: events.Refused(prompt=prompt, instance=prompt.target or at),
    "died": lambda prompt, at: events.Refused(prompt=prompt, instance=at, died=True),
    "accepted": lambda prompt, at: events.Accepted(
        prompt=prompt, prompt_id=prompt.prompt_id, number=3
    ),
    "accepted without number": lambda prompt, at: events.Accepted(
        prompt=prompt, prompt_id=prompt.prompt_id, number=None
    ),
    "renamed": lambda prompt, at: events.Accepted(prompt=prompt, prompt_id="c", number=1),
    "finished": lambda prompt, at: events.Finished(prompt=prompt, end=ENDS[1]),
    "undone": lambda prompt, at: events.DeletionUndone(prompt=prompt),
    "move": lambda prompt, at: events.MoveBegan(prompt=prompt, queue_entry=[]),
    "taken away": lambda prompt, at: events.TakenAway(prompt=prompt),
    "stayed": lambda prompt, at: events.Stayed(prompt=prompt),
    "lost": lambda prompt, at: events.Lost(prompt=prompt, ran=False),
    "lost running": lambda prompt, at: events.Lost(prompt=prompt, ran=True),
    "given up": lambda prompt, at: events.GivenUp(prompt=prompt, ran=False),
    "given up running": lambda prompt, at: events.GivenUp(prompt=prompt, ran=True),
    "out of memory": lambda prompt, at: events.RanOutOfMemory(prompt=prompt),
    "begins anew": lambda prompt, at: events.BeginsAnew(prompt=prompt, instance=at),
}


@pytest.mark.long
@given(SEQUENCES)
def test_the_books_are_right_after_every_event(sequence: list[tuple[str, Any, bool]]) -> None:
    fuzz = Fuzz()
    for prompt_id in IDS:
        fuzz.step("received", prompt_id, False)
    for kind, which, second in sequence:
        fuzz.step(kind, which, second)


def test_the_sequences_reach_every_event() -> None:
    """What no sequence can hold is not tried."""
    kinds = {*_BY_ID, *_BY_INSTANCE, *_BY_PROMPT}
    fuzz = Fuzz()
    fuzz.step("received", "a", False)
    made = {
        type(event)
        for kind in kinds
        for event in fuzz._events(kind, "a" if kind in _BY_ID else 0, fuzz.one)
    }
    assert made == set(events.Event.__args__)
