"""Ids of requests: which are passed on, where they hold, and where they end."""

from __future__ import annotations

import asyncio

import pytest

from comfy_proxy.tracing import (
    TRACE,
    Trace,
    about,
    subject,
    trace_headers,
    traced,
    untraced,
    valid_traceparent,
)

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


@pytest.mark.parametrize("header", [TRACEPARENT, f"cc-{TRACE_ID}-00f067aa0ba902b7-01-more-of-it"])
def test_a_traceparent_of_w3c_is_valid(header: str) -> None:
    """Version 00, and later ones, which may be longer."""
    assert valid_traceparent(header) == header
    assert Trace("r", header).fields["trace_id"] == TRACE_ID


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        TRACEPARENT.upper(),
        TRACEPARENT[:-1],
        f"{TRACEPARENT}\n",
        f"{TRACEPARENT} ",
        f"ff-{TRACE_ID}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"{TRACEPARENT}-more-of-it",
        f"cc-{TRACE_ID}-00f067aa0ba902b7-01-{'x' * 512}",
        f"cc-{TRACE_ID}-00f067aa0ba902b7-01-a\nb",
    ],
)
def test_another_traceparent_is_as_good_as_none(header: str | None) -> None:
    """Malformed, of the forbidden version, of no trace, or too long to be repeated in logs."""
    assert valid_traceparent(header) is None


def test_requests_to_instances_carry_what_there_is() -> None:
    """The id, and the traceparent if the client sent one; nothing outside of a request."""
    assert trace_headers() == {}
    with traced(Trace("r1")):
        assert trace_headers() == {"X-Request-ID": "r1"}
        with traced(Trace("r2", TRACEPARENT)):
            assert trace_headers() == {"X-Request-ID": "r2", "traceparent": TRACEPARENT}
        with traced(None):
            assert trace_headers() == {}
    assert trace_headers() == {}


def test_lines_are_about_what_was_said_last() -> None:
    """Inner blocks add to outer ones, and take back what they said."""
    with about(job_id="j", instance="one"):
        with about(instance="two", prompt_id="p"):
            assert subject() == {"job_id": "j", "instance": "two", "prompt_id": "p"}
        assert subject() == {"job_id": "j", "instance": "one"}
    assert subject() == {}


async def test_an_untraced_task_knows_nothing_of_its_maker() -> None:
    """Neither request nor job; a task made without that has both, and the maker keeps them."""

    async def what_it_knows() -> tuple[Trace | None, dict[str, str]]:
        await asyncio.sleep(0)
        return TRACE.get(), dict(subject())

    with traced(Trace("r")), about(job_id="j"):
        apart = asyncio.create_task(what_it_knows(), context=untraced())
        within = asyncio.create_task(what_it_knows())
        assert await apart == (None, {})
        assert await within == (Trace("r"), {"job_id": "j"})
        assert (TRACE.get(), subject()) == (Trace("r"), {"job_id": "j"})
