"""The sum of the queues while prompts move: never too low, too high for a moment only."""

from __future__ import annotations

import pytest
from ledger_front import accepted, leave, take
from manual_clock import ManualClock
from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.events.sums import OwnSum, QueueSum, ToldQueue
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import Prompt


@pytest.fixture
def target() -> Instance:
    return Instance(id="1", url=URL("http://localhost:8188"), clock=ManualClock())


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(ManualClock())


@pytest.fixture
def moving(ledger: Ledger, target: Instance) -> Prompt:
    """A prompt, sent to the target, which has not answered."""
    other = Instance(id="2", url=URL("http://localhost:8189"), clock=ManualClock())
    prompt = accepted(ledger, "p", other)
    leave(ledger, prompt)
    ledger.apply(events.Sent(prompt=prompt, instance=target))
    return prompt


def answered(ledger: Ledger, prompt: Prompt) -> None:
    """The target has taken it."""
    ledger.apply(events.Accepted(prompt=prompt, prompt_id="p", number=0))


def test_a_frame_with_more_tells_of_it(ledger: Ledger, target: Instance) -> None:
    """The frame came before the answer: it counts no longer, also after the answer."""
    queue = ToldQueue(target, ledger)
    queue.sent()
    queue.told(1)
    assert queue.untold == 0
    queue.told(1)
    assert queue.untold == 0


def test_a_frame_with_no_more_does_not_end_it(
    ledger: Ledger, moving: Prompt, target: Instance
) -> None:
    """Something ended there meanwhile: the arrival is still to be told."""
    queue = ToldQueue(target, ledger)
    queue.told(0)
    assert queue.untold == 1


def test_the_next_frame_after_the_answer_ends_it(
    ledger: Ledger, moving: Prompt, target: Instance
) -> None:
    """An arrival and an end at once show as one unchanged number."""
    queue = ToldQueue(target, ledger)
    queue.told(0)
    answered(ledger, moving)
    assert queue.untold == 1
    queue.told(0)
    assert queue.untold == 0


def test_a_refusal_ends_it(ledger: Ledger, moving: Prompt, target: Instance) -> None:
    """A prompt that was not taken is nowhere again, and never counts less than nothing."""
    queue = ToldQueue(target, ledger)
    queue.refused()
    queue.refused()
    assert queue.untold == 0


def test_a_new_socket_counts_what_is_arriving(
    ledger: Ledger, moving: Prompt, target: Instance
) -> None:
    """Its first frame may be older than the arrival."""
    assert ToldQueue(target, ledger).untold == 1
    assert ledger.transit.nowhere == 0
    ledger.apply(events.Refused(prompt=moving, instance=target))
    assert ToldQueue(target, ledger).untold == 0
    assert ledger.transit.nowhere == 1
    take(ledger, moving, target)
    assert ledger.transit.nowhere == 0


def test_a_clients_own_socket_goes_on_from_the_shared_one(ledger: Ledger, target: Instance) -> None:
    """The sum is the same in that moment, and each tells for itself from then on."""
    shared = QueueSum(ledger)
    shared.joined(target)
    shared.told(target, 2)
    shared.sent(target)
    own = OwnSum(shared)
    assert own.total == shared.total == 3
    own.begin(target)
    assert own.total == 3
    queue = own.get(target)
    assert queue is not None
    queue.told(3)
    assert (own.total, shared.total) == (3, 3)
    queue.told(1)
    assert (own.total, shared.total) == (1, 3)
    own.removed(target)
    assert own.total == 3
