"""What waits behind a prompt that runs for longer than it should goes elsewhere all the same.

No event tells of that: an instance that goes on with what it runs says nothing new. Of a prompt
whose client listens nowhere not even the beginning is told, so the instance is asked for it.
"""

from __future__ import annotations

from collections.abc import Callable

from loguru import logger

from comfy_proxy.clock import Timer
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_lists import QUEUE, read_queue
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.exchange.scanned import ask_scanned
from comfy_proxy.gateway.prompts.uneven import Uneven
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.states import State


class LateRuns:
    """Has work evened out again, by ``again``, at the moment when something is late."""

    def __init__(
        self, cluster: Cluster, ledger: Ledger, uneven: Uneven, again: Callable[[], None]
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._uneven = uneven
        self._again = again
        self._timer: Timer | None = None
        self._is_due = False
        self._asked = ByInstance[object]()  # the prompt for whose beginning it was asked

    def foresee(self) -> None:
        """Work is as even as it can be now: set the timer for when it will not be."""
        self.close()
        seconds = [
            seconds
            for busy, first, seconds in self._uneven.unheard()
            if self._asked.get(busy) is not first
        ]
        if (gains_in_s := self._uneven.gains_in_s()) is not None:
            seconds.append(gains_in_s)
        if seconds:
            self._timer = self._cluster.clock.call_later(min(seconds), self._go_off)

    async def ask(self) -> None:
        """Once the timer has gone off: ask each instance of which it is not known what runs there,
        once for each prompt that should. Fails for none of them."""
        if not self._is_due:
            return
        self._is_due = False
        for busy, first, _ in list(self._uneven.unheard()):
            if self._asked.get(busy) is not first:
                self._asked[busy] = first
                await self._ask(busy)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _go_off(self) -> None:
        self._timer, self._is_due = None, True
        self._again()

    async def _ask(self, busy: Instance) -> None:
        try:
            answer = await ask_scanned(busy, self._cluster, "/queue", QUEUE)
        except InstanceError as error:
            logger.info("{}: what runs there is not known: {}", busy.host, error.message)
            return
        if (queue := read_queue(answer.root)) is None:
            return
        running = queue.view().running
        for prompt in list(self._ledger.at(busy)):
            if prompt.state is State.QUEUED and prompt.prompt_id in running:
                self._ledger.apply(events.Began(prompt_id=prompt.prompt_id, instance=busy))
