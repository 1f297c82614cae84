"""What is told of one prompt: events to its client, and the messages that its history keeps."""

import time

from PIL import Image

from comfy_proxy.embedded.nodes.node_class import Json
from comfy_proxy.embedded.progress import Progress, identity
from comfy_proxy.embedded.websocket import Sockets


class RunEvents:
    """Events in the form and the order of the recordings.

    `messages` are those that `/history` shows. `client_id` None is a prompt that names no client:
    what is meant for one client is not sent then, progress and previews go to all.
    """

    def __init__(self, prompt_id: str, client_id: str | None, sockets: Sockets) -> None:
        self.messages: list[tuple[str, Json]] = []
        self._prompt_id = prompt_id
        self._client_id = client_id
        self._sockets = sockets
        self._progress = Progress(prompt_id)

    def announce(self, event: str, data: Json, *, broadcast: bool = False) -> None:
        """Note an event for the history, and send it to the client if the prompt names one.

        With `broadcast` it is sent in any case: to all clients if the prompt names none.
        """
        data = data | {"timestamp": int(time.time() * 1000)}
        self.messages.append((event, data))
        if self._client_id is not None or broadcast:
            self._sockets.send(event, data, self._client_id)

    def started(self, node_id: str) -> None:
        """The node's bar appears."""
        self._progress.start(node_id)
        self._send_state()

    def executing(self, node_id: str) -> None:
        """The node runs now."""
        if self._client_id is not None:
            where = {"node": node_id, "display_node": node_id, "prompt_id": self._prompt_id}
            self._sockets.send("executing", where, self._client_id)

    def progress(self, node_id: str, value: int, maximum: int, preview: Image.Image | None) -> None:
        """Move a node's bar.

        A preview with metadata is sent before `progress`, one without after it (recorded).
        """
        self._progress.update(node_id, value, maximum)
        self._send_state()
        with_metadata = preview is not None and self._sockets.wants_metadata(self._client_id)
        if preview is not None and with_metadata:
            prompt = {"node_id": node_id, "prompt_id": self._prompt_id}
            self._sockets.send_preview(preview, prompt | identity(node_id), self._client_id)
        bar = {"value": value, "max": maximum, "prompt_id": self._prompt_id, "node": node_id}
        self._sockets.send("progress", bar, self._client_id)
        if preview is not None and not with_metadata:
            self._sockets.send_preview(preview, None, self._client_id)

    def executed(self, node_id: str, output: Json | None) -> None:
        """The node has something to show."""
        if self._client_id is not None:
            data: Json = {"node": node_id, "display_node": node_id, "output": output}
            data["prompt_id"] = self._prompt_id
            self._sockets.send("executed", data, self._client_id)

    def finished(self, node_id: str) -> None:
        """The node's bar is at its end."""
        self._progress.finish(node_id)
        self._send_state()

    def _send_state(self) -> None:
        self._sockets.send("progress_state", self._progress.state(), self._client_id)
