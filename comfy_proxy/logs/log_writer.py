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
from comfy_proxy.logs.lines import Line, Redaction, as_json, as_text, line_of
from comfy_proxy.logs.log_file import LogFile
from comfy_proxy.logs.suppressor import Suppressor

MAX_QUEUE = 10_000
"""Entries that may wait for the thread; further ones are dropped and counted."""
MAX_BATCH = 200
"""Entries of one batch, which is one write to each file; the next ones are the next batch."""
GATHER_S = 0.05
"""Seconds for which the first entry of a batch waits for more. A thread that wakes up for each line
takes the interpreter from the event loop each time: that costs a request more than the line."""
STOP_TIMEOUT_S = 5.0
"""Seconds that :meth:`LogWriter.stop` gives the thread; lines left then are dropped and counted."""

Item = Entry | Callable[[], Entry] | None
"""An entry, a function that the thread calls to make one, or None: write what is there and end."""


class LogWriter:
    """Owns the thread and the files.

    ``directory`` gets ``combined.log`` and ``error.log``, ``console`` readable lines; either may be
    None. ``written`` counts lines by level: those in ``combined.log``, or those for the console if
    there is no directory.
    """

    def __init__(
        self, *, directory: Path | None, console: TextIO | None, redaction: Redaction
    ) -> None:
        self._console = Console(console) if console is not None else None
        self._redaction = redaction
        self._combined = LogFile(directory / "combined.log") if directory else None
        self._errors = LogFile(directory / "error.log") if directory else None
        self._suppressor = Suppressor()
        self._queue: SimpleQueue[Item] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._told: set[str] = set()
        self._refused = 0  # by put(), on any thread
        self._failed = 0  # in our thread
        self.written: Counter[str] = Counter()

    @property
    def dropped(self) -> int:
        """Lines lost since the start: the queue or the disk was full, or making a line failed."""
        return self._refused + self._failed + sum(file.dropped for file in self._files)

    @property
    def _files(self) -> list[LogFile]:
        return [file for file in (self._combined, self._errors) if file is not None]

    def start(self) -> None:
        """Start the thread; entries that were put before are written first."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="comfy-proxy-log", daemon=True)
            self._thread.start()

    def put(self, item: Entry | Callable[[], Entry]) -> None:
        """Queue ``item`` to be written within moments; from any thread, and without waiting.

        Beyond MAX_QUEUE, and after :meth:`stop`, it is dropped and counted.
        """
        if self._stopping.is_set() or self._queue.qsize() >= MAX_QUEUE:
            self._refused += 1
        else:
            self._queue.put(item)

    def stop(self) -> None:
        """Write what is left and end; returns when that is done, or after STOP_TIMEOUT_S."""
        if self._thread is not None:
            self._stopping.set()
            self._queue.put(None)
            self._thread.join(STOP_TIMEOUT_S)
            if self._thread.is_alive():
                left = self._queue.qsize()
                self._refused += left
                self._print([f"comfy-proxy: {left} lines of the log were not written in time"])
            self._thread = None

    # --- in the thread ------------------------------------------------------------------

    def _run(self) -> None:
        for file in self._files:
            file.prepare(time.monotonic())
        self._tell_of_failures()
        go_on = True
        while go_on:
            batch, go_on = self._next_batch()
            try:
                self._write(self._unsuppressed(batch, end=not go_on))
            except Exception:  # whatever it was: the thread must go on, or nothing is logged again
                self._failed += len(batch)
        for file in self._files:
            file.close()

    def _next_batch(self) -> tuple[list[Entry], bool]:
        """The next entries, none only if a summary may be due; with False at the end."""
        batch: list[Entry] = []
        while len(batch) < MAX_BATCH:
            try:
                item = self._queue.get(
                    block=not batch, timeout=1.0 if self._suppressor.pending else None
                )
            except Empty:
                break
            if item is None:
                return batch, False
            if not batch and self._queue.qsize() < MAX_BATCH:
                self._stopping.wait(GATHER_S)
            try:
                batch.append(item if isinstance(item, Entry) else item())
            except Exception:  # making one line failed; the next ones are written
                self._failed += 1
        return batch, True

    def _unsuppressed(self, batch: list[Entry], *, end: bool) -> list[Entry]:
        now_s = time.monotonic()
        entries = [one for entry in batch for one in self._suppressor.pass_on(entry, now_s)]
        return entries + list(self._suppressor.due(float("inf") if end else now_s))

    def _write(self, entries: list[Entry]) -> None:
        lines = self._lines(entries)
        if not lines:
            return
        all_written = True
        if self._combined is not None and self._errors is not None:
            now_s = time.monotonic()
            all_written = self._combined.write([text for _, text in lines], now_s)
            errors = [text for line, text in lines if line["level"] == "error"]
            self._errors.write(errors, now_s)
            self._tell_of_failures()
        if all_written:
            self.written.update(line["level"] for line, _ in lines)
        if self._console is not None:
            colours = self._console.colours
            self._console.write([as_text(line, colours=colours) for line, _ in lines])

    def _lines(self, entries: list[Entry]) -> list[tuple[Line, str]]:
        """Each entry as a line and its JSON; those that fail are counted and left out."""
        lines = []
        for entry in entries:
            try:
                line = line_of(entry, self._redaction)
                lines.append((line, as_json(line)))
            except Exception:
                self._failed += 1
        return lines

    def _tell_of_failures(self) -> None:
        """Print a failure of the disk on the console, once until it changes."""
        problems = {
            f"comfy-proxy: the log cannot be written (LOG_DIRECTORY): {file.error}"
            for file in self._files
            if file.error is not None
        }
        if new := sorted(problems - self._told):
            self._print(new)
        self._told = problems

    def _print(self, lines: list[str]) -> None:
        if self._console is not None:
            self._console.write(lines)
        elif sys.stderr is not None:  # Python sets it to None if it was closed at the start
            Console(sys.stderr).write(lines)
