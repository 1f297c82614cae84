"""dispatch/run_feed.py: what the ledger hears is what the watch for standstills knows."""

from __future__ import annotations

from typing import Any

import pytest
from manual_clock import ManualClock
from plan_harness import planner_of

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.dispatch.run_feed import RunFeed
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import End, JobRef, Prompt
from comfy_proxy.ledger.states import Ending


class Standstills:
    """What it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Instance]] = []
        self.runs: Any = None

    def taken(self, instance: Instance) -> None:
        self.told.append(("taken", instance))

    def began(self, instance: Instance) -> None:
        self.told.append(("began", instance))


@pytest.fixture
def instance(clock: ManualClock) -> Instance:
    return next(iter(planner_of(clock).lines))


def test_it_hears_what_is_taken_and_begins(clock: ManualClock, instance: Instance) -> None:
    """And may ask whether anything runs there, as far as is known."""
    told: Any = Standstills()
    ledger = Ledger(clock)
    ledger.observers.append(RunFeed(told, ledger).observe)
    prompt = Prompt(prompt_id="p", job=JobRef(job_id="job", job_type="test"))
    ledger.apply(events.Received(prompt=prompt))
    ledger.apply(events.Sent(prompt=prompt, instance=instance))
    assert told.told == []
    ledger.apply(events.Accepted(prompt=prompt, prompt_id="p", number=1))
    assert (told.told, told.runs(instance)) == ([("taken", instance)], False)
    ledger.apply(events.Began(prompt_id="p", instance=instance))
    assert (told.told[1:], told.runs(instance)) == ([("began", instance)], True)
    ledger.apply(events.Finished(prompt=prompt, end=End(ending=Ending.SUCCESS)))
    assert not told.runs(instance)
