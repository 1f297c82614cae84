"""Read-only routes: /object_info, /system_stats, /features, /models and their like."""

import os
import sys

import cv2
from aiohttp import web

from comfy_proxy.embedded.instance import INSTANCE, Instance
from comfy_proxy.embedded.nodes.node_class import Json

COMFYUI_VERSION = "0.3.75+embedded"  # the version whose protocol it speaks; it is not ComfyUI
DEVICE = "cpu: comfy_proxy embedded worker (OpenCV GrabCut)"
MODEL_FOLDERS = (
    *("checkpoints", "configs", "loras", "vae", "text_encoders", "diffusion_models"),
    *("clip_vision", "style_models", "embeddings", "diffusers", "vae_approx", "controlnet"),
    *("gligen", "upscale_models", "latent_upscale_models", "custom_nodes", "hypernetworks"),
    *("photomaker", "classifiers", "model_patches", "audio_encoders"),
)
FOLDERS_NOT_SHOWN = ("configs", "custom_nodes")  # by /experiment/models
MODEL_TIME = 1735689600.0  # Unix time: when every model file was made and changed


async def get_object_info(request: web.Request) -> web.Response:
    """Every class; the enums of files list what is on the disk now (PROTOCOL.md trap 18)."""
    instance = request.app[INSTANCE]
    classes = instance.classes.items()
    return web.json_response({name: one.object_info(instance.folders) for name, one in classes})


async def get_object_info_of(request: web.Request) -> web.Response:
    """One class; `{}` for an unknown one."""
    instance = request.app[INSTANCE]
    name = request.match_info["node_class"]
    known = instance.classes.get(name)
    return web.json_response({} if known is None else {name: known.object_info(instance.folders)})


async def get_system_stats(request: web.Request) -> web.Response:
    """The recorded shape; `embedded_worker` and the device's name tell what this really is."""
    total, free = _memory()
    gpu = request.app[INSTANCE].gpu
    memory = {"vram_total": total, "vram_free": free}
    if gpu.models.files:
        memory = {"vram_total": gpu.models.vram_total, "vram_free": gpu.vram_free}
    return web.json_response(
        {
            "system": {
                "os": os.name,
                "ram_total": total,
                "ram_free": free,
                "comfyui_version": COMFYUI_VERSION,
                "required_frontend_version": None,
                "installed_templates_version": None,
                "required_templates_version": None,
                "python_version": sys.version,
                "pytorch_version": f"none (opencv {cv2.__version__})",
                "embedded_python": False,
                "argv": ["comfy_proxy.embedded"],
                "embedded_worker": True,
                "name": request.app[INSTANCE].name,
            }
            | ({"simulated_loads": list(gpu.loads)} if gpu.models.files else {}),
            "devices": [
                {"name": DEVICE, "type": "cpu", "index": None}
                | memory
                | {f"torch_{key}": value for key, value in memory.items()}
            ],
        }
    )


def _memory() -> tuple[int, int]:
    """Physical memory in bytes: all of it, and what is free."""
    page = os.sysconf("SC_PAGE_SIZE")
    return page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")


async def get_features(request: web.Request) -> web.Response:
    """The feature flags; 404 as an older server without them."""
    features = request.app[INSTANCE].features
    return web.Response(status=404) if features is None else web.json_response(features)


async def get_models(_request: web.Request) -> web.Response:
    return web.json_response(list(MODEL_FOLDERS))


async def get_models_in(request: web.Request) -> web.Response:
    folder = request.match_info["folder"]
    if folder not in MODEL_FOLDERS:
        return web.Response(status=404)
    return web.json_response(list(_model_files(request.app[INSTANCE], folder)))


async def get_experiment_models(_request: web.Request) -> web.Response:
    """The folders that models are in; the real server tells their places on its disk."""
    shown = [folder for folder in MODEL_FOLDERS if folder not in FOLDERS_NOT_SHOWN]
    return web.json_response(
        [{"name": folder, "folders": [f"models/{folder}"]} for folder in shown]
    )


async def get_experiment_models_in(request: web.Request) -> web.Response:
    """The files of a folder with their sizes in bytes."""
    folder = request.match_info["folder"]
    if folder not in MODEL_FOLDERS:
        return web.Response(status=404)
    times = {"modified": MODEL_TIME, "created": MODEL_TIME}
    files = _model_files(request.app[INSTANCE], folder).items()
    return web.json_response(
        [{"name": name, "pathIndex": 0} | times | {"size": size} for name, size in files]
    )


def _model_files(instance: Instance, folder: str) -> dict[str, int]:
    """Bytes by name: simulated models are checkpoints, upscale models have names only."""
    if folder == "upscale_models":
        return dict.fromkeys(instance.upscale_models, 0)
    return dict(instance.gpu.models.files) if folder == "checkpoints" else {}


async def no_metadata(_request: web.Request) -> web.Response:
    """`/view_metadata/{folder}`: there is no model file to look into."""
    return web.Response(status=404)


async def empty_list(_request: web.Request) -> web.Response:
    return web.json_response([])


async def empty_object(_request: web.Request) -> web.Response:
    return web.json_response(_EMPTY)


async def get_internal_files(request: web.Request) -> web.Response:
    """`/internal/files/{type}`: names in a directory, newest first."""
    directory = request.app[INSTANCE].folders.by_type(request.match_info["type"])
    if directory is None:
        return web.json_response({"error": "Invalid directory type"}, status=400)
    files = [entry for entry in os.scandir(directory) if entry.is_file()]
    files.sort(key=lambda entry: -entry.stat().st_mtime)
    return web.json_response([entry.name for entry in files])


_EMPTY: Json = {}

ROUTES = (
    web.get("/object_info", get_object_info),
    web.get("/object_info/{node_class}", get_object_info_of),
    web.get("/system_stats", get_system_stats),
    web.get("/features", get_features),
    web.get("/models", get_models),
    web.get("/models/{folder}", get_models_in),
    web.get("/experiment/models", get_experiment_models),
    web.get("/experiment/models/{folder}", get_experiment_models_in),
    web.get("/view_metadata/{folder}", no_metadata),
    web.get("/embeddings", empty_list),
    web.get("/extensions", empty_list),
    web.get("/i18n", empty_object),
    web.get("/workflow_templates", empty_object),
    web.get("/global_subgraphs", empty_object),
)
INTERNAL_ROUTES = (web.get("/internal/files/{type}", get_internal_files),)
