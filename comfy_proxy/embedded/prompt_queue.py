"""The queue, what is running and the history of one worker, guarded by one lock.

A prompt moves from the queue to the history without a gap (PROTOCOL.md trap 15), and `delete`
removes it only while it waits (trap 24).
"""

import copy
import heapq
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from comfy_proxy.embedded.faults import Faults
from comfy_proxy.embedded.nodes.node_class import Json

MAXIMUM_HISTORY_SIZE = 10000  # entries; for each one more the oldest is forgotten
SENSITIVE_KEYS = ("auth_token_comfy_org", "api_key_comfy_org")


@dataclass(frozen=True, kw_only=True, order=True)
class QueueItem:
    """A queued prompt. Ordered by number, then by id, as the tuples of the real heap are."""

    number: float
    prompt_id: str
    sequence: int  # decides between duplicates, which are accepted (trap 9)
    graph: Json = field(compare=False)
    extra_data: Json = field(compare=False)
    outputs: list[str] = field(compare=False)
    sensitive: Json = field(compare=False, default_factory=dict)

    def row(self) -> list[Any]:
        """The item as `/queue` and the history show it, without secrets."""
        return [self.number, self.prompt_id, self.graph, self.extra_data, self.outputs]


@dataclass(frozen=True, kw_only=True)
class PromptResult:
    """How a prompt ended: its history entry without the prompt itself."""

    success: bool
    messages: list[tuple[str, Json]]
    outputs: Json
    meta: Json


class PromptQueue:
    """Heap of waiting prompts, the running one, the last 10,000 results.

    `on_change(remaining)` is called under the lock at every change, from any thread. Whether a
    prompt can be taken is up to `faults`; :meth:`wake` has them asked anew.
    """

    def __init__(self, on_change: Callable[[int], None], faults: Faults | None = None) -> None:
        self._on_change = on_change
        self._faults = faults or Faults()
        self._not_empty = threading.Condition(threading.RLock())
        self._waiting: list[QueueItem] = []
        self._running: list[Any] | None = None
        self._history: dict[str, Json] = {}
        self._closed = False

    def put(self, item: QueueItem) -> None:
        """Queue a prompt."""
        with self._not_empty:
            heapq.heappush(self._waiting, item)
            self._changed()
            self._not_empty.notify()

    def get(self) -> QueueItem | None:
        """Wait for the next prompt and mark it running; None once the queue is closed."""
        with self._not_empty:
            while (not self._waiting or self._faults.stands_still) and not self._closed:
                self._not_empty.wait()
            if self._closed:
                return None
            item = heapq.heappop(self._waiting)
            # Where the real thread dies of a copy that fails: it has taken the prompt already.
            self._faults.taking([node["class_type"] for node in item.graph.values()])
            # A copy for `/queue` and the history, which show the graph as it was sent: running it
            # adds `is_changed` to its nodes.
            self._running = copy.deepcopy(item.row())
            self._changed()
            return item

    def done(self, result: PromptResult) -> None:
        """Move the running prompt into the history."""
        with self._not_empty:
            if self._running is None:
                return
            row, self._running = self._running, None
            if len(self._history) > MAXIMUM_HISTORY_SIZE:
                del self._history[next(iter(self._history))]
            self._history[row[1]] = {
                "prompt": row,
                "outputs": result.outputs,
                "status": {
                    "status_str": "success" if result.success else "error",
                    "completed": result.success,
                    "messages": result.messages,
                },
                "meta": result.meta,
            }
            self._changed()

    def wake(self) -> None:
        """Have `get` look again whether it may take a prompt."""
        with self._not_empty:
            self._not_empty.notify_all()

    def close(self) -> None:
        """Make `get` return None from now on."""
        with self._not_empty:
            self._closed = True
            self._not_empty.notify_all()

    def remaining(self) -> int:
        """Waiting and running prompts."""
        with self._not_empty:
            return len(self._waiting) + (self._running is not None)

    def running_id(self) -> str | None:
        """The id of the running prompt."""
        with self._not_empty:
            return None if self._running is None else self._running[1]

    def snapshot(self) -> Json:
        """The body of `GET /queue`; waiting prompts in heap order, not sorted."""
        with self._not_empty:
            running = [] if self._running is None else [self._running]
            waiting = [item.row() for item in self._waiting]
        return {"queue_running": running, "queue_pending": waiting}

    def clear(self) -> None:
        """Remove every waiting prompt."""
        with self._not_empty:
            self._waiting = []
            self._changed()

    def delete(self, prompt_id: object) -> None:
        """Remove one waiting prompt with that id; an unknown or running one is left alone."""
        with self._not_empty:
            for index, item in enumerate(self._waiting):
                if item.prompt_id == prompt_id:
                    if len(self._waiting) == 1:
                        self.clear()  # the real server sends two `status` frames here (measured)
                    else:
                        del self._waiting[index]
                        heapq.heapify(self._waiting)
                    self._changed()
                    return

    def history(self, *, max_items: int | None = None, offset: int = -1) -> Json:
        """History entries by prompt id, oldest first: `max_items` (None: all) from `offset` on.

        A negative offset means the last `max_items`.
        """
        with self._not_empty:
            if offset < 0 and max_items is not None:
                offset = len(self._history) - max_items
            ids = list(self._history)[max(offset, 0) :]
            if max_items is not None:
                ids = ids[: max(max_items, 1)]  # the real loop adds an entry before it counts
            return {prompt_id: self._history[prompt_id] for prompt_id in ids}

    def history_of(self, prompt_id: str) -> Json:
        """`{prompt_id: entry}`, or `{}` for one unknown or unfinished."""
        with self._not_empty:
            entry = self._history.get(prompt_id)
        return {} if entry is None else {prompt_id: entry}

    def delete_history(self, prompt_ids: Iterable[str]) -> None:
        """Forget these results; unknown ids are ignored."""
        with self._not_empty:
            for prompt_id in prompt_ids:
                self._history.pop(prompt_id, None)

    def clear_history(self) -> None:
        """Forget every result."""
        with self._not_empty:
            self._history = {}

    def _changed(self) -> None:
        self._on_change(self.remaining())
