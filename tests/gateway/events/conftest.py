"""Two scripted instances, which send what a test says, and a proxy in front of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from events_harness import ScriptedInstance, scripted

Instances = list[tuple[str, ScriptedInstance]]


@pytest.fixture
async def instances() -> AsyncIterator[Instances]:
    async with scripted() as result:
        yield result


@pytest.fixture
async def front(instances: Instances, start_proxy: Callable[..., Any]) -> Any:
    return await start_proxy(*(url for url, _ in instances))


@pytest.fixture
def one(instances: Instances) -> ScriptedInstance:
    return instances[0][1]


@pytest.fixture
def two(instances: Instances) -> ScriptedInstance:
    return instances[1][1]
