"""The unfinished jobs at one moment: their positions in the queue and the seconds left.

Made once for a whole listing: a thousand waiting jobs cost one walk through the queue. Seconds are
the planner's, by which places are given (``cluster/planning/``), and what a job takes beside the
execution. They are None, rather than a guess, before work of a job's sort was measured, while no
instance is healthy, and for a job that takes longer than it should and reports no progress.
"""

from __future__ import annotations

import heapq
from functools import cached_property
from itertools import chain
from typing import Final

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.planning.door_plan import DoorPlan
from comfy_proxy.jobs.job_processor import JobProcessor
from comfy_proxy.jobs.model import Job
from comfy_proxy.jobs.runs.job_run import JobRun

KEPT_S: Final = 0.5
"""Seconds for which the forecast for the last new job serves the next one, if nothing but time has
passed: then one more costs a step, whereas the whole takes milliseconds when many wait."""


class QueueForecast:
    """Valid at the moment it is made: use it before the next await and throw it away."""

    def __init__(self, processor: JobProcessor, cluster: Cluster) -> None:
        self._processor = processor
        self._cluster = cluster
        self._planner = cluster.planner
        self._now = cluster.clock.monotonic()

    def queue_position(self, job: Job) -> int | None:
        """1 for the pending job whose turn is next; None for a job that does not wait."""
        return self._positions.get(job)

    def remaining_s(self, job: Job) -> float | None:
        """Seconds until the job is done; None if they are not known (see the module)."""
        run = self._processor.runs.get(job)
        if run is None:
            return None
        seat, end_s = run.seat, None
        if run.executed:
            end_s = 0.0
        elif seat is None:
            end_s = self._ends_s.get(run)
        elif seat.instance.healthy:
            end_s = self._of_placed(job, seat)
        return None if end_s is None else end_s + self._processor.overheads.after_s(job.type)

    def append(self, job: Job) -> bool:
        """It has come since; False if its turn is not behind all others: they are foreseen anew."""
        run = self._processor.runs[job]
        if not run.waits or "_waiting" not in self.__dict__:  # else it is not foreseen yet
            return True
        if self._waiting and _order(run) < _order(self._waiting[-1]):
            return False
        ends_s = self._ends_s  # of those before it, which come first
        planned = self._plan.add(run.waiter)
        end_s = self._planned_s(run) if planned else self._beyond_s(run)
        if end_s is not None:
            ends_s[run] = end_s
        self._waiting.append(run)
        return True

    @cached_property
    def _positions(self) -> dict[Job, int]:
        return {job: position for position, job in enumerate(self._processor.waiting, start=1)}

    def _reached_s(self, job: Job, end_s: float, own_s: float) -> float:
        """``end_s``, or what the way to the instance and its own execution take, if that is
        longer."""
        return max(end_s, self._processor.overheads.before_s(job.type) + own_s)

    # --- jobs that have a place --------------------------------------------------------------

    def _of_placed(self, job: Job, seat: Placement) -> float | None:
        """Seconds until ComfyUI is done with it."""
        line = self._planner.lines[seat.instance]
        slot = line.find(seat.key)
        if slot is None or self._planner.costs.run_s(seat.instance, slot.work) is None:
            return self._by_progress(job)
        if slot is line.running:
            left_s = line.began_at + slot.load_s + slot.run_s - self._now
            return left_s if left_s > 0 else self._by_progress(job)
        end_s = self._planner.end_in_s(seat.key, seat.instance)
        if end_s is None or seat.in_queue:
            return end_s
        return self._reached_s(job, end_s, slot.load_s + slot.run_s)

    def _by_progress(self, job: Job) -> float | None:
        """Seconds left of an executing job, as if it went on as it has so far; 0.0 for one of which
        only the end is to be told."""
        if job.executing_since is None or job.percentage <= 0.0:
            return None
        return (self._now - job.executing_since) * (100.0 - job.percentage) / job.percentage

    # --- jobs that wait for one --------------------------------------------------------------

    @cached_property
    def _waiting(self) -> list[JobRun]:
        """Those whose tasks have not come to the door yet count as if they stood there: a job is
        told its seconds as soon as it is made."""
        runs = [run for run in self._processor.runs.values() if run.waits]
        return sorted(runs, key=_order)

    @cached_property
    def _plan(self) -> DoorPlan:
        return self._cluster.scheduler.door.plan([run.waiter for run in self._waiting])

    @cached_property
    def _ends_s(self) -> dict[JobRun, float]:
        """Seconds until ComfyUI is done with each job that has no place, if they are known."""
        near = ((run, self._planned_s(run)) for run in self._waiting[: self._plan.lookahead])
        far = ((run, self._beyond_s(run)) for run in self._waiting[self._plan.lookahead :])
        return {run: end_s for run, end_s in chain(near, far) if end_s is not None}

    def _planned_s(self, run: JobRun) -> float | None:
        figure, end_s = self._plan.figures.get(run.waiter), self._plan.end_in_s(run.waiter)
        if figure is None or end_s is None or run.run_s_at(figure.instance) is None:
            return None
        return self._reached_s(run.job, end_s, figure.option.load_s + figure.option.run_s)

    @cached_property
    def _free(self) -> list[tuple[float, int]]:
        """A heap: in how many seconds each healthy instance has done what is planned."""
        instances = self._cluster.instances
        free = [(self._plan.free_in_s(i), n) for n, i in enumerate(instances) if i.healthy]
        heapq.heapify(free)
        return free

    def _beyond_s(self, run: JobRun) -> float | None:
        """Of one that the plan does not reach; to be asked in their order. Each takes the instance
        that is free first. Work that shares its models will go together, so loads count nothing."""
        if not self._free:
            return None
        free_in_s, number = self._free[0]
        instance = self._cluster.instances[number]
        run_s = cost_s = run.run_s_at(instance)
        if cost_s is None:
            cost_s = self._planner.costs.mean_run_s(instance) or 0.0
        heapq.heapreplace(self._free, (free_in_s + cost_s, number))
        return None if run_s is None else free_in_s + run_s


