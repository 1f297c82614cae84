"""Which prompts run once more after they ran out of memory, and what then tells of their end."""

from __future__ import annotations

from typing import Any

import pytest
from ledger_front import accepted
from manual_clock import ManualClock
from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.dispatch.second_tries import SecondTries
from comfy_proxy.errors import GpuMemoryError, WorkflowError
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import JobRef, Prompt
from comfy_proxy.ledger.states import State

ERROR = GpuMemoryError("KSampler (node 3): the GPU ran out of memory.")
JOB: dict[str, Any] = {
    "id": "p",
    "status": "failed",
    "execution_error": {"exception_type": "torch.OutOfMemoryError", "node_id": "3"},
}


class Told:
    """A client's prompt that runs at the first of two instances."""

    def __init__(self, *, enabled: bool = True) -> None:
        clock = ManualClock()
        self.one, self.two = (
            Instance(id=str(n), url=URL(f"http://localhost:818{n}"), clock=clock) for n in (1, 2)
        )
        self.ledger = Ledger(clock)
        self.tries = SecondTries(self.ledger, enabled=enabled)
        self.prompt = accepted(self.ledger, "p", self.one, client_id="me")
        self.begin(self.one)

    def begin(self, instance: Instance) -> None:
        self.ledger.apply(events.Began(prompt_id="p", instance=instance))

    def again(self, instance: Instance) -> None:
        """Its second try has begun there."""
        self.ledger.apply(events.Sent(prompt=self.prompt, instance=instance))
        self.ledger.apply(events.Accepted(prompt=self.prompt, prompt_id="p", number=2))
        self.begin(instance)


@pytest.fixture
def told() -> Told:
    return Told()


def test_once(told: Told) -> None:
    """It is on its way then, as a waiting one, and no instance is to blame."""
    assert told.tries.goes_on("p", told.one, ERROR)
    assert told.prompt.state is State.MOVING
    assert told.prompt.queue_entry is not None
    assert list(told.ledger.transit) == [told.prompt]
    assert told.prompt.tries.failures == 0
    told.again(told.one)
    assert not told.tries.goes_on("p", told.one, ERROR)
    assert told.prompt.state is State.RUNNING


def test_what_tells_of_the_first_try_is_none(told: Told) -> None:
    """However often and late it comes, by a frame, in the history or as a job."""
    assert told.tries.goes_on("p", told.one, ERROR)
    assert told.tries.goes_on("p", told.one, ERROR)
    told.again(told.two)
    assert told.tries.goes_on("p", told.one, ERROR)
    assert told.tries.job_goes_on(JOB, told.one)
    assert not told.tries.goes_on("p", told.two, ERROR)
    assert told.prompt.state is State.RUNNING


def test_by_what_is_told_of_it_as_a_job(told: Told) -> None:
    """ComfyUI names the error there too."""
    for job in ({}, {"id": "p"}, {**JOB, "id": 1}, {**JOB, "execution_error": {}}):
        assert not told.tries.job_goes_on(job, told.one)
    assert told.prompt.state is State.RUNNING
    assert told.tries.job_goes_on(JOB, told.one)
    assert told.prompt.state is State.MOVING


def test_nobody_else(told: Told) -> None:
    """Another error, another instance, an unknown id; one that its client has deleted."""
    assert not told.tries.goes_on("p", told.one, WorkflowError("no"))
    assert not told.tries.goes_on("p", told.one, None)
    assert not told.tries.goes_on("p", told.two, ERROR)
    assert not told.tries.goes_on("q", told.one, ERROR)
    told.ledger.apply(events.Deleted(prompt_ids=["p"], running=True))
    assert not told.tries.goes_on("p", told.one, ERROR)
    assert told.prompt.state is State.RUNNING


def test_not_unless_it_is_wanted() -> None:
    """RETRY_OUT_OF_MEMORY is off by default."""
    told = Told(enabled=False)
    assert not told.tries.goes_on("p", told.one, ERROR)
    assert told.prompt.state is State.RUNNING


def test_not_those_of_our_jobs(told: Told) -> None:
    """Whoever follows the job sees to it."""
    prompt = Prompt(prompt_id="j", job=JobRef(job_id="1", job_type="upscale"))
    told.ledger.apply(events.Received(prompt=prompt))
    told.ledger.apply(events.Sent(prompt=prompt, instance=told.one))
    told.ledger.apply(events.Accepted(prompt=prompt, prompt_id="j", number=3))
    assert not told.tries.goes_on("j", told.one, ERROR)
