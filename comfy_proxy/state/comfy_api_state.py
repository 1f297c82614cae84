"""The jobs and assets of the Comfy API in the file: their ids mean the same after a restart.

What was posted is not in here: the prompt of a job that has not ended is kept as every client's
prompt is (``prompt_state.py``), and what one has made is in its history. The secret from which ids
are made is kept too; with it the client inside of the proxy has the same clientId, and hears of
what runs on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from loguru import logger

from comfy_proxy.comfy_api.assets import Asset
from comfy_proxy.comfy_api.jobs import Job, JobStatus
from comfy_proxy.comfy_api.outputs import Output
from comfy_proxy.comfy_api.service import ComfyApi
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.lenient_json import dumps, loads
from comfy_proxy.state.store import StateStore

JOB: Final = "comfy-api-job"
ASSET: Final = "comfy-api-asset"
SECRET: Final = "comfy-api-secret"
"""Kinds of values in the store: one for each job, one for each asset, and the one secret."""
_PLAIN: Final = ("id", "number", "owner", "metadata", "priority", "key", "fingerprint", "reused")


class ComfyApiState:
    """Observes ``api``: the file holds the same jobs and assets, within the same bounds."""

    def __init__(self, store: StateStore, api: ComfyApi) -> None:
        self._store = store
        self._api = api

    async def restore(self) -> None:
        """Add what the file holds, and write what changes from now on. Prompts are booked later."""
        for _, secret in await self._store.entries(SECRET):
            self._api.doors.secret = secret
        self._store.put(SECRET, "ids", self._api.doors.secret)
        jobs, assets = self._api.jobs, self._api.assets
        jobs.on_forgotten.append(lambda job: self._store.delete(JOB, str(job.number)))
        assets.on_forgotten.append(lambda asset: self._store.delete(ASSET, asset.id))
        async for batch in self._store.batches(JOB):
            for key, data in batch:
                self._restore_job(key, data)
        async for batch in self._store.batches(ASSET):
            for key, data in batch:
                self._restore_asset(key, data)
        jobs.on_changed.append(self._job_changed)
        assets.on_changed.append(self._asset_changed)

    def _job_changed(self, job: Job) -> None:
        self._store.put(JOB, str(job.number), dumps(_written(job)))

    def _asset_changed(self, asset: Asset) -> None:
        self._store.put(ASSET, asset.id, dumps(asdict(asset)))

    def _restore_job(self, key: str, data: bytes) -> None:
        try:
            self._api.restore(_read(loads(data)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            logger.error("a job of the Comfy API in the state file cannot be read: {!r}", error)
            self._store.delete(JOB, key)

    def _restore_asset(self, key: str, data: bytes) -> None:
        try:
            told = loads(data)
            times = {name: datetime.fromisoformat(told[name]) for name in ("created", "expires")}
            self._api.assets.add(Asset(**{**told, **times, "file": FileName(**told["file"])}))
        except (KeyError, TypeError, ValueError) as error:
            logger.error("an asset of the Comfy API in the state file cannot be read: {!r}", error)
            self._store.delete(ASSET, key)


def _written(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in _PLAIN} | {
        "created": job.created,
        "started": job.started,
        "completed": job.completed,
        "end": job.end,
        "error": job.error,
        "progress": job.last_progress,
        "nodes": None if job.progress is None else job.progress.nodes,
        "outputs": [asdict(one) for one in job.outputs.values()],
    }


def _read(told: Mapping[str, Any]) -> Job:
    job = Job(
        **{name: told[name] for name in _PLAIN},
        created=datetime.fromisoformat(told["created"]),
        started=_time(told["started"]),
        completed=_time(told["completed"]),
        end=None if told["end"] is None else JobStatus(told["end"]),
        error=told["error"],
        last_progress=told["progress"],
        accepted=True,
    )
    job.follow(told["nodes"])
    for one in told["outputs"]:
        file = None if one["file"] is None else FileName(**one["file"])
        output = Output(**{**one, "file": file, "place": tuple(one["place"])})
        job.outputs[output.id] = output
    return job


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
