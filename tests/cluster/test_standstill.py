"""cluster/standstill.py: which instances stand still, and when they are used again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from cluster_harness import make_instance
from manual_clock import ManualClock, settle

from comfy_proxy.cluster.instance import Instance, takes_work
from comfy_proxy.cluster.roster import Roster
from comfy_proxy.cluster.standstill import LEAST_S, QUIET_S, Standstills
from comfy_proxy.errors import InstanceTimeoutError
from comfy_proxy.json_scanner import JsonScanner, Shape, Value

TIMEOUT_S = 30.0


class Server:
    """What an instance answers; ``asked`` counts its questions."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.pending: list[str] = []
        self.ended: list[str] = []
        self.asked = 0
        self.silent = False

    async def queue(self) -> Any:
        self.asked += 1
        if self.silent:
            raise InstanceTimeoutError("no answer")
        return self.view()

    def view(self) -> Any:
        return SimpleNamespace(running=frozenset(self.running), pending=frozenset(self.pending))

    async def scanned(self, path: str, shape: Shape, **options: Any) -> Value:
        """Its history."""
        if self.silent:
            raise InstanceTimeoutError("no answer")
        scanner = JsonScanner(shape)
        entries = [f'"{one}": {{"prompt": [{at}]}}' for at, one in enumerate(self.ended)]
        scanner.feed(f"{{{entries[-1] if entries else ''}}}".encode())
        root = scanner.result()
        assert root is not None
        return root


class Site:
    """One instance that is watched."""

    def __init__(self, clock: ManualClock, timeout_s: float = TIMEOUT_S) -> None:
        self.clock = clock
        self.instance = make_instance(clock)
        self.server = Server()
        self.changes: list[bool] = []
        self.found: list[Instance] = []
        self.heard_to_run = False
        drains: Any = SimpleNamespace(tell=lambda one: self.changes.append(takes_work(one)))
        clients: Any = {self.instance: self.server}
        roster = Roster([self.instance])
        self.watch = Standstills(roster, clients, drains, clock=clock, timeout_s=timeout_s)
        self.watch.runs = lambda instance: self.heard_to_run
        self.watch.on_found.append(self.found.append)
        self.watch.start()

    def told(self) -> None:
        """A ``status`` frame tells how long the queue is."""
        server = self.server
        self.instance.prompts.observed(len(server.running) + len(server.pending))

    def begins(self) -> None:
        """A client that listens hears the beginning of the next prompt."""
        self.server.running.append(self.server.pending.pop(0))
        self.heard_to_run = True
        self.watch.began(self.instance)

    def begins_unheard(self) -> None:
        self.server.running.append(self.server.pending.pop(0))
        self.told()

    def ends(self) -> None:
        self.server.ended.append(self.server.running.pop())
        self.heard_to_run = False
        self.told()

    async def stands_still(self) -> None:
        """It is found to stand still."""
        self.server.pending = ["a", "b"]
        self.told()
        await self.clock.advance(QUIET_S + TIMEOUT_S)
        assert self.instance.stands_still

    def checked(self) -> None:
        """A health check at the interval has passed, and has read its queue."""
        self.watch.answered(self.instance)
        self.told()
        self.watch.queue_read(self.instance, self.server.view())


@pytest.fixture
async def site(clock: ManualClock) -> AsyncIterator[Site]:
    made = Site(clock)
    yield made
    await made.watch.close()


async def test_prompts_wait_and_none_runs_for_so_long(site: Site) -> None:
    """Not a moment before; it is told once."""
    site.server.pending = ["a"]
    site.told()
    await site.clock.advance(QUIET_S + TIMEOUT_S - 1)
    assert takes_work(site.instance)
    assert site.found == []
    await site.clock.advance(2)
    assert (site.instance.stands_still, site.found) == (True, [site.instance])
    assert site.changes == [False]
    asked = site.server.asked
    assert asked >= 3
    site.told()
    await site.clock.advance(3600)
    assert site.server.asked == asked
    assert site.clock.waiting == 0


