"""cluster/object_info/class_table.py, table_maker.py: bytes with an index say what objects say."""

from __future__ import annotations

import gc
import json
import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from large_object_info import large_object_info, recorded

from comfy_proxy.cluster.object_info import class_table, inputs
from comfy_proxy.cluster.object_info.class_table import ClassTable
from comfy_proxy.cluster.object_info.node_class import NodeClass
from comfy_proxy.cluster.object_info.table_maker import TableMaker
from comfy_proxy.json_listing import STEP_BYTES
from comfy_proxy.lenient_json import loads_exact


def made(body: bytes | str, before: ClassTable | None = None) -> ClassTable:
    """The table of that text."""
    text = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    maker = TableMaker(text, before, "test")
    for _ in maker.steps():
        pass
    return maker.table


def steps(body: bytes, before: ClassTable | None = None) -> list[int]:
    return list(TableMaker(body, before, "test").steps())


def answers(classes: Iterable[NodeClass]) -> list[tuple[Any, ...]]:
    """What is asked of each class, for each of its inputs and one that it has not."""
    found = []
    for one in classes:
        names = ["nothing", *(name for _, name, _ in inputs.specs(one._info))]
        asked = [(name, one.choices(name), one.chooses(name)) for name in names]
        found.append((one.name, asked, one.file_inputs(), one.lists_uploads()))
    return found


def test_the_index_answers_as_the_parsed_document_does() -> None:
    """For every class of a real ComfyUI: choices, files, uploads, folders and the text itself."""
    document = recorded()
    table = made(json.dumps(document))
    parsed = [NodeClass(name, info) for name, info in document.items()]
    assert list(table) == list(document)
    assert answers(one for name in table if (one := table.get(name))) == answers(parsed)
    for name, info in document.items():
        assert table.text(name) == json.dumps(info).encode()
    assert list(table.listing_uploads()) == [one.name for one in parsed if one.lists_uploads()]
    texts = sorted({text for one in parsed for text in one.texts()})
    for folders in (set(texts[:3]), set(texts[-40:]), {"nobody has it"}, set()):
        expected = [one.name for one in parsed if not folders.isdisjoint(one.texts())]
        assert list(table.listing_folders(folders)) == expected


@pytest.mark.parametrize(
    "name",
    ["", "a/b", 'say "x"', "back\\slash", "é", "\U0001f600", "\udce9", "{", "]", "a\tb", "a: {"],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_odd_names_are_found(name: str, *, ascii_only: bool) -> None:
    """Quotes, brackets, escapes and what is no UTF-8, written with escapes or without."""
    document = {name: {"input": {}, "odd": name}, "Other": {}}
    body = json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogateescape")
    table = made(body)
    assert list(table) == [name, "Other"]
    assert table.get(name) == NodeClass(name, document[name])


def test_numbers_come_out_as_they_came() -> None:
    """Limits beyond 64 bits, infinities and NaN are text until somebody asks."""
    info = '{"input": {"required": {"x": ["INT", {"min": -18446744073709551615, "max": Infinity,'
    info += ' "nan": NaN, "tiny": 1E-7}]}}}'
    assert made(f'{{"A": {info}}}').text("A") == info.encode()


def test_of_two_classes_of_one_name_the_last_one_counts() -> None:
    """In the place of the first, as ``json`` has it; what is no class hides none."""
    table = made('{"A": {"n": 1}, "B": {}, "A": {"n": 2}, "A": 3, "C": [], "D": {"cut": }}')
    assert list(table) == ["A", "B"]
    assert table.text("A") == b'{"n": 2}'
    assert not table.is_native


@pytest.mark.parametrize("body", ["{}", " { } \n"])
def test_an_empty_object_has_no_classes(body: str) -> None:
    """A ComfyUI without nodes is odd, and no error."""
    assert len(made(body)) == 0
    assert made(body).get("A") is None


WHOLE = json.dumps({"A": {"input": {"required": {"x": ["INT"]}}}, "B": {"n": 'q"'}})


@pytest.mark.parametrize(
    "body",
    [
        *("", " ", "[]", "3", '"x"', "null", "<html>"),
        *("{]", '{"A"', "{3: {}}", '{"A": {}]'),
        *(WHOLE[:length] for length in range(1, len(WHOLE))),
        *(WHOLE + "x", WHOLE + "{}", WHOLE + "}"),
    ],
)  # fmt: skip
def test_what_is_no_document_is_told(body: str) -> None:
    """Neither HTML nor an answer that broke off becomes a list of classes."""
    with pytest.raises(ValueError, match="JSON object"):
        made(body)


@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":"), (" ,\n", "  : ")])
def test_only_what_comfyui_would_write_is_native(separators: tuple[str, str]) -> None:
    """The text that goes out as a whole has no blanks but ComfyUI's."""
    table = made(json.dumps(recorded(), separators=separators))
    assert table.is_native is (separators == (", ", ": "))
    assert list(table) == list(recorded())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
