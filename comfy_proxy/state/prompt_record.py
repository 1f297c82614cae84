"""A client's prompt as it stands in the file, and back. Pure. Its body is kept apart, unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from multidict import CIMultiDict

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.retry_law import Tries
from comfy_proxy.gateway.prompts import prompt_body
from comfy_proxy.ledger.prompt import ClientPost, PostHeaders, Prompt
from comfy_proxy.lenient_json import dumps, loads
from comfy_proxy.state.by_url import ByUrl

_COMMON: Final = ""
"""Stands for an address in the record's ``headers``, as the first: the headers for all instances
that have none of their own. A record of an older version has addresses alone; there the headers of
the first one are taken for these."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadPrompt:
    """``prompt`` as it was received. ``at`` is the instance that had it or was being sent it; None
    if there was none, or if that is not in the configuration any more. ``accepted`` is False if no
    instance had confirmed it: then its client was told nothing either."""

    prompt: Prompt
    at: Instance | None
    accepted: bool


def written(prompt: Prompt, post: ClientPost) -> bytes:
    """``prompt`` without its body. Its instance is named by its URL: the order in the configuration
    may change."""
    attempt = prompt.attempt
    has_it = attempt is not None and (prompt.at(attempt.instance) or prompt.target is not None)
    record = {
        "prompt_id": prompt.prompt_id,
        "number": prompt.number,
        "at": str(attempt.instance.url) if attempt is not None and has_it else None,
        "accepted_time": prompt.accepted_time,
        "renamed": prompt.renamed,
        "reused": prompt.reused,
        "deleted": prompt.deleted,
        "losses": prompt.tries.losses,
        "path": post.path,
        "client_id": post.client_id,
        "charset": post.charset,
        "placed": post.placed,
        "headers": {
            _COMMON: _pairs(post.headers.common),
            **{str(one.url): _pairs(headers) for one, headers in post.headers.own.items()},
        },
    }
    return dumps(record)


def read(data: bytes, body: bytes, instances: Sequence[Instance], clock: Clock) -> ReadPrompt:
    """The prompt that was posted with ``body``; it is not in the ledger yet.

    Raises ValueError, KeyError, TypeError for what :func:`written` has not written.
    """
    record = loads(data)
    document = prompt_body.document(body, record["charset"])
    if document is None or not isinstance(document.get("prompt"), dict):
        raise ValueError("Its body is missing, or another one.")
    by_url = ByUrl(instances)
    known = {by_url[url]: pairs for url, pairs in record["headers"].items() if url in by_url}
    others: list[list[str]] = next(iter(record["headers"].values()), [])
    post = ClientPost(
        path=record["path"],
        client_id=record["client_id"],
        headers=PostHeaders(
            _headers(others), {one: _headers(pairs) for one, pairs in known.items()}
        ),
        body=body,
        charset=record["charset"],
        placed=record["placed"],
        graph=document["prompt"],
    )
    accepted_time = record["accepted_time"]
    prompt = Prompt(
        prompt_id=record["prompt_id"],
        post=post,
        number=record["number"],
        accepted_time=accepted_time,
        renamed=record["renamed"],
        reused=record["reused"],
        deleted=record["deleted"],
        tries=Tries(losses=record["losses"]),
        trace=None,
    )
    if accepted_time is not None:
        prompt.accepted_at = clock.monotonic() - max(0.0, clock.now().timestamp() - accepted_time)
    return ReadPrompt(
        prompt=prompt, at=by_url.get(record["at"]), accepted=accepted_time is not None
    )


def _pairs(headers: Mapping[str, str]) -> list[list[str]]:
    return [[name, value] for name, value in headers.items()]


def _headers(pairs: Iterable[Sequence[str]]) -> CIMultiDict[str]:
    return CIMultiDict([(name, value) for name, value in pairs])
