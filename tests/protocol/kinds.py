"""A kind of request: one line of the conversation that is held directly and through the proxy.

``$name`` in the target, the headers and the body is replaced by what an earlier answer gave.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from urllib.parse import quote

from raw_http import Answer, Request

Find = Callable[[Answer], str]

BOUNDARY = "----transparency"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """``name`` is unique. ``keep``: names for parts of the answer. ``after``: the id of a prompt
    that is to have ended before; ``running``: one that is to have begun."""

    name: str
    line: str
    headers: tuple[str, ...] = ()
    body: bytes | None = None
    chunked: bool = False
    keep: Mapping[str, Find] = field(default_factory=dict)
    after: str | None = None
    running: str | None = None
    frames: int = 0
    says: tuple[bytes, ...] = ()

    def request(self, host: str, values: Mapping[str, str]) -> Request:
        """The bytes for the server at ``host`` (with its port)."""
        line, headers, body = self.line, list(self.headers), self.body
        if not re.search(r" HTTP/\d\.\d$", line):
            line += " HTTP/1.1"
        names = {header.partition(":")[0].lower() for header in headers}
        if "host" not in names:
            headers.insert(0, f"Host: {host}")
        if body is not None:
            if b"$" in body:
                body = _filled(body.decode("latin-1"), values).encode("latin-1")
            if self.chunked:
                headers.append("Transfer-Encoding: chunked")
            elif "content-length" not in names:
                headers.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([_filled(line, values), *(_filled(h, values) for h in headers), "", ""])
        return Request(
            head=head.encode("latin-1"),
            pieces=() if body is None else _chunks(body) if self.chunked else (body,),
            waits="expect" in names,
            frames=self.frames,
            says=self.says,
        )


def _filled(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$([a-z]\w*)", lambda found: values.get(found[1], found[0]), text)


def _chunks(body: bytes) -> tuple[bytes, ...]:
    """Three chunks of unequal size, and the last one."""
    cuts = [0, 1, max(1, len(body) // 3), len(body)]
    parts = [body[a:b] for a, b in pairwise(cuts)]
    framed = [b"%x\r\n%s\r\n" % (len(part), part) for part in parts if part]
    return (*framed, b"0\r\n\r\n")


def ask(line: str, *headers: str, name: str = "", **more: Any) -> Kind:
    """A request without a body; its first line is its name unless it has another."""
    return Kind(name=name or line, line=line, headers=headers, **more)


def send(line: str, body: Any, *headers: str, name: str = "", **more: Any) -> Kind:
    """A request with a body: bytes as they are, anything else as JSON."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
        headers = (*headers, "Content-Type: application/json")
    return Kind(name=name or line, line=line, headers=headers, body=body, **more)


def zipped(line: str, body: Any, *headers: str, **more: Any) -> Kind:
    """As :func:`send`, compressed on the way."""
    raw = gzip.compress(json.dumps(body).encode(), mtime=0)
    headers = (*headers, "Content-Type: application/json", "Content-Encoding: gzip")
    return send(line, raw, *headers, **more)


def upload(line: str, name: str, content: bytes, *, title: str, **fields: str) -> Kind:
    """A form as browsers send it: the picture as ``image``, then the other fields."""
    parts = [
        f'Content-Disposition: form-data; name="image"; filename="{name}"\r\n'
        "Content-Type: image/png\r\n\r\n".encode()
        + content
    ]
    parts += [
        f'Content-Disposition: form-data; name="{key}"\r\n\r\n{value}'.encode()
        for key, value in fields.items()
    ]
    body = b"".join(b"--%s\r\n%s\r\n" % (BOUNDARY.encode(), part) for part in parts)
    body += b"--%s--\r\n" % BOUNDARY.encode()
    content_type = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
    return send(line, body, content_type, name=title)


def header(name: str) -> Find:
    """Finds a header's value in an answer."""
    return lambda answer: answer.header(name.encode()).decode("latin-1")


def at(*path: str | int) -> Find:
    """Finds a value in an answer's JSON, in the form that a query has it."""

    def find(answer: Answer) -> str:
        value = json.loads(answer.body)
        for key in path:
            value = value[key]
        return quote(str(value), safe="")

    return find
