"""``GET /view``: the instance answers that has the file which the client means.

* A marked output or temp file: its owner, asked for it without the mark. If the owner is away,
  who shares its directory, or was given a copy under the marked path; if there is none, 503. What
  the owner no longer has (trap 5) is its own 404.
* An upload that came through here: whoever is first, after the newest bytes were put there.
* A name of a directory that all share: the first of them.
* Any other name, of a result that was told as a path too: the one who made it last by our
  records, else the first that has it.
* A hash (``blake3:…``): the first that knows it.
* What names no file (nothing, a path that climbs): the primary, as it came.

The client's request goes on as it is: Range, ETag, HEAD, preview and channel are not our matter.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import (
    InstanceRefusedError,
    InstanceTimeoutError,
    InstanceUnreachableError,
    UnavailableError,
)
from comfy_proxy.gateway.exchange.forward import forward, forward_balanced
from comfy_proxy.gateway.exchange.target import request_target, with_parameter
from comfy_proxy.gateway.files.copies import RETRY_AFTER_S, FileCopies
from comfy_proxy.gateway.files.file_name import (
    FILE_TYPES,
    FileName,
    climbs,
    file_at,
    split_annotation,
)
from comfy_proxy.gateway.gateway import Gateway
from comfy_proxy.gateway.routes import Match


@dataclass(frozen=True, kw_only=True, slots=True)
class _Viewed:
    """What a query asks for: ComfyUI takes the subfolder and drops directories of the name."""

    file: FileName
    subfolder: str
    directory: str

    @classmethod
    def of(cls, query: Mapping[str, str]) -> _Viewed | None:
        """None for what ComfyUI refuses."""
        given = query.get("filename", "")
        name, kind = split_annotation(given)
        kind = kind or query.get("type", "output")
        subfolder = query.get("subfolder", "")
        if not name or given.startswith("/") or ".." in name:
            return None
        directory, base = posixpath.split(name)
        if not base or kind not in FILE_TYPES or climbs(subfolder) or subfolder.startswith("/"):
            return None
        return cls(file=file_at(base, subfolder, kind), subfolder=subfolder, directory=directory)


async def view(request: web.Request, match: Match, gateway: Gateway) -> web.StreamResponse:
    """See the module. Raises UnavailableError (503) while the only one who has it is away."""
    viewed = _Viewed.of(request.rel_url.query)
    if viewed is None:
        return await forward_balanced(request, gateway.cluster)
    files = gateway.files
    if viewed.file in files.uploads:
        return await _upload(request, viewed.file, files)
    owner, inner = files.owner(viewed.subfolder, viewed.file.type)
    if owner is not None:
        target = with_parameter(request_target(request.raw_path), "subfolder", inner)
        return await _from_owner(request, owner, target, viewed.file, files)
    for sharer in files.storage.common(viewed.file.type):
        with contextlib.suppress(UnavailableError):
            return await _from(request, sharer, files.cluster)
    if not viewed.subfolder:
        # ``@2/x.png [output]`` of a graph, as the name: ComfyUI drops the directory by itself.
        owner, _ = files.owner(viewed.directory, viewed.file.type)
    owner = owner or await files.locate(viewed.file)
    if owner is None:
        return await forward_balanced(request, files.cluster)
    return await _from(request, owner, files.cluster)


async def _upload(request: web.Request, file: FileName, files: FileCopies) -> web.StreamResponse:
    async def send(
        request: web.Request, instance: Instance, cluster: Cluster
    ) -> web.StreamResponse:
        if not await files.stage(file, instance, fresh=True):
            raise InstanceRefusedError(f"{instance.host} has a result of its own of that name.")
        return await forward(request, instance, cluster)

    return await forward_balanced(request, files.cluster, send)


async def _from_owner(
    request: web.Request, owner: Instance, target: str, file: FileName, files: FileCopies
) -> web.StreamResponse:
    try:
        return await _from(request, owner, files.cluster, target)
    except UnavailableError:
        others = [one for one in files.healthy() if one is not owner]
        for sharer in others:
            if files.storage.same(sharer, owner, file.type):
                return await _from(request, sharer, files.cluster, target)
        for holder in await files.holders(file, others):
            return await _from(request, holder, files.cluster)
        raise


async def _from(
    request: web.Request, instance: Instance, cluster: Cluster, target: str | None = None
) -> web.StreamResponse:
    """This instance's answer or none: another one's file of that name is another file."""
    try:
        if await cluster.healthy([instance]):
            return await forward(request, instance, cluster, target=target)
    except (InstanceUnreachableError, InstanceTimeoutError):
        pass  # told to the breaker by the attempt
    raise UnavailableError(
        "The ComfyUI instance that has this file cannot be reached.", retry_after_s=RETRY_AFTER_S
    )
