"""json_listing.py, json_steps.py, full_collections.py: long JSON, a few kilobytes at a time."""

from __future__ import annotations

import gc
import json
import random
from typing import Any

import pytest
from loop_turns import loop_turns

from comfy_proxy.full_collections import NEVER, QUIET_BYTES, NoFullCollection
from comfy_proxy.json_listing import STEP_BYTES, Listing
from comfy_proxy.json_pieces import MANY, written
from comfy_proxy.json_scanner import ANY, JsonScanner
from comfy_proxy.json_steps import (
    MAX_BLANKS,
    VALUE_BYTES,
    dumps_long,
    feed,
    in_turns,
    loads_in_steps,
    loads_long,
    made_in_turns,
    written_in_turns,
)

LONG_LIST = [{"name": f"m{number}", "at": [number, {"x": [[[]]]}]} for number in range(5_000)]


def odd(chance: random.Random, depth: int) -> Any:
    """Any JSON, with all that ComfyUI writes: NaN, large numbers, lone surrogates, brackets."""
    kind = chance.randrange(8 if depth else 4)
    if kind == 0:
        return chance.choice([True, None, float("nan"), 1e9, -3, 2**70, [], {}])
    if kind == 1:
        letters = 'ab"\\{}[],: \n\u00e9\ud800'
        return "".join(chance.choices(letters, k=chance.choice([0, 3, 40])))
    if kind in (2, 3):
        return chance.randrange(1000)
    count = chance.choice([0, 1, 3, 8])
    if kind in (4, 5):
        return [odd(chance, depth - 1) for _ in range(count)]
    return {str(odd(chance, 0)): odd(chance, depth - 1) for _ in range(count)}


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_it_is_read_and_written_as_at_once(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the JSON, with steps so short that nearly all is cut."""
    for name in ("json_listing", "json_steps"):
        monkeypatch.setattr(f"comfy_proxy.{name}.STEP_BYTES", 48)
    chance = random.Random(seed)
    for _ in range(50):
        value = odd(chance, 6)
        text = json.dumps(value, indent=chance.choice([None, 1])).encode()
        assert json.dumps(loads_long(text)) == json.dumps(value)
        assert dumps_long(value) == json.dumps(value).encode()
        whole = json.dumps({"a": value, "list": [value, 1, value], "z": [value]}).encode()
        listing = Listing(whole, "list")
        items = [json.loads(whole[a:b]) for some in listing.steps() for a, b in some]
        assert json.dumps(items) == json.dumps([value, 1, value])
        assert json.dumps(listing.rest) == json.dumps({"a": value, "z": [value]})


@pytest.mark.parametrize(
    "text", [b"", b"[1,]", b"[1 2]", b"[1", b'{"a" 1}', b'{"a": 1,}', b"[1] 2", b"{1: 2}", b"nope"]
)
def test_what_is_no_json_is_refused(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """As json.loads does, though it is not json.loads that sees the whole of it."""
    monkeypatch.setattr("comfy_proxy.json_steps.STEP_BYTES", 1)
    with pytest.raises(ValueError, match=r"."):
        loads_long(text)


def test_what_is_nested_too_deeply_is_refused() -> None:
    """And ends nothing but the reading of it."""
    with pytest.raises(ValueError, match="deep"):
        loads_long(b"[" * 100_000)


def test_no_step_goes_through_more_than_a_few_kilobytes() -> None:
    """Of a list as of an object, and of the objects in a list."""
    text = json.dumps(LONG_LIST).encode()
    assert len(list(loads_in_steps(text))) > len(text) / STEP_BYTES - 1
    steps = [some for some in Listing(text).steps() if some]
    assert max(some[-1][1] - some[0][0] for some in steps) <= STEP_BYTES
    assert sum(map(len, steps)) == len(LONG_LIST)


@pytest.mark.long
async def test_others_have_their_turn_while_it_is_read_and_written() -> None:
    """Once for each step."""
    text = json.dumps(LONG_LIST).encode()
    with loop_turns() as read:
        assert await in_turns(loads_in_steps(text)) == LONG_LIST
    with loop_turns() as written:
        pieces = await written_in_turns(LONG_LIST)
    assert read.count >= len(text) // STEP_BYTES
    assert b"".join(pieces) == text
    assert written.count >= len(LONG_LIST) // MANY // 2


async def test_a_scanner_gets_long_pieces_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much has come at once."""
    fed: list[int] = []
    scan = JsonScanner.feed
    monkeypatch.setattr(
        JsonScanner, "feed", lambda self, piece: (fed.append(len(piece)), scan(self, piece))[1]
    )
    text, scanner = json.dumps(LONG_LIST).encode(), JsonScanner({ANY: {}})
    await feed(scanner, text)
    root = scanner.result()
    assert root is not None
    assert len(root.members or ()) == len(LONG_LIST)
    assert max(fed) <= STEP_BYTES
    assert sum(fed) == len(text)


def test_no_full_collection_while_a_long_answer_is_there() -> None:
    """From the first to the last of them; then as before."""
    before = gc.get_threshold()
    assert NoFullCollection.for_bytes(QUIET_BYTES) is None
    first, second = NoFullCollection(), NoFullCollection.for_bytes(QUIET_BYTES + 1)
    del first
    assert gc.get_threshold() == (*before[:2], NEVER)
    del second
    assert gc.get_threshold() == before


@pytest.mark.long
@pytest.mark.parametrize("around", [b"[]", b'{"": }'])
def test_a_step_is_not_made_for_each_value(around: bytes) -> None:
    """Each is passed on by as many readers as there are brackets around it: 12 s for a mebibyte.
    Nor for many thousands: to read each takes longer than its few bytes would."""
    count = 10_000
    short = b"[" + b",".join([b"[[[[0]]]]", b'{"a": {"b": {"c": {}}}}'] * count) + b"]"
    text = around[:-1] * 300 + short + around[-1:] * 300
    steps = sum(1 for _ in loads_in_steps(text))
    assert count / 100 <= steps <= count / 10


ODD_TEXTS = [
    "plain" * 20,
    "\u00e9\u4e2d\U0001f600" * 20,
    "\U0001f600" * 20 + "\ud83d",
    '\\"\n' * 20 + "\ude00",
    "\ud83d" * 5 + "a",
    "\x7f" * 50,
]


@pytest.mark.parametrize("piece_bytes", [16, 17, 18, 19, 23])
@pytest.mark.parametrize("text", ODD_TEXTS)
def test_a_long_string_is_read_in_parts_as_at_once(
    text: str, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is cut: in an escape, between two surrogates, in a character of four bytes."""
    monkeypatch.setattr("comfy_proxy.json_strings.PIECE_BYTES", piece_bytes)
    monkeypatch.setattr("comfy_proxy.json_steps.STEP_BYTES", 16)
    for is_ascii in (True, False):
        raw = json.dumps([text, {text: 1}], ensure_ascii=is_ascii)
        encoded = raw.encode("utf-8", "surrogatepass")
        assert loads_long(encoded) == json.loads(raw)


@pytest.mark.long
def test_a_long_string_takes_many_steps_in_reading_and_many_pieces_in_writing() -> None:
    """12 MB of escapes took 330 ms to read in one, and 80 ms to write, however deep they were."""
    for whole in ("\n" * 500_000, "\x7f" * 500_000):
        text = json.dumps({"a": {"b": {"c": {"d": {"e": [whole, {whole: 1}]}}}}}).encode()
        assert len(list(loads_in_steps(text))) >= len(text) // STEP_BYTES
        value = loads_long(text)
        pieces = list(written(value))
        assert b"".join(pieces) == text
        assert max(map(len, pieces)) <= 50_000


def test_its_parts_can_be_kept_as_they_are() -> None:
    """For who does not need them in one."""
    text = json.dumps({"short": "a", "long": "b" * 100_000}).encode()
    read = loads_long(text, long_text=tuple)
    assert read["short"] == "a"
    assert "".join(read["long"]) == "b" * 100_000
    assert len(read["long"]) > 3


@pytest.mark.parametrize("value", [[[]] * 50_000, list(range(50_000)), [{"a": [1, "b"]}] * 20_000])
def test_what_is_long_is_written_in_pieces_however_deep_it_is(value: Any) -> None:
    """In six brackets as in one."""
    data = {"a": {"b": {"c": {"d": {"e": {"f": value}}}}}}
    pieces = list(written(data))
    assert b"".join(pieces) == json.dumps(data).encode()
    assert max(map(len, pieces)) <= 50_000


@pytest.mark.parametrize("seed", range(5))
def test_with_sorted_keys_equal_objects_are_one_text(seed: int) -> None:
    """In whatever order their members came."""
    chance = random.Random(seed)
    value = {str(number): odd(chance, 5) for number in range(30)}
    turned = json.loads(json.dumps(value), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    texts = [b"".join(written(one, sort_keys=True)) for one in (value, turned)]
    assert texts[0] == texts[1] == json.dumps(value, sort_keys=True).encode()


@pytest.mark.parametrize(
    "text",
    [
        b'["%s\\x"]' % (b"a" * STEP_BYTES),
        b'["%s\\u12"]' % (b"a" * STEP_BYTES),
        b'["%s' % (b"a" * 3 * STEP_BYTES),
        b'["%s\\' % (b"a" * STEP_BYTES),
        b'["%s\n"]' % (b"a" * STEP_BYTES),
        b"[1%s]" % (b"0" * (STEP_BYTES + 1)),
        b" " * (MAX_BLANKS + 1) + b"[]",
        b'{"a":%s1}' % (b" " * (MAX_BLANKS + 1)),
    ],
    ids=["escape", "half", "no end", "backslash", "control", "number", "blanks", "inner blanks"],
)
def test_what_is_long_and_wrong_is_refused(text: bytes) -> None:
    """And a number or blanks of a length that nobody writes, which take as long as all the rest."""
    with pytest.raises(ValueError, match=r"."):
        loads_long(text)


async def test_many_small_pieces_are_a_step_too() -> None:
    """To make one takes as long as a hundred bytes: 16,384 of one byte took 65 ms."""
    with loop_turns() as turns:
        await made_in_turns(b"[" for _ in range(10_000))
    assert turns.count >= 10_000 * VALUE_BYTES // STEP_BYTES
