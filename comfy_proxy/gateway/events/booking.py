"""What the frames of one client's upstream sockets tell of prompts and files, put on record."""

from __future__ import annotations

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_outcomes import told_by_frame
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.dispatch.second_tries import SecondTries
from comfy_proxy.gateway.custom.askers import Askers
from comfy_proxy.gateway.events.frames import (
    AtNode,
    Began,
    Cached,
    Custom,
    Ended,
    Executed,
    NodeStates,
    OfPrompt,
    Over,
    Pass,
    Progress,
    Seen,
)
from comfy_proxy.gateway.events.replaced_prompts import ReplacedPrompts
from comfy_proxy.gateway.files.made_files import MadeFiles
from comfy_proxy.ledger import events
from comfy_proxy.ledger.ledger import Ledger, is_elsewhere
from comfy_proxy.ledger.prompt import End


class FrameBooking:
    """Tells the ledger how far the prompts of ``client_id`` are, ``made_files`` their files, and
    ``askers`` what their nodes ask. Those of ``replaced`` are told to the client alone.

    ``_first_tries`` are those of which the socket at an instance has told that they ran out of
    memory, until it has told the last of them; ``_stale`` the instances of which the socket tells
    of an attempt that was given up there and counts no more."""

    def __init__(
        self,
        client_id: str,
        ledger: Ledger,
        made_files: MadeFiles,
        second_tries: SecondTries,
        askers: Askers,
        replaced: ReplacedPrompts,
    ) -> None:
        self._client_id = client_id
        self._replaced = replaced
        self._ledger = ledger
        self._made_files = made_files
        self._second_tries = second_tries
        self._askers = askers
        self._first_tries = ByInstance[set[str]](lambda instance: set())
        self._stale = ByInstance[None]()  # a set of instances; one that leaves is dropped

    def book(self, seen: Seen, instance: Instance) -> bool:
        """What a frame of ``instance`` says; to be called in the order of the frames. False if it
        is not for the client: it tells the end of a prompt that is to run once more, or of an
        attempt that was given up."""
        if type(seen) is Pass:  # as most are, and the large ones: it names no prompt
            return not (self._stale and instance in self._stale)
        if self._is_replaced(seen, instance):
            return True
        if self._is_stale(seen, instance):
            return False
        if type(seen) is Progress or type(seen) is NodeStates:  # they put nothing on record
            return True
        match seen:
            case Over(prompt_id=prompt_id) if prompt_id in self._first_tries[instance]:
                self._first_tries[instance].discard(prompt_id)
                return False
            case Ended(prompt_id=prompt_id, kind=kind, data=data):
                self._made_files.outputs.ended(prompt_id, data)
                return self._ended(prompt_id, End.of(told_by_frame(kind, data)), instance)
            case _:
                self._note(seen, instance)
                return True

    def _is_replaced(self, seen: Seen, instance: Instance) -> bool:
        """It is of an older prompt of its id: only the files that this made are on record."""
        prompt_id = seen.prompt_id if isinstance(seen, OfPrompt) else None
        if prompt_id is None or not self._replaced.has(prompt_id, self._client_id, instance):
            return False
        self._stale.pop(instance, None)
        if isinstance(seen, Executed):
            self._note(seen, instance)
        elif isinstance(seen, Over):
            self._replaced.over(prompt_id, self._client_id, instance)
        return True

    def _is_stale(self, seen: Seen, instance: Instance) -> bool:
        if not isinstance(seen, OfPrompt):
            return False
        prompt_id = seen.prompt_id
        if prompt_id is None:  # it is of the one named last
            return instance in self._stale
        if is_elsewhere(self._ledger, prompt_id, instance):
            self._stale[instance] = None
            return True
        if self._stale:
            self._stale.pop(instance, None)
        return False

    def _ended(self, prompt_id: str, end: End, instance: Instance) -> bool:
        """Whether it worked is no matter of the frame; the ledger has heard of its nodes."""
        if self._second_tries.goes_on(prompt_id, instance, end.error):
            self._first_tries[instance].add(prompt_id)
            return False
        self._ledger.apply(events.EndTold(prompt_id=prompt_id, instance=instance, end=end))
        return True

    def _note(self, seen: Seen, instance: Instance) -> None:
        match seen:
            case Began(prompt_id=prompt_id):
                self._first_tries[instance].discard(prompt_id)  # its socket has missed the rest
                self._made_files.outputs.began(prompt_id, instance)
                self._ledger.apply(events.Began(prompt_id=prompt_id, instance=instance))
            case Cached(prompt_id=prompt_id, nodes=nodes):
                self._ledger.apply(
                    events.NodesCached(prompt_id=prompt_id, instance=instance, nodes=nodes)
                )
            case AtNode(prompt_id=None, node=node):
                self._node_reached(self._own_running(instance), instance, node)
            case AtNode(prompt_id=prompt_id, node=node):
                self._node_reached(prompt_id, instance, node)
            case Executed(prompt_id=prompt_id, node=node, output=output, frame=frame):
                self._made_files.heard(output, instance)
                if prompt_id is not None and node is not None:
                    size = len(frame.data)
                    self._made_files.outputs.executed(prompt_id, node, output, size, instance)
            case Custom(kind=kind, data=data):
                self._askers.heard(instance, self._client_id, kind, data)

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


def shared_booking(
    cluster: Cluster,
    ledger: Ledger,
    made_files: MadeFiles,
    askers: Askers,
    replaced: ReplacedPrompts,
) -> FrameBooking:
    """For frames that ComfyUI sends to everybody: what their nodes ask, anybody may answer."""
    second_tries = SecondTries.of(cluster, ledger)
    return FrameBooking("", ledger, made_files, second_tries, askers, replaced)