SEPARATORS = st.sampled_from([(", ", ": "), (",", ":"), ("\n,", " :\t")])


@pytest.mark.long
@given(st.dictionaries(st.text(), VALUES), st.dictionaries(st.text(), VALUES), SEPARATORS)
def test_any_json_is_cut_where_json_cuts_it(
    first: dict[str, Any], second: dict[str, Any], separators: tuple[str, str]
) -> None:
    """The objects among the members are the classes, whatever is in them and was there before."""
    before = made(json.dumps(first, separators=separators))
    for document in (first, second, {**second, **first}):
        table = made(json.dumps(document, separators=separators, ensure_ascii=False), before)
        classes = {name: info for name, info in document.items() if isinstance(info, dict)}
        assert list(table) == list(classes)
        for name, info in classes.items():
            text = (table.text(name) or b"").decode("utf-8", "surrogatepass")
            assert text == json.dumps(info, separators=separators, ensure_ascii=False)


@pytest.mark.long
def test_a_changed_document_is_read_where_it_changed() -> None:
    """Classes that change, come, go and move: the index is that of one that is read anew."""
    rng = random.Random(7)
    before = made(json.dumps(recorded()))
    for _ in range(30):
        members = list(recorded().items())
        for _ in range(rng.randrange(4)):
            place = rng.randrange(len(members))
            kind = rng.choice(("change", "come", "go", "move", "twice"))
            name, info = members[place]
            if kind == "change":
                members[place] = name, {**info, "input": {"required": {"n": [["x", "set1"], {}]}}}
            elif kind == "come":
                members.insert(place, (f"new {rng.random()}", info))
            elif kind == "go":
                del members[place]
            elif kind == "move":
                members.insert(0, members.pop(place))
            else:
                members.append((name, {"n": 1}))
        text = ", ".join(f"{json.dumps(name)}: {json.dumps(info)}" for name, info in members)
        body = f"{{{text}}}"
        after, anew = made(body, before), made(body)
        for part in ClassTable.__slots__:
            assert getattr(after, part) == getattr(anew, part) or part.startswith("_kept"), part
        before = after


@pytest.mark.long
def test_ten_megabytes_go_through_in_short_steps() -> None:
    """No step scans more than STEP_BYTES and the class that it ends with; one that is known is
    compared alone, in a tenth of the steps."""
    body = large_object_info()
    table = made(body)
    assert len(table) == 6_000
    assert len(body) > 9_500_000
    longest = max(len(table.text(name) or b"") for name in table)
    first, again = steps(body), steps(large_object_info(1), table)
    assert max(first + again) < 2 * STEP_BYTES + longest
    assert sum(first) > 0.95 * len(body)
    assert sum(again) < 0.1 * len(body)


def test_a_class_of_megabytes_is_scanned_in_steps() -> None:
    """As one that lists 50,000 files is; then it is read at once."""
    files = [f"folder/{number}/picture.png" for number in range(50_000)]
    body = json.dumps({"A": {"input": {"required": {"x": [files, {}]}}}, "B": {}})
    *scanned, read = steps(body.encode())
    assert max(scanned) < STEP_BYTES + 100
    assert sum(scanned) > 0.95 * len(body)
    assert read < len(body)
    assert list(made(body)) == ["A", "B"]


@pytest.mark.long
def test_the_garbage_collector_has_nothing_to_walk_through() -> None:
    """A table of thousands of classes is a handful of objects to it."""
    body = large_object_info(size=0)
    gc.collect()
    known = len(gc.get_objects())
    table = made(body)
    gc.collect()
    assert len(gc.get_objects()) - known < 50
    assert len(table) == 6_000


def test_few_classes_are_kept_as_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are asked for, within KEPT_BYTES of text; one beyond that is kept alone."""
    document = {f"N{number}": {"d": "x" * 100} for number in range(10)} | {"Big": {"d": "x" * 999}}
    table = made(json.dumps(document))
    monkeypatch.setattr(class_table, "KEPT_BYTES", 350)
    kept = [table.get(f"N{number}") for number in range(10)]
    assert list(table._kept) == ["N7", "N8", "N9"]
    assert table.get("N7") is kept[7]
    assert table.get("N0") == kept[0]
    assert list(table._kept) == ["N9", "N7", "N0"]
    table.get("Big")
    assert list(table._kept) == ["Big"]
    assert loads_exact(table.text("Big") or b"") == document["Big"]
    table.get("N1")
    assert list(table._kept) == ["N1"]
    assert table._kept_bytes == len(table.text("N1") or b"")
