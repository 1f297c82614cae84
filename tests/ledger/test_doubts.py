"""Who is suspected of a death, and until when."""

from __future__ import annotations

from typing import Any

from ledger_harness import SUCCESS, Bench

from comfy_proxy.ledger import events


def test_nobody_is_suspected_once_all_have_ended() -> None:
    """The next one to run where it was away is to blame for what happens then."""
    bench = Bench()
    first = bench.running("a")
    bench.ledger.apply(events.Doubted(instance=bench.one))
    assert bench.ledger.suspect(bench.one) is first
    bench.ledger.apply(events.Finished(prompt=first, end=SUCCESS))
    second = bench.queued("b")
    bench.ledger.apply(events.Doubted(instance=bench.one))
    assert bench.ledger.suspect(bench.one) is second


def test_a_doubt_about_one_that_moves_stays_until_it_is_known_where_it_is() -> None:
    """Nobody can say that it was lost while somebody takes it away."""
    bench = Bench()
    prompt = bench.queued()
    entry: list[Any] = [0, "a", {}, {}, []]
    bench.ledger.apply(events.MoveBegan(prompt=prompt, queue_entry=entry))
    bench.ledger.apply(events.Doubted(instance=bench.one))
    bench.ledger.apply(events.Cleared(instance=bench.one, doubt=bench.ledger.doubt))
    bench.ledger.apply(events.Stayed(prompt=prompt))
    assert bench.ledger.doubtful(bench.one) == [prompt]
    bench.ledger.apply(events.Cleared(instance=bench.one, doubt=bench.ledger.doubt))
    assert bench.ledger.doubtful(bench.one) == []
    assert bench.ledger.suspect(bench.one) is None
