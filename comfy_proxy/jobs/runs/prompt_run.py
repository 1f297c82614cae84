"""Run one prompt of a job on one instance, from its listener in place to the results in hand.

Order (PROTOCOL.md trap 1): lease a socket, then ``POST /prompt``, then follow the frames. A
``POST`` whose connection broke may have been accepted: that is looked up before anything is sent
again (trap 9).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from loguru import logger

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.connection_manager import ConnectionManager
from comfy_proxy.cluster.hang_watch import HangWatch
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.websocket_pool import PromptSocket
from comfy_proxy.dispatch.dispatcher import Dispatcher
from comfy_proxy.dispatch.order import Receipt
from comfy_proxy.errors import (
    ComfyProxyError,
    InstanceError,
    InterruptedPromptError,
    PromptRejectedError,
)
from comfy_proxy.jobs.results.raw_results import RawResults, raw_results
from comfy_proxy.jobs.runs.job_order import JobOrder
from comfy_proxy.jobs.runs.prompt_execution import PromptExecution
from comfy_proxy.jobs.runs.prompt_follower import OnUpdate, PromptFollower
from comfy_proxy.jobs.workflows.graph import Graph
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import End, Prompt
from comfy_proxy.ledger.states import Ending, State

WITHDRAW_TIMEOUT_S = 5.0
"""Seconds that the withdrawal of a prompt may take in all. What has not been withdrawn then stays
at its instance, whose queue nobody waits for any more."""


class PromptRun:
    """One attempt at one graph; :meth:`run` once. ``prompt`` is its record in the ledger, new or of
    an attempt that was moved away elsewhere."""

    def __init__(
        self,
        placement: Placement,
        graph: Graph,
        prompt: Prompt,
        *,
        client: ComfyUIClient,
        connections: ConnectionManager,
        dispatcher: Dispatcher,
        ledger: Ledger,
        hang_watch: HangWatch,
        clock: Clock,
        silence_timeout_s: float,
        on_update: OnUpdate,
        spawn: Callable[[Coroutine[None, None, None]], None],
    ) -> None:
        self.placement = placement
        self.execution = PromptExecution(graph, prompt.prompt_id)
        self._prompt = prompt
        self._client = client
        self._pool = connections.pool(placement.instance)
        self._dispatcher = dispatcher
        self._ledger = ledger
        self._hang_watch = hang_watch
        self._clock = clock
        self._spawn = spawn
        self._follower = PromptFollower(
            placement,
            self.execution,
            client=client,
            pool=self._pool,
            ledger=ledger,
            clock=clock,
            silence_timeout_s=silence_timeout_s,
            on_update=on_update,
        )
        self._submission: asyncio.Task[Receipt[str]] | None = None
        self._following: asyncio.Task[None] | None = None
        self._moved_to: Placement | None = None
        self._gave_up: InstanceError | None = None

    @property
    def prompt_id(self) -> str:
        return self.execution.prompt_id

    async def run(self) -> RawResults | Placement:
        """The results as ComfyUI made them, or the place elsewhere to which it was moved.

        Raises an InstanceError (run again elsewhere) or a JobError. Whatever ends it, nothing of
        ours is left waiting or running at the instance.
        """
        try:
            await self._follow()
            if self._moved_to is None:
                self._finish(self._success(), self.execution.error)
        except InstanceError as error:
            self._give_back()
            if self.placement.in_queue:
                # Not awaited: the job goes on elsewhere while this one may hang.
                self._spawn(self._withdraw())
            self._finish(End(ending=Ending.LOST, error=error))
            raise
        except BaseException as error:
            self._give_back()
            if self.placement.in_queue:
                await self._withdraw_shielded()
            self._finish(End(ending=Ending.CANCELLED), error)
            raise
        finally:
            if self._submission is not None:
                self._submission.cancel()
            self.placement.decline()
            self.placement.release()
        return await self._results() if self._moved_to is None else self._moved_to

    async def move(self) -> None:
        """Go on at the place that was offered (``placement.move_to``), if the prompt provably did
        not run here (PROTOCOL.md trap 24); else decline it. :meth:`run` returns that place then."""
        if self._submission is not None:
            await asyncio.wait([self._submission])
        target = self.placement.move_to
        if target is None or not self._is_waiting():
            self.placement.decline()
            return
        entry = [self._prompt.number, self.prompt_id, {}, {}, []]
        self._ledger.apply(events.MoveBegan(prompt=self._prompt, queue_entry=entry))
        away = False
        self.placement.is_leaving = True  # the next `status` may be read before the answer
        try:
            await self._follower.require_waiting()
            away = await self._client.delete(self.prompt_id)
        except InstanceError as error:
            self._gave_up = error
        finally:
            self.placement.is_leaving = away
            if not away and not self._prompt.ended:
                self._ledger.apply(events.Stayed(prompt=self._prompt))
        if self._following is None or self._following.done() or self._prompt.ended:
            self.placement.decline()  # it has ended meanwhile, or was cancelled
        elif away and self.placement.move_to is target and self._prompt.state is State.MOVING:
            self._ledger.apply(events.TakenAway(prompt=self._prompt))
            self.placement.in_queue = False
            self._moved_to, self.placement.move_to = target, None
            self._following.cancel()
        else:  # it stays; or it was declined meanwhile, and who settles it finds it gone
            self.placement.decline()
            if self._gave_up is not None:
                self._following.cancel()

    def give_up(self, error: InstanceError) -> None:
        """Its instance hangs or is away: :meth:`run` raises ``error``."""
        if self._following is not None and not self._following.done() and not self._moved_to:
            self._gave_up = error
            self._following.cancel()

    def _is_waiting(self) -> bool:
        waits = self._prompt.state is State.QUEUED and not self.placement.running
        return waits and self._following is not None and not self._following.done()

    # --- following -----------------------------------------------------------------------

    async def _follow(self) -> None:
        """Until the prompt has ended, or :meth:`move` has taken it away. Raises what ends it."""
        self._following = asyncio.create_task(self._submit_and_follow())
        try:
            await self._following
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # the job is cancelled
            if self._gave_up is not None:
                raise self._gave_up from None
            if self._moved_to is None:
                raise

    async def _submit_and_follow(self) -> None:
        async with self._pool.lease() as socket:
            self.placement.move, self.placement.give_up = self.move, self.give_up
            socket.on_prompt_end = self._hear_end
            await self._submit(socket)
            await self._follower.follow(socket)
        if not self.execution.phase.ended:
            await self._follower.settle()

    async def _submit(self, socket: PromptSocket) -> None:
        order = JobOrder(
            self._prompt,
            self.execution.graph,
            self._client,
            socket.client_id,
            self._hang_watch,
        )
        self._submission = asyncio.create_task(self._dispatcher.submit(order, self.placement))
        try:
            # Cut off in the middle it might be accepted after it was withdrawn: see `_withdraw`.
            receipt = await asyncio.shield(self._submission)
        except PromptRejectedError:
            self.placement.in_queue = False
            raise
        self.execution.prompt_id = receipt.prompt_id or self.prompt_id
        if receipt.answer:
            # The rest would run, and the job would be completed with results missing.
            message = f"ComfyUI would run this only in part: {receipt.answer}"
            raise PromptRejectedError(message, details={"type": "rejected"})

    def _hear_end(self, prompt_id: str) -> None:
        if prompt_id == self.prompt_id:
            self.placement.in_queue = False

    def _give_back(self) -> None:
        """The place elsewhere is not used: the attempt has ended in the moment of its move."""
        target, self._moved_to = self._moved_to, None
        if target is not None:
            target.release()

    # --- the end -------------------------------------------------------------------------

    def _success(self) -> End:
        """As far as ComfyUI's events told, some of it may have come from its cache."""
        attempt = self._prompt.attempt
        heard = attempt is not None and attempt.cached is not None
        return End(ending=Ending.SUCCESS, worked=attempt.worked if attempt and heard else True)

    def _finish(self, end: End, error: BaseException | None = None) -> None:
        """Book how it ended, if nothing has been booked yet."""
        if self._prompt.ended:
            return
        if self._prompt.state in (State.RECEIVED, State.SUBMITTING):
            end = End(ending=Ending.REJECTED, error=end.error)
        elif isinstance(error, ComfyProxyError):
            interrupted = isinstance(error, InterruptedPromptError)
            ending = Ending.INTERRUPTED if interrupted else Ending.ERROR
            end = End(ending=ending, error=error)
        self._ledger.apply(events.Finished(prompt=self._prompt, end=end))

    async def _withdraw_shielded(self) -> None:
        """Before a cancellation goes on: it must not stop the withdrawal itself."""
        task = asyncio.create_task(self._withdraw())
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise

    async def _withdraw(self) -> None:
        """Leave nothing of ours waiting or running at the instance."""
        try:
            async with self._clock.timeout(WITHDRAW_TIMEOUT_S):
                if self._submission is not None:
                    # Cut off in mid-POST: only after its end is sure what there is to withdraw.
                    await asyncio.gather(self._submission, return_exceptions=True)
                # The next `status` counts without it, and may be read before the answer; of one
                # that stays there it counts rightly as somebody's.
                self.placement.in_queue = False
                if await self._client.delete(self.prompt_id):
                    return
                if self.prompt_id in (await self._client.queue()).running:
                    await self._client.interrupt(self.prompt_id)
        except (InstanceError, TimeoutError) as error:
            instance = self.placement.instance
            logger.debug("{}: not withdrawn: {}", instance.host, error)
            self._dispatcher.left_behind(self.prompt_id, instance)

    async def _results(self) -> RawResults:
        execution = self.execution
        if execution.error is not None:
            raise execution.error
        with self._hang_watch.over(self.placement.instance, replaceable=False):
            return await raw_results(
                execution.graph, execution.pictures, execution.outputs, self._client
            )
