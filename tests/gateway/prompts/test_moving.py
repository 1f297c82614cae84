"""The sum of one client's sockets while prompts move: never too low, too high for a moment only."""

from __future__ import annotations

import pytest
from manual_clock import ManualClock
from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.prompts.moving import MovingPrompt, MovingPrompts, UntoldArrivals

ENTRY = [0, "p", {}, {}, []]


@pytest.fixture
def target() -> Instance:
    return Instance(id="1", url=URL("http://localhost:8188"), clock=ManualClock())


@pytest.fixture
def moving(target: Instance) -> MovingPrompts:
    """One prompt, sent to the target, which has not answered."""
    moving = MovingPrompts()
    moving["p"] = MovingPrompt(prompt_id="p", queue_entry=ENTRY, target=target)
    return moving


def test_a_frame_with_more_tells_of_it(moving: MovingPrompts, target: Instance) -> None:
    """The frame came before the answer: it counts no longer, also after the answer."""
    arrivals = UntoldArrivals(MovingPrompts())
    arrivals.sent(target)
    arrivals.told(target, 1)
    assert arrivals.total == 0
    moving.clear()
    arrivals.told(target, 1)
    assert arrivals.total == 0


def test_a_frame_with_no_more_does_not_end_it(moving: MovingPrompts, target: Instance) -> None:
    """Something ended there meanwhile: the arrival is still to be told."""
    arrivals = UntoldArrivals(moving)
    arrivals.told(target, 0)
    assert arrivals.total == 1


def test_the_next_frame_after_the_answer_ends_it(moving: MovingPrompts, target: Instance) -> None:
    """An arrival and an end at once show as one unchanged number."""
    arrivals = UntoldArrivals(moving)
    arrivals.told(target, 0)
    del moving["p"]
    assert arrivals.total == 1
    arrivals.told(target, 0)
    assert arrivals.total == 0


def test_a_refusal_ends_it(moving: MovingPrompts, target: Instance) -> None:
    """A prompt that was not taken is nowhere again, and never counts less than nothing."""
    arrivals = UntoldArrivals(moving)
    arrivals.refused(target)
    arrivals.refused(target)
    assert arrivals.total == 0


def test_a_new_client_counts_what_is_arriving(moving: MovingPrompts, target: Instance) -> None:
    """Its first frame may be older than the arrival."""
    assert UntoldArrivals(moving).total == 1
    assert moving.nowhere == 0
    moving["p"].target = None
    assert UntoldArrivals(moving).total == 0
    assert moving.nowhere == 1
