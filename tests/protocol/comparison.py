"""Holds a conversation, and compares two of them by the table of differences."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping

from edits import Difference, Edit
from kinds import Kind
from raw_http import Answer, Request, exchange
from yarl import URL

MOMENT_S = 0.01
PATIENCE_S = 60.0

Talk = Mapping[str, Answer]


async def held(kinds: Iterable[Kind], url: str) -> dict[str, Answer]:
    """The answer to each kind of request, one after the other."""
    talker = _Talker(URL(url))
    answers: dict[str, Answer] = {}
    for kind in kinds:
        assert kind.name not in answers, f"{kind.name} is there twice"
        answers[kind.name] = await talker.ask(kind)
    return answers


class _Talker:
    def __init__(self, url: URL) -> None:
        assert url.host is not None
        assert url.port is not None
        self._host, self._port = url.host, url.port
        self._authority = f"{url.host}:{url.port}"
        self._values = {"host": self._authority}

    async def ask(self, kind: Kind) -> Answer:
        if kind.after is not None:
            prompt_id = self._values.get(kind.after.removeprefix("$"), kind.after)
            await self._until(f"/history/{prompt_id}", f'"{prompt_id}": {{"prompt"')
        if kind.running is not None:
            await self._until("/queue", '"queue_running": [[', f'"{kind.running}"')
        request = kind.request(self._authority, self._values)
        try:
            answer = await exchange(self._host, self._port, request)
        except (OSError, EOFError, TimeoutError) as error:
            raise AssertionError(f"{kind.name}: no answer, {error!r}") from error
        for name, find in kind.keep.items():
            self._values[name] = find(answer)
        return answer

    async def _until(self, target: str, *words: str) -> None:
        """Off the record: ask until the answer has these words."""
        head = f"GET {target} HTTP/1.1\r\nHost: {self._authority}\r\n\r\n".encode()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                answer = await exchange(self._host, self._port, Request(head=head))
                if all(word.encode() in answer.body for word in words):
                    return
                await asyncio.sleep(MOMENT_S)


def unlisted(direct: Talk, proxied: Talk, table: Iterable[Difference]) -> list[str]:
    """What differs although no row of the table says so, and rows that nothing needs."""
    comparison = _Comparison(tuple(table))
    found = [line for name in direct for line in comparison.of(name, direct[name], proxied[name])]
    idle = [row.name for row in comparison.table if row.name not in comparison.used]
    return found + [f"the table has what does not occur: {name}" for name in idle]


class _Comparison:
    def __init__(self, table: tuple[Difference, ...]) -> None:
        self.table = table
        self.used: set[str] = set()

    def of(self, name: str, direct: Answer, proxied: Answer) -> Iterator[str]:
        rows = [row for row in self.table if row.concerns(name)]
        for row in rows:
            if row.undo is not None and (undone := row.undo(proxied, direct)) != proxied:
                self.used.add(row.name)
                proxied = undone
        for row in rows:
            if row.chance is not None:
                before = direct, proxied
                direct, proxied = row.chance(direct), row.chance(proxied)
                if (direct, proxied) != before:
                    self.used.add(row.name)
        edits = {row.name: row.alike for row in rows if row.alike is not None}
        for without in edits:
            others = [edit for row, edit in edits.items() if row != without]
            if _edited(direct, others) != _edited(proxied, others):
                self.used.add(without)
        direct, proxied = _edited(direct, edits.values()), _edited(proxied, edits.values())
        if direct != proxied:
            yield f"{name}\n{_shown(direct, proxied)}"


def _edited(answer: Answer, edits: Iterable[Edit]) -> Answer:
    """And its length is that of the body as it is then, no longer of the one that came."""
    for edit in edits:
        answer = edit(answer)
    if not answer.body:
        return answer
    return answer.with_header(b"Content-Length", str(len(answer.body)).encode())


def _shown(direct: Answer, proxied: Answer) -> str:
    lines = [_lines(answer) for answer in (direct, proxied)]
    only = [[line for line in mine if line not in theirs] for mine, theirs in (lines, lines[::-1])]
    if not any(only):
        only = lines  # the order alone differs
    return "\n".join(
        f"  {who} {line}"
        for who, mine in zip(("direct ", "proxied"), only, strict=True)
        for line in mine
    )


def _lines(answer: Answer) -> list[str]:
    return [
        *map(repr, answer.interim),
        answer.status_line.decode("latin-1"),
        *(f"{name.decode()}: {value.decode('latin-1')}" for name, value in answer.headers),
        f"body {answer.body[:2000]!r}",
        *(f"frame {frame[:500]!r}" for frame in answer.frames),
    ]
