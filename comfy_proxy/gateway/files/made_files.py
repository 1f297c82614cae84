"""Who made each file last, learnt from all that tells of outputs: frames, histories, jobs.

The same outputs tell the ids of assets (``asset_owners.py``).

The outputs of a client that listens are told by ``executed`` frames. Those of a client that only
asks are told by the entry in ``/history``, or the job in ``/api/jobs``, to whoever reads it first.
Each entry and job counts once: when it is read again it says nothing of who made a file since.

The files of an entry count as made when its prompt ended, by the instance's clock. That clock may
be wrong; so if the end is news here, they count as made now.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_lists import HistoryEntry
from comfy_proxy.cluster.prompt_outcomes import ended_at
from comfy_proxy.gateway.files.asset_owners import told_assets
from comfy_proxy.gateway.files.file_holders import FileHolders
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.gateway.files.heard_outputs import HeardOutputs
from comfy_proxy.gateway.files.makers import MAX_RECORDS
from comfy_proxy.gateway.files.told_files import told_files

_Key = tuple[str, str, str, float | None]
"""The number of the instance, the prompt, the part of what is told, and its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToldOutputs:
    """The files of a prompt that ended at ``instance``; True for one that an object names in full,
    False for one that a text seems to name. ``ended_s`` is since the epoch, None if not told."""

    key: _Key
    prompt_id: str
    instance: Instance
    ended_s: float | None
    files: dict[FileName, bool]
    assets: tuple[str, ...] = ()
    """The ids that the instance's asset database has for files of the prompt."""


class MadeFiles:
    """Feeds the records of ``files``. ``unended``: the ids of prompts whose end would be news;
    ``outputs`` is what frames told, by their prompts.

    The latest ``limit`` entries that were read are remembered; one before these is recorded again
    when it is read again, as of its end.
    """

    def __init__(
        self,
        files: FileHolders,
        clock: Clock,
        unended: Container[str],
        limit: int = MAX_RECORDS,
    ) -> None:
        self._files = files
        self._clock = clock
        self._unended = unended
        self._limit = limit
        self._read: OrderedDict[_Key, None] = OrderedDict()
        self.outputs = HeardOutputs()

    def __repr__(self) -> str:
        return f"<MadeFiles of {len(self._read)} prompts>"

    def heard(self, output: Any, instance: Instance) -> None:
        """A frame of ``instance`` tells what a node has made just now, or shows again."""
        for file, is_sure in told_files(output).items():
            self._files.made(file, instance, is_sure=is_sure)
        for asset_id in told_assets(output):
            self._files.asset_owners.record(asset_id, instance)

    def entries_read(self, entries: Mapping[str, Any], instance: Instance) -> None:
        """Entries of the history of ``instance``, by the ids of their prompts, were seen."""
        self.note([self.in_entry(key, entry, instance) for key, entry in entries.items()])

    def jobs_read(self, jobs: Iterable[Mapping[str, Any]], instance: Instance) -> None:
        """Jobs of ``/api/jobs`` of ``instance`` were seen; a list tells one output of each."""
        read = [job for job in jobs if isinstance(job, Mapping)]
        self.note([told for job in read for told in self._in_job(job, instance)])

    def in_entry(self, prompt_id: str, entry: Any, instance: Instance) -> ToldOutputs | None:
        """What a history entry tells, for :meth:`note`; None if it was read before.

        Reads only: a thread may do it.
        """
        outputs = entry.get("outputs") if isinstance(entry, dict) else None
        return self._told("outputs", prompt_id, outputs, ended_at(entry), instance)

    def in_scanned(self, entry: HistoryEntry, instance: Instance) -> ToldOutputs | None:
        """As :meth:`in_entry`, of an entry that was scanned; its outputs are read only once."""
        status = entry.value.get(b"status")
        ended_ms = None if status is None else ended_at({"status": status.data()})
        if entry.prompt_id is None or entry.outputs is None:
            return None
        if (instance.id, entry.prompt_id, "outputs", ended_ms) in self._read:
            return None
        return self._told("outputs", entry.prompt_id, entry.outputs.data(), ended_ms, instance)

    def note(self, told: Iterable[ToldOutputs | None]) -> None:
        """Record it all, in the order in which the prompts ended."""
        fresh = [one for one in told if one is not None]
        for one in sorted(fresh, key=lambda one: one.ended_s or 0.0):
            self._read[one.key] = None
            now = self._clock.now().timestamp()
            is_news = one.ended_s is None or one.prompt_id in self._unended
            made_at = now if is_news else min(one.ended_s or now, now)
            for file, is_sure in one.files.items():
                self._files.made(file, one.instance, made_at, is_sure=is_sure)
            for asset_id in one.assets:
                self._files.asset_owners.record(asset_id, one.instance)
        while len(self._read) > self._limit:
            self._read.popitem(last=False)

    def _in_job(self, job: Mapping[str, Any], instance: Instance) -> Iterator[ToldOutputs | None]:
        ended_ms = job.get("execution_end_time")
        if isinstance(ended_ms, int | float):
            for part in ("outputs", "preview_output"):
                yield self._told(part, str(job.get("id")), job.get(part), ended_ms, instance)

    def _told(
        self, part: str, prompt_id: str, outputs: Any, ended_ms: float | None, instance: Instance
    ) -> ToldOutputs | None:
        key = (instance.id, prompt_id, part, ended_ms)
        if not outputs or key in self._read:
            return None
        return ToldOutputs(
            key=key,
            prompt_id=prompt_id,
            instance=instance,
            ended_s=None if ended_ms is None else ended_ms / 1000,
            files=told_files(outputs),
            assets=tuple(told_assets(outputs)),
        )
