"""Entries of the history that are put together of what frames told, where nothing else is left.

A client that listens has heard the results of its prompt and its success, and asks for its entry in
the next moment. If the process of the instance has ended in between there is none, though the files
may be there still: then this is what ComfyUI would have said, without the messages before the end.
"""

from __future__ import annotations

import asyncio

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
        it. Its files may be gone: see ``kept_files.py``."""
        heard = self._outputs.find(prompt.prompt_id, instance)
        sent_at = [one.sent_at for one in prompt.attempts if one.instance is instance]
        if heard is None or heard.ended_ms is None or not sent_at:
            return None
        if prompt.end is None or prompt.end.ending is not Ending.SUCCESS:
            return None
        [row] = await self._rows.entries([prompt])
        end = {"prompt_id": prompt.prompt_id, "timestamp": heard.ended_ms}
        entry = {
            "prompt": row,
            "outputs": heard.outputs,
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
