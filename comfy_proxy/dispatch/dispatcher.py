"""The last steps before a prompt is an instance's: check, stage its inputs, its listener, one POST.

Clients' new prompts, those that are moved or were lost, and those of our jobs go through here; only
here is the ledger told that a prompt was sent, taken or refused. Which instance is tried first is
the sender's own matter (``cluster/scheduler.py`` for jobs, ``gateway/prompts/choice.py``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TypeVar

from comfy_proxy.clock import Clock, sleep
from comfy_proxy.cluster.hang_watch import InstanceHangsError
from comfy_proxy.cluster.health_checker import HealthChecker
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.planning.joining import number_of, place_matters
from comfy_proxy.cluster.planning.planner import Planner
from comfy_proxy.cluster.submit_once import submit_once
from comfy_proxy.cluster.translation import nobody_listens
from comfy_proxy.dispatch.order import Order, Preparation, Receipt
from comfy_proxy.dispatch.turns import Turns
from comfy_proxy.errors import (
    InstanceDiedError,
    InstanceError,
    InstanceRefusedError,
    InstanceTimeoutError,
)
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import Prompt

PAUSE_S = 1.0
MAX_QUESTIONS = 600
"""How often, with ``PAUSE_S`` after each, an instance that fell silent with a prompt in hand is
asked whether it has taken it. Beyond these ten minutes it counts as not taken."""

T = TypeVar("T")


class Unready(Enum):
    """Why a prompt is not sent to an instance now."""

    SILENT = "silent"
    """It did not answer the check in time (HEALTH_CHECK_TIMEOUT, 300 ms)."""
    OTHER_FILES = "other files"
    """It has another file under a name that the prompt uses: there it would mean another result."""
    UNHEARD = "unheard"
    """The socket of the prompt's client cannot be there now."""


class Dispatcher:
    """One for each application.

    ``durable`` is awaited before each POST: it returns when the ledger's note that the prompt is
    sent outlives this process, if it is to. ``left_behind`` is told the id of each prompt that an
    instance may have still although it is not wanted there, because it could not be told so.
    """

    def __init__(
        self, ledger: Ledger, health_checker: HealthChecker, planner: Planner, clock: Clock
    ) -> None:
        self._ledger = ledger
        self._health_checker = health_checker
        self._planner = planner
        self._clock = clock
        self._turns = Turns(clock)
        self.durable: Callable[[Prompt], Awaitable[None]] = _in_memory
        self.left_behind: Callable[[str, Instance], None] = _nobody

    async def prepare(
        self,
        prompt: Prompt,
        instance: Instance,
        preparation: Preparation,
        *,
        unchecked: bool = False,
        unheard: bool = False,
    ) -> Unready | None:
        """Why ``instance`` cannot be sent ``prompt`` now; None if it can.

        ``unchecked``: it is known to be busy, and need not answer a check. ``unheard``: the prompt
        goes there without its client's socket too. Raises InstanceError.
        """
        if not (unchecked or await self._health_checker.check(instance)):
            return Unready.SILENT
        if not await preparation.stage(prompt, instance):
            return Unready.OTHER_FILES
        if not (unheard or await preparation.ready(prompt, instance)):
            return Unready.UNHEARD
        return None

    async def submit(
        self, order: Order[T], placement: Placement, *, patient: bool = False
    ) -> Receipt[T]:
        """Have the instance of ``placement`` take the prompt, exactly once, or refuse it.

        ``patient``: if it falls silent with the prompt in hand it is asked until it says what it
        did, as for a prompt that was taken away elsewhere and must not get lost. Raises as
        :func:`submit_once` does, and whatever ``order.post`` does; then it was not taken, as far
        as anybody can say.
        """
        prompt, instance = order.prompt, placement.instance
        line = self._planner.lines[instance]
        wanted = not prompt.standing.fixed and place_matters(line, prompt.work)
        async with self._turns.turn(instance, wanted=wanted) as has_turn:
            if prompt.ended:
                raise InstanceRefusedError("The prompt was replaced before it was sent.")
            number = number_of(line, placement.key) if has_turn else None
            placement.sent(prompt)
            self._ledger.apply(events.Sent(prompt=prompt, instance=instance, number=number))
            receipt, error = None, None
            try:
                await self.durable(prompt)
                receipt = await self._submit_once(order, instance, number, patient=patient)
            except InstanceError as failed:
                error = failed
                raise
            finally:
                self._book(prompt, instance, receipt, error)
        return receipt

    async def _submit_once(
        self, order: Order[T], instance: Instance, number: float | None, *, patient: bool
    ) -> Receipt[T]:
        try:
            return await submit_once(
                lambda: order.post(instance, number),
                lambda: order.find(instance),
                clock=self._clock,
                unsure=order.unsure,
            )
        except InstanceHangsError:
            raise  # what it may have taken is ended there when it is back (``zombies.py``)
        except InstanceTimeoutError:
            found = await self._turned_up(order, instance) if patient else None
            if found is None:
                raise
            return found

    async def _turned_up(self, order: Order[T], instance: Instance) -> Receipt[T] | None:
        for _ in range(MAX_QUESTIONS):
            try:
                return await order.find(instance)
            except InstanceError as error:
                if nobody_listens(error):
                    return None
            await sleep(self._clock, PAUSE_S)
        return None

    def _book(
        self,
        prompt: Prompt,
        instance: Instance,
        receipt: Receipt[T] | None,
        error: InstanceError | None,
    ) -> None:
        if prompt.ended:  # a newer prompt has taken its id meanwhile
            return
        if receipt is None or receipt.prompt_id is None:
            refused = events.Refused(
                prompt=prompt,
                instance=instance,
                died=isinstance(error, InstanceDiedError),
                unsure=isinstance(error, InstanceHangsError),
            )
            self._ledger.apply(refused)
        else:
            self._ledger.apply(
                events.Accepted(prompt=prompt, prompt_id=receipt.prompt_id, number=receipt.number)
            )


def _nobody(prompt_id: str, instance: Instance) -> None:
    """Nobody ends it there."""


async def _in_memory(prompt: Prompt) -> None:
    """Without STATE_FILE there is nothing to wait for."""
