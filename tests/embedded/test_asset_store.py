"""The assets of an embedded worker of 2026."""

from pathlib import Path
from uuid import UUID

from comfy_proxy.embedded.asset_store import AssetStore
from comfy_proxy.embedded.folders import Folders


def test_only_files_get_ids(tmp_path: Path) -> None:
    """A node that shows a text or a number beside its picture shows them as they are."""
    file = {"filename": "x.png", "subfolder": "", "type": "output"}
    no_file = [{"a": 1}, {**file, "type": None}, {**file, "type": "models"}]
    told = {"images": [file], "text": ["a text"], "value": 3, "rows": no_file}
    named = AssetStore(Folders(tmp_path)).saved(told, "prompt")
    assert UUID(named["images"][0].pop("id"))
    assert named == told
