"""A log line says everything once, keeps secrets, and is one line whatever it is fed with."""

from __future__ import annotations

import json

import pytest
from log_entries import entry

from comfy_proxy.logs.lines import MAX_TEXT, Redaction, as_json, as_text, line_of
from comfy_proxy.tracing import Trace

TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"
PLAIN = Redaction()


def test_a_json_line_has_the_fields_of_the_specification() -> None:
    """Service, ISO timestamp, level, ids, and what the caller bound."""
    fields = {"job_id": "j", "prompt_id": "p", "instance": "localhost:8188", "nothing": None}
    one = entry(time_s=1.5, level="warn", fields=fields, trace=Trace("r", TRACEPARENT))
    assert json.loads(as_json(line_of(one, PLAIN))) == {
        "timestamp": "1970-01-01T00:00:01.500Z",
        "level": "warn",
        "service": "comfy_proxy",
        "message": "hello",
        "logger": "comfy_proxy.test",
        "request_id": "r",
        "trace_id": "a" * 32,
        "job_id": "j",
        "prompt_id": "p",
        "instance": "localhost:8188",
    }


def test_a_field_cannot_forge_another(  # a client names it, by a header for instance
) -> None:
    """Fields of the line itself win over fields of the same name."""
    one = entry(fields={"level": "error", "service": "evil"})
    line = json.loads(as_json(line_of(one, PLAIN)))
    assert (line["level"], line["service"]) == ("info", "comfy_proxy")


@pytest.mark.parametrize("bad", ["a\nb", "a\r\nlevel=error", "\x1b[2Jx", "a\u2028b", "\x9b31m"])
def test_no_client_can_write_a_line_or_control_a_terminal(bad: str) -> None:
    """Control characters of messages and fields are escaped."""
    one = entry(bad, fields={"user_agent": bad})
    line, text = as_json(line_of(one, PLAIN)), as_text(line_of(one, PLAIN), colours=False)
    assert "\n" not in line
    assert "\x1b" not in line
    assert len(text.splitlines()) == 1
    assert not set(text) & {"\x1b", "\x9b"}


def test_bytes_that_are_no_utf_8_can_be_written() -> None:
    """aiohttp makes surrogates of them, which neither JSON nor a file takes."""
    one = entry("GET /a\udcff", fields={"user_agent": "é\udce9"})
    line = as_json(line_of(one, PLAIN))
    assert json.loads(line)["user_agent"] == "é\\udce9"
    assert line.encode()
    assert as_text(line_of(one, PLAIN), colours=False).encode()


def test_a_stack_trace_controls_no_terminal_either() -> None:
    """What an exception says may be a client's words; the lines of the trace stay lines."""
    text = as_text(line_of(entry(exception=ValueError("\x1b[2J\rmore")), PLAIN), colours=False)
    assert text.splitlines()[-1] == "ValueError: \\x1b[2J\\rmore"
    assert "\x1b" not in text


def test_secrets_and_pictures_are_left_out() -> None:
    """API keys and base64 data, in messages, fields and stack traces."""
    redaction = Redaction(["key", "key-of-longer-name"])
    picture = "data:image/png;base64," + "A" * 5000
    error = ValueError(f"key-of-longer-name {picture}")
    one = entry(f"token=key {picture}", fields={"body": "Q" * 300, "n": 1.5}, exception=error)
    for text in (as_json(line_of(one, redaction)), as_text(line_of(one, redaction), colours=True)):
        assert "key" not in text.replace("keys", "")
        assert "AAAA" not in text
        assert "QQQQ" not in text


def test_half_a_secret_is_none() -> None:
    """One that lies where a long text is cut does not leave its beginning there."""
    redaction = Redaction(["key-of-some-length"])
    assert "key" not in redaction.text("x " * (MAX_TEXT // 2 - 4) + "key-of-some-length" + " y")


def test_an_endless_text_is_cut() -> None:
    """Nobody reads more than some thousand characters."""
    line = as_json(line_of(entry("x y " * MAX_TEXT), PLAIN))
    assert len(line) < MAX_TEXT + 300


def test_a_stack_trace_goes_with_its_error() -> None:
    """As one field in JSON, on lines of its own for people."""
    try:
        raise RuntimeError("broken")
    except RuntimeError as caught:
        one = entry(level="error", exception=caught)
    assert "RuntimeError: broken" in json.loads(as_json(line_of(one, PLAIN)))["exception"]
    assert as_text(line_of(one, PLAIN), colours=False).endswith("RuntimeError: broken")


def test_a_terminal_gets_colours_and_no_repetition() -> None:
    """What the message says already is not said again."""
    one = entry("job j failed", level="error", fields={"job_id": "j", "attempt": 2})
    assert as_text(line_of(one, PLAIN), colours=False).endswith("error job j failed attempt=2")
    assert "\x1b[31m" in as_text(line_of(one, PLAIN), colours=True)
