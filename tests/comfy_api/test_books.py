"""What is remembered of jobs and assets is bounded, in number and in time."""

from __future__ import annotations

from datetime import timedelta

import pytest
from manual_clock import ManualClock

from comfy_proxy.comfy_api.assets import MAX_ASSETS, RETENTION, Asset, AssetBook
from comfy_proxy.comfy_api.idempotency import Keys
from comfy_proxy.comfy_api.jobs import RETENTION as JOB_RETENTION
from comfy_proxy.comfy_api.jobs import Job, JobBook, JobStatus
from comfy_proxy.comfy_api.outputs import outputs_of
from comfy_proxy.errors import IdempotencyConflictError
from comfy_proxy.gateway.files.file_name import FileName


def job(name: str, clock: ManualClock, *, key: str | None = None, outputs: int = 0) -> Job:
    made = Job(id=name, owner="", created=clock.now(), key=key, fingerprint=name, accepted=True)
    files = [{"filename": f"{name}{n}.png"} for n in range(outputs)]
    for output in outputs_of(name, {"9": {"images": files}}, b"s"):
        made.outputs[output.id] = output
    return made


def end(book: JobBook, one: Job) -> None:
    one.end = JobStatus.SUCCEEDED
    book.ended(one)


def test_jobs_are_forgotten_a_day_after_their_submission(clock: ManualClock) -> None:
    book, ended, lives = JobBook(clock), job("a", clock, outputs=1), job("b", clock)
    for one in (ended, lives):
        book.add(one)
    end(book, ended)
    (output_id,) = ended.outputs
    clock._now += JOB_RETENTION.total_seconds() - 1
    assert book.find("a") is ended
    assert book.of_output(output_id) is ended
    clock._now += 1
    assert book.find("a") is None
    assert book.of_output(output_id) is None
    assert book.find("b") is lives, "one that has not ended is known until it ends"


def test_so_many_jobs_are_known(clock: ManualClock) -> None:
    """The one that ended first goes first; those that live are counted elsewhere."""
    book, forgotten = JobBook(clock, max_ended=2), []
    book.on_forgotten.append(lambda one: forgotten.append(one.id))
    jobs = [job(name, clock) for name in "abcd"]
    for one in jobs:
        book.add(one)
    for one in (jobs[1], jobs[0], jobs[2]):
        end(book, one)
    assert forgotten == ["b"]
    assert [one.id for one in book] == ["d", "c", "a"]


def test_so_many_outputs_are_known(clock: ManualClock) -> None:
    """But all of the newest job's."""
    book = JobBook(clock, max_outputs=5)
    for name, outputs in (("a", 3), ("b", 2), ("c", 1), ("d", 9)):
        one = job(name, clock, outputs=outputs)
        book.add(one)
        end(book, one)
    assert [one.id for one in book] == ["d"]
    assert len(book._outputs) == 9


def test_numbers_grow_whatever_the_clock_says(clock: ManualClock) -> None:
    book, jobs = JobBook(clock), [job(name, clock) for name in "abc"]
    clock._now -= 50
    jobs.append(job("d", clock))
    for one in jobs:
        book.add(one)
    numbers = [one.number for one in jobs]
    assert numbers == sorted(set(numbers))


async def test_a_key_is_free_when_its_job_is_forgotten(clock: ManualClock) -> None:
    book, keys = JobBook(clock), Keys()
    book.on_forgotten.append(keys.forget)
    first = job("a", clock, key="k")
    assert keys.claim(first) is None
    book.add(first)
    keys.submitted(first)
    same = job("a", clock, key="k")
    assert keys.claim(same) is first
    with pytest.raises(IdempotencyConflictError):
        keys.claim(job("other", clock, key="k"))
    other = job("other", clock, key="k")
    other.owner = "somebody else"
    assert keys.claim(other) is None
    end(book, first)
    clock._now += JOB_RETENTION.total_seconds()
    assert book.find("a") is None
    assert keys.claim(job("other", clock, key="k")) is None


def asset(name: str, book: AssetBook, owner: str = "", keep_s: int | None = None) -> Asset:
    made = Asset(
        id=name,
        owner=owner,
        hash=f"blake3:{name}",
        size=1,
        content_type="image/png",
        path="p.png",
        file=FileName(filename=f"{name}.png", type="input"),
        created=book._clock.now(),
        expires=book.expiry(keep_s),
        keep_s=keep_s,
    )
    book.add(made)
    return made


def test_so_many_assets_are_known(clock: ManualClock) -> None:
    """The one that was used longest ago goes first."""
    book = AssetBook(clock, max_assets=2)
    first, _ = asset("a", book), asset("b", book)
    book.used(first)
    asset("c", book)
    assert [book.find(name, "") is not None for name in "abc"] == [True, False, True]
    assert book.by_hash("blake3:b", "") is None
    assert MAX_ASSETS == 10_000


@pytest.mark.parametrize("keep_s", [None, 3600])
def test_assets_are_forgotten_when_they_are_not_used(
    clock: ManualClock, keep_s: int | None
) -> None:
    """After a week, or as long as their client wants; each use begins that time anew."""
    book = AssetBook(clock)
    one = asset("a", book, keep_s=keep_s)
    kept = RETENTION if keep_s is None else timedelta(seconds=keep_s)
    clock._now += kept.total_seconds() - 1
    assert book.used(one).expires == clock.now() + kept
    clock._now += kept.total_seconds() - 1
    assert book.by_hash("BLAKE3:a".lower(), "") is not None
    clock._now += 1
    assert book.by_hash("blake3:a", "") is None
    assert len(book) == 0


def test_an_asset_is_its_owners(clock: ManualClock) -> None:
    book = AssetBook(clock)
    asset("a", book, owner="me")
    assert book.find("a", "me") is not None
    assert book.find("a", "you") is None
    assert book.by_hash("blake3:a", "you") is None
