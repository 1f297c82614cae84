"""Prompts as the ledger of a gateway has them, put there without any instance."""

from __future__ import annotations

from typing import Any

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.gateway import Gateway
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import ClientPost, PostHeaders, Prompt


def client_post(client_id: str | None = None, body: bytes = b"{}") -> ClientPost:
    return ClientPost(
        path="/prompt", client_id=client_id, headers=PostHeaders({}), body=body, graph={}
    )


def accepted(
    ledger: Ledger, prompt_id: str, instance: Instance, client_id: str | None = None
) -> Prompt:
    """A prompt that ``instance`` has taken, as far as the ledger knows."""
    prompt = Prompt(prompt_id=prompt_id, post=client_post(client_id))
    ledger.apply(events.Received(prompt=prompt))
    take(ledger, prompt, instance)
    return prompt


def take(ledger: Ledger, prompt: Prompt, instance: Instance) -> None:
    """``instance`` takes a prompt that is nowhere."""
    ledger.apply(events.Sent(prompt=prompt, instance=instance))
    ledger.apply(events.Accepted(prompt=prompt, prompt_id=prompt.prompt_id, number=prompt.number))


def leave(ledger: Ledger, prompt: Prompt, entry: list[Any] | None = None) -> None:
    """It is taken away, and in transit."""
    row = entry or [prompt.number, prompt.prompt_id, {}, {}, []]
    ledger.apply(events.MoveBegan(prompt=prompt, queue_entry=row))
    ledger.apply(events.TakenAway(prompt=prompt))


def moves(gateway: Gateway, prompt_id: str | None = None) -> bool:
    """Whether that prompt, or any, is in transit."""
    transit = gateway.ledger.transit
    return len(transit) > 0 if prompt_id is None else transit.find(prompt_id) is not None


def taken(gateway: Gateway, prompt_id: str, number: int = 2) -> None:
    """The prompt in transit is taken by the instance with that number."""
    prompt = gateway.ledger.transit.find(prompt_id)
    if prompt is not None:
        take(gateway.ledger, prompt, gateway.cluster.instances[number - 1])


def is_deleted(gateway: Gateway, prompt_id: str) -> bool:
    """Whether a client has deleted the prompt in transit."""
    prompt = gateway.ledger.transit.find(prompt_id)
    return prompt is not None and prompt.deleted
