"""Follow a prompt of ours to its end: by its frames, and where these are lost by what is asked.

A socket that drops in mid-prompt is settled by ``/queue`` and ``/history`` on a new one
(PROTOCOL.md trap 4). Silence is asked about, never taken for death (trap 8): a prompt that provably
runs may be silent for ``MAX_RENEWALS`` times ``COMFYUI_TIMEOUT``.
"""

from __future__ import annotations

from collections.abc import Callable

from loguru import logger

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.comfyui_frames import (
    ConnectionLost,
    Frame,
    PictureFrame,
    PromptFrame,
    StatusFrame,
)
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.prompt_outcomes import cached_nodes
from comfy_proxy.cluster.retry_law import PromptVanishedError
from comfy_proxy.cluster.websocket_pool import PromptSocket, WebSocketPool
from comfy_proxy.errors import (
    ConnectionBrokenError,
    InstanceError,
    InstanceTimeoutError,
    InstanceUnreachableError,
    JobTimeoutError,
    PromptLostError,
    ResultFrameLostError,
)
from comfy_proxy.jobs.runs.prompt_execution import Phase, PromptExecution
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger

MAX_RENEWALS = 10
"""How often the silence of a prompt that provably runs is forgiven, each time for
``COMFYUI_TIMEOUT`` seconds; then its job fails with ``job_timeout``."""
MAX_RECONNECTS = 5
"""New sockets for one prompt. If the last one is lost too the instance counts as unreachable, and
the job runs again elsewhere."""
OnUpdate = Callable[[PromptExecution], None]


