"""What the frames of one client's upstream sockets tell of prompts and files, put on record."""

from __future__ import annotations

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_outcomes import told_by_frame
from comfy_proxy.gateway.events.frames import AtNode, Began, Cached, Ended, Executed, Seen
from comfy_proxy.gateway.files.made_files import MadeFiles
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import End


class FrameBooking:
    """Tells the ledger how far the prompts of ``client_id`` are, and ``made_files`` their files."""

    def __init__(self, client_id: str, ledger: Ledger, made_files: MadeFiles) -> None:
        self._client_id = client_id
        self._ledger = ledger
        self._made_files = made_files

    def book(self, seen: Seen, instance: Instance) -> None:
        """What a frame of ``instance`` says; to be called in the order of the frames."""
        match seen:
            case Began(prompt_id=prompt_id):
                self._ledger.apply(events.Began(prompt_id=prompt_id, instance=instance))
            case Cached(prompt_id=prompt_id, nodes=nodes):
                self._ledger.apply(
                    events.NodesCached(prompt_id=prompt_id, instance=instance, nodes=nodes)
                )
            case AtNode(prompt_id=None, node=node):
                self._node_reached(self._own_running(instance), instance, node)
            case AtNode(prompt_id=prompt_id, node=node):
                self._node_reached(prompt_id, instance, node)
            case Executed(output=output):
                self._made_files.heard(output, instance)
            case Ended(prompt_id=prompt_id, kind=kind, data=data):
                # Whether it worked is no matter of the frame; the ledger has heard of its nodes.
                end = End.of(told_by_frame(kind, data))
                self._ledger.apply(events.EndTold(prompt_id=prompt_id, instance=instance, end=end))

    def _node_reached(self, prompt_id: str | None, instance: Instance, node: str) -> None:
        if prompt_id is not None:
            self._ledger.apply(
                events.NodeReached(prompt_id=prompt_id, instance=instance, node=node)
            )

    def _own_running(self, instance: Instance) -> str | None:
        """A frame that names no prompt is about the one that runs there (PROTOCOL.md trap 14).

        None if the ledger takes another client's prompt for that one: it has missed an end then,
        or the prompt came past us.
        """
        running = self._ledger.running(instance)
        if running is None or running.client_id != self._client_id:
            return None
        return running.prompt_id
