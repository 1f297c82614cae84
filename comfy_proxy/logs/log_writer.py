"""The thread that writes: the event loop only puts entries into a bounded queue.

It makes lines of them too, but for those of requests, which are made already: there are so many
that the thread would hold up the event loop (``access_log.py``)."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TextIO

from comfy_proxy.logs.console import Console
from comfy_proxy.logs.entry import Entry
from comfy_proxy.logs.line_maker import Item, LineMaker, count
from comfy_proxy.logs.lines import Finished, Redaction
from comfy_proxy.logs.log_file import LogFile

MAX_QUEUE = 10_000
"""Lines that may wait for the thread; further ones are dropped and counted."""
MAX_BATCH = 200
"""Entries, or groups of lines that were made elsewhere, of one batch, which is one write to each
file; the next ones are the next batch."""
GATHER_S = 0.05
"""Seconds for which the first entry of a batch waits for more. A thread that wakes up for each line
takes the interpreter from the event loop each time: that costs a request more than the line."""
STOP_TIMEOUT_S = 5.0
"""Seconds that :meth:`LogWriter.stop` gives the thread; lines left then are dropped and counted."""


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
        self._combined = LogFile(directory / "combined.log") if directory else None
        self._errors = LogFile(directory / "error.log") if directory else None
        self._maker = LineMaker(
            redaction, colours=None if self._console is None else self._console.colours
        )
        self._queue: SimpleQueue[Item | None] = SimpleQueue()  # None: write what is there and end
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._told: set[str] = set()
        self._put = self._refused = 0  # lines, on any thread
        self._taken = self._failed = 0  # lines, in our thread
        self.written: Counter[str] = Counter()

    @property
    def dropped(self) -> int:
        """Lines lost since the start: the queue or the disk was full, or making a line failed."""
        files = sum(file.dropped for file in self._files)
        return self._refused + self._failed + self._maker.failed + files

    @property
    def _files(self) -> list[LogFile]:
        return [file for file in (self._combined, self._errors) if file is not None]

    def start(self) -> None:
        """Start the thread; entries that were put before are written first."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="comfy-proxy-log", daemon=True)
            self._thread.start()

    @property
    def colours(self) -> bool | None:
        """Whether lines for people have colours; None if there is no console."""
        return self._maker.colours

    def takes(self, count: int) -> bool:
        """Whether there is room for so many lines more; if not, one is counted as dropped. There
        is none beyond MAX_QUEUE, and after :meth:`stop`."""
        if self._stopping.is_set() or self._put - self._taken + count > MAX_QUEUE:
            self._refused += 1
            return False
        return True

    def put(self, entry: Entry) -> None:
        """Queue ``entry`` to be written within moments, if there is room for it; from any thread,
        and without waiting."""
        if self.takes(1):
            self._put += 1
            self._queue.put(entry)

    def put_lines(self, lines: Sequence[Finished]) -> None:
        """As :meth:`put`, of lines for which there was room (:meth:`takes`)."""
        if lines:
            self._put += len(lines)
            self._queue.put(lines)

    def lost(self, count: int) -> None:
        """So many lines could not be made: count them as dropped."""
        self._refused += count

    def stop(self) -> None:
        """Write what is left and end; returns when that is done, or after STOP_TIMEOUT_S."""
        if self._thread is not None:
            self._stopping.set()
            self._queue.put(None)
            self._thread.join(STOP_TIMEOUT_S)
            if self._thread.is_alive():
                left = self._put - self._taken
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
                now_s = time.monotonic() if go_on else float("inf")
                self._write(self._maker.lines(batch, now_s))
            except Exception:  # whatever it was: the thread must go on, or nothing is logged again
                self._failed += sum(map(count, batch))
        for file in self._files:
            file.close()

    def _next_batch(self) -> tuple[list[Item], bool]:
        """The next items, none only if a summary may be due; with False at the end."""
        batch: list[Item] = []
        while len(batch) < MAX_BATCH:
            try:
                item = self._queue.get(
                    block=not batch, timeout=1.0 if self._maker.pending else None
                )
            except Empty:
                break
            if item is None:
                return batch, False
            if not batch and self._queue.qsize() < MAX_BATCH:
                self._stopping.wait(GATHER_S)
            batch.append(item)
            self._taken += count(item)
        return batch, True

    def _write(self, lines: list[Finished]) -> None:
        if not lines:
            return
        all_written = True
        if self._combined is not None and self._errors is not None:
            now_s = time.monotonic()
            all_written = self._combined.write([line.json for line in lines], now_s)
            self._errors.write([line.json for line in lines if line.level == "error"], now_s)
            self._tell_of_failures()
        if all_written:
            self.written.update(line.level for line in lines)
        if self._console is not None:
            self._console.write([line.text for line in lines if line.text is not None])

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
