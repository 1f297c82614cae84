"""Prompts of the page: pictures, queue and cancellation, over two instances."""

from __future__ import annotations

from pathlib import Path

from frontend import Frontend
from page_prompts import Servers, run_and_see
from pictures import enlarged, fresh, quarters, saved, timed_graph

RUNS = 6
SECONDS, STEPS = 1.0, 20
LONG_S = 100.0


def assert_both_ran(servers: Servers, prompt_ids: list[str]) -> None:
    """Each prompt at exactly one server, both servers with some."""
    seen = [[server.has_run(prompt_id) for prompt_id in prompt_ids] for server in servers]
    assert [one + two for one, two in zip(*seen, strict=True)] == [1] * len(prompt_ids)
    assert all(any(ran) for ran in seen)


def test_a_workflow_with_an_uploaded_picture_runs_six_times_on_both_instances(
    frontend: Frontend, servers: Servers, tmp_path: Path
) -> None:
    """Each time the page sees every step of the progress, one result and the right picture.

    The queue's panel, too, begins with it. Six different uploads have the same file name, and
    the results have the same names on both instances.
    """
    frontend.open()
    frontend.show(timed_graph(SECONDS))
    frontend.press(".queue-tab-button")
    prompt_ids = []
    for number in range(RUNS):
        prompt_id = run_and_see(frontend, tmp_path, scale=1 + number % 3)
        steps = [step["value"] for step in frontend.heard("progress", prompt_id)]
        assert steps == list(range(1, STEPS + 1))
        frontend.screenshot(f"run-{number + 1}")
        prompt_ids.append(prompt_id)
    assert_both_ran(servers, prompt_ids)


def test_the_page_shows_the_queue_and_cancels_what_runs(
    frontend: Frontend, servers: Servers, tmp_path: Path
) -> None:
    """Two prompts run and two wait; one is cancelled and the next takes its place."""
    frontend.open()
    frontend.show(timed_graph(LONG_S))
    frontend.choose_file(saved(quarters(), tmp_path / "picture.png"))
    frontend.press(".queue-tab-button")
    for _ in range(4):
        frontend.set_widget("TimedPass", "salt", fresh())
        frontend.post()
    first, second = frontend.until_started(2)
    frontend.until_queue(running=2, pending=2)
    frontend.screenshot("queue-full")

    frontend.press("[aria-label='Cancel current run']")
    frontend.until_ended(second, "execution_interrupted")
    third = frontend.until_started(3)[2]
    frontend.until_queue(running=2, pending=1)
    frontend.screenshot("queue-cancelled")

    frontend.press("[aria-label='Clear Pending Tasks']")
    frontend.until_queue(running=2, pending=0)
    frontend.press("[aria-label='Cancel current run']")
    frontend.until_ended(third, "execution_interrupted")
    frontend.until_queue(running=1, pending=0)
    frontend.press("[aria-label='Cancel current run']")
    frontend.until_ended(first, "execution_interrupted")
    frontend.until_queue(running=0, pending=0)
    assert frontend.heard("status")[-1]["exec_info"]["queue_remaining"] == 0

    frontend.set_widget("TimedPass", "seconds", SECONDS)
    last = run_and_see(frontend, tmp_path)
    assert sum(server.has_run(last) for server in servers) == 1
    frontend.screenshot("queue-after")


def test_a_page_reloaded_in_mid_run_gets_the_rest(
    frontend: Frontend, servers: Servers, tmp_path: Path
) -> None:
    """It comes back with its clientId; progress, the end and the picture reach it."""
    frontend.open()
    frontend.show(timed_graph(LONG_S / 5))
    picture = quarters()
    frontend.choose_file(saved(picture, tmp_path / "picture.png"))
    frontend.set_widget("TimedPass", "salt", fresh())
    prompt_id = frontend.run()
    client_id = frontend.js("return app.api.clientId")
    frontend.until("return heard.some(([kind]) => kind === 'progress')")
    frontend.reload()
    frontend.screenshot("reloaded-in-mid-run")
    assert frontend.js("return app.api.clientId") == client_id
    frontend.until("return heard.some(([kind]) => kind === 'progress')")
    frontend.until_ended(prompt_id)
    assert [one["node"] for one in frontend.heard("executed", prompt_id)] == ["4"]
    assert frontend.picture("SaveImage") == enlarged(picture, 2)
    frontend.screenshot("reloaded-after-the-end")
