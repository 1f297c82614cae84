"""``GET /api/v2/jobs``: one page of a client's jobs, newest first."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from multidict import MultiMapping

from comfy_proxy.comfy_api.fields import whole_number, wrong_label
from comfy_proxy.comfy_api.jobs import Job, JobStatus
from comfy_proxy.errors import InvalidFieldError

MOST: Final = 100
"""Jobs of a page; ``limit`` above it is refused with 400."""
USUAL: Final = 50
"""Jobs of a page if the client names no ``limit``."""
MAX_FILTERS: Final = 3
"""Labels of ``metadata[name]=value`` in one request; a further one is refused with 400."""
_LABEL: Final = re.compile(r"metadata\[(.+)\]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """What is asked for: at most ``limit`` jobs that come after ``after``, which is the number of
    the last job of the page before; None: from the newest on."""

    limit: int
    statuses: frozenset[JobStatus]
    labels: Mapping[str, str]
    after: int | None

    @classmethod
    def of(cls, query: MultiMapping[str]) -> Page:
        """Raises InvalidFieldError, with the contract's codes."""
        labels: dict[str, str] = {}
        for name, value in query.items():
            if name.startswith("metadata"):
                found = _LABEL.fullmatch(name)
                if found is None or wrong_label(found[1], value) or len(labels) == MAX_FILTERS:
                    message = f"Filters are metadata[name]=value, {MAX_FILTERS} at most."
                    raise InvalidFieldError("metadata", message, code="invalid_metadata_filter")
                labels[found[1]] = value
        return cls(
            limit=_limit(query.get("limit", str(USUAL))),
            statuses=frozenset(_statuses(query.get("status", ""))),
            labels=labels,
            after=_place(query["cursor"]) if query.get("cursor") else None,
        )

    def cut(self, jobs: Iterable[Job]) -> tuple[list[Job], str | None]:
        """The jobs of the page out of ``jobs`` (newest first), and the cursor of the next one; None
        if this is the last."""
        found: list[Job] = []
        for job in jobs:
            if self.after is not None and job.number >= self.after:
                continue
            if self._wants(job):
                if len(found) == self.limit:
                    return found, _cursor(found[-1])
                found.append(job)
        return found, None

    def _wants(self, job: Job) -> bool:
        if self.statuses and job.status not in self.statuses:
            return False
        labels = job.metadata if isinstance(job.metadata, Mapping) else {}
        return all(labels.get(name) == value for name, value in self.labels.items())


def _cursor(job: Job) -> str:
    return base64.urlsafe_b64encode(str(job.number).encode()).decode()


def _place(cursor: str) -> int:
    try:
        return int(base64.b64decode(cursor, b"-_", validate=True)[:20])
    except (ValueError, binascii.Error) as error:
        message = "cursor is none that was given here."
        raise InvalidFieldError("cursor", message, code="invalid_cursor") from error


def _limit(text: str) -> int:
    if (limit := whole_number(text)) is None or not 1 <= limit <= MOST:
        raise InvalidFieldError("limit", f"limit must be from 1 to {MOST}.")
    return limit


def _statuses(text: str) -> Iterable[JobStatus]:
    for name in filter(None, map(str.strip, text.split(","))):
        if name not in tuple(JobStatus):
            raise InvalidFieldError("status", f"status is some of {', '.join(JobStatus)}.")
        yield JobStatus(name)
