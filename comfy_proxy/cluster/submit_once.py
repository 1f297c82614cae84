"""A ``POST /prompt`` is taken once, though connections break: one rule for clients and for jobs.

ComfyUI runs a prompt as often as it is posted, also under one id (PROTOCOL.md trap 9). So before a
prompt is posted again the instance is asked whether it has it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from loguru import logger

from comfy_proxy.clock import Clock, sleep
from comfy_proxy.cluster.hang_watch import InstanceHangsError
from comfy_proxy.cluster.translation import nobody_listens, nothing_sent
from comfy_proxy.errors import (
    ConnectionBrokenError,
    InstanceDiedError,
    InstanceError,
    InstanceTimeoutError,
    InstanceUnreachableError,
)

GATEWAY_STATUSES = (502, 503, 504)
"""What a server in front of an instance answers in its place: the prompt may have been taken."""
SECOND_LOOK_S = 0.1
"""Seconds after the first answer "no such prompt" until the instance is asked once more; only then
is the answer believed. When the connection broke it may have been validating the prompt."""

T = TypeVar("T")


async def submit_once(
    post: Callable[[], Awaitable[T]],
    find: Callable[[], Awaitable[T | None]],
    *,
    clock: Clock,
    unsure: type[InstanceError] = InstanceError,
) -> T:
    """The answer to ``post``, or what ``find`` makes of a prompt whose answer was lost.

    ``find`` asks the instance, over new connections, and gives None if it has no such prompt. After
    errors of the type ``unsure`` the prompt may have been taken; others pass through. A prompt that
    was not taken because the connection broke is posted there a second time: a break alone says
    nothing against the instance. Raises InstanceHangsError if it hangs and may have it,
    InstanceTimeoutError if nobody can say whether it was taken, any other InstanceError if it was
    not and may be posted elsewhere. InstanceDiedError: two connections broke, and after the second
    nobody listened any more; the prompt may be why.
    """
    posted_again = False
    while True:
        try:
            return await post()
        except InstanceHangsError:
            raise  # it would not say either
        except unsure as error:
            found = None if nothing_sent(error) else await _found(find, clock)
            if found is not None:
                return found
            if posted_again and nobody_listens(error):
                raise InstanceDiedError(
                    "ComfyUI's process ended when a prompt was posted to it."
                ) from error
            if posted_again or not isinstance(error, ConnectionBrokenError):
                if isinstance(error, InstanceTimeoutError):
                    raise InstanceUnreachableError(error.message) from error
                raise
            posted_again = True
            logger.debug("a prompt that was not taken is posted again: {}", error.message)


async def _found(find: Callable[[], Awaitable[T | None]], clock: Clock) -> T | None:
    """What ``find`` gives now, or SECOND_LOOK_S later; None also if nobody listens any more.

    Raises InstanceTimeoutError if the instance cannot say.
    """
    try:
        found = await find()
        if found is None:
            await sleep(clock, SECOND_LOOK_S)
            found = await find()
    except InstanceError as error:
        if nobody_listens(error):
            return None
        raise InstanceTimeoutError(
            "A ComfyUI instance does not say whether it has taken the prompt."
        ) from error
    return found
