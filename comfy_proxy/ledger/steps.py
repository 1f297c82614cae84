"""What each event does to the record of a prompt: one function for each, checked before it writes.

Each takes the books, the event and the present moment (``Now``), and gives the changes that it has
made, none if the event was no news. Raises IllegalTransitionError before anything has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.ledger import events
from comfy_proxy.ledger.books import Books
from comfy_proxy.ledger.changes import Now, close, ended, same, to
from comfy_proxy.ledger.events import Change, Event
from comfy_proxy.ledger.prompt import Attempt, End, Prompt, is_open
from comfy_proxy.ledger.states import Ending, IllegalTransitionError, State


def received(books: Books, event: events.Received, now: Now) -> Iterable[Change]:
    prompt = event.prompt
    if prompt.state is not State.RECEIVED or prompt.attempts or books.lists(prompt):
        raise IllegalTransitionError(f"The prompt {prompt.prompt_id} was received before.")
    prompt.reused = books.owner(prompt.prompt_id) is not None
    books.add(prompt)
    return (same(prompt, event),)


def sent(books: Books, event: events.Sent, now: Now) -> Iterable[Change]:
    prompt = event.prompt
    prompt.check(State.SUBMITTING)
    _require_taken_away(prompt)
    generation = books.generations[event.instance]
    prompt.attempts.append(
        Attempt(instance=event.instance, generation=generation, sent_at=now.monotonic)
    )
    books.submitting[prompt] = None
    return (to(State.SUBMITTING, prompt, event),)


def refused(books: Books, event: events.Refused, now: Now) -> Iterable[Change]:
    prompt = event.prompt
    new = State.RECEIVED if prompt.accepted_at is None else State.MOVING
    prompt.check(new, only_from=(State.SUBMITTING,))
    if prompt.target is not event.instance:
        raise IllegalTransitionError(f"{event.instance.host} was not sent {prompt.prompt_id}.")
    books.submitting.pop(prompt)
    prompt.attempts.pop()  # it tells nothing of where the prompt is or was
    if event.died:
        prompt.fatal = prompt.tries.lost_running()
    return (to(new, prompt, event),)


def accepted(books: Books, event: events.Accepted, now: Now) -> Iterable[Change]:
    prompt = event.prompt
    prompt.check(State.QUEUED, only_from=(State.SUBMITTING,))
    yield from _replaced(books, event, now)
    attempt = prompt.attempts[-1]
    attempt.accepted_at = now.monotonic
    if prompt.accepted_at is None:
        prompt.reused |= books.owner(event.prompt_id) is not None
        prompt.accepted_at, prompt.accepted_time = now.monotonic, now.time
    if event.prompt_id != prompt.prompt_id:
        prompt.renamed = True
        books.rename(prompt, event.prompt_id)
    prompt.queue_entry = None
    if event.number is not None:
        prompt.number = event.number
    books.submitting.pop(prompt)
    books.transit.arrived(prompt)
    books.places.arrived(prompt, attempt.instance)
    yield to(State.QUEUED if attempt.began_at is None else State.RUNNING, prompt, event)
    if attempt.began_at is not None:
        yield from _runs(books, prompt, attempt.instance, event)
    if attempt.end is not None and attempt.began_at is not None:
        yield from ended(books, prompt, attempt.end, event, now)


def _replaced(books: Books, event: events.Accepted, now: Now) -> Iterator[Change]:
    """End whatever else lives under the id of the prompt that is accepted."""
    old = books.find(event.prompt_id)
    if old is not None and old is not event.prompt:
        yield from ended(books, old, End(ending=Ending.REPLACED), event, now)


def began(books: Books, event: events.Began, now: Now) -> Iterable[Change]:
    prompt = books.at(event.instance, event.prompt_id)
    attempt = None if prompt is None else prompt.attempt
    if prompt is None or attempt is None:
        return found(books, event, now)
    if attempt.end is not None:
        return ()
    attempt.node = None
    if attempt.began_at is None:
        attempt.began_at = now.monotonic
    if prompt.state is State.SUBMITTING:  # the answer to its POST comes after its first event
        return (same(prompt, event),)
    books.transit.arrived(prompt)
    is_news = prompt.state is not State.RUNNING
    change = to(State.RUNNING, prompt, event) if is_news else same(prompt, event)
    return [change, *_runs(books, prompt, event.instance, event)]


def _runs(books: Books, prompt: Prompt, instance: Instance, event: Event) -> Iterator[Change]:
    """ComfyUI runs one prompt at a time: who ran there before has ended, heard or not."""
    before = books.places.began(prompt, instance)
    if before is not None and before is not prompt and before.state is State.RUNNING:
        before.attempts[-1].presumed_over = True
        yield same(before, event)


def _unended(
    books: Books, event: events.NodesCached | events.NodeReached
) -> tuple[Prompt, Attempt] | None:
    """The prompt of ``event`` and its attempt there, as long as no end of it was told."""
    prompt = books.at(event.instance, event.prompt_id)
    attempt = None if prompt is None else prompt.attempt
    if prompt is None or attempt is None or attempt.end is not None:
        return None
    return prompt, attempt


def nodes_cached(books: Books, event: events.NodesCached, now: Now) -> Iterable[Change]:
    found = _unended(books, event)
    if found is None:
        return ()
    prompt, attempt = found
    attempt.cached = event.nodes
    return (same(prompt, event),)


def node_reached(books: Books, event: events.NodeReached, now: Now) -> Iterable[Change]:
    found = _unended(books, event)
    if found is None:
        return ()
    prompt, attempt = found
    attempt.node = event.node
    return (same(prompt, event),)


def end_told(books: Books, event: events.EndTold, now: Now) -> Iterable[Change]:
    prompt = books.at(event.instance, event.prompt_id)
    attempt = None if prompt is None else prompt.attempt
    if prompt is None or attempt is None:
        return ()
    # Of one that nobody heard begin, the nodes that ran may have been told to nobody either.
    worked = attempt.worked or attempt.began_at is None
    end = replace(event.end, worked=worked)
    if attempt.began_at is None or prompt.state is State.SUBMITTING:
        attempt.end = end
        return (same(prompt, event),)
    return ended(books, prompt, end, event, now)


def finished(books: Books, event: events.Finished, now: Now) -> Iterable[Change]:
    return ended(books, event.prompt, event.end, event, now)


def deleted(books: Books, event: events.Deleted, now: Now) -> Iterable[Change]:
    if event.prompt_ids is None:
        prompts = list(books.live())
    else:
        found = (books.find(prompt_id) for prompt_id in event.prompt_ids)
        prompts = [prompt for prompt in found if prompt is not None]
    changes = []
    for prompt in prompts:
        runs = event.running and prompt.state is State.RUNNING
        if prompt.state is State.QUEUED or prompt.in_transit or runs:
            prompt.deleted = True
            changes.append(same(prompt, event))
    return changes


def deletion_undone(books: Books, event: events.DeletionUndone, now: Now) -> Iterable[Change]:
    event.prompt.deleted = False
    return (same(event.prompt, event),)


def move_began(books: Books, event: events.MoveBegan, now: Now) -> Iterable[Change]:
    prompt = event.prompt
    prompt.check(State.MOVING, only_from=(State.QUEUED,))
    prompt.queue_entry = event.queue_entry
    books.transit.left(prompt)
    return (to(State.MOVING, prompt, event),)


def taken_away(books: Books, event: events.TakenAway, now: Now) -> Iterable[Change]:
    prompt = event.prompt
    prompt.check(State.SUBMITTING, only_from=(State.MOVING,))
    if prompt.instance is not None:
        books.leave(prompt, prompt.instance)
    close(prompt, now)
    return (same(prompt, event),)


def stayed(books: Books, event: events.Stayed, now: Now) -> Iterable[Change]:
    prompt = event.prompt
    attempt = prompt.attempt
    if attempt is None or not is_open(attempt):
        raise IllegalTransitionError(f"The prompt {prompt.prompt_id} is nowhere, and cannot stay.")
    attempt.stays = True
    if prompt.state is not State.MOVING:
        return (same(prompt, event),)
    prompt.queue_entry = None
    books.transit.arrived(prompt)
    return (to(State.QUEUED, prompt, event),)


def found(books: Books, event: events.Found | events.Began, now: Now) -> Iterable[Change]:
    if books.find(event.prompt_id) is None:
        books.note_owner(event.prompt_id, event.instance)
    return ()


def _require_taken_away(prompt: Prompt) -> None:
    """An instance may still have it: to send it elsewhere could run it twice."""
    if prompt.attempt is not None and is_open(prompt.attempt):
        raise IllegalTransitionError(f"The prompt {prompt.prompt_id} was not taken away before.")
