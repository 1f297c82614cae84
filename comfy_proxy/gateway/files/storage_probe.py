"""Have two instances one directory between them? By writing to it and reading from it.

One writes a text that nobody can guess into a small file, the other must show it at once; then the
other way round, and all of that twice. Directories that a program keeps in step do not pass for
one: it would have to carry four texts over, each within ``READ_TIMEOUT_S``.

ComfyUI has no way to delete a file, so it always has the same name: one stays in each directory. No
client waits for this, and an instance may be busy (PROTOCOL.md trap 8): what fails is no strike for
it.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

import aiohttp
from loguru import logger

from comfy_proxy.cluster import answer_bodies
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.own_folder import PROBE_FOLDER
from comfy_proxy.errors import InstanceError, InstanceRefusedError
from comfy_proxy.gateway.exchange.fanout import asked
from comfy_proxy.gateway.exchange.forward import told_apart
from comfy_proxy.gateway.files.unlisted import unlist
from comfy_proxy.lenient_json import loads

if TYPE_CHECKING:
    from comfy_proxy.cluster.cluster import Cluster

READ_TIMEOUT_S = 0.3
"""For the other instance to show the text. Short on purpose: a program that copies files between
two directories needs longer. Beyond, nothing is known, and it is tried again later."""
WRITE_TIMEOUT_S = 5.0
"""For an instance to take the text, or a socket; beyond, nothing is known either."""
MAX_ANSWER_BYTES = 65_536
"""Of the answer to what is written. ComfyUI's has some 500; beyond, nothing is known."""
PROBE_NAME = "shared-storage.txt"


async def have_one_directory(
    one: Instance, other: Instance, kind: str, cluster: Cluster
) -> bool | None:
    """Whether what one of them writes is there for the other; None if that cannot be said now.

    Those that have one directory are listened to from then on: the end of a socket tells of a
    restart, after which the directory may be another one.
    """
    try:
        # Once more if not: another proxy may have written to the file at the same moment.
        if not (
            await _each_shows(one, other, kind, cluster)
            or await _each_shows(one, other, kind, cluster)
        ):
            return False
        await _listen(one, cluster)
        await _listen(other, cluster)
        return await _each_shows(one, other, kind, cluster)
    except (InstanceError, TimeoutError) as error:
        logger.debug("{} of {} and {}: {!r}", kind, one.host, other.host, error)
        return None


async def _each_shows(one: Instance, other: Instance, kind: str, cluster: Cluster) -> bool:
    """Whether each shows at once what the other has written.

    Raises InstanceError and TimeoutError: then nobody knows.
    """
    for writer, reader in ((one, other), (other, one)):
        text = f"Is this directory shared by several ComfyUI? {secrets.token_hex(16)}\n".encode()
        async with cluster.clock.timeout(WRITE_TIMEOUT_S):
            await _write(writer, kind, text, cluster)
        async with cluster.clock.timeout(READ_TIMEOUT_S):
            if await _read(reader, kind, len(text), cluster) != text:
                return False
    return True


async def _write(instance: Instance, kind: str, text: bytes, cluster: Cluster) -> None:
    form = aiohttp.FormData()
    form.add_field("image", text, filename=PROBE_NAME, content_type="text/plain")
    fields = {"type": kind, "subfolder": PROBE_FOLDER, "overwrite": "true"}
    for name, value in fields.items():
        form.add_field(name, value)
    with told_apart(instance):
        async with asked(instance, cluster, "POST", "/upload/image", data=form) as answer:
            if answer.status != 200:
                raise InstanceRefusedError(f"{instance.host} writes nothing: {answer.status}.")
            told = await answer_bodies.read(answer, MAX_ANSWER_BYTES)
        with suppress(ValueError):
            await unlist(instance, cluster, loads(told))


async def _read(instance: Instance, kind: str, size: int, cluster: Cluster) -> bytes:
    query = {"filename": PROBE_NAME, "subfolder": PROBE_FOLDER, "type": kind}
    with told_apart(instance):
        async with asked(instance, cluster, "GET", "/view", params=query) as answer:
            is_ours = answer.content_length == size
            return await answer_bodies.read(answer, size) if is_ours else b""


async def _listen(instance: Instance, cluster: Cluster) -> None:
    pool = cluster.connections.pool(instance)
    if not pool.state.open:
        async with cluster.clock.timeout(WRITE_TIMEOUT_S):
            await pool.listen()
