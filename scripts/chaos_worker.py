"""An embedded worker that writes down what it runs, in a file that outlives a kill.

Called as ``python -m comfy_proxy.embedded`` is. Beside its base directory it appends lines of JSON
to ``NAME.journal``: ``life`` when it starts, ``started`` and ``executed`` (a successful end) of
each prompt, with the time and the colour by which a chaos run knows whose prompt it is.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from chaos_records import colour_of
from PIL import Image

from comfy_proxy.embedded import __main__ as command
from comfy_proxy.embedded.instance import Instance
from comfy_proxy.embedded.worker import EmbeddedWorker


class NotedWorker(EmbeddedWorker):
    """What its journal gets is in the file too, at once."""

    def __init__(self, *, base_directory: Path, **options: Any) -> None:
        super().__init__(base_directory=base_directory, **options)
        path = base_directory.with_suffix(".journal")
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.journal.started = Noted("started", self)
        self.journal.executed = Noted("executed", self)

    def _instance(self) -> Instance:
        instance = super()._instance()
        self._queue = instance.queue
        self.write("life", pid=os.getpid())
        return instance

    def write(self, event: str, **more: Any) -> None:
        line = json.dumps({"t": time.time(), "event": event, **more})
        os.write(self._file, line.encode() + b"\n")

    def note(self, event: str, prompt_id: str) -> None:
        running = self._queue.snapshot()["queue_running"]
        colour = self._colour(running[0][2]) if running else None
        self.write(event, id=prompt_id, colour=colour)

    def _colour(self, graph: dict[str, Any]) -> int | None:
        """That of the empty picture or of the loaded one with which the graph begins."""
        inputs = graph["1"]["inputs"]
        if "color" in inputs:
            return int(inputs["color"])
        try:
            with Image.open(self.folders.annotated_path(inputs["image"])) as picture:
                red, green, blue = colour_of(picture)
        except OSError:
            return None
        return red << 16 | green << 8 | blue


class Noted(list[str]):
    """A list of prompt ids that tells the worker of each one."""

    def __init__(self, event: str, worker: NotedWorker) -> None:
        super().__init__()
        self._event = event
        self._worker = worker

    def append(self, prompt_id: str) -> None:
        super().append(prompt_id)
        self._worker.note(self._event, prompt_id)


if __name__ == "__main__":
    vars(command)["EmbeddedWorker"] = NotedWorker
    sys.exit(command.main())
