"""A ledger with two instances and a clock that stands still."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.ledger import events
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import ClientPost, End, PostHeaders, Prompt
from comfy_proxy.ledger.states import Ending

SUCCESS = End(ending=Ending.SUCCESS)


class HandClock:
    """Fills ``comfy_proxy.clock.Clock``; ``seconds`` are set by hand."""

    seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def timeout(self, seconds: float | None) -> Any:
        raise NotImplementedError  # the ledger waits for nothing


class Bench:
    """``told`` are the changes of which an observer has heard."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.one, self.two = (
            Instance(id=str(n), url=URL(f"http://localhost:818{n}"), clock=self.clock)
            for n in (1, 2)
        )
        self.ledger = Ledger(self.clock, max_owners=3)
        self.told: list[Change] = []
        self.ledger.observers.append(self.told.append)

    @property
    def instances(self) -> tuple[Instance, Instance]:
        return self.one, self.two

    def received(self, prompt_id: str = "a") -> Prompt:
        post = ClientPost(
            path="/prompt", client_id=None, headers=PostHeaders({}), body=b"{}", graph={}
        )
        prompt = Prompt(prompt_id=prompt_id, post=post)
        self.ledger.apply(events.Received(prompt=prompt))
        return prompt

    def queued(
        self, prompt_id: str = "a", instance: Instance | None = None, number: float = 0
    ) -> Prompt:
        """A prompt that ``instance``, else the first one, has taken."""
        prompt = self.received(prompt_id)
        self.ledger.apply(events.Sent(prompt=prompt, instance=instance or self.one))
        self.ledger.apply(events.Accepted(prompt=prompt, prompt_id=prompt_id, number=number))
        return prompt

    def running(self, prompt_id: str = "a", instance: Instance | None = None) -> Prompt:
        prompt = self.queued(prompt_id, instance)
        self.ledger.apply(events.Began(prompt_id=prompt_id, instance=instance or self.one))
        return prompt

    def moving(self, prompt_id: str = "a") -> Prompt:
        """A prompt that was taken away from the first instance and is nowhere."""
        prompt = self.queued(prompt_id)
        entry: list[Any] = [0, prompt_id, {}, {}, []]
        self.ledger.apply(events.MoveBegan(prompt=prompt, queue_entry=entry))
        self.ledger.apply(events.TakenAway(prompt=prompt))
        return prompt
