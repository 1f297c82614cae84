"""Entries of the history that are put together of what frames told, where nothing else is left.

A client that listens has heard the results of its prompt and its success, and asks for its entry in
the next moment. If the process of the instance has ended in between there is none, though the files
may be there still: then this is what ComfyUI would have said, without the messages before the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.exchange.native import LONG_BYTES
from comfy_proxy.gateway.files.heard_outputs import HeardOutputs
from comfy_proxy.gateway.files.shared_storage import SharedStorage
from comfy_proxy.gateway.views.kept_entries import KeptEntry
from comfy_proxy.gateway.views.queue_rows import LedgerRows
from comfy_proxy.gateway.views.wanted_entries import WantedEntries
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.states import Ending


class HeardEntries:
    """Makes them of ``outputs``, which are forgotten once the entry of a prompt is no longer
    ``wanted``, and of the bodies that ``rows`` reads."""

    def __init__(
        self,
        outputs: HeardOutputs,
        wanted: WantedEntries,
        rows: LedgerRows,
        storage: SharedStorage,
    ) -> None:
        self._outputs = outputs
        self._wanted = wanted
        wanted.on_changed.append(self._changed)
        self._rows = rows
        self._storage = storage

    async def entry(self, prompt: Prompt, instance: Instance) -> KeptEntry | None:
        """The entry of a success of which ``instance`` told; None if no frame told any result of
        it that lasts. Its files may be gone: see ``kept_files.py``."""
        heard = self._outputs.find(prompt.prompt_id, instance)
        sent_at = [one.sent_at for one in prompt.attempts if one.instance is instance]
        if heard is None or heard.ended_ms is None or not sent_at:
            return None
        if not (outputs := dict(_lasting(heard.outputs))):
            return None
        if prompt.end is None or prompt.end.ending is not Ending.SUCCESS:
            return None
        [row] = await self._rows.entries([prompt])
        end = {"prompt_id": prompt.prompt_id, "timestamp": heard.ended_ms}
        entry = {
            "prompt": row,
            "outputs": outputs,
            "status": {
                "status_str": "success",
                "completed": True,
                "messages": [["execution_success", end]],
            },
            "meta": {},
        }
        body = b"" if prompt.post is None else prompt.post.body
        if len(body) + heard.size < LONG_BYTES:
            return KeptEntry.made(entry, instance, self._storage, sent_at[-1])
        return await asyncio.to_thread(KeptEntry.made, entry, instance, self._storage, sent_at[-1])

    def _changed(self, prompt_id: str) -> None:
        if self._wanted.instance_of(prompt_id) is None:
            self._outputs.forget(prompt_id)


def _lasting(outputs: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """``outputs`` without previews: ComfyUI empties its directory of temporary files when it
    starts."""
    for node, output in outputs.items():
        lasting = {
            kind: [one for one in made if not _is_temporary(one)]
            if isinstance(made, list)
            else made
            for kind, made in output.items()
        }
        if lasting == output or any(_files(made) for made in lasting.values()):
            yield node, lasting


def _files(made: Any) -> list[Any]:
    return [one for one in made if isinstance(one, dict)] if isinstance(made, list) else []


def _is_temporary(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") == "temp"
