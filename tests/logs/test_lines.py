"""A log line says everything once, keeps secrets, and is one line whatever it is fed with."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import pytest
from log_entries import entry

from comfy_proxy.logs.lines import MAX_TEXT, Redaction, as_json, as_text, line_of
from comfy_proxy.security import cookie_value, forms_of
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


@pytest.mark.parametrize(
    "picture",
    [
        "iVBORw0KGgo" * 100,
        base64.urlsafe_b64encode(bytes(range(256)) * 8).decode(),
        base64.encodebytes(bytes(range(256)) * 8).decode(),
    ],
    ids=["plain", "for URLs", "in lines of MIME"],
)
def test_base64_is_left_out_however_it_is_written(picture: str) -> None:
    """No picture belongs into a log."""
    text = PLAIN.text(f"before {picture} after")
    assert text.startswith("before <data>")
    assert len(text) < 100


def test_a_key_is_found_in_every_form() -> None:
    """As it is, in a path, in a query, and as the cookie that stands for it."""
    key = "s3cr%t+Key/w=="
    redaction = Redaction(forms_of([key]))
    for form in (key, quote(key), quote(key, safe=""), quote_plus(key), cookie_value(key)):
        assert redaction.text(f"a {form} b") == "a <secret> b"
        assert redaction.text(f"a {form.replace('%2F', '%2f')} b") == "a <secret> b"


def test_an_endless_text_is_cut() -> None:
    """Nobody reads more than some thousand characters; the end, as of a stack trace, is kept."""
    error = entry(exception=ValueError("x y " * MAX_TEXT + "the reason"))
    line = line_of(error, PLAIN)
    assert len(line["exception"]) < MAX_TEXT + 100
    assert line["exception"].endswith("the reason")


def test_no_client_can_fill_the_disk() -> None:
    """What anybody may choose is cut shorter: a line is at most a few thousand characters."""
    long = "x y " * 2000
    fields = {"path": long, "user_agent": long, "method": long}
    assert len(as_json(line_of(entry(f"GET {long}", fields=fields), PLAIN))) < 6000


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
