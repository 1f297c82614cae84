"""One request and its answer: when it is sent again, and when the client waits to be let in."""

from __future__ import annotations

from typing import Final

from comfy_proxy.client.answers import read_error
from comfy_proxy.client.effects import Answer, Call, Open, Operation, Send, Sleep
from comfy_proxy.client.errors import ApiError, UnreachableError
from comfy_proxy.client.policy import Policy, Tries

_FOR_GOOD: Final = ("workflow_unavailable",)
"""Codes of a 503 that are not waited for: an instance would have to be given nodes or models."""


def exchange(
    call: Call, policy: Policy, *, streamed: bool = False, tries: Tries | None = None
) -> Operation[Answer]:
    """Send ``call`` until it is answered; returns an answer below 300.

    It is sent again when the connection breaks, if it is ``repeatable``, and when the answer is
    429 or 503 with a ``Retry-After``. ``streamed``: the body is left open. Raises UnreachableError
    or ApiError once ``policy`` allows no more.
    """
    tries = tries or Tries(policy)
    waited_s = 0.0
    while True:
        try:
            answer = yield Open(call) if streamed else Send(call)
        except UnreachableError:
            pause_s = tries.pause_s() if call.repeatable else None
            if pause_s is None:
                raise
            yield Sleep(pause_s)
            continue
        if answer.status < 300:
            result: Answer = answer
            return result
        error = read_error(answer)
        pause_s = _told_to_wait_s(error) if call.repeatable else None
        if pause_s is None or waited_s + pause_s > policy.max_wait_s:
            raise error
        waited_s += pause_s
        yield Sleep(pause_s)


def _told_to_wait_s(error: ApiError) -> float | None:
    """Seconds after which the proxy wants to see it again, None if it is not to be repeated."""
    if error.status not in (429, 503) or error.code in _FOR_GOOD:
        return None
    return None if error.retry_after_s is None else float(error.retry_after_s)
