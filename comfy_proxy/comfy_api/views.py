"""Jobs and assets as the contract's JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from aiohttp import hdrs, web

from comfy_proxy.clock import iso
from comfy_proxy.comfy_api.assets import Asset
from comfy_proxy.comfy_api.jobs import Job
from comfy_proxy.comfy_api.outputs import Output
from comfy_proxy.forwarded import is_believed, is_https, root_path
from comfy_proxy.lenient_json import dumps
from comfy_proxy.settings import Settings

JOBS: Final = "/api/v2/jobs"
ASSETS: Final = "/api/v2/assets"

OUTPUTS_AT_ONCE: Final = 50
"""Outputs that are one piece of a job's JSON: some 25 KB, which take less than a millisecond."""

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Links:
    """Where a client finds us: the path under which it sees us, and with the host before it.

    Links to jobs have the path alone, so that they hold whatever server stands in front of us; the
    contract wants the URLs of contents whole.
    """

    root: str
    base: str

    @classmethod
    def of(cls, request: web.Request, settings: Settings) -> Links:
        """Those for the client of ``request``: by ``Host``, or by what a trusted server tells."""
        root = root_path(request, settings)
        host = request.headers.get(hdrs.HOST, "")
        if is_believed(request, settings):
            told = request.headers.get("X-Forwarded-Host", "").partition(",")[0].strip()
            host = told or host
        scheme = "https" if is_https(request, settings) else "http"
        return cls(root=root, base=f"{scheme}://{host}{root}")


def job_json(job: Job, links: Links, position: int | None) -> Iterator[bytes]:
    """The contract's ``Job``; ``position`` is its place among those that wait, from 1 on.

    In pieces of OUTPUTS_AT_ONCE outputs, each made when it is asked for: 10,000 take 60 ms and
    5 MB. What it tells of the job is as it was when the first one was made.
    """
    return _pieces(_head(job, links, position), job, links)


def listed_json(job: Job, links: Links, position: int | None) -> Iterator[bytes]:
    """A job in a list: what the SDKs call its times is told beside the rest."""
    updated = job.completed or job.started or job.created
    times = {"create_time": iso(job.created), "update_time": iso(updated)}
    return _pieces(_head(job, links, position) | times, job, links)


def _pieces(head: Json, job: Job, links: Links) -> Iterator[bytes]:
    outputs = tuple(job.outputs.values())
    yield dumps(head)[:-1] + b',"outputs":['
    for at in range(0, len(outputs), OUTPUTS_AT_ONCE):
        some = [output_json(job, one, links) for one in outputs[at : at + OUTPUTS_AT_ONCE]]
        yield (b"," if at else b"") + dumps(some)[1:-1]
    yield b"]}"


def _head(job: Job, links: Links, position: int | None) -> Json:
    """All of it but its outputs."""
    progress = job.last_progress
    if job.progress is not None and (job.runs or job.end is not None):
        progress = job.progress.snapshot()
    own = f"{links.root}{JOBS}/{job.id}"
    told: Json = {
        "id": job.id,
        "status": str(job.status),
        "created_at": iso(job.created),
        "started_at": iso(job.started),
        "completed_at": iso(job.completed),
        "expires_at": iso(job.expires),
        "queue_position": position,
        "progress": progress,
        "error": job.error,
        "outputs_reused": job.reused,
        "metrics": {
            "queue_ms": _ms(job.created, job.started),
            "execution_ms": _ms(job.started, job.completed),
        },
        "urls": {"self": own, "events": f"{own}/events", "cancel": f"{own}/cancel"},
    }
    more: Mapping[str, Any] = {"metadata": job.metadata, "priority": job.priority}
    return told | {key: value for key, value in more.items() if value is not None}


def output_json(job: Job, output: Output, links: Links) -> Json:
    """The contract's ``Output``. Its hash is not known: to know it all of it would be read."""
    return {
        "node_id": output.node_id,
        "name": output.name,
        "type": output.kind,
        "content_type": output.content_type,
        "size_bytes": output.size or 0,
        "id": output.id,
        "hash": None,
        "url": f"{links.base}{ASSETS}/{output.id}/content",
        "url_expires_at": iso(job.expires),
        "job_id": job.id,
    }


def output_asset_json(job: Job, output: Output, links: Links) -> Json:
    """An output as the contract's ``Asset``."""
    told = output_json(job, output, links)
    left_out = ("node_id", "name", "type")
    return {key: value for key, value in told.items() if key not in left_out} | {
        "file_path": output.name,
        "created_at": iso(job.completed or job.created),
        "expires_at": iso(job.expires),
    }


def asset_json(asset: Asset, links: Links, *, created_new: bool | None = None) -> Json:
    """The contract's ``Asset``, of an upload."""
    told: Json = {
        "id": asset.id,
        "hash": asset.hash,
        "size_bytes": asset.size,
        "content_type": asset.content_type,
        "file_path": asset.path,
        "created_at": iso(asset.created),
        "url": f"{links.base}{ASSETS}/{asset.id}/content",
        "url_expires_at": iso(asset.expires),
        "expires_at": iso(asset.expires),
    }
    return told if created_new is None else told | {"created_new": created_new}


def _ms(start: datetime | None, end: datetime | None) -> int | None:
    if start is None or end is None:
        return None
    return max(0, int((end - start).total_seconds() * 1000))
