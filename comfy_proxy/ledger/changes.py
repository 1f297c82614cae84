"""How a step writes to the record of a prompt, and the change that it tells of it."""

from __future__ import annotations

from dataclasses import dataclass

from comfy_proxy.ledger.books import Books
from comfy_proxy.ledger.events import Change, Event
from comfy_proxy.ledger.prompt import End, Prompt, is_open
from comfy_proxy.ledger.states import State


@dataclass(frozen=True, slots=True)
class Now:
    """One moment: ``monotonic`` seconds, and ``time`` in seconds since the epoch."""

    monotonic: float
    time: float


def ended(books: Books, prompt: Prompt, end: End, event: Event, now: Now) -> list[Change]:
    prompt.check(State.ENDED)
    close(prompt, now)
    prompt.end, prompt.queue_entry = end, None
    books.remove(prompt)
    return [to(State.ENDED, prompt, event)]


def close(prompt: Prompt, now: Now) -> None:
    attempt = prompt.attempt
    if attempt is not None and is_open(attempt):
        attempt.ended_at = now.monotonic


def to(state: State, prompt: Prompt, event: Event) -> Change:
    old, prompt.state = prompt.state, state
    return Change(prompt=prompt, old=old, new=state, event=event)


def same(prompt: Prompt, event: Event) -> Change:
    return Change(prompt=prompt, old=prompt.state, new=prompt.state, event=event)
