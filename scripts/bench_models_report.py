"""What bench-models prints: one line a run, then the table of medians with the goals."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

RATIO_GOAL = 1.25
LOADS_GOAL = 2
SHORT_S = 0.5  # a result that comes sooner says nothing about an estimate


@dataclass(frozen=True, kw_only=True)
class Run:
    """One row by one way in one round."""

    row: str
    way: str
    latency_s: float
    makespan_s: float
    loads: int
    estimates: Sequence[tuple[float, float]]

    def __str__(self) -> str:
        return (
            f"{self.row:15} {self.way:8} latency {self.latency_s:6.3f} s"
            f"  makespan {self.makespan_s:6.2f} s  loads {self.loads:3}"
        )


def report(runs: Sequence[Run], by_hand: str) -> None:
    """Medians over the rounds for each row and way; ratios are taken round by round."""
    print(f"\n{'row':15} {'way':8} {'latency s':>20} {'makespan s':>20} {'loads':>11}   by hand =")
    keys = list(dict.fromkeys((run.row, run.way) for run in runs))
    for row, way in keys:
        found = [run for run in runs if (run.row, run.way) == (row, way)]
        hand = [run for run in runs if (run.row, run.way) == (row, by_hand)]
        line = f"{row:15} {way:8} {_spread([one.latency_s for one in found], 3):>20}"
        line += f" {_spread([one.makespan_s for one in found], 2):>20}"
        line += f" {_spread([one.loads for one in found], 0):>11}"
        print(line + ("" if way == by_hand else _verdict(found, hand)))
    for row, way in keys:
        told = [pair for run in runs if (run.row, run.way) == (row, way) for pair in run.estimates]
        if told:
            print(f"estimates {row:15} {way:8} {_errors(told)}")


def _verdict(found: Sequence[Run], hand: Sequence[Run]) -> str:
    pairs = list(zip(found, hand, strict=True))
    latency = statistics.median(ours.latency_s / theirs.latency_s for ours, theirs in pairs)
    makespan = statistics.median(ours.makespan_s / theirs.makespan_s for ours, theirs in pairs)
    loads = statistics.median(ours.loads - theirs.loads for ours, theirs in pairs)
    met = latency <= RATIO_GOAL and makespan <= RATIO_GOAL and loads <= LOADS_GOAL
    text = f"   latency × {latency:.2f}, makespan × {makespan:.2f}, loads {loads:+.0f}"
    return text + ("" if met else "  MISSED")


def _spread(values: Sequence[float], digits: int) -> str:
    text = f"{statistics.median(values):.{digits}f}"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f}–{max(values):.{digits}f})"
    return text


def _errors(told: Sequence[tuple[float, float]]) -> str:
    """How far from the truth, as a share of it."""
    shares = sorted(abs(one - true_s) / true_s for one, true_s in told if true_s >= SHORT_S)
    if not shares:
        return f"none of {len(told)} took {SHORT_S} s"
    p90 = shares[min(len(shares) - 1, int(0.9 * len(shares)))]
    median = statistics.median(shares)
    return f"|told - true| / true: median {median:.2f}, p90 {p90:.2f} ({len(shares)} jobs)"
