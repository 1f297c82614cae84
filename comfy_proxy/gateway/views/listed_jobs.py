"""Jobs of a list that is put together: what must be known of each of them, and where its text is.

A list may have 50 MB, and as objects eight times that. So no job is kept as an object: it is read
once for what is said here, and once more if it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_jobs import OUTPUTS, Job, in_turn, place, progress
from comfy_proxy.full_collections import NoFullCollection
from comfy_proxy.gateway.exchange.pieces import Piece
from comfy_proxy.gateway.exchange.scanned import ScannedAnswer
from comfy_proxy.gateway.files.shared_storage import SharedStorage
from comfy_proxy.gateway.views.history_entries import prefixed
from comfy_proxy.json_listing import Span
from comfy_proxy.lenient_json import TooDeepError, dumps_exact, loads_exact


class ListedJob:
    """A job of an instance. ``place`` is what the list is sorted by, ``progress`` how far it has
    got (:func:`prompt_jobs.progress`)."""

    __slots__ = ("_instance", "_span", "_text", "id", "place", "progress")

    def __init__(self, job_id: str, place: float, progress: int) -> None:
        self.id = job_id
        self.place = place
        self.progress = progress
        self._text = b""
        self._span: Span = (0, 0)
        self._instance: Instance | None = None

    @classmethod
    def of(cls, job: Job, *, by_duration: bool) -> Self:
        return cls(job["id"], place(job, by_duration=by_duration), progress(job))

    def place_in(self, text: bytes, span: Span, instance: Instance) -> None:
        """It stands at ``span`` of ``text``, which ``instance`` said."""
        self._text, self._span, self._instance = text, span, instance

    def shown(self, storage: SharedStorage) -> bytes:
        """As clients see it: with the instance in the names of its outputs, and in its turn; as it
        came if it is nested too deeply for that."""
        assert self._instance is not None
        text = self._text[self._span[0] : self._span[1]]
        try:
            job = loads_exact(text)
            seen = in_turn(prefixed_job(job, self._instance, storage))
            return text if seen == job else dumps_exact(seen)
        except (RecursionError, TooDeepError):
            return text


class OwnJob(ListedJob):
    """A job that was put together here: its outputs have their prefixes already."""

    __slots__ = ("_job",)

    def __init__(self, job_id: str, place: float, progress: int) -> None:
        super().__init__(job_id, place, progress)
        self._job: dict[str, Any] = {}

    @classmethod
    def of(cls, job: Job, *, by_duration: bool) -> Self:
        made = super().of(job, by_duration=by_duration)
        made._job = job
        return made

    def shown(self, storage: SharedStorage) -> bytes:
        return dumps_exact(in_turn(self._job))


@dataclass(kw_only=True, slots=True)
class ReadPage:
    """What an instance lists. ``total`` is how many jobs it has on all pages, less those that were
    ``left_out``. ``quiet`` keeps full garbage collections off for as long as a long page exists."""

    quiet: NoFullCollection | None = None
    jobs: list[ListedJob] = field(default_factory=list)
    total: int = 0
    left_out: int = 0


def prefixed_job(job: Job, instance: Instance, storage: SharedStorage) -> Job:
    """``job`` with the instance in the names of its outputs."""
    named = {key: job[key] for key in OUTPUTS if key in job}
    return {**job, **{key: storage.prefixed(value, instance) for key, value in named.items()}}


def prefixed_text(answer: ScannedAnswer, instance: Instance, storage: SharedStorage) -> list[Piece]:
    """The job in an answer scanned for JOB, with the instance in the names of its outputs."""
    assert answer.root is not None
    places = [answer.root.get(name.encode()) for name in OUTPUTS]
    changes = [change for one in places if (change := prefixed(one, instance, storage))]
    return answer.body.replaced(sorted(changes))
