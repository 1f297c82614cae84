"""What scripts/chaos decides: the plan of a seed, and the judgement of what happened."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from chaos_faults import KINDS, plan
from chaos_network import Forwarder, Network
from chaos_records import Records, Work, fault_of, png
from chaos_verdict import Execution, Verdict, executions
from chaos_world import Trouble, free_ports

COLOUR = 0x0A1419


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_seed_decides_and_leaves_one_instance_without_fault(seed: int) -> None:
    """Whenever a fault begins, another instance has none and is not about to recover from one."""
    faults = plan(seed, 60.0, 3, KINDS)
    assert faults == plan(seed, 60.0, 3, KINDS) != plan(seed + 1, 60.0, 3, KINDS)
    assert len(faults) > 10
    for fault in faults:
        busy = [one for one in faults if one.at <= fault.at < one.over]
        assert len({one.index for one in busy}) == len(busy) <= 2
    assert plan(seed, 60.0, 3, []) == []


def test_colours_are_told_apart() -> None:
    """A picture passes as its own colour only, a level more or less."""
    records = Records()
    colours = [records.new_colour() for _ in range(1000)]
    assert len(set(colours)) == 1000
    assert fault_of(png(colours[0]), colours[0]) == ""
    assert fault_of(png(colours[0] + 0x010001), colours[0]) == ""
    assert "instead of" in fault_of(png(colours[1]), colours[0])
    assert "no picture" in fault_of(b"{}", colours[0])


def judge(work: Work, runs: list[Execution], *troubles: Trouble) -> list[str]:
    records = Records(works=[work])
    return [one.what for one in Verdict(records, {COLOUR: runs}, troubles).findings()]


def told(*kinds: str) -> Work:
    """A prompt whose client heard these ends, the first one at 10."""
    work = Work("prompt", "socket-1", COLOUR, posted=1.0, id="p", accepted=1.1)
    work.told = [(10.0 + n, kind) for n, kind in enumerate(kinds)]
    work.ended = 10.0 if kinds else None
    work.image, work.picture_seen = {"filename": "a.png"}, True
    return work


RUN = Execution(0, 1, started=5.0, ended=9.0)
CUT = Execution(1, 1, started=2.0)
KILL = Trouble(1, "kill", begun=3.0, ended=6.0)


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    """Also if its client only polled, or it was never accepted."""
    assert judge(told("execution_success"), [RUN]) == []
    polled = told()
    polled.polled, polled.ended = True, 10.0
    polled.image, polled.picture_seen = {"filename": "a.png"}, True
    assert judge(polled, [RUN]) == []
    assert judge(Work("prompt", "socket-1", COLOUR, posted=1.0), []) == []


def test_what_ends_wrong_is_found() -> None:
    """Lost, not told, told twice, no picture."""
    assert judge(told(), []) == ["lost"]
    assert judge(told(), [RUN]) == ["untold"]
    assert judge(told("execution_success", "execution_success"), [RUN]) == ["twice"]
    unseen = told("execution_success")
    unseen.picture_seen = False
    assert judge(unseen, [RUN]) == ["wrong"]
    assert judge(unseen, [RUN], Trouble(0, "empty", begun=9.5)) == []
    unseen.image = {}
    assert judge(unseen, [RUN], Trouble(0, "empty", begun=9.5)) == ["wrong"]


def test_a_second_run_needs_a_death_or_a_hang() -> None:
    """Of the instance of the first one, and before anybody was told an end."""
    work = told("execution_success")
    assert judge(work, [CUT, RUN]) == ["again"]
    assert judge(work, [CUT, RUN], KILL) == ["rerun"]
    assert judge(work, [CUT, RUN], Trouble(0, "kill", begun=3.0)) == ["again"]
    assert judge(work, [CUT, RUN], Trouble(1, "silence", begun=3.0)) == ["again"]
    assert judge(work, [CUT, RUN], Trouble(1, "stop", begun=3.0)) == ["rerun"]
    late = Execution(0, 1, started=11.0, ended=12.0)
    assert judge(work, [CUT, late], KILL) == ["again"]


def test_poison_is_what_ran_when_two_processes_died() -> None:
    """Any other failure is ours."""
    work = told("execution_error")
    work.failure = "process_ended"
    other = Execution(0, 1, started=5.0)
    second = Trouble(0, "kill", begun=6.0)
    assert judge(work, [CUT], KILL) == ["failed"]
    assert judge(work, [CUT, other], KILL, second) == ["poison", "rerun"]


def test_a_history_may_end_with_its_process_only() -> None:
    """``{}`` while the process that ran it lives on is a finding, later it is told."""
    work = told("execution_success")
    work.gone = [(12.0, "2 s after")]
    assert judge(work, [RUN]) == ["gone"]
    assert judge(work, [RUN], Trouble(0, "kill", begun=11.0)) == ["forgot"]
    assert judge(work, [RUN], Trouble(0, "kill", begun=13.0)) == ["gone"]


def test_runs_are_counted_by_colour_over_all_lives(tmp_path: Path) -> None:
    """A life that ends leaves its run without an end."""
    path = tmp_path / "instance-1.journal"
    events = [
        {"event": "life"},
        {"event": "started", "colour": COLOUR},
        {"event": "life"},
        {"event": "started", "colour": COLOUR},
        {"event": "executed", "colour": COLOUR},
    ]
    lines = [json.dumps({"t": float(t), **event}) for t, event in enumerate(events)]
    path.write_text("\n".join(lines))
    runs = executions([path])[COLOUR]
    assert runs == [Execution(0, 1, 1.0), Execution(0, 2, 3.0, 4.0)]


class Echo:
    """A server that says again what it hears, behind a forwarder; ``heard`` is all of it."""

    def __init__(self) -> None:
        self.heard = b""
        self._near, self._far = free_ports(2)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Network]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self._far)
        network = Network([(self._near, self._far)])
        try:
            yield network
        finally:
            await asyncio.to_thread(network.close)
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(1000):
                self.heard += piece
                writer.write(piece)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def ask(self, text: bytes, timeout_s: float = 5.0) -> bytes:
        """What comes back; empty if the connection breaks or is refused."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._near)
            writer.write(text)
            async with asyncio.timeout(timeout_s):
                return await reader.read(1000)
        except ConnectionError:
            return b""
        finally:
            if "writer" in locals():
                writer.close()


