"""The console shows what it can; whoever stops reading it stops nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
from log_entries import entry, lines

from comfy_proxy.logs import console
from comfy_proxy.logs.console import Console
from comfy_proxy.logs.lines import Redaction
from comfy_proxy.logs.log_writer import LogWriter


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, TextIO]]:
    """What is read, and a console at its other end; nobody is waited for."""
    monkeypatch.setattr(console, "PATIENCE_S", 0.0)
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        yield reading, stream
    os.close(reading)


def emptied(reading: int) -> list[str]:
    """The lines that are in the pipe now."""
    os.set_blocking(reading, False)
    data = b""
    while True:
        try:
            data += os.read(reading, 65536)
        except BlockingIOError:
            return data.decode().split("\n")[:-1]


def test_what_finds_no_room_is_left_out_and_told(pipe: tuple[int, TextIO]) -> None:
    """Nobody reads for a while: the rest is counted; then it goes on, and says what is missing."""
    reading, stream = pipe
    shown = Console(stream)
    many = [f"{number:06}" + "x" * 994 for number in range(200)]
    shown.write(many)
    shown.write(["not even tried"])
    assert shown.missed > 100
    seen = emptied(reading)
    assert seen == many[: len(seen)]
    missed = shown.missed
    shown.write(["again"])
    assert [line for line in emptied(reading) if line] == [
        f"({missed} lines are not shown)",
        "again",
    ]
    assert missed == 201 - len(seen)


def test_a_line_longer_than_a_piece_comes_whole(pipe: tuple[int, TextIO]) -> None:
    """A stack trace, say."""
    reading, stream = pipe
    Console(stream).write(["é" * 10_000, "after"])
    assert emptied(reading) == ["é" * 10_000, "after"]


def test_a_line_of_which_a_part_was_shown_stays_alone(pipe: tuple[int, TextIO]) -> None:
    """The next one begins on a line of its own."""
    reading, stream = pipe
    shown = Console(stream)
    shown.write(["x" * 100_000])
    assert emptied(reading) == []  # no whole one
    shown.write(["again"])
    assert emptied(reading)[-2:] == ["(1 lines are not shown)", "again"]


def test_a_reader_that_is_gone_is_not_tried_again(pipe: tuple[int, TextIO]) -> None:
    """A broken pipe raises nothing."""
    reading, stream = pipe
    with open(os.devnull) as other:
        os.dup2(other.fileno(), reading)
    shown = Console(stream)
    for _ in range(2):
        shown.write(["nobody reads this"])
    assert shown.missed == 0


def test_files_are_written_while_the_console_is_stalled(
    pipe: tuple[int, TextIO], tmp_path: Path
) -> None:
    """A terminal that is stopped costs no line of the log."""
    _, stream = pipe
    writer = LogWriter(directory=tmp_path, console=stream, redaction=Redaction())
    for number in range(500):
        writer.put(entry(f"{number} {'x y ' * 250}"))
    writer.start()
    writer.stop()
    assert len(lines(tmp_path / "combined.log")) == 500
    assert writer.dropped == 0
