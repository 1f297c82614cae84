"""How often each tag is used, over all instances: the sums of their counts, twins counted once.

As for lists, an instance without assets is left out, and while one is away the answer is 503.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.assets.asking import AssetAsking, lacks_assets
from comfy_proxy.gateway.assets.filters import without_paging
from comfy_proxy.gateway.assets.lists import MergedAssets
from comfy_proxy.gateway.assets.twins import AssetTwins, Entries
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.fanout import Answer
from comfy_proxy.gateway.routes import Match
from comfy_proxy.gateway.views.by_pattern import Views

MAX_TAGS = 1000
"""ComfyUI tells so many tags at once. Of a histogram those beyond are not counted, the rarest."""
DEFAULT_LIMIT = 100


class TagCounts:
    """``lists`` tells which hidden twins a filter lets pass."""

    def __init__(self, asking: AssetAsking, twins: AssetTwins, lists: MergedAssets) -> None:
        self._asking = asking
        self._twins = twins
        self._lists = lists
        self.views: Views = {"/tags": self.tags, "/assets/tags/refine": self.histogram}

    async def tags(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``GET /api/tags``: one page of all tags, the most used or the first by name first."""
        query = request.rel_url.query
        limit, offset = _number(query, "limit", DEFAULT_LIMIT), _number(query, "offset", 0)
        if limit is None or offset is None or not 1 <= limit <= MAX_TAGS:  # ComfyUI's own 400
            return native.relayed(await self._asking.refused(request))
        filters = [item for item in query.items() if item[0] not in ("limit", "offset")]
        asked = self._asking.cluster.instances
        told = await asyncio.gather(*(self._all_tags(request, one, filters) for one in asked))
        answers = dict(zip(asked, [answer for answer, _ in told], strict=True))
        counts = {
            instance: found
            for instance, (_, found) in zip(asked, told, strict=True)
            if found is not None
        }
        if (other := _refusal(answers, counts)) is not None:
            return native.relayed(other)
        hidden = await self._twins.hidden(request, counts)
        sums = _summed(counts, hidden)
        rows = sorted(sums.items())
        if query.get("order") != "name_asc":
            rows.sort(key=lambda row: -row[1])
        page = [{"name": name, "count": count} for name, count in rows[offset : offset + limit]]
        has_more = offset + len(page) < len(rows)
        body = {"tags": page, "total": len(rows), "has_more": has_more}
        return native.reply(body, answers[next(iter(counts))])

    async def histogram(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``GET /api/assets/tags/refine``: the tags of what the filters let pass."""
        limit = _number(request.rel_url.query, "limit", DEFAULT_LIMIT)
        if limit is None or not 1 <= limit <= MAX_TAGS:  # ComfyUI's own 400
            return native.relayed(await self._asking.refused(request))
        query = [*without_paging(request.rel_url.query), ("limit", str(MAX_TAGS))]
        path = f"/api/assets/tags/refine?{urlencode(query)}"
        answers = await self._asking.everybody(request, "GET", path)
        read = {instance: _histogram(answer) for instance, answer in answers.items()}
        counts = {one: found for one, found in read.items() if found is not None}
        if (other := _refusal(answers, counts)) is not None:
            return native.relayed(other)
        hidden = await self._twins.hidden(request, counts)
        passing = {
            one: await self._lists.passing(request, one, entries) for one, entries in hidden.items()
        }
        rows = sorted(_summed(counts, passing).items(), key=lambda row: (-row[1], row[0]))
        body = {"tag_counts": {name: count for name, count in rows[:limit] if count}}
        return native.reply(body, answers[next(iter(counts))])

    async def _all_tags(
        self, request: web.Request, instance: Instance, filters: list[tuple[str, str]]
    ) -> tuple[Answer, dict[str, int] | None]:
        """The counts of one instance; None if its answer has none."""
        counts: dict[str, int] = {}
        read, before = 0, None
        while True:
            query = [*filters, ("limit", str(MAX_TAGS)), ("offset", str(read))]
            answer = await self._asking.one(
                request, instance, "GET", f"/api/tags?{urlencode(query)}"
            )
            data = native.load(answer)
            rows = data.get("tags") if isinstance(data, dict) else None
            if not isinstance(rows, list):
                return answer, None
            counts |= {
                row["name"]: row["count"]
                for row in rows
                if isinstance(row, dict)
                and isinstance(row.get("name"), str)
                and isinstance(row.get("count"), int)
            }
            read += len(rows)
            if not rows or rows == before or data.get("has_more") is not True:
                return answer, counts
            before = rows


def _refusal(
    answers: Mapping[Instance, Answer], counts: Mapping[Instance, dict[str, int]]
) -> Answer | None:
    """The answer to relay instead: an instance's own refusal, or that nobody has assets."""
    others = [answer for instance, answer in answers.items() if instance not in counts]
    for answer in others:
        if not (answer.status == 200 or lacks_assets(answer)):
            return answer
    return None if counts else others[0]


def _histogram(answer: Answer) -> dict[str, int] | None:
    data = native.load(answer)
    counts = data.get("tag_counts") if isinstance(data, dict) else None
    if not isinstance(counts, dict):
        return None
    return {name: count for name, count in counts.items() if isinstance(count, int)}


def _summed(
    counts: Mapping[Instance, Mapping[str, int]], hidden: Mapping[Instance, Entries]
) -> dict[str, int]:
    """All counts together, less those of ``hidden``; a tag may be left with none."""
    sums: Counter[str] = Counter()
    for instance, own in counts.items():
        sums.update(own)
        for entry in hidden.get(instance, {}).values():
            for tag in entry.tags & own.keys():
                sums[tag] = max(0, sums[tag] - 1)
    return dict(sums)


def _number(query: Mapping[str, str], name: str, default: int) -> int | None:
    """None for what is no number of ComfyUI's."""
    try:
        number: Any = int(query.get(name, default))
    except ValueError:
        return None
    return number if number >= 0 else None
