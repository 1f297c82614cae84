"""What goes wrong in a chaos run: a plan that a seed decides, and its execution."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

from chaos_network import Forwarder
from chaos_world import World

KINDS = ("kill", "empty", "stop", "reset", "break", "silence", "slow")
"""kill -9 and start again; the same with all files gone; SIGSTOP and SIGCONT; all connections
reset; each connection reset as it is used; sockets silent while HTTP goes on; slow answers."""
MARGIN_S = {"kill": 4.0, "empty": 4.0, "stop": 1.5}
"""Seconds after the end of a fault (else 1) in which the instance is not taken for the one that has
no fault."""
UP_S = 1.0  # between two faults of an instance, at least


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One instance has it from ``at`` on for ``seconds``."""

    at: float
    index: int
    kind: str
    seconds: float
    detail: str = ""
    value: float = 0.0

    @property
    def over(self) -> float:
        return self.at + self.seconds + MARGIN_S.get(self.kind, 1.0)


def plan(seed: int, seconds: float, instances: int, kinds: Sequence[str]) -> list[Fault]:
    """The same for the same seed; at any time at least one instance has no fault."""
    dice = random.Random(seed)
    faults: list[Fault] = []
    now = 1.0 + dice.random()
    while kinds and now < seconds:
        busy = {fault.index for fault in faults if fault.over > now}
        if len(busy) < instances - 1:
            free = [index for index in range(instances) if index not in busy]
            faults.append(_fault(dice, now, dice.choice(free), dice.choice(kinds), seconds))
        now += dice.uniform(0.5, 3.0)
    return faults


def _fault(dice: random.Random, at: float, index: int, kind: str, total: float) -> Fault:
    seconds, detail, value = 0.0, "", 0.0
    if kind in ("kill", "empty"):
        seconds = dice.choice((0.0, dice.uniform(0.5, 6.0)))
    elif kind == "stop":
        seconds = dice.uniform(3.0, max(4.0, min(30.0, total / 2)))
    elif kind == "reset":
        detail = dice.choice(("proxy", "instance", "both"))
    elif kind == "break":
        seconds, detail = dice.uniform(0.2, 2.0), dice.choice(("requests", "answers"))
    elif kind == "silence":
        seconds, detail = dice.uniform(3.0, 20.0), dice.choice(("frames", "all"))
        value = dice.choice((0.0, 1.0))  # whether the sockets are reset at the end
    elif kind == "slow":
        seconds, value = dice.uniform(2.0, 10.0), dice.uniform(0.2, 2.5)
    return Fault(at=at, index=index, kind=kind, seconds=seconds, detail=detail, value=value)


async def carry_out(world: World, faults: Sequence[Fault], seconds: float) -> None:
    """Do each fault at its time, and mend what lasts when the run ends. Returns when all is
    mended."""
    begun = time.monotonic()
    running: list[asyncio.Task[None]] = []
    for fault in faults:
        await asyncio.sleep(max(0.0, begun + fault.at - time.monotonic()))
        # Starting a process takes how long it takes: the plan does not know that.
        while not _may_begin(world, fault.index):  # noqa: ASYNC110 (many things end it)
            await asyncio.sleep(0.05)
        if time.monotonic() > begun + seconds:
            break
        left = begun + seconds - time.monotonic()
        running.append(asyncio.create_task(_do(world, fault, min(fault.seconds, left))))
        await asyncio.sleep(0)
    await asyncio.sleep(max(0.0, begun + seconds - time.monotonic()))
    await asyncio.gather(*running)


def _may_begin(world: World, index: int) -> bool:
    others = [other for other in range(len(world.workers)) if other != index]
    return world.is_clean(index) and any(world.is_clean(other) for other in others)


async def _do(world: World, fault: Fault, seconds: float) -> None:
    index = fault.index
    trouble = world.begin(index, fault.kind, f"{fault.detail} {fault.value:.1f}".rstrip(".0 "))
    if fault.kind in ("kill", "empty"):
        await asyncio.to_thread(world.kill, index)
        if fault.kind == "empty":
            await asyncio.to_thread(world.workers[index].wipe)
        await asyncio.sleep(seconds)
        await world.restart(index)
    elif fault.kind == "stop":
        world.workers[index].signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        world.workers[index].signal(signal.SIGCONT)
    elif fault.kind == "reset":
        world.network.do(index, Forwarder.reset, fault.detail)
    else:
        await _bad_network(world, fault, seconds)
    restored = time.time()
    await asyncio.sleep(UP_S)
    trouble.ended = restored


async def _bad_network(world: World, fault: Fault, seconds: float) -> None:
    name = {"break": "breaks", "silence": "silence", "slow": "delay_s"}[fault.kind]
    world.network.do(fault.index, Forwarder.set, **{name: fault.detail or fault.value})
    await asyncio.sleep(seconds)
    if fault.kind == "silence" and fault.value:
        world.network.do(fault.index, Forwarder.reset, "proxy", sockets_only=True)
    world.network.mend(fault.index)
