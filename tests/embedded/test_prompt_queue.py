"""PromptQueue: what does not need a server to be seen."""

import pytest

from comfy_proxy.embedded import prompt_queue
from comfy_proxy.embedded.prompt_queue import PromptQueue, PromptResult, QueueItem


def _item(prompt_id: str, number: float = 0, sequence: int = 0) -> QueueItem:
    return QueueItem(
        number=number, prompt_id=prompt_id, sequence=sequence, graph={}, extra_data={}, outputs=[]
    )


def _run(queue: PromptQueue) -> str:
    item = queue.get()
    assert item is not None
    queue.done(PromptResult(success=True, messages=[], outputs={}, meta={}))
    return item.prompt_id


def test_the_history_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest result goes when there are too many."""
    monkeypatch.setattr(prompt_queue, "MAXIMUM_HISTORY_SIZE", 2)
    queue = PromptQueue(lambda _remaining: None)
    for number in range(5):
        queue.put(_item(f"prompt {number}", number))
        _run(queue)
    assert list(queue.history()) == ["prompt 2", "prompt 3", "prompt 4"]


def test_equal_numbers_and_ids_do_not_collide() -> None:
    """Duplicates with one number are both kept, in their order."""
    queue = PromptQueue(lambda _remaining: None)
    for sequence in range(3):
        queue.put(_item("same", 7.0, sequence))
    assert [_run(queue) for _ in range(3)] == ["same"] * 3


def test_never_in_neither() -> None:
    """At every change a prompt is in the queue, running or in the history."""
    seen: list[bool] = []
    queue = PromptQueue(lambda _remaining: seen.append(_is_somewhere(queue)))
    queue.put(_item("prompt"))
    _run(queue)
    assert seen == [True, True, True]


def _is_somewhere(queue: PromptQueue) -> bool:
    snapshot = queue.snapshot()
    rows = snapshot["queue_running"] + snapshot["queue_pending"]
    return bool(rows) or bool(queue.history_of("prompt"))


def test_a_closed_queue_gives_nothing() -> None:
    """After close nothing more is handed out, even if something waits."""
    queue = PromptQueue(lambda _remaining: None)
    queue.put(_item("prompt"))
    queue.close()
    assert queue.get() is None
    assert queue.remaining() == 1
