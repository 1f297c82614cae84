"""What an instance that was away, restarted or out of memory does to the records of its prompts.

As in ``steps.py``: one function for each event, checked before it writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from comfy_proxy.ledger import events
from comfy_proxy.ledger.books import Books
from comfy_proxy.ledger.changes import Now, close, ended, same, to
from comfy_proxy.ledger.events import Change, Event
from comfy_proxy.ledger.prompt import Attempt, Prompt
from comfy_proxy.ledger.states import IllegalTransitionError, State


def doubted(books: Books, event: events.Doubted, now: Now) -> Iterable[Change]:
    there = books.places[event.instance]
    prompts = [prompt for prompt in there if prompt.job is None]  # jobs follow their own
    for prompt in event.over:
        if prompt.attempt is not None:
            prompt.attempt.presumed_over = True
    running = books.places.running_for_client(event.instance)
    is_told = running is not None and running.state is State.RUNNING
    fresh = [prompt for prompt in prompts if prompt.attempts[-1].doubt is None]
    if prompts and (len(fresh) == len(prompts) or is_told):
        books.suspects[event.instance] = running
    books.doubts += 1
    for prompt in prompts:
        prompt.attempts[-1].doubt = books.doubts
    # Each socket that ends raises a doubt: thousands of prompts are not told of again each time.
    return [same(prompt, event) for prompt in fresh or prompts[:1]]


def cleared(books: Books, event: events.Cleared, now: Now) -> Iterable[Change]:
    changes = []
    for prompt in books.places[event.instance]:
        attempt = prompt.attempts[-1]
        if attempt.doubt is None or attempt.doubt > event.doubt:
            continue
        if prompt.state is State.MOVING:
            continue  # whoever moves it may find it gone as well; if it stays, it is asked for
        attempt.doubt = None
        changes.append(same(prompt, event))
    books.settle_suspect(event.instance)
    return changes


def lost(books: Books, event: events.Lost, now: Now) -> Iterable[Change]:
    def book(prompt: Prompt, attempt: Attempt) -> None:
        if event.ran:
            prompt.fatal = prompt.tries.lost_running(attempt.node)
        attempt.lost = True

    return _left_behind(books, event, now, book)


def given_up(books: Books, event: events.GivenUp, now: Now) -> Iterable[Change]:
    def book(prompt: Prompt, attempt: Attempt) -> None:
        if event.ran:
            prompt.fatal = prompt.tries.hung()
        attempt.given_up, attempt.hung = True, event.ran

    return _left_behind(books, event, now, book)


def _left_behind(
    books: Books,
    event: events.Lost | events.GivenUp,
    now: Now,
    book: Callable[[Prompt, Attempt], None],
) -> Iterable[Change]:
    """Its instance counts no more, which ``book`` notes; one whose end was told has ended."""
    prompt = event.prompt
    attempt = prompt.attempt
    prompt.check(State.MOVING, only_from=(State.QUEUED, State.RUNNING))
    if attempt is None:
        return ()
    if attempt.end is not None:  # its end was told; only its times were to be read in the history
        return ended(books, prompt, attempt.end, event, now)
    book(prompt, attempt)
    return _goes_on(books, prompt, attempt, event, now)


def ran_out_of_memory(books: Books, event: events.RanOutOfMemory, now: Now) -> Iterable[Change]:
    prompt = event.prompt
    attempt = prompt.attempt
    prompt.check(State.MOVING, only_from=(State.QUEUED, State.RUNNING))
    if attempt is None:
        return ()
    attempt.out_of_memory = prompt.reused = True
    return _goes_on(books, prompt, attempt, event, now)


def begins_anew(books: Books, event: events.BeginsAnew, now: Now) -> Iterable[Change]:
    prompt = event.prompt
    prompt.check(State.MOVING, only_from=(State.RECEIVED,))
    if prompt.attempts or books.lists(prompt) or books.find(prompt.prompt_id) is not None:
        raise IllegalTransitionError(f"Another prompt lives under the id {prompt.prompt_id}.")
    at, generation = now.monotonic, books.generations[event.instance]
    attempt = Attempt(instance=event.instance, generation=generation, sent_at=at, accepted_at=at)
    attempt.lost = True
    prompt.attempts.append(attempt)
    if prompt.accepted_at is None:
        prompt.accepted_at, prompt.accepted_time = now.monotonic, now.time
    books.add(prompt)
    return _goes_on(books, prompt, attempt, event, now)


def _goes_on(
    books: Books, prompt: Prompt, attempt: Attempt, event: Event, now: Now
) -> list[Change]:
    """It is at no instance any more, and on its way to one."""
    books.leave(prompt, attempt.instance)
    close(prompt, now)
    graph = {} if prompt.post is None else prompt.post.graph
    prompt.queue_entry = [prompt.number, prompt.prompt_id, graph, {}, []]
    books.transit.left(prompt)
    return [to(State.MOVING, prompt, event)]


def restarted(books: Books, event: events.Restarted, now: Now) -> Iterable[Change]:
    books.generations[event.instance] += 1
    return ()


def removed(books: Books, event: events.Removed, now: Now) -> Iterable[Change]:
    books.forget(event.instance)
    return ()
