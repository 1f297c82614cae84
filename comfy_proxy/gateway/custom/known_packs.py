"""Rows for routes of well-known node packs that the rules alone would send to the wrong instance.

Read from the packs' sources, each in a version of 2024 to 2026. What installs, downloads or deletes
(ComfyUI-Manager, LoRA manager) is done by the primary alone, whoever runs a prompt of that client:
with a disk in common all others have it then too, and to do it twice at once there would break it.
Where each instance has a disk of its own a row in ``ROUTES_FILE`` can have all of them do it.
"""

from __future__ import annotations

from typing import Final

from comfy_proxy.gateway.custom.rows import CustomRow, To, row

_RESTARTS = "it ends the process that answers"
_OF_A_FILE = "it reads a result, and answers otherwise than with 404 where there is none"
_CACHE = "each process has a cache of its own, and a prompt may run at any"
_ONE_DISK = "it changes a disk, and keeps a list of what it has to do"
_COUNTERS = "each process has counters of its own"
_MONITOR = "each process watches its own machine"

KNOWN_PACKS: Final[tuple[CustomRow, ...]] = (
    # ComfyUI-Manager: by GET up to 3.39 and 4.1, by POST since.
    row("GET POST", "/manager/reboot", To.RESTART, _RESTARTS),
    row("GET POST", "/v2/manager/reboot", To.RESTART, _RESTARTS),
    row("POST", "/manager/{rest…}", To.PRIMARY, _ONE_DISK),
    row("POST", "/v2/manager/{rest…}", To.PRIMARY, _ONE_DISK),
    row("POST", "/comfyui_manager/{rest…}", To.PRIMARY, _ONE_DISK),
    row("POST", "/v2/comfyui_manager/{rest…}", To.PRIMARY, _ONE_DISK),
    row("POST", "/customnode/{rest…}", To.PRIMARY, _ONE_DISK),
    row("POST", "/v2/customnode/{rest…}", To.PRIMARY, _ONE_DISK),
    row("POST", "/model/install", To.PRIMARY, _ONE_DISK),
    # ComfyUI-VideoHelperSuite: 204 for a file that is not there.
    row("GET", "/viewvideo", To.BY_FILE, _OF_A_FILE),
    row("GET", "/vhs/viewvideo", To.BY_FILE, _OF_A_FILE),
    row("GET", "/vhs/viewaudio", To.BY_FILE, _OF_A_FILE),
    row("GET", "/vhs/queryvideo", To.BY_FILE, _OF_A_FILE),
    # comfyui-tooling-nodes (Krita): its PUT of pictures goes to all by the rules.
    row("GET", "/api/etn/translate/{language}/{text}", To.BALANCED, "it only computes"),
    # ComfyUI-Impact-Pack and ComfyUI-Inspire-Pack.
    row("GET", "/view/validate", To.BY_FILE, _OF_A_FILE),
    row("GET", "/impact/set/pb_id_image", To.BY_FILE, "an id is given whether it has the file"),
    row("POST", "/sam/prepare", To.BY_FILE, _OF_A_FILE),
    row("POST", "/sam/release", To.BROADCAST, "each process may hold a model"),
    row("GET", "/impact/wildcards/refresh", To.BROADCAST, _CACHE),
    row("GET", "/inspire/cache/clear", To.BROADCAST, _CACHE),
    row("GET", "/inspire/cache/remove", To.BROADCAST, _CACHE),
    row("POST", "/inspire/cache/settings", To.BROADCAST, _CACHE),
    # ComfyUI-Easy-Use.
    row("GET", "/easyuse/reboot", To.RESTART, _RESTARTS),
    row("POST", "/easyuse/cleangpu", To.BROADCAST, "each process has memory of its own"),
    row("POST", "/easyuse/removecache", To.BROADCAST, _CACHE),
    row("POST", "/easyuse/save/{name}", To.BY_FILE, "it copies a result to the model's folder"),
    # ComfyUI-Custom-Scripts.
    row("POST", "/pysssss/save/{name}", To.BY_FILE, "it copies a result to the model's folder"),
    # ComfyUI-Crystools.
    row("PATCH", "/crystools/monitor", To.BROADCAST, _MONITOR),
    row("PATCH", "/crystools/monitor/GPU/{index}", To.BROADCAST, _MONITOR),
    row("POST", "/crystools/monitor/switch", To.BROADCAST, _MONITOR),
    # comfyui-mixlab-nodes and comfyui-deploy.
    row("POST", "/mixlab/re_start", To.RESTART, _RESTARTS),
    row("POST", "/mixlab/rembg", To.BALANCED, "it only computes"),
    row("POST", "/comfyui-deploy/interrupt", To.BY_PROMPT, "only who runs it can interrupt it"),
    row("GET", "/comfyui-deploy/check-status", To.BY_PROMPT, "only who runs it knows"),
    row("POST", "/comfyui-deploy/cancel-uploads", To.BY_PROMPT, "only who ran it knows"),
    # ComfyUI-LG_Tools and ComfyUI-Local-Media-Manager: nodes read it when they run, wherever.
    row("POST", "/counter/reset", To.BROADCAST, _COUNTERS),
    row("POST", "/image_loader_counter/reset", To.BROADCAST, _COUNTERS),
    row("DELETE", "/lg/delete_image", To.BROADCAST, "an upload is on all disks"),
    row("POST", "/local_image_gallery/{action}", To.BROADCAST, "nodes read it where they run"),
    # ComfyUI-Model-Manager.
    row("PUT", "/model-manager/download/{task}", To.PRIMARY, "its download is the primary's"),
    # ComfyUI-Lora-Manager.
    row("POST", "/api/lm/update-usage-stats", To.BY_PROMPT, "only who ran it knows"),
    row("GET", "/api/lm/{kind}/scan", To.BROADCAST, _CACHE),
    row("POST DELETE", "/api/lm/{rest…}", To.PRIMARY, _ONE_DISK),
)  # fmt: skip
