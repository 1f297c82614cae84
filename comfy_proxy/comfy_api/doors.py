"""What the Comfy API uses of the gateway, under one name for each part; nothing is built here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.gateway.events.listener import PromptListener
from comfy_proxy.gateway.files.file_holders import FileHolders
from comfy_proxy.gateway.files.offered_uploads import OfferedUploads
from comfy_proxy.gateway.files.shared_storage import SharedStorage
from comfy_proxy.gateway.files.view import FileView
from comfy_proxy.gateway.prompts.intake import PromptIntake
from comfy_proxy.gateway.prompts.spool import PromptSpool
from comfy_proxy.gateway.views.commands import Commands
from comfy_proxy.gateway.views.ended_prompts import EndedPrompts


@dataclass(kw_only=True, eq=False)
class Doors:
    """``intake`` takes prompts, ``commands`` ends them, ``listen`` makes the client that hears of
    them, ``ended`` tells how they ended, ``spool`` has the bodies of those that live; ``files``,
    ``file_view`` and ``offered`` find files, show them and take new ones. ``secret`` makes ids that
    nobody can guess; it is another one after a restart, unless there is a STATE_FILE."""

    cluster: Cluster
    intake: PromptIntake
    commands: Commands
    listen: Callable[[str], PromptListener]
    ended: EndedPrompts
    spool: PromptSpool
    files: FileHolders
    file_view: FileView
    offered: OfferedUploads
    secret: bytes

    @property
    def storage(self) -> SharedStorage:
        """Which directories all instances share."""
        return self.files.storage
