"""What frames tell of prompts comes to be in the ledger, also where they do not name the prompt."""

from __future__ import annotations

from typing import Any

import pytest
from ledger_front import accepted, take
from manual_clock import ManualClock
from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.dispatch.second_tries import SecondTries
from comfy_proxy.gateway.custom.askers import Askers
from comfy_proxy.gateway.events.booking import FrameBooking
from comfy_proxy.gateway.events.frame_reader import FrameReader
from comfy_proxy.gateway.events.frames import event_frame
from comfy_proxy.gateway.events.replaced_prompts import ReplacedPrompts
from comfy_proxy.gateway.files.made_files import MadeFiles
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import End, Prompt
from comfy_proxy.ledger.states import Ending, State


class Told:
    """A client's socket at ``instance``, and its prompt that waits there."""

    def __init__(self) -> None:
        self.instance = Instance(id="1", url=URL("http://localhost:8188"), clock=ManualClock())
        self.ledger = Ledger(ManualClock())
        self.prompt = accepted(self.ledger, "p", self.instance, client_id="me")
        self.connect()

    def connect(self, client_id: str = "me") -> None:
        """A new socket, which has heard nothing yet."""
        files: Any = None  # no test here tells of any
        made_files = MadeFiles(files, ManualClock(), unended=self.ledger)
        self._reader = FrameReader(lambda output: output)
        second_tries = SecondTries(self.ledger, enabled=True)
        self._booking = FrameBooking(
            client_id,
            self.ledger,
            made_files,
            second_tries,
            Askers(ManualClock()),
            ReplacedPrompts(),
        )

    def say(self, kind: str, **data: Any) -> bool:
        """Whether the client is to hear of it."""
        return self._booking.book(self._reader.text(event_frame(kind, data)), self.instance)


@pytest.fixture
def told() -> Told:
    return Told()


def test_from_its_beginning_to_its_end(told: Told) -> None:
    """Each node is on record while it runs; the end says that some did."""
    told.say("execution_start", prompt_id="p")
    assert told.prompt.state is State.RUNNING
    for node in "12":
        told.say("executing", node=node, prompt_id="p")
        assert told.prompt.attempts[-1].node == node
    told.say("execution_success", prompt_id="p")
    assert worked(told.prompt) is True


def test_one_that_came_from_the_cache_did_not_work(told: Told) -> None:
    told.say("execution_start", prompt_id="p")
    told.say("execution_cached", nodes=["1", "2"], prompt_id="p")
    told.say("execution_success", prompt_id="p")
    assert worked(told.prompt) is False


def test_a_node_told_to_a_new_socket_counts_for_the_prompt_that_runs(told: Told) -> None:
    """It is not named (PROTOCOL.md trap 14); what ran has worked, though the first socket heard of
    no node."""
    told.say("execution_start", prompt_id="p")
    told.connect()
    told.say("executing", node="3")
    assert told.prompt.attempts[-1].node == "3"
    told.say("execution_success", prompt_id="p")
    assert worked(told.prompt) is True


def test_another_clients_prompt_gets_no_node_of_it(told: Told) -> None:
    """The ledger has missed an end, or the prompt that runs came past us."""
    told.say("execution_start", prompt_id="p")
    told.connect("other")
    told.say("executing", node="3")
    assert told.prompt.attempts[-1].node is None


def test_what_the_ledger_does_not_know_changes_nothing(told: Told) -> None:
    """A prompt that the client sent to the instance past us."""
    for kind in ("execution_start", "executing", "execution_success"):
        told.say(kind, prompt_id="q", node="1")
    assert told.prompt.state is State.QUEUED
    assert told.prompt.attempts[-1].node is None


def worked(prompt: Prompt) -> bool:
    assert prompt.end is not None
    return prompt.end.worked


def test_an_attempt_that_was_given_up_is_told_to_nobody(told: Told) -> None:
    """Its instance hung, and wakes: the prompt is elsewhere, or has ended there by now."""
    told.say("execution_start", prompt_id="p")
    told.ledger.apply(events.GivenUp(prompt=told.prompt, ran=True))
    other = Instance(id="2", url=URL("http://localhost:8189"), clock=ManualClock())
    take(told.ledger, told.prompt, other)
    assert not told.say("executing", node="1", prompt_id="p")
    assert not told.say("progress", value=1, max=2)
    assert told.say("status", status={"exec_info": {"queue_remaining": 1}})
    assert told.prompt.attempts[-1].node is None
    told.ledger.apply(events.Began(prompt_id="p", instance=other))
    end = End(ending=Ending.SUCCESS)
    told.ledger.apply(events.EndTold(prompt_id="p", instance=other, end=end))
    assert not told.say("execution_success", prompt_id="p")
    assert not told.say("executing", node=None, prompt_id="p")
    assert told.say("execution_start", prompt_id="of somebody else's making")
    assert told.say("progress", value=1, max=2)
