"""Uploads whose bytes are here already, as those of the Comfy API v2.

They go the way of every upload: to the primary, which gives them their name, then to the others.
"""

from __future__ import annotations

import asyncio

from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import InstanceTimeoutError, InstanceUnreachableError
from comfy_proxy.gateway.files.client import offer
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.gateway.files.upload_form import UploadForm
from comfy_proxy.gateway.files.uploads import Uploads
from comfy_proxy.stored_bytes import StoredBytes


class OfferedUploads:
    """Uploads them in the name of the proxy, by way of ``uploads``."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._files = uploads.files
        self._cluster = uploads.files.cluster

    async def put(self, content: StoredBytes, wanted: FileName) -> FileName:
        """Upload ``content`` as ``wanted``; the name that it got, another one if a file with other
        bytes has that.

        What was begun is finished even if the caller is cancelled. ``content`` belongs to the
        records of files from now on (``records.py``), which close it; if this raises it is closed.
        Raises NoHealthyInstanceError, InstanceError, UnavailableError.
        """
        return await asyncio.shield(self._uploads.begin(self._put(content, wanted)))

    async def _put(self, content: StoredBytes, wanted: FileName) -> FileName:
        uploads = self._uploads
        form = UploadForm(
            image=None,
            filename=wanted.filename,
            subfolder=wanted.subfolder,
            type=wanted.type,
            original_ref="",
        )
        try:
            async with uploads.locks(form.family):
                instance, life, file = await self._post(content, wanted)
                self._files.received(file, content, instance, life=life)
        except BaseException:
            content.close()
            raise
        await uploads.spread(file, but=instance)
        await uploads.inputs_changed(file.subfolder if file.type == "input" else "")
        return file

    async def _post(self, content: StoredBytes, wanted: FileName) -> tuple[Instance, int, FileName]:
        """Who has taken it, which life of that instance it was, and the name. To the primary, or to
        the next one: to repeat an upload makes no second file."""
        passed_over: list[Instance] = []
        while True:
            instance = await self._cluster.primary(passed_over)
            life = self._files.holdings.life(instance)
            try:
                return instance, life, await offer(instance, self._cluster, wanted, content)
            except (InstanceUnreachableError, InstanceTimeoutError) as error:
                logger.debug("instance {} passed over: {}", instance.host, error.message)
                passed_over.append(instance)
