"""Run one prompt on one instance, from the listener in place to the picture in hand.

Order (trap 1): lease a socket, then ``POST /prompt``, then follow the frames. A socket that drops
in mid-prompt is settled by ``/queue`` and ``/history`` on a new one (trap 4). Silence is asked
about, never taken for death (trap 8 and the contract's ``COMFYUI_TIMEOUT``). A ``POST`` whose
connection broke may have been accepted: that is looked up before anything is sent again (trap 9).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine

from loguru import logger

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.comfyui_frames import (
    ConnectionLost,
    Frame,
    PictureFrame,
    PromptFrame,
    StatusFrame,
    Wake,
)
from comfy_proxy.cluster.connection_manager import ConnectionManager
from comfy_proxy.cluster.placement import Placement, PlacementMoved
from comfy_proxy.cluster.prompt_execution import Graph, Phase, PromptExecution
from comfy_proxy.cluster.submit_once import submit_once
from comfy_proxy.cluster.websocket_pool import PromptSocket
from comfy_proxy.errors import (
    InstanceError,
    InstanceTimeoutError,
    InstanceUnreachableError,
    JobTimeoutError,
    PromptLostError,
    PromptRejectedError,
    ResultError,
    ResultFrameLostError,
)

MAX_RENEWALS = 10
"""How often the silence of a prompt that provably runs is forgiven (contract)."""
MAX_RECONNECTS = 5
WITHDRAW_TIMEOUT_S = 5.0

OnUpdate = Callable[[PromptExecution], None]


class PromptRun:
    """One attempt at one graph; :meth:`run` once."""

    def __init__(
        self,
        placement: Placement,
        graph: Graph,
        *,
        client: ComfyUIClient,
        connections: ConnectionManager,
        clock: Clock,
        silence_timeout_s: float,
        on_update: OnUpdate,
        spawn: Callable[[Coroutine[None, None, None]], None],
    ) -> None:
        self.placement = placement
        self.execution = PromptExecution(graph, str(uuid.uuid4()))
        self._client = client
        self._pool = connections.pool(placement.instance)
        self._clock = clock
        self._silence_timeout_s = silence_timeout_s
        self._on_update = on_update
        self._spawn = spawn
        self._renewals = 0
        self._silent_at = 0.0
        self._submission: asyncio.Task[None] | None = None

    @property
    def prompt_id(self) -> str:
        return self.execution.prompt_id

    async def run(self) -> bytes:
        """The picture as ComfyUI encoded it.

        Raises PlacementMoved (go on there), an InstanceError (run again elsewhere) or a JobError.
        Whatever ends it, nothing of ours is left waiting or running at the instance.
        """
        try:
            await self._submit_and_follow()
            if not self.execution.ended:
                await self._settle()
        except InstanceError:
            if self.placement.in_queue:
                # Not awaited: the job goes on elsewhere while this one may hang.
                self._spawn(self._withdraw())
            raise
        except BaseException:
            if self.placement.in_queue:
                await self._withdraw_shielded()
            raise
        finally:
            if self._submission is not None:
                self._submission.cancel()
            self.placement.decline()
            self.placement.release()
        return await self._picture()

    # --- following -----------------------------------------------------------------------

    async def _submit_and_follow(self) -> None:
        """Returns at the end of the prompt, or with it unsettled when the socket was lost."""
        async with self._pool.lease() as socket:
            self.placement.on_offer = lambda: socket.frames.put_nowait(Wake())
            socket.on_prompt_end = self._hear_end
            self.placement.in_queue = True
            self._submission = asyncio.create_task(self._submit(socket.client_id))
            # Cut off in the middle it might be accepted after it was withdrawn: see `_withdraw`.
            await asyncio.shield(self._submission)
            self._on_update(self.execution)
            self._renew()
            await self._follow(socket)

    async def _submit(self, client_id: str) -> None:
        graph = self.execution.graph.prompt
        try:
            self.execution.prompt_id = await submit_once(
                lambda: self._client.submit(graph, prompt_id=self.prompt_id, client_id=client_id),
                self._accepted,
                clock=self._clock,
                unsure=InstanceUnreachableError,  # a timeout: `_withdraw` asks, the job goes on
            )
        except PromptRejectedError:
            self.placement.in_queue = False
            raise

    async def _accepted(self) -> str | None:
        """The prompt's id if the instance has it."""
        if self.prompt_id in await self._client.queue(fresh=True):
            return self.prompt_id
        known = await self._client.history(self.prompt_id, fresh=True)
        return None if known is None else self.prompt_id

    def _hear_end(self, prompt_id: str) -> None:
        if prompt_id == self.prompt_id:
            self.placement.in_queue = False

    async def _follow(self, socket: PromptSocket) -> None:
        while not self.execution.ended:
            frame = await self._next(socket)
            if frame is None:
                await self._ask_about_silence(socket)
            elif isinstance(frame, Wake):
                await self._consider_offer()
            elif isinstance(frame, ConnectionLost):
                logger.info("{}: socket lost in mid-prompt", self.placement.instance.host)
                return
            else:
                self._take(frame)

    async def _next(self, socket: PromptSocket) -> Frame | None:
        """The next frame, strangers' too; None when our prompt has been silent for too long."""
        try:
            async with self._clock.timeout(max(0, self._silent_at - self._clock.monotonic())):
                return await socket.frames.get()
        except TimeoutError:
            return None

    def _take(self, frame: Frame) -> None:
        if not isinstance(frame, PromptFrame | PictureFrame) or not self.execution.feed(frame):
            return
        self._renewals = 0
        self._renew()
        self.placement.running = self.execution.phase is Phase.RUNNING
        self._on_update(self.execution)

    def _renew(self) -> None:
        self._silent_at = self._clock.monotonic() + self._silence_timeout_s

    # --- silence, loss, moves ------------------------------------------------------------

    async def _ask_about_silence(self, socket: PromptSocket) -> None:
        """Only an instance that does not answer is hung; a prompt that runs may be silent."""
        self._renew()
        try:
            queue = await self._client.queue()
        except InstanceError as error:
            raise InstanceTimeoutError(
                f"{self.placement.instance.host} is silent and does not answer."
            ) from error
        if self.prompt_id in queue.pending:
            return
        if self.prompt_id in queue.running:
            self.placement.running = True
        elif socket.frames.empty():
            await self._take_history()
            return
        # else: its end may be among the frames that came while the instance was asked.
        self._renewals += 1
        if self._renewals > MAX_RENEWALS:
            raise JobTimeoutError(
                f"The prompt ran without any sign for {MAX_RENEWALS} times COMFYUI_TIMEOUT."
            )

    async def _settle(self) -> None:
        """The socket was lost: a new one hears ``status`` frames, at each the end is looked for.

        The new socket is there before the first question, so that no change is missed.
        """
        self.placement.decline()
        for _ in range(MAX_RECONNECTS):
            async with self._pool.lease() as socket:
                frame: Frame | None = None
                while not isinstance(frame, ConnectionLost):
                    await self._look_for_end()
                    if self.execution.ended:
                        return
                    frame = await self._next_status(socket)
        raise InstanceUnreachableError(f"{self.placement.instance.host} drops every WebSocket.")

    async def _next_status(self, socket: PromptSocket) -> Frame | None:
        """Wait for news of the queue; silence is asked about here too."""
        while True:
            frame = await self._next(socket)
            if frame is None:
                await self._ask_about_silence(socket)
            if frame is None or isinstance(frame, StatusFrame | ConnectionLost):
                return frame

    async def _look_for_end(self) -> None:
        queue = await self._client.queue()
        if self.prompt_id not in queue:
            # Asked in this order: a prompt goes from /queue to /history without a gap (trap 15).
            await self._take_history()
            return
        if self.execution.graph.by_frame and self.execution.picture is None:
            # It would go to the socket that is lost: better the prompt ends here and now.
            raise ResultFrameLostError("The socket was lost before the picture came by it.")
        self.placement.running = self.prompt_id in queue.running

    async def _take_history(self) -> None:
        entry = await self._client.history(self.prompt_id)
        if entry is None:
            self.placement.in_queue = False
            raise PromptLostError(f"{self.placement.instance.host} has forgotten the prompt.")
        self.execution.take_history(entry)
        self.placement.running = False
        self._on_update(self.execution)

    async def _consider_offer(self) -> None:
        """Take the other place if the prompt provably did not run here (trap 24)."""
        if self.placement.running or not await self._client.delete(self.prompt_id):
            self.placement.decline()
            return
        self.placement.in_queue = False
        target, self.placement.move_to = self.placement.move_to, None
        if target is not None:
            raise PlacementMoved(target)

    # --- the end -------------------------------------------------------------------------

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
                await self._submission_over()
                # The next `status` counts without it, and may be read before the answer; of one
                # that stays there it counts rightly as somebody's.
                self.placement.in_queue = False
                if await self._client.delete(self.prompt_id):
                    return
                if self.prompt_id in (await self._client.queue()).running:
                    await self._client.interrupt(self.prompt_id)
        except (InstanceError, TimeoutError) as error:
            logger.debug("{}: not withdrawn: {}", self.placement.instance.host, error)

    async def _submission_over(self) -> None:
        """Cancelled in mid-POST: only after its end is sure what there is to withdraw."""
        if self._submission is not None:
            await asyncio.gather(self._submission, return_exceptions=True)

    async def _picture(self) -> bytes:
        execution = self.execution
        if execution.error is not None:
            raise execution.error
        if execution.picture is not None:
            return execution.picture
        if execution.files:
            return await self._client.view(execution.files[0])
        if execution.graph.by_frame:
            raise ResultFrameLostError("The frame with the picture was lost.")
        raise ResultError("The workflow ended without a picture.")
