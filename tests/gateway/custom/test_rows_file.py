"""gateway/custom/rows.py: what ROUTES_FILE may say, and what is said of a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfy_proxy.errors import SettingsError
from comfy_proxy.gateway.custom.known_packs import KNOWN_PACKS
from comfy_proxy.gateway.custom.rows import Rows, To, read_rows

GOOD = '[[route]]\nmethods = ["GET"]\npath = "/pack/{name}"\nto = "primary"\n'


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "routes.toml"
    path.write_text(text)
    return path


def test_the_first_row_that_fits_decides(tmp_path: Path) -> None:
    more = '[[route]]\nmethods = "POST"\npath = "/pack/{rest...}"\nto = "broadcast"\nwhy = "y"\n'
    rows = Rows(read_rows(write(tmp_path, GOOD + more + more.replace("broadcast", "primary"))))
    found = rows.find("GET", "/api/pack/x")
    assert found is not None
    assert found.to is To.PRIMARY
    assert rows.find("HEAD", "/pack/x") is found
    assert rows.find("GET", "/pack/x/y") is None
    deep = rows.find("POST", "/pack/x/y")
    assert deep is not None
    assert (deep.to, deep.why) == (To.BROADCAST, "y")


def test_a_path_of_the_packs_own_under_api_is_taken_as_it_is(tmp_path: Path) -> None:
    rows = Rows(read_rows(write(tmp_path, GOOD.replace("/pack", "/api/pack"))))
    assert rows.find("GET", "/api/pack/x") is not None
    assert rows.find("GET", "/pack/x") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace('"primary"', '"all"'), "route 1: to: 'all' is none of"),
        (GOOD + "[[route]]\n", "route 2: methods: None"),
        (GOOD.replace('["GET"]', '["get"]'), "route 1: methods: ['get']"),
        (GOOD.replace('["GET"]', "[]"), "route 1: methods: []"),
        (GOOD.replace('"/pack', '"pack'), "route 1: path: 'pack/{name}' does not begin"),
        (GOOD + 'wy = "x"\n', "route 1: wy: there is no such key"),
        ("[route]\n", "only [[route]]"),
        ("routes = 1\n", "routes: only [[route]]"),
        ("route = [1]\n", "only [[route]]"),
        ("[[route]\n", "cannot be read"),
        ("route = " + "[" * 9_000, "cannot be read"),
        ("x = " + "9" * 5_000, "cannot be read"),
        (GOOD.replace('"primary"', '["primary"]'), "route 1: to: ['primary'] is none of"),
        (GOOD.replace("/{name}", "/{a}/{a}"), "route 1: path: '{a}': a segment is {name}"),
        (GOOD.replace("{name}", "{my-name}"), "route 1: path: '{my-name}': a segment is"),
        (GOOD.replace("{name}", "{name"), "route 1: path: '{name': a segment is"),
        (GOOD.replace("{name}", "{a...}/x"), "route 1: path: '{a…}': a segment is"),
        (GOOD.replace("{name}", "{a...}x{b...}y"), "a segment is {name}, each name once, or"),
        (GOOD.replace("{name}", "?x=1"), "route 1: path: '/pack/?x=1' has '?' in it"),
        (GOOD.replace("pack/{name}", "api/queue"), "route 1: path: GET /api/queue is ComfyUI's"),
    ],
)
def test_a_mistake_is_told_with_file_row_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SettingsError) as told:
        read_rows(path)
    assert str(path) in str(told.value)
    assert said in str(told.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read_rows(tmp_path / "none.toml")


def test_each_row_of_ours_has_its_reason() -> None:
    assert all(row.why and row.path.startswith("/") and row.methods for row in KNOWN_PACKS)


def test_the_example_can_be_read() -> None:
    rows = read_rows(Path(__file__).parents[3] / "config" / "routes.toml")
    assert [row.to for row in rows] == [To.BROADCAST, To.BY_FILE]


def test_a_path_may_be_written_as_people_write_it(tmp_path: Path) -> None:
    """With a blank, with an umlaut, encoded or not; and as Windows saves a text."""
    for path in ("/my pack/größe", "/my%20pack/gr%C3%B6%C3%9Fe", "/%6dy%20pack/größe"):
        file = write(tmp_path, "")
        file.write_text(GOOD.replace("/pack/{name}", path), encoding="utf-8-sig")
        assert Rows(read_rows(file)).find("GET", "/my%20pack/gr%C3%B6%C3%9Fe") is not None