async def test_what_comes_and_is_taken_away_meanwhile_proves_nothing(site: Site) -> None:
    """Clients go on posting there, and prompts leave for an instance that is idle."""
    site.server.pending = ["a", "b"]
    site.told()
    await site.clock.advance(QUIET_S)
    for number in range(10):
        site.server.pending.append(f"new {number}")
        site.told()
        await site.clock.advance(TIMEOUT_S / 20)
        site.server.pending.pop(0)
        site.told()
        await site.clock.advance(TIMEOUT_S / 20)
    assert site.instance.stands_still


async def test_one_that_is_heard_to_run_is_asked_nothing(site: Site) -> None:
    """However long that takes, and whatever waits behind it."""
    site.server.pending = ["a", "b"]
    site.told()
    site.begins()
    for _ in range(100):
        site.server.pending.append("more")
        site.told()
        site.watch.taken(site.instance)
        await site.clock.advance(QUIET_S * 2)
    assert (site.server.asked, site.instance.stands_still) == (0, False)


async def test_one_whose_prompts_end_soon_is_asked_nothing(site: Site) -> None:
    """Though nobody hears them begin: their ends are told to all."""
    site.server.pending = [str(number) for number in range(50)]
    site.told()
    while site.server.pending:
        site.begins_unheard()
        await site.clock.advance(QUIET_S / 2)
        site.ends()
    assert (site.server.asked, site.instance.stands_still) == (0, False)
    await site.clock.advance(3600)
    assert (site.server.asked, site.clock.waiting) == (0, 0)


async def test_an_idle_one_is_asked_nothing(site: Site) -> None:
    """And no timer runs for it."""
    site.checked()
    await site.clock.advance(3600)
    assert (site.server.asked, site.clock.waiting) == (0, 0)


async def test_what_health_checks_read_is_not_asked_once_more(site: Site) -> None:
    """Nobody hears what runs there, nor its end; the next check tells that something runs."""
    site.server.pending = [str(number) for number in range(100)]
    while len(site.server.pending) > 1:
        site.server.running = [site.server.pending.pop(0)]
        site.checked()
        await site.clock.advance(QUIET_S * 3)
    assert (site.server.asked, site.instance.stands_still) == (0, False)


async def test_one_question_for_a_long_prompt_whose_beginning_nobody_hears(site: Site) -> None:
    """More come behind it, and health checks read the queue; the next prompt has one too."""
    site.server.pending = ["a", "b"]
    site.told()
    site.begins_unheard()
    for _ in range(100):
        await site.clock.advance(TIMEOUT_S)
        site.server.pending.append("more")
        site.checked()
        site.watch.taken(site.instance)
    assert (site.server.asked, site.instance.stands_still) == (1, False)
    site.ends()
    site.begins_unheard()
    await site.clock.advance(TIMEOUT_S * 10)
    assert (site.server.asked, site.instance.stands_still) == (2, False)


async def test_a_pause_between_two_prompts_is_none(site: Site) -> None:
    """ComfyUI frees memory for a while, again and again, and is looked at in just these moments."""
    site.server.pending = [str(number) for number in range(20)]
    site.told()
    while site.server.pending:
        site.checked()
        await site.clock.advance(QUIET_S + TIMEOUT_S / 2)
        site.begins_unheard()
        site.ends()
    assert site.found == []


async def test_what_ran_between_two_looks_counts(site: Site) -> None:
    """No frame tells of it: a look finds another entry at the end of the history."""
    site.server.pending = ["a", *"bcdefgh"]
    site.told()
    await site.clock.advance(QUIET_S)
    for _ in range(6):
        await site.clock.advance(TIMEOUT_S / 2)
        site.server.ended.append(site.server.pending.pop(0))
    assert site.found == []
    await site.clock.advance(TIMEOUT_S * 2)
    assert site.found == [site.instance]


