"""What the tests of the cache share: instances that answer as told, with a gate before answers."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any
from urllib.parse import unquote

from cluster_harness import make_instance
from manual_clock import ManualClock

from comfy_proxy.cluster.object_info.cache import ObjectInfoCache
from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.errors import InstanceRefusedError


def node_class(**inputs: Any) -> dict[str, Any]:
    return {"input": {"required": inputs}, "output": ["IMAGE"], "name": "…"}


LOADER = node_class(model_name=[["a.pth", "b.pth"], {}])
LOAD_IMAGE = node_class(image=[["one.png"], {"image_upload": True}])
CLASSES = {"Loader": LOADER, "LoadImage": LOAD_IMAGE, "Invert": node_class(image=["IMAGE"])}
CATALOG = NodeCatalog.from_json(CLASSES)


class FakeClient:
    """An instance's side: what it has, what it was asked, and a gate before each answer."""

    def __init__(self) -> None:
        self.classes = copy.deepcopy(CLASSES)
        self.asked: list[str] = []
        self.failure: Exception | None = None
        self.lists: dict[str, Any] = {}
        self.looked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def object_info(self) -> bytes:
        self.asked.append("*")
        body = json.dumps(self.classes).encode()
        await self._answer()
        return body

    async def body(self, path: str) -> bytes:
        """A list of files, without the gate; one that it has not is refused. Or a single class."""
        kind, _, class_name = path.partition("/")
        if kind == "object_info":
            return await self._class(unquote(class_name))
        self.looked.append(path)
        if self.failure is not None:
            raise self.failure
        if path not in self.lists:
            raise InstanceRefusedError("404")
        return json.dumps(self.lists[path]).encode()

    async def json(self, _method: str, path: str) -> Any:
        return json.loads(await self.body(path))

    async def _class(self, name: str) -> bytes:
        self.asked.append(name)
        known = {name: self.classes[name]} if name in self.classes else {}
        body = json.dumps(known).encode()
        await self._answer()
        return body

    async def _answer(self) -> None:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure


class Setting:
    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.instances = [make_instance(clock, number) for number in (1, 2)]
        self.clients = {instance: FakeClient() for instance in self.instances}
        self.cache = ObjectInfoCache(self.clients, clock=clock)  # type: ignore[arg-type]
        self.instance = self.instances[0]
        self.client = self.clients[self.instance]


def graph(class_type: str, **inputs: Any) -> dict[str, Any]:
    """One node of that class."""
    return {"1": {"class_type": class_type, "inputs": inputs}}
