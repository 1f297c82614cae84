"""What is known of each instance's ``/object_info`` at this moment, and how fresh it is. No I/O.

The one place where the answers are kept, for clients' prompts and for our own jobs: as bytes with
an index (``class_table.py``), which instances that answer the same share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.cluster.object_info.changes import Changes, News
from comfy_proxy.cluster.roster import ByInstance


@dataclass(frozen=True, slots=True)
class Asked:
    """When a question was asked: ``at`` in seconds of the clock, and how many uploads, doubts and
    other changes were known of by then. An answer knows nothing of later ones."""

    at: float
    uploads: int
    doubts: int
    news: News


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """What is known of one instance. The same ``catalog`` object means that nothing has changed."""

    catalog: NodeCatalog
    whole: Asked | None
    """When all classes were asked for; None if only those that our workflows name are known."""
    ours: Asked
    """When those that our workflows name were asked for, with the others or alone."""
    lists: Asked
    """When those that list uploaded files were."""
    digest: bytes | None = field(default=None, repr=False)
    """Of the whole as it came; None after some of its classes were asked again."""

    def lacks_models(self, news: News, folders: Set[str]) -> bool:
        """True if all classes are to be asked again to show what ``news`` counts.

        A folder that is new needs that only while no class is known that lists ``folders``.
        """
        asked = News() if self.whole is None else self.whole.news
        if asked.folders < news.folders and self.catalog.that_lists_folders(folders) is None:
            return True
        return asked.models < news.models

    def lacks_inputs(self, news: News) -> bool:
        """True if the classes that list uploads are to be asked again to show what it counts."""
        return self.lists.news.inputs < news.inputs


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What an instance said when it was asked for the classes ``names``, one by one.

    ``catalog`` has those of them that it has.
    """

    names: tuple[str, ...]
    catalog: NodeCatalog
    asked: Asked


class _Others:
    """The catalogs of the other instances, each once, as often as somebody goes through them: they
    are needed for few graphs, and there may be 300."""

    def __init__(self, known: ByInstance[Document], mine: NodeCatalog) -> None:
        self._known = known
        self._mine = mine

    def __iter__(self) -> Iterator[NodeCatalog]:
        seen = {id(self._mine)}
        for document in self._known.values():
            if document.whole is not None and id(document.catalog) not in seen:
                seen.add(id(document.catalog))
                yield document.catalog


class Documents:
    """Instance → what is known of it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known = ByInstance[Document]()
        self._uploads = 0
        self._doubts = ByInstance[int](lambda instance: 0)
        self.changes = Changes(clock)

    def __repr__(self) -> str:
        return ", ".join(f"{i.host}: {len(d.catalog)}" for i, d in self._known.items()) or "empty"

    # --- what is known -----------------------------------------------------------------

    def get(self, instance: Instance) -> Document | None:
        """What is known of ``instance``, however old and however little; None: nothing."""
        return self._known.get(instance)

    def whole(self, instance: Instance) -> Document | None:
        """The same if it has all classes of ``instance``, else None."""
        document = self._known.get(instance)
        return document if document is not None and document.whole is not None else None

    def age_s(self, asked: Asked) -> float:
        """The seconds since a question."""
        return self._clock.monotonic() - asked.at

    def lacks_uploads(self, instance: Instance) -> bool:
        """True if its lists of files were asked for before the last upload, or never."""
        document = self.whole(instance)
        return document is None or document.lists.uploads < self._uploads

    def doubted(self, instance: Instance) -> bool:
        """True if what is known was asked before the last :meth:`doubt`."""
        document = self._known.get(instance)
        return document is not None and document.ours.doubts < self._doubts[instance]

    def missing_for(self, graph: Mapping[str, Any], instance: Instance) -> list[str] | None:
        """As :meth:`NodeCatalog.missing_for`; None if not all classes of ``instance`` are known."""
        document = self.whole(instance)
        if document is None:
            return None
        others = _Others(self._known, document.catalog)
        return document.catalog.missing_for(graph, others, self.changes.input_folders)

    # --- what is learnt ----------------------------------------------------------------

    def now(self, instance: Instance) -> Asked:
        """The mark for a question to ``instance`` that is asked now."""
        news = self.changes.news(instance)
        return Asked(self._clock.monotonic(), self._uploads, self._doubts[instance], news)

    def keep_whole(self, instance: Instance, document: Document) -> None:
        """All classes have come."""
        self._known[instance] = document

    def keep_ours(self, instance: Instance, answer: Answer) -> None:
        """Those that our workflows name have come; all classes that came since are newer."""
        document = self.whole(instance)
        if document is None:
            self._known[instance] = Document(
                catalog=answer.catalog, whole=None, ours=answer.asked, lists=answer.asked
            )
        elif _came_later(answer, document):
            self._known[instance] = replace(_with_news(document, answer), ours=answer.asked)

    def keep_lists(self, instance: Instance, answer: Answer) -> None:
        """Those that list uploads have come; all classes that came since are newer."""
        document = self.whole(instance)
        if document is not None and _came_later(answer, document):
            self._known[instance] = replace(_with_news(document, answer), lists=answer.asked)

    # --- what is not to be believed any more ---------------------------------------------

    def forget(self, instance: Instance) -> None:
        """It was away: what comes back may be another installation."""
        self._known.pop(instance, None)
        self.changes.forget(instance)

    def doubt(self, instance: Instance) -> None:
        """It has refused what it was known to run; see :meth:`doubted`. Nothing is forgotten."""
        self._doubts[instance] += 1

    def doubt_all(self) -> None:
        """The same for each of which something is known."""
        for instance in self._known:
            self.doubt(instance)

    def uploads_changed(self, folder: str = "") -> None:
        """A file was uploaded, into that folder of the inputs; see :meth:`lacks_uploads`."""
        self._uploads += 1
        self.changes.uploaded_to(folder)


def _came_later(answer: Answer, document: Document) -> bool:
    return document.whole is not None and document.whole.at <= answer.asked.at


def _with_news(document: Document, answer: Answer) -> Document:
    """``document`` with these classes as they are now; the same one if nothing has changed."""
    catalog = document.catalog.with_news(answer.names, answer.catalog)
    if catalog is document.catalog:
        return document
    return replace(document, catalog=catalog, digest=None)
