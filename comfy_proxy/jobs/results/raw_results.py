"""The results of a prompt that has ended, as its instance made them: fetched, not changed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.output_file import OutputFile
from comfy_proxy.errors import ResultError, ResultFrameLostError
from comfy_proxy.jobs.results.prompt_outputs import Told, ToldText, told_results
from comfy_proxy.jobs.results.result_file import MEMORY_BYTES
from comfy_proxy.jobs.workflows.graph import Graph
from comfy_proxy.lenient_json import dumps
from comfy_proxy.stored_bytes import StoredBytes

_TEXT_CHARS: Final = 2**20
"""Characters of a text that are encoded at once: a node may tell 50 MB, which take 40 ms."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RawResult:
    """``told`` is what ComfyUI says of it, None for a picture that came as a frame."""

    told: Told | None
    body: StoredBytes


RawResults = tuple[RawResult, ...]


async def raw_results(
    graph: Graph,
    pictures: Sequence[bytes],
    outputs: Mapping[str, Mapping[str, Any]],
    client: ComfyUIClient,
) -> RawResults:
    """All results of a prompt of ``graph`` that has succeeded; files are fetched one after the
    other.

    ``pictures`` came as frames; ``outputs`` are what its nodes have told, by node id. Raises
    ResultFrameLostError if they were to come as frames and did not, ResultError if there are none,
    and what :meth:`ComfyUIClient.view` raises. Then nothing of them is kept.
    """
    told: list[Told | bytes] = [*pictures]
    if not graph.by_frame:
        told += await asyncio.to_thread(told_results, outputs, list(graph.prompt))
    if not told:
        if graph.by_frame:
            raise ResultFrameLostError("The frame with the picture was lost.")
        raise ResultError("The workflow ended without a result.")
    made: list[RawResult] = []
    try:
        for one in told:
            body = StoredBytes(memory_bytes=MEMORY_BYTES)
            made.append(RawResult(told=None if isinstance(one, bytes) else one, body=body))
            await _write(one, body, client)
            await body.finish()
    except BaseException:
        for result in made:
            result.body.close()
        raise
    return tuple(made)


async def _write(one: Told | bytes, body: StoredBytes, client: ComfyUIClient) -> None:
    if isinstance(one, OutputFile):
        await client.view(one, body)
    elif isinstance(one, bytes):
        await body.write(one)
    elif isinstance(one, ToldText):
        for at in range(0, len(one.text), _TEXT_CHARS):
            await body.write(one.text[at : at + _TEXT_CHARS].encode(errors="replace"))
            await asyncio.sleep(0)
    else:
        try:
            await body.write(dumps(one.data))
        except (RecursionError, ValueError) as error:
            message = f"What the node {one.node} has told is nested too deeply."
            raise ResultError(message) from error
