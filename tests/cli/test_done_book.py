"""What ``comfy-proxy run`` takes as done, and what it may replace, by the book of a folder."""

from __future__ import annotations

from pathlib import Path

from comfy_proxy.cli.run.done_book import BOOK, DoneBook
from comfy_proxy.cli.run.items import Recipe

FIRST = Recipe(words="w1", content="c1")
CHANGED = Recipe(words="w1", content="c2")
OTHER = Recipe(words="w2", content="c1")


def made(folder: Path, *names: str, content: bytes = b"picture") -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.write_bytes(content)
    return paths


def test_an_item_is_done_when_all_of_its_files_are_as_they_were_made(tmp_path: Path) -> None:
    """A file of the same size that is another one counts as none, and is nobody's to replace."""
    paths = made(tmp_path, "a-1.png", "a-2.png")
    DoneBook(tmp_path).add(FIRST, paths)
    assert DoneBook(tmp_path).done(FIRST) == paths
    for recipe in (CHANGED, OTHER):
        assert DoneBook(tmp_path).done(recipe) == []
    for content in (b"pict", b"another"):
        paths[1].write_bytes(content)
        assert DoneBook(tmp_path).done(FIRST) == []
        assert DoneBook(tmp_path).own(FIRST) == paths[:1]
    nowhere = DoneBook(None)
    nowhere.add(FIRST, paths)
    assert nowhere.done(FIRST) == nowhere.own(FIRST) == []
    assert not nowhere.holds(paths[0])


def test_a_file_belongs_to_whoever_made_it_last(tmp_path: Path) -> None:
    """Though it has the same bytes as before."""
    paths = made(tmp_path, "a.png")
    book = DoneBook(tmp_path)
    book.add(FIRST, paths)
    book.add(OTHER, paths)
    for known in (book, DoneBook(tmp_path)):
        assert known.done(FIRST) == known.own(FIRST) == []
        assert known.done(OTHER) == paths


def test_an_item_may_replace_what_it_made_of_other_bytes(tmp_path: Path) -> None:
    """But it is not done; afterwards what was made before is done no more."""
    book = DoneBook(tmp_path)
    paths = made(tmp_path, "a.png")
    book.add(FIRST, paths)
    assert book.done(CHANGED) == []
    assert book.own(CHANGED) == paths
    book.add(CHANGED, made(tmp_path, "a.png", content=b"new"))
    assert book.done(CHANGED) == paths
    assert book.done(FIRST) == []


def test_results_are_known_wherever_they_are_named_from(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    paths = made(tmp_path / "out", "a.png", "b.png")
    book = DoneBook(tmp_path / "out")
    book.add(FIRST, paths[:1])
    assert book.holds(tmp_path / "link" / "a.png")
    assert not book.holds(paths[1])
    assert not book.holds(tmp_path / "a.png")


def test_lines_that_cannot_be_read_count_as_none(tmp_path: Path) -> None:
    """Also those that lead elsewhere, and one that was broken off."""
    paths = made(tmp_path, "a.png")
    DoneBook(tmp_path).add(FIRST, paths)
    line = (tmp_path / BOOK).read_text()
    (tmp_path / BOOK).write_text(
        "3\n[]\n" + line.replace("a.png", "../a.png").replace("w1", "w3") + line + line[:20]
    )
    book = DoneBook(tmp_path)
    assert book.done(FIRST) == paths
    assert book.own(Recipe(words="w3", content="c1")) == []
    book.add(OTHER, made(tmp_path, "b.png"))
    assert DoneBook(tmp_path).done(OTHER) == [tmp_path / "b.png"]
    assert DoneBook(tmp_path).done(FIRST) == paths
