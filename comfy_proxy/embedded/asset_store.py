"""The asset database of a worker of 2026: one entry for each file that it saved or was sent.

What ComfyUI's scan in the background adds (hashes of results, files that appeared by themselves)
is not here. An entry whose file is gone is not told.
"""

import hashlib
import mimetypes
import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image

from comfy_proxy.embedded.folders import Folders
from comfy_proxy.embedded.nodes.node_class import Json


def _now() -> str:
    return datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")


@dataclass(kw_only=True)
class Asset:
    """A file: `kind` is input, output or temp, `subfolder` and `name` say where it is in it.

    `hash` is None for results; `job_id` is the prompt that made it.
    """

    kind: str
    subfolder: str
    name: str
    path: Path
    hash: str | None = None
    job_id: str | None = None
    asset_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    created_at: str = field(default_factory=_now)
    updated_at: str = field(default_factory=_now)
    last_access_time: str = field(default_factory=_now)

    @property
    def tags(self) -> list[str]:
        return sorted((self.kind, "uploaded"))

    def as_uploaded(self) -> Json:
        """What the answer to an upload tells of it."""
        return {
            "id": self.asset_id,
            "name": self.name,
            "asset_hash": self.hash,
            "size": self.path.stat().st_size,
            "mime_type": mimetypes.guess_type(self.name)[0],
            "tags": self.tags,
        }

    def as_told(self) -> Json:
        """As lists and `GET /api/assets/{id}` tell it."""
        inner = "/".join(filter(None, (self.subfolder, self.name)))
        place = {"type": self.kind, "filename": self.name}
        place |= {"subfolder": self.subfolder} if self.subfolder else {}
        told = {
            "id": self.asset_id,
            "name": self.name,
            "loader_path": inner,
            "display_name": inner,
            "size": self.path.stat().st_size,
            "mime_type": mimetypes.guess_type(self.name)[0],
            "tags": self.tags,
            "preview_url": f"/api/view?{urlencode(place)}",
            "user_metadata": {"filename": inner},
            "is_immutable": False,
            "metadata": _shape(self.path),
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "last_access_time": self.last_access_time,
        }
        hashes = {"hash": self.hash, "asset_hash": self.hash} if self.hash else {}
        job = {"job_id": self.job_id, "prompt_id": self.job_id} if self.job_id else {}
        return told | hashes | job


class AssetStore:
    """The assets of one worker, from any thread. It outlives restarts, as a database does."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._lock = threading.Lock()
        self._by_place: dict[tuple[str, str, str], Asset] = {}

    def uploaded(self, kind: str, subfolder: str, name: str) -> Asset:
        """The entry of a file that has just been sent; the old one if that file had one."""
        asset = self._entry(kind, subfolder, name)
        asset.hash = _hash(asset.path)
        return asset

    def saved(self, ui: Json, prompt_id: str) -> Json:
        """What a node shows, each file with the id of its entry; texts and the like as they are."""
        return {key: self._named_in(items, prompt_id) for key, items in ui.items()}

    def known(self) -> list[Asset]:
        """All whose file is there, the oldest first."""
        with self._lock:
            assets = list(self._by_place.values())
        return [asset for asset in assets if asset.path.is_file()]

    def get(self, asset_id: str) -> Asset | None:
        """None if nobody knows it, or its file is gone."""
        return next((one for one in self.known() if one.asset_id == asset_id), None)

    def delete(self, asset: Asset) -> None:
        """Forget the entry; the file stays, as in ComfyUI."""
        with self._lock:
            self._by_place.pop((asset.kind, asset.subfolder, asset.name), None)

    def _named_in(self, items: Any, prompt_id: str) -> Any:
        listed = isinstance(items, list)
        return [self._named(item, prompt_id) for item in items] if listed else items

    def _named(self, item: Any, prompt_id: str) -> Any:
        match item:
            case {"type": str(kind), "subfolder": str(folder), "filename": str(name)} if (
                self._folders.by_type(kind) is not None
            ):
                asset = self._entry(kind, folder, name)
            case _:
                return item
        asset.job_id = prompt_id
        return item | {"id": asset.asset_id}

    def _entry(self, kind: str, subfolder: str, name: str) -> Asset:
        root = self._folders.by_type(kind)
        if root is None:
            raise ValueError(f"{kind!r} is no directory of a worker.")
        place = kind, subfolder, name
        path = root / subfolder / name
        with self._lock:
            asset = self._by_place.setdefault(
                place, Asset(kind=kind, subfolder=subfolder, name=name, path=path)
            )
        asset.updated_at = _now()
        return asset


def having(
    assets: Iterable[Asset], *, every: set[str], some: set[str], none: set[str]
) -> list[Asset]:
    """Those with every tag of `every`, one of `some` (if there are any) and none of `none`."""
    return [
        one
        for one in assets
        if every <= set(one.tags)
        and (not some or some & set(one.tags))
        and not none & set(one.tags)
    ]


def _hash(path: Path) -> str:
    """Looks like ComfyUI's hash and is equal for equal bytes; Python has not that function."""
    return f"blake3:{hashlib.blake2s(path.read_bytes()).hexdigest()}"


def _shape(path: Path) -> Json:
    try:
        with Image.open(path) as picture:
            return {"kind": "image", "width": picture.width, "height": picture.height}
    except OSError:
        return {}
