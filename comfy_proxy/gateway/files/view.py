"""``GET /view``: the instance answers that has the file which the client means.

Our records give candidates, (instance, path and query to ask for), which are tried in order; one
that cannot be reached is passed over:

* a prefixed result (``@2/…``): its owner, then the others if all share the directory, asked without
  the prefix;
* any other name: all instances, if they share the directory; then the instance that a prefix in the
  ``filename`` names.

If none of them can be reached, or there are none, the instances are asked who has the file: of a
prefixed result a copy under the prefixed path, of any other name (also a hash, ``blake3:…``) as
``FileHolders.locate`` says. What nobody has is the primary's own 404. A result whose owner or maker
is away, and of which there is no copy, is 503: the same name elsewhere is another picture. One
whose owner was removed for good is 404.

Two cases need no candidates. An upload that came through here is answered by the primary, after the
newest bytes were put there. What names no file (nothing, a path that climbs) is forwarded to the
primary as it came.

The request itself is passed on unchanged: Range, ETag, HEAD, preview and channel.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, replace

from aiohttp import web

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import (
    InstanceRefusedError,
    InstanceTimeoutError,
    InstanceUnreachableError,
    NotFoundError,
    UnavailableError,
)
from comfy_proxy.gateway.exchange.forward import Forwarder, forward, forward_balanced
from comfy_proxy.gateway.exchange.target import quoted, request_target, with_parameter
from comfy_proxy.gateway.files.file_holders import RETRY_AFTER_S, FileHolders
from comfy_proxy.gateway.files.file_name import (
    FILE_TYPES,
    RESULT_TYPES,
    FileName,
    climbs,
    file_at,
    split_annotation,
)
from comfy_proxy.gateway.files.file_staging import FileStaging
from comfy_proxy.gateway.files.instance_prefix import split_prefix
from comfy_proxy.gateway.routes import Match
from comfy_proxy.request_path import our_target


@dataclass(frozen=True, kw_only=True, slots=True)
class _Viewed:
    """What a query asks for: ComfyUI looks in ``subfolder``, and drops the ``directory`` that the
    name has in front."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A file at ``instance``, which shows it at ``target`` (path and query); ``size`` in bytes,
    None if it is not told."""

    instance: Instance
    target: str
    size: int | None


Candidate = tuple[Instance, str]
"""Who may have the file, and the path and query by which it has it."""


class FileView:
    """Answers ``/view`` by what ``files`` knows; ``staging`` brings uploads to who shows them."""

    def __init__(self, files: FileHolders, staging: FileStaging) -> None:
        self._files = files
        self._staging = staging
        self._cluster = files.cluster

    async def answer(self, request: web.Request, match: Match) -> web.StreamResponse:
        """See the module. Raises UnavailableError (503) while the only one who has it is away."""
        viewed = _Viewed.of(request.rel_url.query)
        if viewed is None:
            return await forward_balanced(request, self._cluster)
        if viewed.file in self._files.uploads:
            return await forward_balanced(request, self._cluster, self._staged(viewed.file))
        target = request_target(our_target(request))
        for instance, asked_for in self._candidates(viewed, target):
            with contextlib.suppress(UnavailableError):
                return await self._from(request, instance, asked_for)
        holder = await self._holder(viewed)
        if holder is None:
            self._require_member(viewed)
            return await forward_balanced(request, self._cluster)
        return await self._from(request, holder, target)

    async def find(self, file: FileName) -> Found | None:
        """Who has ``file``, for a caller inside of the proxy; None if nobody has it.

        Raises UnavailableError while the only one who has it is away.
        """
        viewed, target = _Viewed(file=file, subfolder=file.subfolder, directory=""), _target(file)
        owner, inner = self._files.owner(file.subfolder, file.type)
        there = file if owner is None else replace(file, subfolder=inner)
        if file in self._files.uploads:
            instance = await self._cluster.primary()
            await self._staging.stage(file, instance, fresh=True)
            candidates = [(instance, target)]
        else:
            candidates = self._candidates(viewed, target)
        for instance, asked_for in candidates:
            looked = await self._files.try_look(instance, there)
            if looked is not None and looked.there:
                return Found(instance=instance, target=asked_for, size=looked.size)
            if looked is not None and instance is owner:
                return None  # whoever else has that name has another file
        holder = await self._holder(viewed)
        looked = None if holder is None else await self._files.try_look(holder, file)
        if holder is None or looked is None or not looked.there:
            return None
        return Found(instance=holder, target=target, size=looked.size)

    async def show(self, request: web.Request, found: Found) -> web.StreamResponse:
        """Answer ``request`` (its range, its conditions) with what was found, as ``/view`` does.
        Raises UnavailableError if that instance cannot be reached now."""
        return await self._from(request, found.instance, found.target)

    def _candidates(self, viewed: _Viewed, target: str) -> list[Candidate]:
        """By our records, without asking anybody; ``target`` is what the client asks for."""
        files, kind = self._files, viewed.file.type
        sharers = self._cluster.instances if files.storage.is_common(kind) else ()
        owner, inner = files.owner(viewed.subfolder, kind)
        if owner is not None:
            at_owner = with_parameter(target, "subfolder", inner)
            others = [one for one in sharers if one is not owner and one.healthy]
            return [(one, at_owner) for one in (owner, *others)]
        candidates = [(one, target) for one in sharers]
        named = self._named_in_filename(viewed)
        return candidates if named is None else [*candidates, (named, target)]

    async def _holder(self, viewed: _Viewed) -> Instance | None:
        """Who says that it has the file, after no candidate could be reached; None if nobody.

        Raises UnavailableError if only one who is away can have it.
        """
        owner, _ = self._files.owner(viewed.subfolder, viewed.file.type)
        if owner is None and self._named_in_filename(viewed) is None:
            return await self._files.locate(viewed.file)
        if owner is not None:
            others = [one for one in self._files.healthy() if one is not owner]
            if holders := await self._files.holders(viewed.file, others):
                return holders[0]
        raise _away()

    def _named_in_filename(self, viewed: _Viewed) -> Instance | None:
        """The owner by ``@2/x.png [output]``, as graphs name a result, in place of the name.

        ComfyUI drops directories from a name, so its owner needs no other request.
        """
        if viewed.subfolder:
            return None
        return self._files.owner(viewed.directory, viewed.file.type)[0]

    def _require_member(self, viewed: _Viewed) -> None:
        """Raises NotFoundError for a result whose instance was removed: nobody has a copy."""
        former = self._cluster.instances.former
        for folder in (viewed.subfolder, viewed.directory):
            gone, _ = split_prefix(folder, former)
            if gone is not None and viewed.file.type in RESULT_TYPES:
                raise NotFoundError(f"ComfyUI instance {gone}, which had this file, was removed.")

    def _staged(self, file: FileName) -> Forwarder:
        """Forwards to an instance that has got the newest bytes of the upload first."""

        async def send(
            request: web.Request, instance: Instance, cluster: Cluster
        ) -> web.StreamResponse:
            if not await self._staging.stage(file, instance, fresh=True):
                raise InstanceRefusedError(f"{instance.host} has a result of its own of that name.")
            return await forward(request, instance, cluster)

        return send

    async def _from(
        self, request: web.Request, instance: Instance, target: str
    ) -> web.StreamResponse:
        """This instance's answer. Raises UnavailableError if it cannot be reached."""
        try:
            if await self._cluster.health_checker.answers(instance):
                return await forward(request, instance, self._cluster, target=target)
        except (InstanceUnreachableError, InstanceTimeoutError):
            pass  # told to the breaker by the attempt
        raise _away()


def _target(file: FileName) -> str:
    query = {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}
    return f"/view?{'&'.join(f'{name}={quoted(value)}' for name, value in query.items())}"


def _away() -> UnavailableError:
    return UnavailableError(
        "The ComfyUI instance that has this file cannot be reached.", retry_after_s=RETRY_AFTER_S
    )