class PromptFollower:
    """Feeds ``execution`` until it has ended, and tells the ledger when the prompt begins."""

    def __init__(
        self,
        placement: Placement,
        execution: PromptExecution,
        *,
        client: ComfyUIClient,
        pool: WebSocketPool,
        ledger: Ledger,
        clock: Clock,
        silence_timeout_s: float,
        on_update: OnUpdate,
    ) -> None:
        self._placement = placement
        self._execution = execution
        self._client = client
        self._pool = pool
        self._ledger = ledger
        self._clock = clock
        self._silence_timeout_s = silence_timeout_s
        self._on_update = on_update
        self._renewals = 0
        self._silent_at = self._followed_at = 0.0

    async def follow(self, socket: PromptSocket) -> None:
        """Returns at the end of the prompt, or with it unsettled when ``socket`` was lost.

        Raises InstanceError, JobTimeoutError.
        """
        self._followed_at = self._clock.monotonic()
        self._on_update(self._execution)
        self._renew()
        while not self._execution.phase.ended:
            frame = await self._next(socket)
            if frame is None:
                await self._ask_about_silence(socket)
            elif isinstance(frame, ConnectionLost):
                logger.info("{}: socket lost in mid-prompt", self._placement.instance.host)
                return
            else:
                self._take(frame)

    async def require_waiting(self) -> None:
        """Raises PromptVanishedError if the instance has lost the prompt without any trouble. It
        may have ended the thread there, and must not be moved as one that is not to blame."""
        prompt_id = self._execution.prompt_id
        if prompt_id in await self._client.queue() or not self._is_untroubled():
            return
        if await self._client.history(prompt_id) is None:
            self._placement.in_queue = False
            raise PromptVanishedError(self._placement.instance.host)

    async def settle(self) -> None:
        """The socket was lost: a new one hears ``status`` frames, at each the end is looked for.

        A prompt that runs and whose picture was to come by the lost socket goes on too: run once
        more where it ended, it has all but its last node from ComfyUI's cache.

        The new socket is there before the first question, so that no change is missed. Raises
        InstanceError, JobTimeoutError.
        """
        self._placement.decline()
        self._execution.lose_frames()
        for _ in range(MAX_RECONNECTS):
            try:
                if await self._settled_on_new_socket():
                    return
            except ConnectionBrokenError as error:  # resets come in bursts
                logger.debug("{}: broken once more: {}", self._placement.instance.host, error)
        raise InstanceUnreachableError(f"{self._placement.instance.host} drops every WebSocket.")

    async def _settled_on_new_socket(self) -> bool:
        """True at the end of the prompt, False if the new socket was lost before."""
        async with self._pool.lease() as socket:
            frame: Frame | None = None
            while not isinstance(frame, ConnectionLost):
                await self._look_for_end()
                if self._execution.phase.ended:
                    return True
                frame = await self._next_status(socket)
        return False

    async def _next(self, socket: PromptSocket) -> Frame | None:
        """The next frame, strangers' too; None when our prompt has been silent for too long."""
        try:
            async with self._clock.timeout(max(0, self._silent_at - self._clock.monotonic())):
                return await socket.frames.get()
        except TimeoutError:
            return None

    def _take(self, frame: Frame) -> None:
        if not isinstance(frame, PromptFrame | PictureFrame) or not self._execution.feed(frame):
            return
        self._renewals = 0
        self._renew()
        self._set_running(self._execution.phase is Phase.RUNNING)
        self._book(frame)
        self._on_update(self._execution)

    def _book(self, frame: PromptFrame | PictureFrame) -> None:
        """What the ledger is to know of how far it is. The last node only hands out the result: it
        proves no work."""
        prompt_id, instance = self._execution.prompt_id, self._placement.instance
        node, last = self._execution.current_node, self._execution.graph.output_nodes
        if not isinstance(frame, PromptFrame):
            return
        if frame.type == "execution_cached":
            nodes = cached_nodes(frame.data)
            self._ledger.apply(
                events.NodesCached(prompt_id=prompt_id, instance=instance, nodes=nodes)
            )
        elif frame.type == "executing" and node is not None and node not in last:
            self._ledger.apply(
                events.NodeReached(prompt_id=prompt_id, instance=instance, node=str(node))
            )

    def _set_running(self, running: bool) -> None:
        if running and not self._placement.running:
            self._ledger.apply(
                events.Began(prompt_id=self._execution.prompt_id, instance=self._placement.instance)
            )
        self._placement.running = running

    def _renew(self) -> None:
        self._silent_at = self._clock.monotonic() + self._silence_timeout_s

    async def _ask_about_silence(self, socket: PromptSocket) -> None:
        """Only an instance that does not answer is hung; a prompt that runs may be silent."""
        self._renew()
        try:
            queue = await self._client.queue()
        except InstanceError as error:
            raise InstanceTimeoutError(
                f"{self._placement.instance.host} is silent and does not answer."
            ) from error
        prompt_id = self._execution.prompt_id
        if prompt_id in queue.pending:
            return
        if prompt_id in queue.running:
            self._set_running(True)
        elif socket.frames.empty():
            await self._take_history()
            return
        # else: its end may be among the frames that came while the instance was asked.
        self._renewals += 1
        if self._renewals > MAX_RENEWALS:
            raise JobTimeoutError(
                f"The prompt ran without any sign for {MAX_RENEWALS} times COMFYUI_TIMEOUT."
            )

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
        prompt_id = self._execution.prompt_id
        if prompt_id not in queue:
            # Asked in this order: a prompt goes from /queue to /history without a gap (trap 15).
            await self._take_history()
            return
        if prompt_id in queue.pending and self._execution.graph.by_frame:
            # It would run for a socket that is lost: better it is withdrawn before it begins.
            raise ResultFrameLostError("The socket was lost before the prompt began.")
        self._set_running(prompt_id in queue.running)

    async def _take_history(self) -> None:
        entry = await self._client.history(self._execution.prompt_id)
        if entry is None:
            self._placement.in_queue = False
            host = self._placement.instance.host
            if self._is_untroubled():
                raise PromptVanishedError(host)
            raise PromptLostError(f"{host} has forgotten the prompt.")
        self._execution.take_history(entry)
        self._placement.running = False
        self._on_update(self._execution)

    def _is_untroubled(self) -> bool:
        """The process of its instance cannot have ended since the prompt was sent."""
        return not self._placement.instance.signs.troubled_since(self._followed_at)
