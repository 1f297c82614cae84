"""Lines reach their files whatever the disk does, and each application has its own."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.http_exceptions import ContentEncodingError, LineTooLong
from aiohttp.web_protocol import RequestPayloadError
from log_entries import entry, lines
from loguru import logger
from request_example import request_record

from comfy_proxy import Settings
from comfy_proxy.logs import AppLogs, log_file, log_writer
from comfy_proxy.logs.lines import Redaction
from comfy_proxy.logs.log_file import LogFile
from comfy_proxy.logs.log_writer import LogWriter
from comfy_proxy.tracing import Trace, traced


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[AppLogs]:
    """A started one, as a plugin has it."""
    with_files = AppLogs(Settings(log_directory=tmp_path / "made" / "logs"))
    with_files.start()
    yield with_files
    with_files.close()


def combined(logs: AppLogs) -> list[dict[str, Any]]:
    """What is in combined.log when everything was written."""
    logs.close()
    return lines(logs._settings.log_directory / "combined.log")


# loguru knows the module by ``__name__``: ours are comfy_proxy's.
ours = logger.patch(lambda record: record.update(name="comfy_proxy.test"))


def test_errors_have_a_file_of_their_own(logs: AppLogs) -> None:
    """The directory is made; combined.log has everything, error.log the errors."""
    with logs.current(), traced(Trace("r1")):
        ours.bind(job_id="j").info("begins")
        ours.error("broke")
    found = combined(logs)
    assert [(one["level"], one["message"], one["request_id"]) for one in found] == [
        ("info", "begins", "r1"),
        ("error", "broke", "r1"),
    ]
    errors = lines(logs._settings.log_directory / "error.log")
    assert [one["message"] for one in errors] == ["broke"]


def test_two_applications_keep_their_logs_apart(tmp_path: Path) -> None:
    """Each gets what was logged in its context, the host's lines go to neither."""
    pair = [AppLogs(Settings(log_directory=tmp_path / name)) for name in ("a", "b")]
    for one in pair:
        one.start()
    with pair[0].current():
        ours.info("of a")
        logger.patch(lambda record: record.update(name="host")).info("of the host")
    with pair[1].current():
        ours.info("of b")
    ours.info("of nobody")
    assert [[line["message"] for line in combined(one)] for one in pair] == [["of a"], ["of b"]]


def test_the_host_s_handlers_stay(tmp_path: Path) -> None:
    """Neither loguru's nor logging's are removed, and ours are gone at the end."""
    heard: list[str] = []
    handler = logger.add(lambda message: heard.append(message.record["message"]), format="")
    before = logging.getLogger("aiohttp").handlers[:], logging.getLogger().handlers[:]
    plugin = AppLogs(Settings(log_directory=tmp_path))
    plugin.start()
    with plugin.current():
        ours.info("both")
    plugin.close()
    ours.info("after")
    assert heard == ["both", "after"]
    assert before == (logging.getLogger("aiohttp").handlers, logging.getLogger().handlers)
    logger.remove(handler)


def test_aiohttp_s_own_lines_are_in_it(logs: AppLogs) -> None:
    """With their stack traces."""
    with logs.current():
        try:
            raise RuntimeError("inside aiohttp")
        except RuntimeError:
            logging.getLogger("aiohttp.server").exception("Error handling request")
    (line,) = combined(logs)
    assert (line["logger"], line["level"]) == ("aiohttp.server", "error")
    assert "RuntimeError: inside aiohttp" in line["exception"]


