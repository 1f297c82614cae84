"""Work with models that must be loaded: through the proxy, and by a client that plans by hand.

Simulated instances (the embedded worker in processes of its own, one prompt at a time): a model
takes `--load` seconds to load and evicts others from the memory it does not fit beside, a prompt
takes `--run` seconds; both by the speed of the instance. Each way has instances of its own. It
first runs each kind of prompt once, one by one, from which a proxy may learn; that is shown apart.
Then, in each round and for each row, everything is unloaded and the same arrivals come to each way:
blindly to the proxy, and to a client that knows what everything costs (`bench_models_plan.py`).
`--against DIR` measures the proxy of another checkout in the same rounds. Arrivals have fixed
seeds.

latency = from the arrival of a prompt to its end heard; makespan = from the first arrival to the
last end; loads = models that were loaded in the row. Of the rounds, medians.
ratio = by that of the client that plans by hand in the same round; goals: 1.25 for latency and
makespan, 2 loads more.

At the end every prompt must have begun and ended once by its client's events, be in the history of
exactly one instance, and no history may have one more.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from bench_models_clients import ByHand, PromptClient, ProxyJobs, ProxyPrompts, Way
from bench_models_report import Run, report
from bench_models_servers import histories, instances, loads_of, proxy, wait_until_idle
from bench_models_work import SCENARIOS, Arrival, Costs, Scenario

import comfy_proxy

OURS = Path(comfy_proxy.__file__).resolve().parents[1]
BY_HAND = "by hand"
RUN_TIMEOUT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A way, and the instances that are its own."""

    way: Way
    urls: Sequence[str]


class Bench:
    """One scenario: its ways are open, each with its instances, until the block ends."""

    def __init__(self, session: aiohttp.ClientSession, scenario: Scenario, costs: Costs) -> None:
        self.ways: dict[str, Measured] = {}
        self._session = session
        self._scenario = scenario
        self._capacity = sum(scenario.speeds) / costs.run_s

    async def learn(self) -> None:
        for name, one in self.ways.items():
            begun = time.perf_counter()
            for model in self._scenario.models:
                await one.way.run(model)
            seconds = time.perf_counter() - begun
            print(f"  learning {name}: {len(self._scenario.models)} prompts, {seconds:.1f} s")

    async def round(self, number: int, seed: int) -> list[Run]:
        """Each row by each way, another one first in each round."""
        names = list(self.ways)
        turn = number % len(names)
        runs = []
        for row, arrivals in self._scenario.rows.items():
            work = arrivals(random.Random(f"{seed} {row} {number}"), self._capacity)
            for name in names[turn:] + names[:turn]:
                async with asyncio.timeout(RUN_TIMEOUT_S):
                    runs.append(await self._run(row, name, work))
                print(f"  round {number + 1} {runs[-1]}", flush=True)
        return runs

    async def _run(self, row: str, name: str, work: Sequence[Arrival]) -> Run:
        one = self.ways[name]
        await wait_until_idle(self._session, one.urls)
        await one.way.free()
        before, told = await loads_of(self._session, one.urls), len(one.way.estimates)
        begun = time.perf_counter()

        async def run(arrival: Arrival) -> float:
            await asyncio.sleep(begun + arrival.at - time.perf_counter())
            await one.way.run(arrival.model)
            return time.perf_counter() - begun - arrival.at

        latencies = await asyncio.gather(*(run(arrival) for arrival in work))
        return Run(
            row=row,
            way=name,
            latency_s=statistics.fmean(latencies),
            makespan_s=time.perf_counter() - begun,
            loads=await loads_of(self._session, one.urls) - before,
            estimates=tuple(one.way.estimates[told:]),
        )

    async def check(self) -> None:
        """Exits with a message if a prompt was lost or run twice."""
        for name, one in self.ways.items():
            ids = await one.way.prompt_ids()
            found = Counter(await histories(self._session, one.urls))
            if found != Counter(ids) or len(set(ids)) != len(ids):
                lost, more = Counter(ids) - found, found - Counter(ids)
                sys.exit(f"{name}: lost {list(lost)}, run twice or never posted {list(more)}")
            print(f"  {name}: {len(ids)} prompts, none lost, none run twice")


@asynccontextmanager
async def opened(
    scenario: Scenario, costs: Costs, codes: Mapping[str, Path], *, silent: bool
) -> AsyncIterator[Bench]:
    """The ways of a scenario: a proxy of each checkout, and by hand."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout()
            )
        )
        bench = Bench(session, scenario, costs)
        for name in (BY_HAND, *codes):
            home = folder / name.replace("/", "_")
            urls = await stack.enter_async_context(instances(scenario, costs, home))
            way: Way
            if name == BY_HAND:
                way = ByHand([PromptClient(session, url) for url in urls], scenario, costs)
            else:
                url = await stack.enter_async_context(
                    proxy(codes[name], urls, scenario, costs, home)
                )
                client = PromptClient(session, url, silent=silent)
                way = ProxyPrompts(client, costs.run_s)
                if scenario.jobs:
                    way = ProxyJobs(session, url)
            await way.open()
            stack.push_async_callback(way.close)
            bench.ways[name] = Measured(way=way, urls=urls)
        yield bench


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--load", type=float, default=1.5, metavar="SECONDS")
    parser.add_argument("--run", type=float, default=0.2, metavar="SECONDS")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="default: all")
    parser.add_argument("--against", type=Path, metavar="DIR", help="a checkout to measure too")
    parser.add_argument(
        "--silent", action="store_true", help="poll /history instead of listening to events"
    )
    options = parser.parse_args()
    costs = Costs(load_s=options.load, run_s=options.run)
    codes = {"proxy": OURS}
    if options.against is not None:
        codes["against"] = options.against.resolve(strict=True)
    runs: list[Run] = []
    for name in options.scenario or SCENARIOS:
        print(name, flush=True)
        async with opened(SCENARIOS[name], costs, codes, silent=options.silent) as bench:
            await bench.learn()
            for number in range(options.rounds):
                runs += await bench.round(number, options.seed)
            await bench.check()
    report(runs, BY_HAND)


if __name__ == "__main__":
    asyncio.run(main())