async def test_the_network_is_bad_as_it_was_told() -> None:
    """Late, broken before or after what was asked is done, refused; and good again."""
    echo = Echo()
    async with echo.running() as network:
        assert await echo.ask(b"a") == b"a"
        network.do(0, Forwarder.set, delay_s=0.3)
        begun = time.monotonic()
        assert await echo.ask(b"b") == b"b"
        assert time.monotonic() - begun >= 0.3
        network.do(0, Forwarder.set, delay_s=0.0, breaks="requests")
        assert await echo.ask(b"c") == b""
        network.do(0, Forwarder.set, breaks="answers")
        assert await echo.ask(b"d") == b""
        assert echo.heard == b"abd"
        network.mend(0)
        network.do(0, Forwarder.refuse)
        assert await echo.ask(b"e") == b""
        network.do(0, Forwarder.listen)
        assert await echo.ask(b"f") == b"f"


async def test_a_silent_socket_says_later_what_it_held_back() -> None:
    """Other connections go on meanwhile."""
    echo = Echo()
    handshake = b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"
    async with echo.running() as network:
        network.do(0, Forwarder.set, silence="all")
        asking = asyncio.create_task(echo.ask(handshake))
        assert await echo.ask(b"a") == b"a"
        await asyncio.sleep(0.2)
        assert not asking.done()
        network.mend(0)
        assert await asking == handshake
