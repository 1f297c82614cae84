"""A client sees each prompt start once and end once, and no progress that goes back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ledger_front import accepted, client_post, leave, take
from manual_clock import ManualClock
from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.events import told_prompts
from comfy_proxy.gateway.events.frame_reader import FrameReader
from comfy_proxy.gateway.events.told_prompts import ToldPrompts
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import End, Prompt
from comfy_proxy.ledger.states import Ending


class Client:
    """Of one client: two instances, a reader of frames for each, and what came through."""

    def __init__(self) -> None:
        clock = ManualClock()
        self.ledger = Ledger(clock)
        self.told = ToldPrompts(self.ledger)
        self.one, self.two = (
            Instance(id=str(n), url=URL(f"http://127.0.0.1:{n}"), clock=clock) for n in (1, 2)
        )
        self._readers = {one: FrameReader(lambda output: output) for one in (self.one, self.two)}

    def hears(self, instance: Instance, kind: str, **data: Any) -> Any:
        """The data of the frame as the client gets it; None if it does not."""
        message = {"type": kind, "data": {"prompt_id": "p", **data}}
        seen: Any = self._readers[instance].text(json.dumps(message))
        shown: Any = self.told.passed(seen, instance)
        return None if shown is None else json.loads(shown.frame.data)["data"]

    def runs(self, instance: Instance) -> Prompt:
        """A prompt that was taken there, and begins."""
        prompt = accepted(self.ledger, "p", instance, "me")
        assert self.hears(instance, "execution_start")
        self.ledger.apply(events.Began(prompt_id="p", instance=instance))
        return prompt

    def goes_on(self, prompt: Prompt, instance: Instance) -> None:
        """It was lost where it was, and is taken by another one."""
        self.ledger.apply(events.Lost(prompt=prompt, ran=True))
        take(self.ledger, prompt, instance)


@pytest.fixture
def client() -> Client:
    return Client()


def test_a_second_start_is_not_told(client: Client) -> None:
    """The rest of the second run is."""
    prompt = client.runs(client.one)
    client.goes_on(prompt, client.two)
    assert client.hears(client.two, "execution_start") is None
    assert client.hears(client.two, "execution_cached", nodes=[])
    assert client.hears(client.two, "executing", node="1")
    assert client.hears(client.two, "executed", node="1", output={})
    assert client.hears(client.two, "execution_success")
    assert client.hears(client.two, "executing", node=None)


def test_a_start_that_nobody_heard_is_told(client: Client) -> None:
    """It was lost before it began."""
    prompt = accepted(client.ledger, "p", client.one, "me")
    client.goes_on(prompt, client.two)
    assert client.hears(client.two, "execution_start")


def test_progress_of_the_second_run_does_not_go_back(client: Client) -> None:
    """What is behind is dropped; other nodes are told from their start."""
    prompt = client.runs(client.one)
    for value in (1, 2, 7):
        assert client.hears(client.one, "progress", node="3", value=value, max=10)
    client.goes_on(prompt, client.two)
    client.hears(client.two, "execution_start")
    shown = [client.hears(client.two, "progress", node="3", value=n, max=10) for n in range(11)]
    assert [one and one["value"] for one in shown] == [*[None] * 7, 7, 8, 9, 10]
    assert client.hears(client.two, "progress", node="4", value=0, max=10)


def test_progress_of_the_first_run_is_a_nodes_own(client: Client) -> None:
    """A node that shows one bar after another begins each at 0."""
    client.runs(client.one)
    for value in (9, 10, 0, 1):
        assert client.hears(client.one, "progress", node="3", value=value, max=10)


def test_states_of_the_second_run_do_not_go_back(client: Client) -> None:
    """A node that is behind is shown as it was told, also one that is not named any more."""
    done = {"state": "finished", "value": 1, "max": 1}
    half = {"state": "running", "value": 5, "max": 10}
    begun = {"state": "running", "value": 1, "max": 10}
    more = {"state": "running", "value": 6, "max": 10}
    prompt = client.runs(client.one)
    client.hears(client.one, "progress_state", nodes={"1": done, "2": half})
    client.goes_on(prompt, client.two)
    client.hears(client.two, "execution_start")
    told = client.hears(client.two, "progress_state", nodes={"1": begun})
    assert told == {"prompt_id": "p", "nodes": {"1": done, "2": half}}
    told = client.hears(client.two, "progress_state", nodes={"1": done, "2": more, "3": begun})
    assert told["nodes"] == {"1": done, "2": more, "3": begun}


def test_nothing_is_told_after_an_end_that_was_given(client: Client) -> None:
    """Until another prompt is posted under the id."""
    prompt = client.runs(client.one)
    client.ledger.apply(events.Finished(prompt=prompt, end=End(ending=Ending.SUCCESS)))
    client.told.given("p")
    for kind in ("execution_start", "progress_state", "execution_success", "execution_cached"):
        assert client.hears(client.one, kind, nodes={}) is None
    client.told.begins_anew("p")
    client.runs(client.one)
    assert client.hears(client.one, "execution_success")


def test_two_prompts_of_one_id_are_told_as_they_come(client: Client) -> None:
    """ComfyUI runs both (PROTOCOL.md trap 9), and nobody can tell which a frame is about."""
    client.runs(client.one)
    second = Prompt(prompt_id="p", post=client_post("me"))
    client.ledger.apply(events.Received(prompt=second))
    take(client.ledger, second, client.two)
    for instance in (client.one, client.two):
        assert client.hears(instance, "execution_start")
        assert client.hears(instance, "execution_success")


def test_what_came_past_us_is_told(client: Client) -> None:
    """A prompt that the ledger does not know."""
    for _ in range(2):
        assert client.hears(client.one, "execution_start")
        assert client.hears(client.one, "execution_success")


def test_a_moved_prompt_is_heard_where_it_goes(client: Client) -> None:
    """Also before the answer to its POST."""
    prompt = accepted(client.ledger, "p", client.one, "me")
    leave(client.ledger, prompt)
    client.ledger.apply(events.Sent(prompt=prompt, instance=client.two))
    assert client.hears(client.two, "execution_start")


def test_only_so_many_are_remembered(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told_prompts, "MAX_PROMPTS", 2)
    for name in "abc":
        client.told.given(name)
    assert not client.told.of("a").given
    assert client.told.of("c").given
