"""What counts as ours at an instance, though a process before this one has sent it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from comfy_proxy import Settings
from comfy_proxy.settings import parse_instance
from comfy_proxy.state.identity import Lock, identity_of, name_by_place


@pytest.fixture
def locks() -> Iterator[tuple[Lock, Lock]]:
    pair = Lock(), Lock()
    yield pair
    for lock in pair:
        lock.release()


def test_what_an_earlier_process_sent() -> None:
    """Its clientIds are ours; this process's own, another proxy's and any client's are not."""
    before, now, other = identity_of("one"), identity_of("one"), identity_of("two")
    assert now.is_orphan(f"{before.now}0123")
    assert not now.is_orphan(f"{now.now}0123")
    assert not now.is_orphan(f"{other.now}0123")
    assert not now.is_orphan("0123")
    assert not now.is_orphan(None)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such locks")
def test_one_process_at_a_time(locks: tuple[Lock, Lock]) -> None:
    """Whoever comes second does not take for ours what the first may have sent."""
    first, second = locks
    name = identity_of("lock").now
    assert first.take(name)
    assert not second.take(name)
    first.release()
    assert second.take(name)


def test_proxies_in_different_places_have_different_names() -> None:
    """By address, port and instances, in whichever order these are."""
    urls = tuple(parse_instance(f"localhost:{port}") for port in (1, 2))
    same = Settings(instances=urls), Settings(instances=urls[::-1])
    others = Settings(instances=urls, port=3001), Settings(instances=urls[:1])
    names = [name_by_place(one) for one in (*same, *others)]
    assert names[0] == names[1]
    assert len(set(names)) == 3