async def test_a_health_check_that_reads_such_a_queue_is_a_reason_to_look(site: Site) -> None:
    """Though what was heard says that a prompt runs: its end may have been told to nobody."""
    site.server.pending = ["a"]
    site.heard_to_run = True
    site.told()
    await site.clock.advance(3600)
    assert site.server.asked == 0
    site.checked()
    await site.clock.advance(TIMEOUT_S + 1)
    assert site.instance.stands_still


async def test_one_that_does_not_answer_is_not_judged(site: Site) -> None:
    """Whether it is away is the matter of health checks."""
    site.server.pending, site.server.silent = ["a"], True
    site.told()
    await site.clock.advance(10 * TIMEOUT_S)
    assert site.found == []
    site.server.silent = False
    await site.clock.advance(2 * TIMEOUT_S)
    assert site.found == [site.instance]


async def test_a_queue_that_is_found_empty_is_asked_about_once(site: Site) -> None:
    """A dying thread has taken the only prompt, of which nothing tells; ours is counted there."""
    site.server.pending = ["a"]
    site.told()
    site.server.pending.clear()
    await site.clock.advance(3600)
    assert (site.server.asked, site.instance.prompts.queue_remaining) == (1, 0)
    assert site.clock.waiting == 0


async def test_zero_is_never(clock: ManualClock) -> None:
    site = Site(clock, 0)
    site.server.pending = ["a"]
    site.told()
    site.checked()
    await clock.advance(3600)
    assert (site.server.asked, site.found) == (0, [])
    await site.watch.close()


async def test_a_short_time_is_lengthened(clock: ManualClock) -> None:
    """A pause of a few seconds between two prompts is none, whatever HANG_TIMEOUT is."""
    site = Site(clock, 0.5)
    site.server.pending = ["a"]
    site.told()
    await clock.advance(QUIET_S + LEAST_S - 1)
    assert site.found == []
    await clock.advance(2)
    assert site.found == [site.instance]
    await site.watch.close()


# --- back in use ---------------------------------------------------------------------------------


async def test_an_empty_queue_does_not_bring_it_back(site: Site) -> None:
    """All that waited there has left."""
    await site.stands_still()
    site.server.pending.clear()
    for _ in range(10):
        site.checked()
        await site.clock.advance(TIMEOUT_S)
    assert site.instance.stands_still


async def test_another_process_brings_it_back(site: Site) -> None:
    """Its sockets have ended, and its history is another one."""
    site.server.ended = ["earlier"]
    await site.stands_still()
    site.server.pending.clear()
    site.server.ended.clear()
    site.instance.socket_lost()
    site.checked()
    await settle()
    assert site.changes == [False, True]
    assert takes_work(site.instance)


async def test_a_socket_that_breaks_does_not(site: Site) -> None:
    """The same process has the same history; one that does not answer is asked again."""
    site.server.ended = ["earlier"]
    await site.stands_still()
    site.instance.socket_lost()
    site.checked()
    await settle()
    assert site.instance.stands_still
    site.instance.socket_lost()
    site.server.silent = True
    site.checked()
    await settle()
    site.server.silent, site.server.ended = False, []
    site.checked()
    await settle()
    assert not site.instance.stands_still


@pytest.mark.parametrize("heard", [True, False])
async def test_it_is_back_when_it_runs_something(site: Site, heard: bool) -> None:
    """An event tells, or a health check sees it."""
    await site.stands_still()
    if heard:
        site.begins()
    else:
        site.server.running = ["a"]
        site.checked()
    assert site.changes == [False, True]


async def test_resumed_it_is_used_until_it_is_found_again(site: Site) -> None:
    await site.stands_still()
    site.watch.resume(site.instance)
    assert takes_work(site.instance)
    await site.clock.advance(QUIET_S + TIMEOUT_S + 1)
    assert site.changes == [False, True, False]


async def test_one_that_works_is_not_resumed(site: Site) -> None:
    site.watch.resume(site.instance)
    assert site.changes == []
