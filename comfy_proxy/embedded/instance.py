"""Everything that belongs to one running worker; routes find it in the application."""

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

from aiohttp import web

from comfy_proxy.embedded.asset_store import AssetStore
from comfy_proxy.embedded.executor import Executor, Journal
from comfy_proxy.embedded.faults import Faults
from comfy_proxy.embedded.folders import Folders
from comfy_proxy.embedded.nodes.node_class import Json, NodeClass
from comfy_proxy.embedded.prompt_queue import PromptQueue
from comfy_proxy.embedded.simulated_gpu import SimulatedGpu
from comfy_proxy.embedded.websocket import Sockets

MAX_UPLOAD_SIZE = 100 * 1024 * 1024  # bytes of a request; beyond, 413 (PROTOCOL.md trap 12)
FEATURES: Json = {"supports_preview_metadata": True, "max_upload_size": MAX_UPLOAD_SIZE}
FEATURES_2026: Json = FEATURES | {
    "supports_model_type_tags": True,
    "extension": {"manager": {"supports_v4": True}},
    "node_replacements": True,
    "assets": True,
}


@dataclass(kw_only=True)
class Instance:
    """State of one life of a worker, from a start to the stop or the kill.

    `assets` is None unless it is a worker of 2026: then it has its routes, flags and refusals too.
    """

    name: str
    folders: Folders
    classes: dict[str, NodeClass]
    upscale_models: tuple[str, ...]
    gpu: SimulatedGpu
    features: Json | None
    faults: Faults
    journal: Journal
    queue: PromptQueue
    executor: Executor
    sockets: Sockets
    assets: AssetStore | None = None

    def __post_init__(self) -> None:
        self.next_number = 0
        self.sequence = count()
        self.upload_lock = asyncio.Lock()
        # What `POST /embedded/faults` can do at once, by name; each takes the value given.
        self.actions: dict[str, Callable[[Any], None]] = {}

    def queue_info(self) -> Json:
        return queue_info(self.queue.remaining())


def queue_info(remaining: int) -> Json:
    """The body of `GET /prompt` and of `status` events."""
    return {"exec_info": {"queue_remaining": remaining}}


INSTANCE = web.AppKey("instance", Instance)


def new_prompt_id() -> str:
    return str(uuid.uuid4())
