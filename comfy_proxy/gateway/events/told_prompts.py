"""What one client has been told of its prompts: each of them starts and ends once for it.

A prompt whose instance dies or hangs goes on elsewhere under its id, and frames about it come from
both instances. The client is told what a single ComfyUI would have told:

* frames of an instance that does not have the prompt any more are dropped (``booking.py``);
* a second ``execution_start`` is dropped;
* in the second run ``progress`` below what was told of that node is dropped, as a frame that says
  the same again says nothing; ``progress_state`` tells of all nodes at once and cannot be dropped,
  so in it a node that is behind is shown as it was told before. In the first run nothing is
  compared: a node may show several bars one after the other, and begins each at 0;
* once the end was given from here (``missed_ends.py``) all that comes later is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.events.frames import (
    Began,
    Cached,
    Ended,
    Executed,
    NodeStates,
    OfPrompt,
    Over,
    Pass,
    Progress,
    event_frame,
    share,
)
from comfy_proxy.ledger.ledger import Ledger

MAX_PROMPTS = 1_000
"""Prompts of one client that are remembered. Beyond them the one that began first is forgotten:
later frames about it are passed on unchanged."""
_RUNNING, _FINISHED = 1, 2
_ORDER = {"pending": 0, "running": _RUNNING, "finished": _FINISHED, "error": _FINISHED}


@dataclass(slots=True)
class ToldPrompt:
    """What was told of one prompt. ``outputs`` are the nodes whose results were told; ``progress``
    and ``states`` how far each node was. ``again``: the prompt runs once more, and nothing below
    those is told. ``ended_at`` is the instance that told the end; ``given``: it was told from here.
    """

    started: bool = False
    cached: bool = False
    again: bool = False
    outputs: set[str] = field(default_factory=set)
    progress: dict[str, float] = field(default_factory=dict)
    states: NodeStates | None = None
    ended_at: Instance | None = None
    over: bool = False
    given: bool = False

    @property
    def ended(self) -> bool:
        return self.given or self.ended_at is not None


class ToldPrompts:
    """By prompt id, for one client; kept when a newer socket of it takes the place of an older
    one."""

    __slots__ = ("_ledger", "_told")  # each idle client has one

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._told: dict[str, ToldPrompt] = {}

    def __repr__(self) -> str:
        return f"<ToldPrompts {len(self._told)}>"

    def of(self, prompt_id: str) -> ToldPrompt:
        """What was told of that prompt."""
        told = self._told.get(prompt_id)
        if told is None:
            told = self._told[prompt_id] = ToldPrompt()
            if len(self._told) > MAX_PROMPTS:
                del self._told[next(iter(self._told))]
        return told

    def knows(self, prompt_id: str) -> bool:
        """Whether anything was told of that prompt, or is about to be."""
        return prompt_id in self._told

    def begins_anew(self, prompt_id: str) -> None:
        """Another prompt is posted under that id."""
        self._told.pop(prompt_id, None)

    def given(self, prompt_id: str) -> None:
        """Its end was told from here: all that comes later is dropped."""
        told = self.of(prompt_id)
        told.given = told.over = True

    def without_last(self, instance: Instance) -> list[str]:
        """Prompts of which ``instance`` has told the end, but not the last frame after it."""
        return [
            prompt_id
            for prompt_id, told in self._told.items()
            if told.ended_at is instance and not told.over
        ]

    def removed(self, instance: Instance) -> None:
        """``instance`` has left: nothing more is to come of the prompts of which it told the
        end."""
        for told in self._told.values():
            if told.ended_at is instance:
                told.ended_at, told.given = None, True

    def passed(self, seen: OfPrompt, instance: Instance) -> OfPrompt | None:
        """What of ``seen`` the client is to be told; None if nothing. Frames of an instance that
        does not have the prompt any more do not come here: ``booking.py`` has dropped them."""
        prompt_id = seen.prompt_id
        if prompt_id is None:
            return seen
        told = self.of(prompt_id)
        if told.given:
            return None
        match seen:  # most frames are of the first two
            case Progress(node=node, done=done):
                known = told.progress.get(node, 0.0)
                told.progress[node] = max(done, known) if told.again else done
                return None if told.again and done < known else seen
            case NodeStates():
                return _ahead(seen, told)
            case Began():
                return seen if self._starts(prompt_id, told) else None
            case _:
                _note(seen, told, instance)
                return seen

    def _starts(self, prompt_id: str, told: ToldPrompt) -> bool:
        """False if the client has been told already that it runs."""
        prompt = self._ledger.find(prompt_id)
        if told.started and prompt is not None and len(prompt.attempts) > 1:
            told.again = True
            return False
        self._told[prompt_id] = ToldPrompt(started=True)
        return True


def _note(seen: OfPrompt, told: ToldPrompt, instance: Instance) -> None:
    match seen:
        case Cached():
            told.cached = True
        case Executed(node=str(node)):
            told.outputs.add(node)
        case Ended():
            told.ended_at = instance
            told.progress.clear()
            told.states = None
        case Over():
            told.over = True


def _ahead(seen: NodeStates, told: ToldPrompt) -> NodeStates:
    """``seen`` with each node that is behind what was told as it was told."""
    known, told.states = told.states, seen
    if not told.again or known is None:
        return seen
    now, earlier = seen.states(), known.states()
    states = {**earlier, **now}
    for node, before in earlier.items():
        if _place(states[node]) < _place(before):
            states[node] = before
    if states == now:
        return seen
    data = {"prompt_id": seen.prompt_id, "nodes": states}
    frame = Pass(data=event_frame("progress_state", data))
    told.states = NodeStates(prompt_id=seen.prompt_id, frame=frame)
    return told.states


def _place(state: Any) -> tuple[int, float]:
    """Grows as a node gets on."""
    if not isinstance(state, dict):
        return 0, 0.0
    return _ORDER.get(str(state.get("state")), _RUNNING), share(state)
