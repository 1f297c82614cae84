"""Tells the planner what the ledger hears: who waits where, what ran there, and how long it took.

A prompt teaches what its work costs if ComfyUI ran it to its end. Whether its models had to be
loaded for it is told by ComfyUI's own ``execution_cached``, and where that says nothing by what was
loaded there before and how long it took.
"""

from __future__ import annotations

from math import inf

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.experience import Experience, Run
from comfy_proxy.cluster.planning.line import Line
from comfy_proxy.cluster.planning.planner import Planner
from comfy_proxy.errors import GpuMemoryError
from comfy_proxy.ledger import events
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.prompt import Attempt, Prompt, is_open
from comfy_proxy.ledger.states import Ending, State


class PlanFeed:
    """An observer of the ledger."""

    def __init__(self, planner: Planner, experience: Experience, clock: Clock) -> None:
        self._planner = planner
        self._experience = experience
        self._clock = clock
        self._runs: dict[Prompt, Run] = {}

    def __repr__(self) -> str:
        return f"<PlanFeed {len(self._runs)} running>"

    def observe(self, change: Change) -> None:
        """Whatever has changed."""
        prompt, work = change.prompt, change.prompt.work
        error = None if prompt.end is None else prompt.end.error
        if change.is_end and isinstance(error, GpuMemoryError):
            self._ran_out_of_memory(prompt)
        if work is None:
            return
        match change.event:
            case events.Received() if prompt.job is not None:
                self._planner.asked(work)
            case events.Sent(instance=instance) if (
                self._planner.lines[instance].find(prompt) is None
            ):
                slot = self._planner.slot(prompt, work, instance, prompt.standing)
                self._planner.join(slot, instance)  # once more, after a refusal
            case events.Refused(instance=instance):
                self._leave(prompt, self._planner.lines[instance])
            case events.Began(instance=instance) if change.new is not State.ENDED:
                self._began(prompt, instance)
            case events.NodesCached(nodes=nodes) if (run := self._runs.get(prompt)) is not None:
                run.cached = nodes
            case events.NodeReached(node=node) if (run := self._runs.get(prompt)) is not None:
                run.reached(node, self._clock.monotonic())
        if isinstance(change.event, events.Accepted) and not change.is_end:
            self._planner.asked(work)  # what a client posts and is refused is no demand
            self._accepted(prompt, change.event)
        self._follow(change)

    def _ran_out_of_memory(self, prompt: Prompt) -> None:
        """ComfyUI has unloaded everything; what runs there now, if that was heard late, has loaded
        its models since."""
        if prompt.instance is None:
            return
        self._planner.forget_loaded(prompt.instance)
        line = self._planner.lines[prompt.instance]
        if line.running is not None and line.running.key is not prompt:
            line.loaded.began(line.running.work.models)

    def _follow(self, change: Change) -> None:
        """It may be where it was no longer."""
        prompt, attempt = change.prompt, change.prompt.attempt
        if attempt is None or change.new is State.SUBMITTING:
            return
        if prompt.ended and not change.is_end:
            return  # several changes at once: that of its end is still to come
        line = self._planner.lines[attempt.instance]
        if change.is_end or not is_open(attempt):
            try:
                self._ended(change, attempt)
            finally:
                self._leave(prompt, line)

    def _accepted(self, prompt: Prompt, event: events.Accepted) -> None:
        instance = prompt.instance
        if instance is None:
            return
        line = self._planner.lines[instance]
        if event.number is not None:
            line.numbered(prompt, event.number)
            is_own = not prompt.standing.fixed and len(prompt.attempts) == 1
            if is_own and event.number == int(event.number):  # else it was given between others'
                line.counter = max(-1 if line.counter == inf else line.counter, event.number)
        if prompt.state is State.RUNNING:  # it began before its answer came
            self._began(prompt, instance)

    def _began(self, prompt: Prompt, instance: Instance) -> None:
        line = self._planner.lines[instance]
        slot = line.find(prompt)
        if slot is None or slot is line.running or prompt in self._runs:
            return
        now = self._clock.monotonic()
        self._runs[prompt] = self._experience.begins(slot, line, instance, now)
        line.begin(prompt, now)

    def _leave(self, prompt: Prompt, line: Line) -> None:
        slot = line.find(prompt)
        if slot is not None:
            prompt.overtaken_s = slot.overtaken_s  # its patience does not begin anew elsewhere
        line.leave(prompt)
        self._runs.pop(prompt, None)

    def _ended(self, change: Change, attempt: Attempt) -> None:
        prompt, end = change.prompt, change.prompt.end
        run = self._runs.pop(prompt, None)
        if not change.is_end or end is None:
            return
        if end.ending is Ending.SUCCESS and (run is not None or end.execution_s is not None):
            if run is None:  # nobody heard it: it is taken to have run just now
                line = self._planner.lines[attempt.instance]
                slot = line.find(prompt)
                if slot is None:
                    return
                run = self._experience.begins(slot, line, attempt.instance, 0.0)
                if line.running is None:
                    line.begin(prompt, self._clock.monotonic())
                else:  # another one has begun since: what was loaded before it nobody knows
                    run.ago = None
            if end.cached is not None:
                run.cached = end.cached
            seconds = end.execution_s
            if seconds is None:
                seconds = run.elapsed_s(self._clock.monotonic())
            self._experience.ended(run, seconds, worked=end.worked)
