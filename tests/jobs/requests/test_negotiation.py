"""How clients say what answer they want (contract: Jobs, ``Accept``; RFC 7240 and 9110)."""

from __future__ import annotations

import pytest

from comfy_proxy.errors import InvalidFieldError
from comfy_proxy.jobs.requests.negotiation import (
    AnswerMode,
    answer_mode,
    prefers_json,
    prefers_media,
    wait_seconds,
    waits_for_change,
)

AXIOS = "application/json, text/plain, */*"
FETCH = "*/*"
IMG_TAG = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
JSON, PICTURE, TIE = "json", "picture", "tie"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", TIE),
        (FETCH, TIE),
        (AXIOS, TIE),
        (CHROME, TIE),
        (FIREFOX, TIE),
        (IMG_TAG, PICTURE),
        ("application/json", JSON),
        ("Application/JSON", JSON),
        ("application/*", JSON),
        ("image/png", PICTURE),
        ("image/*", PICTURE),
        ("IMAGE/PNG", PICTURE),
        ("image/*, application/json", TIE),
        ("image/*;q=0.5, application/json;q=0.5", TIE),
        ("image/*;q=0.5, application/json;q=0.6", JSON),
        ("image/png;q=0.9, application/json;q=0.8", PICTURE),
        ("application/json;q=0.9, */*", PICTURE),
        ("image/*;q=0.9, */*", JSON),
        ("application/json, */*;q=0.1", JSON),
        ("image/webp, */*;q=0.1", PICTURE),
        ("application/json;q=0, */*", PICTURE),
        ("image/*;q=0, */*", JSON),
        ("image/*;q=0", TIE),
        ("application/json ; charset=utf-8 ; q=0.2, image/* ; q=0.1", JSON),
        ("application/json;q=strange, image/*;q=0.1", PICTURE),
        ("application/json;q=7, image/*;q=1", TIE),
        ("application/json;indent=2", JSON),
        ("image/png;q=0, */*", TIE),
        ("application/json;q=0.9, image/png;q=0.5, */*", PICTURE),
        ("text/plain", TIE),
        (",,;q=1,", TIE),
    ],
)
def test_accept(accept: str, wanted: str) -> None:
    """JSON and pictures are preferred with a strictly higher q only; ``*/*`` counts for both."""
    found = JSON if prefers_json(accept) else PICTURE if prefers_media(accept) else TIE
    assert found == (PICTURE if wanted == PICTURE else wanted)
    assert not (prefers_json(accept) and prefers_media(accept))


ASYNC, SYNC = AnswerMode(synchronous=False), AnswerMode(synchronous=True)
DEFAULT = AnswerMode(synchronous=False, by_default=True)


def waiting(seconds: float, applied: str) -> AnswerMode:
    return AnswerMode(synchronous=True, wait_s=seconds, applied=applied)


@pytest.mark.parametrize(
    ("options", "prefer", "accept", "expected"),
    [
        ({}, "", "", DEFAULT),
        ({}, "", AXIOS, DEFAULT),
        ({}, "", CHROME, DEFAULT),
        ({}, "", FIREFOX, DEFAULT),
        ({}, "", "application/json", DEFAULT),
        ({}, "", "image/png", SYNC),
        ({"async": "false"}, "", "", SYNC),
        ({"async": "0"}, "", AXIOS, SYNC),
        ({"mode": "sync"}, "", "", SYNC),
        ({"mode": "async"}, "", "image/png", ASYNC),
        ({"async": "true"}, "", "image/png", ASYNC),
        ({"async": "true"}, "wait=5", "image/png", ASYNC),
        ({"mode": "async"}, "wait=5", "", ASYNC),
        ({"async": "false", "mode": "async"}, "", "", ASYNC),
        ({"async": "true", "mode": "sync"}, "", "", ASYNC),
        ({"async": "false", "mode": "sync"}, "", "", SYNC),
        ({}, "wait=5", "", waiting(5, "wait=5")),
        ({}, "wait=0", "", waiting(0, "wait=0")),
        ({}, 'WAIT = "7"', "", waiting(7, "wait=7")),
        ({}, "return=minimal, wait=3;x=y", "", waiting(3, "wait=3")),
        ({}, "wait=3, wait=9", "", waiting(3, "wait=3")),
        ({}, "respond-async, wait=2", "image/png", waiting(2, "wait=2")),
        ({"mode": "sync"}, "wait=4", "", waiting(4, "wait=4")),
        ({"mode": "sync"}, "respond-async", "", SYNC),
        (
            {},
            "respond-async",
            "image/png",
            AnswerMode(synchronous=False, applied="respond-async"),
        ),
        ({}, "handling=strict", "", DEFAULT),
    ],
)
def test_mode(options: dict[str, str], prefer: str, accept: str, expected: AnswerMode) -> None:
    """The URL wins, then Prefer, then an Accept that prefers a picture, then the default."""
    found = answer_mode(options, prefer=prefer, accept=accept, default_mode="async")
    assert found == expected


@pytest.mark.parametrize(
    ("options", "prefer", "synchronous"),
    [
        ({}, "", True),
        ({"async": "true"}, "", False),
        ({"mode": "async"}, "", False),
        ({}, "respond-async", False),
    ],
)
def test_default_mode_sync(options: dict[str, str], prefer: str, synchronous: bool) -> None:
    """DEFAULT_MODE=sync is for clients that say nothing."""
    found = answer_mode(options, prefer=prefer, accept=AXIOS, default_mode="sync")
    assert found.synchronous is synchronous


@pytest.mark.parametrize("value", ["", "soon", "-1", "nan", "inf", "1e999", "1_0", "٣", "9" * 400])
def test_a_preference_that_makes_no_sense_is_ignored(value: str) -> None:
    """RFC 7240: what cannot be complied with is no error and is not claimed to be applied."""
    found = answer_mode({}, prefer=f"wait={value}", accept="", default_mode="async")
    assert found == DEFAULT


@pytest.mark.parametrize(
    ("options", "field"),
    [({"async": "maybe"}, "async"), ({"async": ""}, "async"), ({"mode": "later"}, "mode")],
)
def test_a_bad_option_names_itself(options: dict[str, str], field: str) -> None:
    """A mode that does not parse is 400 and named, even beside a good one."""
    with pytest.raises(InvalidFieldError) as caught:
        answer_mode({"mode": "sync", **options}, prefer="", accept="", default_mode="async")
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("text", "seconds"), [(None, 0), ("0", 0), ("20", 20), ("1.5", 1.5), ("300", 300)]
)
def test_wait(text: str | None, seconds: float) -> None:
    """A long poll waits for so many seconds, not at all without the parameter."""
    assert wait_seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "-1", "301", "300.1", "soon", "nan", "inf", "+5", " 5", "5 ", "9" * 400]
)
def test_a_bad_wait(text: str) -> None:
    """Anything but 0 to 300 seconds is refused by name."""
    with pytest.raises(InvalidFieldError) as caught:
        wait_seconds(text)
    assert caught.value.field == "wait"


@pytest.mark.parametrize(("text", "change"), [(None, False), ("end", False), ("change", True)])
def test_until(text: str | None, change: bool) -> None:
    """A long poll of a status waits for the end, for any change only if that is asked for."""
    assert waits_for_change(text) is change


@pytest.mark.parametrize("text", ["", "End", "completed", "change,end"])
def test_a_bad_until(text: str) -> None:
    """Anything else is refused by name: a typing error must not change what is waited for."""
    with pytest.raises(InvalidFieldError) as caught:
        waits_for_change(text)
    assert caught.value.field == "until"
