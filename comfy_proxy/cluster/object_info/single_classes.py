"""``GET /object_info/{class}``: one class alone, which costs the instance next to nothing."""

from __future__ import annotations

from urllib.parse import quote

from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.errors import InstanceRefusedError


async def class_info(client: ComfyUIClient, class_name: str) -> bytes:
    """The answer as it came: ``{"Class": {…}}``, or ``{}`` if the instance has no such class.

    Raises InstanceError; InstanceRefusedError also for a name that no path can hold.
    """
    try:
        segment = quote(class_name, safe="!$&'()*+,:;=@")
    except UnicodeEncodeError as error:
        raise InstanceRefusedError(f"No path has the class {class_name!r}.") from error
    return await client.body(f"object_info/{segment}")
