"""A line for each request, made on the event loop, gathered, and written by the thread."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from job_client import until
from log_entries import entry, lines
from request_example import request_record

from comfy_proxy.logs import access_log, log_writer
from comfy_proxy.logs.access_log import AccessLog
from comfy_proxy.logs.lines import Redaction
from comfy_proxy.logs.log_writer import LogWriter
from comfy_proxy.tracing import Trace, traced


class Kept(LogWriter):
    """Notes in which groups it is given lines."""

    def __init__(self, directory: Path, console: Any = None) -> None:
        super().__init__(directory=directory, console=console, redaction=Redaction())
        self.groups: list[int] = []

    def put_lines(self, lines: Any) -> None:
        self.groups.append(len(lines))
        super().put_lines(lines)


@pytest.fixture
def writer(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def paths(directory: Path) -> list[str]:
    return [line["path"] for line in lines(directory / "combined.log")]


async def test_lines_are_gathered(
    writer: Kept, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The thread wakes up once for all requests of a moment, and has them in their order."""
    monkeypatch.setattr(access_log, "GATHER_S", 0.0)
    log = AccessLog(writer, Redaction())
    for number in range(100):
        log.record(request_record(path=f"/{number}"), "info")
    assert writer.groups == []
    await until(lambda: writer.groups)
    log.record(request_record(path="/100"), "info")
    log.flush()
    assert writer.groups == [100, 1]
    writer.start()
    writer.stop()
    assert paths(tmp_path) == [f"/{number}" for number in range(101)]


async def test_what_is_gathered_is_written_at_the_end(writer: Kept, tmp_path: Path) -> None:
    """With the ids of its request."""
    log = AccessLog(writer, Redaction())
    with traced(Trace("r1", f"00-{1:032x}-{1:016x}-01")):
        log.record(request_record(path="/last"), "info")
    log.flush()
    writer.start()
    writer.stop()
    [line] = lines(tmp_path / "combined.log")
    assert (line["path"], line["request_id"], line["trace_id"]) == ("/last", "r1", f"{1:032x}")


def test_without_an_event_loop_nothing_is_gathered(writer: Kept) -> None:
    """A host may have ended its loop."""
    AccessLog(writer, Redaction()).record(request_record(), "info")
    assert writer.groups == [1]


def test_a_line_that_cannot_be_made_takes_no_other_with_it(writer: Kept, tmp_path: Path) -> None:
    """It is counted as dropped."""
    log = AccessLog(writer, Redaction())
    log.record(request_record(status=Unspeakable()), "info")
    log.record(request_record(path="/after"), "info")
    writer.start()
    writer.stop()
    assert paths(tmp_path) == ["/after"]
    assert writer.dropped == 1


async def test_an_overflow_is_counted(
    writer: Kept, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Lines that are being gathered count as well."""
    monkeypatch.setattr(log_writer, "MAX_QUEUE", 10)
    log = AccessLog(writer, Redaction())
    for _ in range(8):
        log.record(request_record(), "info")
    log.flush()
    for _ in range(8):
        log.record(request_record(), "info")
    log.flush()
    assert (sum(writer.groups), writer.dropped) == (10, 6)
    writer.put(entry("no room"))
    writer.start()
    writer.stop()
    assert writer.dropped == 7
    assert len(paths(tmp_path)) == 10


def test_a_key_that_comes_later_is_hidden_too() -> None:
    """What is remembered of texts is forgotten then."""
    redaction = Redaction()
    assert redaction.field("path", "/a/secret-1") == "/a/secret-1"
    redaction.hide(["secret-1"])
    assert redaction.field("path", "/a/secret-1") == "/a/<secret>"


def test_people_read_it_on_the_console(tmp_path: Path) -> None:
    """And machines in the file: the same line."""
    console = io.StringIO()
    writer = Kept(tmp_path, console)
    AccessLog(writer, Redaction()).record(request_record(path="/x", status=404), "info")
    writer.start()
    writer.stop()
    line = json.loads((tmp_path / "combined.log").read_text())
    assert line["message"] == "GET /x 404"
    assert "GET /x 404" in console.getvalue()


class Unspeakable(int):
    def __str__(self) -> str:
        raise RuntimeError

    __format__ = __repr__ = __str__  # type: ignore[assignment]
