"""The thread that formats and writes: the event loop only puts entries into a bounded queue."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TextIO

from comfy_proxy.logs.console import Console
from comfy_proxy.logs.entry import Entry
from comfy_proxy.logs.floods import Floods
from comfy_proxy.logs.lines import Line, Redaction, as_json, as_text, line_of
from comfy_proxy.logs.log_file import LogFile

MAX_QUEUE = 10_000
MAX_BATCH = 200
GATHER_S = 0.05
"""How long the first line of a batch waits for more: a thread that wakes up for each line takes the
interpreter from the event loop each time, which costs a request more than its line does."""
STOP_TIMEOUT_S = 5.0

Item = Entry | Callable[[], Entry] | None
"""An entry, or what makes one in the thread; None: write what is there and end."""


class LogWriter:
    """``directory`` gets ``error.log`` and ``combined.log``, ``console`` readable lines; either may
    be None. ``dropped`` counts entries that found the queue full; ``written`` by level.
    """

    def __init__(
        self, *, directory: Path | None, console: TextIO | None, redaction: Redaction
    ) -> None:
        self._console = Console(console) if console is not None else None
        self._redaction = redaction
        self._combined = LogFile(directory / "combined.log") if directory else None
        self._errors = LogFile(directory / "error.log") if directory else None
        self._floods = Floods()
        self._queue: SimpleQueue[Item] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._told: str | None = None
        self._overflowed = 0
        self.written: Counter[str] = Counter()

    @property
    def dropped(self) -> int:
        """Lines that were lost: the queue was full, or the disk."""
        files = [file for file in (self._combined,) if file is not None]
        return self._overflowed + sum(file.dropped for file in files)

    def start(self) -> None:
        """Begin to write; what was put before is written first."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="comfy-proxy-log", daemon=True)
            self._thread.start()

    def put(self, item: Entry | Callable[[], Entry]) -> None:
        """Have it written some time soon; from any thread, and without waiting."""
        if self._queue.qsize() >= MAX_QUEUE:
            self._overflowed += 1
        else:
            self._queue.put(item)

    def stop(self) -> None:
        """Write what is left and end; returns when that is done, or after STOP_TIMEOUT_S."""
        if self._thread is not None:
            self._stopping.set()
            self._queue.put(None)
            self._thread.join(STOP_TIMEOUT_S)
            self._thread = None

    # --- in the thread ------------------------------------------------------------------

    def _run(self) -> None:
        go_on = True
        while go_on:
            batch, go_on = self._next_batch()
            entries = [passed for entry in batch for passed in self._floods.pass_on(entry)]
            entries += self._floods.due(time.time() if go_on else float("inf"))
            try:
                self._write(entries)
            except Exception:  # whatever it was, these must not be the last lines
                self._overflowed += len(entries)
        for file in (self._combined, self._errors):
            if file is not None:
                file.close()

    def _next_batch(self) -> tuple[list[Entry], bool]:
        """What is there, at least one unless a summary is due; False at the end."""
        batch: list[Entry] = []
        while len(batch) < MAX_BATCH:
            try:
                item = self._queue.get(
                    block=not batch, timeout=1.0 if self._floods.pending else None
                )
            except Empty:
                break
            if item is None:
                return batch, False
            if not batch and self._queue.qsize() < MAX_BATCH:
                self._stopping.wait(GATHER_S)
            try:
                batch.append(item if isinstance(item, Entry) else item())
            except Exception:  # whoever makes a line may fail; the next ones are written
                self._overflowed += 1
        return batch, True

    def _write(self, entries: list[Entry]) -> None:
        self.written.update(entry.level for entry in entries)
        lines = self._lines(entries)
        if self._combined is not None and self._errors is not None:
            now_s = time.monotonic()
            self._combined.write([text for _, text in lines], now_s)
            errors = [text for line, text in lines if line["level"] == "error"]
            self._errors.write(errors, now_s)
            self._tell_about(self._combined)
        if self._console is not None:
            colours = self._console.colours
            self._console.write([as_text(line, colours=colours) for line, _ in lines])

    def _lines(self, entries: list[Entry]) -> list[tuple[Line, str]]:
        """With their JSON; without those that cannot be: the others are written all the same."""
        lines = []
        for entry in entries:
            try:
                line = line_of(entry, self._redaction)
                lines.append((line, as_json(line)))
            except Exception:
                self._overflowed += 1
        return lines

    def _tell_about(self, file: LogFile) -> None:
        """A disk that fails is told where it can be: on the console, once."""
        problem = None if file.error is None else f"the log cannot be written: {file.error}"
        if problem is not None and problem != self._told:
            (self._console or Console(sys.stderr)).write([f"comfy-proxy: {problem}"])
        self._told = problem
