"""gateway/prompts/hung_prompts.py: which prompts an instance that is away loses, and which not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ledger_front import accepted, client_post
from manual_clock import ManualClock
from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.retry_law import MAX_HANGS
from comfy_proxy.errors import PromptLostError
from comfy_proxy.gateway.prompts.hung_prompts import PAID_KEYS, HungPrompts, require_repeatable
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.states import State


class Bench:
    """Three prompts at one instance, in this order."""

    def __init__(self) -> None:
        self.instance = Instance(id="1", url=URL("http://localhost:8188"), clock=ManualClock())
        self.ledger = Ledger(ManualClock())
        self.hung = HungPrompts(self.ledger)
        self.prompts = [accepted(self.ledger, name, self.instance) for name in "abc"]

    @property
    def left(self) -> list[str]:
        """Those that are nowhere now."""
        return [one.prompt_id for one in self.prompts if one.state is State.MOVING]

    def begin(self, prompt: Prompt) -> None:
        event = events.Began(prompt_id=prompt.prompt_id, instance=self.instance)
        self.ledger.apply(event)

    def back(self, prompt: Prompt) -> None:
        """It is sent to the same instance once more, and runs."""
        self.ledger.apply(events.Sent(prompt=prompt, instance=self.instance))
        event = events.Accepted(prompt=prompt, prompt_id=prompt.prompt_id, number=0)
        self.ledger.apply(event)
        self.begin(prompt)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_what_waits_goes_and_what_runs_stays(bench: Bench) -> None:
    bench.begin(bench.prompts[1])
    bench.hung.away(bench.instance)
    assert bench.left == ["a", "c"]


def test_where_nobody_heard_which_one_runs_it_is_the_first(bench: Bench) -> None:
    """ComfyUI runs them in their order, and tells clients that only poll nothing."""
    bench.hung.away(bench.instance)
    assert bench.left == ["b", "c"]


def test_what_runs_goes_once_it_hangs(bench: Bench) -> None:
    bench.begin(bench.prompts[0])
    bench.hung.hung(bench.instance)
    assert bench.left == ["a", "b", "c"]
    assert [one.attempts[-1].hung for one in bench.prompts] == [True, False, False]
    assert [one.fatal for one in bench.prompts] == [None] * 3


def test_what_a_client_has_deleted_does_not_go_on(bench: Bench) -> None:
    bench.ledger.apply(events.Deleted(prompt_ids=["b"]))
    bench.hung.hung(bench.instance)
    assert bench.left == ["a", "c"]


def test_one_under_which_instances_hang_again_and_again_ends(bench: Bench) -> None:
    """It says why; one that only waited may hang with its instance as often as that does."""
    runs, waits = bench.prompts[:2]
    bench.begin(runs)
    bench.hung.hung(bench.instance)
    for _ in range(MAX_HANGS - 1):
        assert runs.fatal is None
        bench.back(runs)
        bench.hung.hung(bench.instance)
    assert runs.fatal is not None
    assert "HANG_TIMEOUT" in runs.fatal.message
    assert waits.fatal is None


@pytest.mark.parametrize("key", PAID_KEYS)
def test_a_prompt_that_may_have_cost_money_is_not_run_again(bench: Bench, key: bytes) -> None:
    """Not if it ran; one that waited was not charged."""
    for prompt in bench.prompts:
        post = client_post()
        prompt.post = replace(post, body=b'{"extra_data": {' + key + b': "secret"}}')
    bench.begin(bench.prompts[0])
    bench.hung.hung(bench.instance)
    with pytest.raises(PromptLostError, match="paid service"):
        require_repeatable(bench.prompts[0])
    require_repeatable(bench.prompts[1])