@pytest.mark.parametrize("with_handler", [False, True])
def test_the_host_s_aiohttp_is_heard_as_before(
    logs: AppLogs, with_handler: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not ours goes where it went without us: a handler, or standard error if none is."""
    aiohttp_server, heard = logging.getLogger("aiohttp.server"), io.StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's would be the host's
    monkeypatch.setattr(sys, "stderr", heard)
    handler = logging.StreamHandler(heard)
    if with_handler:
        aiohttp_server.addHandler(handler)
    try:
        aiohttp_server.error("broke outside of ours")
        aiohttp_server.error("%d", "no number")
    finally:
        aiohttp_server.removeHandler(handler)
    assert heard.getvalue().count("broke outside of ours") == 1
    logs.close()
    assert not any(logs.written.values())


def test_a_host_may_remove_all_of_loguru_s_handlers(logs: AppLogs) -> None:
    """Ours is among them: the end is orderly, and a change of the level brings it back."""
    logger.remove()
    logs.set_level("debug")
    with logs.current():
        ours.debug("heard again")
    logger.remove()
    assert [line["message"] for line in combined(logs)][-1] == "heard again"


def test_a_host_that_sends_logging_to_loguru_doubles_nothing(logs: AppLogs) -> None:
    """What aiohttp says to us comes once, though the host's own handler says it to loguru too."""

    class Intercept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            theirs = logger.patch(lambda line: line.update(name=record.name))
            theirs.log(record.levelname, record.getMessage())

    handler = Intercept()
    logging.getLogger("aiohttp").addHandler(handler)
    try:
        with logs.current():
            logging.getLogger("aiohttp.client").error("once")
    finally:
        logging.getLogger("aiohttp").removeHandler(handler)
    assert [line["message"] for line in combined(logs)] == ["once"]


def test_malformed_http_is_told_without_its_words(logs: AppLogs) -> None:
    """They may be a cookie that was too long."""
    try:
        raise LineTooLong(b"comfy_proxy_key=secret", 8190)
    except LineTooLong:
        with logs.current():
            logging.getLogger("aiohttp.server").exception("Error handling request")
    (line,) = combined(logs)
    assert (line["level"], line["message"]) == ("warn", "Error handling request: 400 LineTooLong")
    assert "secret" not in json.dumps(line)


def test_a_body_that_is_not_coded_as_its_client_says_is_no_error(logs: AppLogs) -> None:
    """aiohttp comes upon the rest of it after the answer."""
    try:
        raise RequestPayloadError("400") from ContentEncodingError("not gzip")
    except RequestPayloadError:
        with logs.current():
            logging.getLogger("aiohttp.server").exception("Unhandled exception")
    (line,) = combined(logs)
    assert (line["level"], "exception" in line) == ("warn", False)


def test_each_failed_request_has_its_line(logs: AppLogs) -> None:
    """However alike they are: each has an id of its own by which somebody may look for it."""
    for number in range(50):
        with traced(Trace(f"r{number}")):
            logs.record_request(request_record(status=502))
    found = combined(logs)
    assert [line["request_id"] for line in found] == [f"r{number}" for number in range(50)]
    assert {line["level"] for line in found} == {"warn"}


def test_the_level_changes_at_run_time(logs: AppLogs) -> None:
    """Up, down, and nonsense is refused."""
    with logs.current():
        ours.debug("unheard")
        logs.set_level("debug")
        ours.debug("heard")
        logs.set_level("error")
        ours.warning("unheard")
        with pytest.raises(ValueError, match="'loud' is none of"):
            logs.set_level("loud")
    assert [(line["level"], line["message"]) for line in combined(logs)] == [
        ("info", "the log level is debug now"),
        ("debug", "heard"),
        ("info", "the log level is error now"),  # seen though it is no error
    ]


@pytest.mark.logs_faults
def test_the_command_has_it_all(tmp_path: Path) -> None:
    """On a console too, lines of nobody included; it stays quiet about what is below its level."""
    console = io.StringIO()
    logs = AppLogs(Settings(log_directory=tmp_path, log_level="warn"))
    root = logging.getLogger()
    before = root.handlers[:]
    logs.start(console, owns_process=True)
    try:
        ours.info("unheard")
        ours.warning("on the console")
        logging.getLogger("asyncio").error("slow")
    finally:
        logs.close()
        root.handlers[:] = before
    assert "warn  on the console" in console.getvalue()
    assert "error slow" in console.getvalue()
    assert len(lines(tmp_path / "combined.log")) == 2


def test_a_directory_that_cannot_be_made_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines are counted as lost, and it is told once where it can be seen."""
    (tmp_path / "file").write_text("in the way")
    told = io.StringIO()
    monkeypatch.setattr(sys, "stderr", told)
    logs = AppLogs(Settings(log_directory=tmp_path / "file" / "logs"))
    logs.start()
    with logs.current():
        for _ in range(3):
            ours.info("lost")
    logs.close()
    assert logs.dropped == 3
    assert logs.written["info"] == 0
    assert told.getvalue().count("the log cannot be written") == 1


def test_a_broken_error_log_is_told_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """combined.log goes on; what error.log lacks is counted."""
    (tmp_path / "error.log").mkdir()
    told = io.StringIO()
    monkeypatch.setattr(sys, "stderr", told)
    logs = AppLogs(Settings(log_directory=tmp_path))
    logs.start()
    with logs.current():
        ours.error("one")
        ours.info("two")
    assert [line["message"] for line in combined(logs)] == ["one", "two"]
    assert logs.dropped == 1
    assert logs.written == {"error": 1, "warn": 0, "info": 1, "debug": 0}
    assert told.getvalue().count("the log cannot be written") == 1


@pytest.mark.parametrize("moved", [True, False])
def test_a_file_that_was_taken_away_is_made_anew(tmp_path: Path, moved: bool) -> None:
    """By logrotate, by another proxy with the same directory, or by somebody who tidies up."""
    path = tmp_path / "combined.log"
    file = LogFile(path)
    file.write(["one"], 0.0)
    path.rename(tmp_path / "old") if moved else path.unlink()
    assert file.write(["two"], 1.0)
    file.close()
    assert path.read_text() == "two\n"
    assert file.dropped == 0


def test_a_file_that_cannot_be_renamed_grows_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its directory is somebody else's: no rotation is better than no lines."""

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(log_file, "MAX_BYTES", 100)
    monkeypatch.setattr(os, "rename", refuse)
    file = LogFile(tmp_path / "combined.log")
    for number in range(20):
        assert file.write([f"{number:02} " + "x" * 40], 0.0)
    file.close()
    assert (tmp_path / "combined.log").read_text().count("\n") == 20


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    """Opening it would wait for somebody to read, and all other lines with it."""
    os.mkfifo(tmp_path / "combined.log")
    file = LogFile(tmp_path / "combined.log")
    assert not file.write(["one"], 0.0)
    assert "is no file" in str(file.error)


def test_the_files_are_there_before_the_first_line(tmp_path: Path) -> None:
    """Whoever follows error.log need not wait for an error."""
    logs = AppLogs(Settings(log_directory=tmp_path))
    logs.start()
    logs.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["combined.log", "error.log"]


def test_a_full_disk_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written is counted; when there is room again, lines are written again."""
    file = LogFile(tmp_path / "combined.log")
    file.write(["one"], 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(log_file._Handler, "flush_batch", _no_space)
        file.write(["two", "three"], 1.0)
    assert file.dropped == 2
    file.write(["too soon"], 2.0)
    assert file.dropped == 3
    file.write(["four"], 1.0 + log_file.RETRY_S)
    file.close()
    assert (tmp_path / "combined.log").read_text().endswith("four\n")
    assert file.error is None


def test_a_torn_line_stays_alone(tmp_path: Path) -> None:
    """After a full disk or a kill in mid-line the next line is a line of its own."""
    path = tmp_path / "combined.log"
    for before, after in (("", "one\n"), ("torn", "torn\none\n"), ("whole\n", "whole\none\n")):
        path.write_text(before)
        file = LogFile(path)
        file.write(["one"], 0.0)
        file.close()
        assert path.read_text() == after


def test_a_file_rotates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By size; the oldest goes."""
    monkeypatch.setattr(log_file, "MAX_BYTES", 100)
    monkeypatch.setattr(log_file, "BACKUPS", 2)
    file = LogFile(tmp_path / "combined.log")
    for number in range(20):
        file.write([f"{number:02} " + "x" * 40], 0.0)
    file.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["combined.log", "combined.log.1", "combined.log.2"]
    assert (tmp_path / "combined.log").read_text().startswith("18")


def test_an_overflow_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is bounded: whoever logs never waits, what does not fit is dropped."""
    monkeypatch.setattr(log_writer, "MAX_QUEUE", 10)
    writer = LogWriter(directory=tmp_path, console=None, redaction=Redaction())
    for number in range(25):
        writer.put(entry(str(number)))
    writer.start()
    writer.stop()
    assert writer.dropped == 15
    assert [line["message"] for line in lines(tmp_path / "combined.log")] == [
        str(number) for number in range(10)
    ]


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError


def test_an_integer_beyond_64_bits_is_a_line_like_any_other(tmp_path: Path) -> None:
    """JSON has numbers of any size."""
    writer = LogWriter(directory=tmp_path, console=None, redaction=Redaction())
    writer.put(entry("large", fields={"what": 2**70}))
    writer.start()
    writer.stop()
    assert [line["what"] for line in lines(tmp_path / "combined.log")] == [2**70]
    assert writer.dropped == 0


def test_a_line_that_cannot_be_formatted_takes_no_other_with_it(
    tmp_path: Path,
) -> None:
    """It is counted as lost; those before and after it, of the same batch too, are written."""
    console = io.StringIO()
    writer = LogWriter(directory=tmp_path, console=console, redaction=Redaction())
    for one in (entry("before"), entry("lost", fields={"what": Unspeakable()}), entry("after")):
        writer.put(one)
    writer.start()
    writer.stop()
    assert [line["message"] for line in lines(tmp_path / "combined.log")] == ["before", "after"]
    assert "after" in console.getvalue()
    assert writer.dropped == 1


def test_a_batch_that_breaks_is_not_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong in the thread, it goes on; what that took with it is counted as lost."""
    monkeypatch.setattr(log_writer, "MAX_BATCH", 1)
    writer = LogWriter(directory=tmp_path, console=None, redaction=Redaction())
    writer.put(entry(level="warn", site=("m", 1), fields={"instance": Unspeakable()}))
    writer.put(entry("after"))
    writer.start()
    writer.stop()
    assert [line["message"] for line in lines(tmp_path / "combined.log")] == ["after"]
    assert writer.dropped == 1


def test_what_comes_after_the_end_is_counted(tmp_path: Path) -> None:
    """Nobody would write it."""
    writer = LogWriter(directory=tmp_path, console=None, redaction=Redaction())
    writer.start()
    writer.stop()
    writer.put(entry("too late"))
    assert writer.dropped == 1


def test_a_console_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    """A closed standard error: the files go on."""
    console = io.StringIO()
    console.close()
    writer = LogWriter(directory=tmp_path, console=console, redaction=Redaction())
    writer.start()
    writer.put(entry("one"))
    writer.stop()
    assert json.loads((tmp_path / "combined.log").read_text())["message"] == "one"


def _no_space(*_: object) -> Any:
    raise OSError(28, "No space left on device")