def _order(run: JobRun) -> tuple[float, float]:
    return run.waiter.order


class Promises:
    """Tells each new job its seconds.

    The last forecast is kept for the next job, until any job ends: after that it is of no use, and
    would keep the ended ones with their pictures in memory until another one comes.
    """

    def __init__(self, processor: JobProcessor, cluster: Cluster) -> None:
        self._processor = processor
        self._cluster = cluster
        self._kept: QueueForecast | None = None
        self._kept_at = 0.0
        self._stamp: tuple[int, ...] = ()
        processor.on_end.append(self._forget)
        for changes in (cluster.instances.each, cluster.instances.on_removed.append):
            changes(lambda instance: self._forget())

    def told_s(self, job: Job) -> float | None:
        """Seconds to the end of ``job``, which has just come; to be asked once of each."""
        count, now = len(self._processor.runs), self._cluster.clock.monotonic()
        kept, late_s = self._kept, now - self._kept_at
        is_old = late_s >= KEPT_S or self._stamp != self._stamp_of(count - 1)
        if kept is None or is_old or not kept.append(job):
            kept, late_s = self._anew(now), 0.0
        self._stamp = self._stamp_of(count)
        seconds = kept.remaining_s(job)
        return None if seconds is None else max(0.0, seconds - late_s)

    def _anew(self, now: float) -> QueueForecast:
        kept = self._kept = QueueForecast(self._processor, self._cluster)
        self._kept_at = now
        return kept

    def _forget(self) -> None:
        self._kept = None

    def _stamp_of(self, jobs: int) -> tuple[int, ...]:
        """Another one once anything has changed on which a forecast is built."""
        planner = self._cluster.planner
        changes = sum(line.changes for line in planner.lines.values())
        healthy = sum(one.healthy for one in self._cluster.instances)
        loads = sum(one.load for one in self._cluster.instances)
        return jobs, changes, planner.costs.version, healthy, loads
