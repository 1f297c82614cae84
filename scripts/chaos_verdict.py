"""What a chaos run found: each finding with what is needed to look into it."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos_records import Records, Work, clock
from chaos_world import Trouble

COUNTED = ("lost", "again", "twice", "wrong", "gone", "untold", "refused", "failed")
"""Findings of which there must be none; what each means is in ``chaos_run.py``."""
TOLD = ("poison", "rerun", "unseen", "forgot", "input", "slow")
"""Findings that are printed and do not count."""
DEATHS = ("kill", "empty")
KILL_S = 0.5  # from the decision to kill a process until it is dead, at most
MOMENT_S = 0.6  # until a busy server has heard of anything, at most
MOST_DEATHS = 2  # processes that end with a prompt before that is taken for the cause


@dataclass
class Execution:
    """One run of one prompt at one instance; ``ended`` only if that was a success."""

    index: int
    life: int
    started: float
    ended: float | None = None

    def __str__(self) -> str:
        end = "no end" if self.ended is None else f"{self.ended - self.started:.2f} s"
        return f"instance {self.index + 1}.{self.life} at {clock(self.started)}, {end}"


@dataclass
class Finding:
    """One thing of COUNTED or TOLD that was found."""

    what: str
    work: Work | None
    why: str
    details: list[str]


def executions(journals: Sequence[Path]) -> dict[int, list[Execution]]:
    """By colour, in the order of their starts."""
    found: dict[int, list[Execution]] = defaultdict(list)
    for index, path in enumerate(journals):
        life, running = 0, None
        for line in path.read_text().splitlines():
            event = json.loads(line)
            if event["event"] == "life":
                life, running = life + 1, None
            elif event["event"] == "started":
                running = Execution(index, life, event["t"])
                found[event["colour"]].append(running)
            elif running is not None:
                running.ended = event["t"]
    for runs in found.values():
        runs.sort(key=lambda run: run.started)
    return found


class Verdict:
    """Judges the works of one run by what the instances ran and by what was done to them."""

    def __init__(
        self, records: Records, runs: dict[int, list[Execution]], troubles: Sequence[Trouble]
    ) -> None:
        self._records = records
        self._runs = runs
        self._troubles = troubles

    def findings(self) -> list[Finding]:
        found = [one for work in self._records.works for one in self._of(work)]
        for client, prompt_id in self._records.strangers:
            found.append(Finding("wrong", None, f"{client} was told the end of {prompt_id}", []))
        found += [Finding("slow", None, text, []) for text in self._records.slow]
        for refusal in self._records.refusals:
            text = f"{clock(refusal.at)} {refusal.what}: {refusal.why}"
            found.append(
                Finding("refused", None, text, self._wrong_at(refusal.at - 30, refusal.at))
            )
        return found

    def _of(self, work: Work) -> Iterable[Finding]:
        if work.accepted is None:
            return
        runs = self._runs.get(work.colour, [])
        for what, why in (*self._ends(work, runs), *self._repeats(work, runs)):
            end = "" if work.ended is None else f", end seen {clock(work.ended)}"
            lines = [f"posted {clock(work.posted)}{end}", *(str(run) for run in runs)]
            lines += self._wrong_at(work.posted, (work.ended or work.posted + 60) + 16)
            yield Finding(what, work, why, lines)

    def _ends(self, work: Work, runs: Sequence[Execution]) -> Iterable[tuple[str, str]]:
        if work.ended is None:
            ran = any(run.ended is not None for run in runs)
            why = f"no end, no entry in the history; it {'ran' if ran else 'never ran'} to its end"
            yield "untold" if ran and not work.polled else "lost", why
        elif not work.polled and not work.told:
            yield "untold", "in the history, and never told"
        if len(work.told) > 1:
            yield "twice", ", ".join(f"{kind} at {clock(at)}" for at, kind in work.told)
        if work.failure:
            yield self._kind_of_failure(work, runs), work.failure
        if work.wrong and (work.image or work.kind == "job"):
            yield "wrong", work.wrong
        if work.image and not work.picture_seen and not self._wiped(runs):
            yield "wrong", "its picture was never to be had"
        if work.kind == "prompt" and work.succeeded and not (work.image or work.gone):
            yield "wrong", work.wrong or "its entry in the history was never to be had"
        if work.gone:
            died = all(self._died(runs, at) for at, _ in work.gone)
            why = ", ".join(f"{when} ({clock(at)})" for at, when in work.gone)
            yield "forgot" if died else "gone", why
        if work.unseen:
            yield "unseen", f"{work.unseen} times"

    def _kind_of_failure(self, work: Work, runs: Sequence[Execution]) -> str:
        if self._interrupted(runs) >= MOST_DEATHS:
            return "poison"
        return "input" if self._lost_input(work.uploaded, work.ended) else "failed"

    def _lost_input(self, uploaded: float | None, until: float | None) -> bool:
        """Whether any instance has lost its files between an upload and ``until``."""
        if uploaded is None or until is None:
            return False
        wiped = [one.begun for one in self._troubles if one.kind == "empty"]
        return any(uploaded - KILL_S <= at <= until for at in wiped)

    def _repeats(self, work: Work, runs: Sequence[Execution]) -> Iterable[tuple[str, str]]:
        for number, run in enumerate(runs[1:], start=1):
            excuses = [self._excuse(work, before, run) for before in runs[:number]]
            if all(excuses):
                yield "rerun", "; ".join(dict.fromkeys(excuses))
            else:
                yield "again", f"run {number + 1} of {len(runs)}"

    def _excuse(self, work: Work, before: Execution, run: Execution) -> str:
        """Why ``run`` was needed although there was one ``before``; empty if it was not."""
        if self._woke(run):
            return "woke"
        if self._cut_off(run):
            return "cut off"  # it had gone on elsewhere by then
        if work.ended is not None and work.ended < run.started:
            return ""
        if self._deaths(before.index, before.started, run.started):
            return "died"
        if self._stopped(work, run, before.index, run.index):
            return "hung"
        if self._cut_off(before):
            return "cut off"
        return "picture lost" if work.kind == "job" and self._lost_picture(before) else ""

    def _woke(self, run: Execution) -> bool:
        """Whether ``run`` began in the moment in which its stopped instance went on, before the
        proxy could tell it anything. A run that does not end in that moment must have been
        interrupted."""
        is_short = run.ended is None or run.ended < run.started + MOMENT_S
        return is_short and self._met(("stop",), [run.index], run.started - MOMENT_S, run.started)

    def _cut_off(self, run: Execution) -> bool:
        """Whether ``run`` began while each connection to its instance broke, so that the proxy
        could neither hear of it nor ask."""
        return self._met(("break",), [run.index], run.started, run.started)

    def _lost_picture(self, run: Execution) -> bool:
        """Whether the sockets of its instance were lost or silent meanwhile: the frame with a job's
        picture is sent once, and to the socket that asked for it alone."""
        kinds = ("reset", "break", "silence")
        return run.ended is not None and self._met(
            kinds, [run.index], run.started - MOMENT_S, run.ended
        )

    def _stopped(self, work: Work, run: Execution, *instances: int) -> bool:
        """Whether one of ``instances`` was stopped before ``run`` began."""
        return self._met(("stop",), instances, work.posted, run.started)

    def _met(
        self, kinds: Sequence[str], instances: Sequence[int], begun: float, ended: float
    ) -> bool:
        """Whether one of ``instances`` had a trouble of these ``kinds`` between the two times."""
        return any(
            one.kind in kinds and one.index in instances and one.meets(begun, ended)
            for one in self._troubles
        )

    def _deaths(self, index: int, begun: float, ended: float) -> list[Trouble]:
        """Ends of the process of an instance between two times."""
        return [
            one
            for one in self._troubles
            if one.kind in DEATHS and one.index == index
            if begun - KILL_S <= one.begun <= ended
        ]

    def _interrupted(self, runs: Sequence[Execution]) -> int:
        """How many runs ended with their process."""
        cut = [run for run in runs if run.ended is None]
        return sum(bool(self._deaths(run.index, run.started, math.inf)) for run in cut)

    def _wiped(self, runs: Sequence[Execution]) -> bool:
        """Whether the files of any instance that ran it were taken away afterwards."""
        deaths = [one for run in runs for one in self._deaths(run.index, run.started, math.inf)]
        return any(one.kind == "empty" for one in deaths)

    def _died(self, runs: Sequence[Execution], at: float) -> bool:
        """Whether the process that ran it to its end last had ended before ``at``, and its history
        with it."""
        ran = [run for run in runs if run.ended is not None and run.ended <= at]
        return not ran or bool(self._deaths(ran[-1].index, ran[-1].started, at))

    def _wrong_at(self, begun: float, ended: float) -> list[str]:
        return [
            f"instance {one.index + 1} at {clock(one.begun)}: {one}"
            for one in self._troubles
            if one.meets(begun, ended)
        ]
