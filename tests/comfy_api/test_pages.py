"""Pages of the list of jobs."""

from __future__ import annotations

import pytest
from manual_clock import ManualClock
from multidict import MultiDict

from comfy_proxy.comfy_api.jobs import Job, JobBook, JobStatus
from comfy_proxy.comfy_api.pages import Page
from comfy_proxy.errors import InvalidFieldError


def book(clock: ManualClock, count: int) -> JobBook:
    made = JobBook(clock)
    for number in range(count):
        labels = {"parity": str(number % 2)}
        made.add(Job(id=str(number), owner="", created=clock.now(), metadata=labels))
    return made


def pages(jobs: JobBook, **query: str) -> list[list[str]]:
    """The ids on each page."""
    found: list[list[str]] = []
    while True:
        shown, cursor = Page.of(MultiDict(query)).cut(jobs)
        found.append([one.id for one in shown])
        if cursor is None:
            return found
        query["cursor"] = cursor


def test_each_job_is_on_one_page(clock: ManualClock) -> None:
    """Newest first, also if all came in one moment."""
    assert pages(book(clock, 5), limit="2") == [["4", "3"], ["2", "1"], ["0"]]
    assert pages(book(clock, 4), limit="2") == [["3", "2"], ["1", "0"]]
    assert pages(book(clock, 0)) == [[]]


def test_a_job_that_comes_meanwhile_changes_no_later_page(clock: ManualClock) -> None:
    jobs = book(clock, 3)
    shown, cursor = Page.of(MultiDict(limit="2")).cut(jobs)
    jobs.add(Job(id="new", owner="", created=clock.now()))
    assert cursor is not None
    rest, _ = Page.of(MultiDict(limit="2", cursor=cursor)).cut(jobs)
    assert [one.id for one in (*shown, *rest)] == ["2", "1", "0"]


def test_a_page_has_only_jobs_that_its_filters_name(clock: ManualClock) -> None:
    jobs = book(clock, 4)
    for one in jobs:
        one.end = JobStatus.FAILED if one.id == "3" else None
    assert pages(jobs, status="failed") == [["3"]]
    assert pages(jobs, status="queued,failed") == [["3", "2", "1", "0"]]
    assert pages(jobs, **{"metadata[parity]": "1"}, limit="1") == [["3"], ["1"]]
    assert pages(jobs, **{"metadata[other]": "1"}) == [[]]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"limit": "0"}, "invalid_parameter"),
        ({"limit": "101"}, "invalid_parameter"),
        ({"limit": "x"}, "invalid_parameter"),
        ({"limit": "0000000019"}, "invalid_parameter"),
        ({"limit": "000000001" + "9" * 5000}, "invalid_parameter"),
        ({"status": "done"}, "invalid_parameter"),
        ({"cursor": "?"}, "invalid_cursor"),
        ({"cursor": "eHg="}, "invalid_cursor"),
        ({"metadata": "x"}, "invalid_metadata_filter"),
        ({"metadata[a b]": "x"}, "invalid_metadata_filter"),
        ({f"metadata[{name}]": "x" for name in "abcd"}, "invalid_metadata_filter"),
    ],
)
def test_what_is_wrong_is_named(query: dict[str, str], code: str) -> None:
    with pytest.raises(InvalidFieldError) as refused:
        Page.of(MultiDict(query))
    assert refused.value.code == code
