"""ComfyUI's answers about prompts, as they are and as odd as they may come."""

from __future__ import annotations

import json
from typing import Any

import pytest

from comfy_proxy.cluster import prompt_answers
from comfy_proxy.cluster.prompt_answers import (
    MAX_WORDS,
    Accepted,
    accepted_answer,
    cancelled_answer,
    length_answer,
    read_accepted,
    read_cancelled,
    read_length,
    rejection,
)
from comfy_proxy.cluster.prompt_jobs import Job, JobList, pagination, progress
from comfy_proxy.cluster.prompt_lists import extra_data, number_of

ODD: list[Any] = [None, [], {}, "text", 3, {"jobs": {}}, {"exec_info": []}]


def read_jobs(answer: Any) -> tuple[list[Job], int]:
    jobs = JobList(json.dumps(answer).encode())
    return [job for some in jobs.steps() for job, _ in some], jobs.total


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_answer_tells_nothing(odd: Any) -> None:
    """Whatever JSON comes, nothing is raised and nothing made up."""
    assert read_accepted(odd) == Accepted(prompt_id=None, number=None)
    assert read_length(odd) is None
    assert read_cancelled(odd) is False
    with pytest.raises(ValueError, match=r"JSON|page"):
        read_jobs(odd)
    assert number_of(odd) == 0


def test_what_is_answered_here_reads_as_comfyuis_own() -> None:
    """What the proxy says in ComfyUI's place."""
    assert read_accepted(accepted_answer("a", 1.5)) == Accepted(prompt_id="a", number=1.5)
    assert read_length(length_answer(7)) == 7
    assert [read_cancelled(cancelled_answer(told)) for told in (True, False)] == [True, False]
    told = pagination(1, offset=1, limit=1, total=3)
    assert read_jobs({"jobs": [{"id": "a"}], "pagination": told}) == ([{"id": "a"}], 3)
    assert pagination(0, offset=3, limit=1, total=3)["has_more"] is False


@pytest.mark.parametrize(
    ("node_errors", "left_out"),
    [
        (None, set()),
        ([], set()),
        ({}, set()),
        ({"1": {"dependent_outputs": ["9", 8]}, "2": {"dependent_outputs": ["9"]}}, {"9", "8"}),
        ({"1": {"errors": []}, "2": 7, "3": {"dependent_outputs": []}}, {"1", "2", "3"}),
    ],
)
def test_outputs_that_do_not_run_are_told(node_errors: Any, left_out: set[str]) -> None:
    """A 200 can leave some out; where it does not say which, the node at fault counts."""
    answer = {"prompt_id": "a", "number": 1, "node_errors": node_errors}
    assert read_accepted(answer).left_out == left_out


def test_an_odd_job_hides_no_other() -> None:
    """It is left out, and not counted."""
    answer = {"jobs": [None, {"id": 1}, {"id": "a"}], "pagination": {"total": 10}}
    assert read_jobs(answer) == ([{"id": "a"}], 8)


def test_a_job_gets_on() -> None:
    """An unknown status of a newer ComfyUI's counts as an end."""
    statuses = ["pending", "in_progress", "completed", "of 2030"]
    assert [progress({"status": status}) for status in statuses] == [0, 1, 2, 2]


def test_an_entry_without_extra_data_has_none() -> None:
    """Old servers' entries are shorter, and clients may send anything."""
    assert extra_data([1, "a", {}, {"create_time": 5}, []]) == {"create_time": 5}
    assert extra_data([1, "a", {}]) == extra_data([1, "a", {}, "text"]) == {}


def test_a_refusal_is_one_sentence_of_bounded_length() -> None:
    """Its message, each node's complaint, no path of the instance and no whole arrays."""
    error = {"message": "Invalid", "details": "in /home/u/models/x.ckpt"}
    nodes = {
        "3": {"class_type": "K", "errors": [{"message": "Bad", "details": "seed"}, None]},
        "4": 1,
    }
    told = rejection({"error": error, "node_errors": nodes})
    assert told == "Invalid; in x.ckpt; K (node 3): Bad seed"
    assert rejection({"error": ""}) == "ComfyUI refused the graph."
    assert len(rejection({"error": "x" * (MAX_WORDS + 1)})) == MAX_WORDS


def test_of_a_long_rejection_only_the_beginning_is_looked_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ComfyUI repeats what it does not know: an id of 16 MB took 0.8 s, twice."""
    seen: list[int] = []
    paths = prompt_answers._ABSOLUTE_PATH

    class Counting:
        def sub(self, new: str, text: str) -> str:
            seen.append(len(text))
            return paths.sub(new, text)

    monkeypatch.setattr(prompt_answers, "_ABSOLUTE_PATH", Counting())
    long = "x" * 1_000_000
    complaints = [{"message": long, "details": long}] * 3
    told = rejection({"error": long, "node_errors": {long: {"errors": complaints}}})
    assert len(told) == MAX_WORDS
    assert max(seen) <= 8 * MAX_WORDS
