"""The nodes whose inputs become parameters of an exported graph by themselves: a table.

Class → input → the parameter's name, type and bounds. A node that is not here becomes a parameter
by its title (``exported_graph.py``) or by the mapping beside the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from comfy_proxy.jobs.media.file_info import FileKind
from comfy_proxy.jobs.workflows.parameter import MAX_SEED
from comfy_proxy.jobs.workflows.workflow import MAX_SIDE

MAX_STEPS: Final = 10_000
"""As many steps as ComfyUI's samplers take."""


@dataclass(frozen=True, kw_only=True)
class UsualInput:
    """One input: what its parameter is called, and what it takes."""

    name: str
    type: Literal["number", "integer", "boolean", "string", "file"]
    kind: FileKind | None = None
    random: bool = False
    minimum: float | None = None
    maximum: float | None = None
    description: str = ""


def _text(name: str, description: str = "") -> UsualInput:
    return UsualInput(name=name, type="string", description=description)


def _number(name: str, minimum: float, maximum: float) -> UsualInput:
    return UsualInput(name=name, type="number", minimum=minimum, maximum=maximum)


def _integer(name: str, minimum: int, maximum: int) -> UsualInput:
    return UsualInput(name=name, type="integer", minimum=minimum, maximum=maximum)


def _file(name: str, kind: FileKind) -> UsualInput:
    return UsualInput(name=name, type="file", kind=kind)


_SEED: Final = UsualInput(name="seed", type="integer", random=True, minimum=0, maximum=MAX_SEED)
_STEPS: Final = _integer("steps", 1, MAX_STEPS)
_CFG: Final = _number("cfg", 0, 100)
_DENOISE: Final = _number("denoise", 0, 1)
_SAMPLER: Final = {"sampler_name": _text("sampler"), "scheduler": _text("scheduler")}
_SIZE: Final = {
    "width": _integer("width", 16, MAX_SIDE),
    "height": _integer("height", 16, MAX_SIDE),
    "batch_size": _integer("batch_size", 1, 4096),
}
_VIDEO_SIZE: Final = {**_SIZE, "length": _integer("length", 1, MAX_SIDE)}
_CHECKPOINT: Final = _text("checkpoint", "file name of the model")

USUAL_NODES: Final[Mapping[str, Mapping[str, UsualInput]]] = {
    "LoadImage": {"image": _file("image", FileKind.IMAGE)},
    "LoadImageMask": {"image": _file("mask", FileKind.MASK)},
    "LoadVideo": {"file": _file("video", FileKind.VIDEO)},
    "VHS_LoadVideo": {"video": _file("video", FileKind.VIDEO)},
    "LoadAudio": {"audio": _file("audio", FileKind.AUDIO)},
    "VHS_LoadAudioUpload": {"audio": _file("audio", FileKind.AUDIO)},
    "CLIPTextEncode": {"text": _text("text")},
    "CLIPTextEncodeSDXL": {"text_g": _text("text"), "text_l": _text("text_l")},
    "CLIPTextEncodeFlux": {
        "clip_l": _text("text_l"),
        "t5xxl": _text("text"),
        "guidance": _number("guidance", 0, 100),
    },
    "CLIPTextEncodeSD3": {
        "clip_l": _text("text_l"),
        "clip_g": _text("text_g"),
        "t5xxl": _text("text"),
    },
    "TextEncodeQwenImageEdit": {"prompt": _text("text")},
    "TextEncodeQwenImageEditPlus": {"prompt": _text("text")},
    "KSampler": {
        "seed": _SEED, "steps": _STEPS, "cfg": _CFG, **_SAMPLER, "denoise": _DENOISE,
    },
    "KSamplerAdvanced": {"noise_seed": _SEED, "steps": _STEPS, "cfg": _CFG, **_SAMPLER},
    "SamplerCustom": {"noise_seed": _SEED, "cfg": _CFG},
    "RandomNoise": {"noise_seed": _SEED},
    "BasicScheduler": {
        "scheduler": _text("scheduler"), "steps": _STEPS, "denoise": _DENOISE,
    },
    "KSamplerSelect": {"sampler_name": _text("sampler")},
    "CFGGuider": {"cfg": _CFG},
    "FluxGuidance": {"guidance": _number("guidance", 0, 100)},
    "EmptyLatentImage": _SIZE,
    "EmptySD3LatentImage": _SIZE,
    "EmptyFlux2LatentImage": _SIZE,
    "EmptyImage": _SIZE,
    "EmptyHunyuanLatentVideo": _VIDEO_SIZE,
    "EmptyMochiLatentVideo": _VIDEO_SIZE,
    "EmptyLTXVLatentVideo": _VIDEO_SIZE,
    "EmptyLatentAudio": {"seconds": _number("seconds", 1, 1000)},
    "CheckpointLoaderSimple": {"ckpt_name": _CHECKPOINT},
    "ImageOnlyCheckpointLoader": {"ckpt_name": _CHECKPOINT},
    "UNETLoader": {"unet_name": _text("diffusion_model", "file name of the model")},
    "LoraLoader": {
        "lora_name": _text("lora", "file name of the LoRA"),
        "strength_model": _number("lora_strength", -100, 100),
        "strength_clip": _number("lora_strength_clip", -100, 100),
    },
    "LoraLoaderModelOnly": {
        "lora_name": _text("lora", "file name of the LoRA"),
        "strength_model": _number("lora_strength", -100, 100),
    },
    "PrimitiveInt": {"value": UsualInput(name="value", type="integer")},
    "PrimitiveFloat": {"value": UsualInput(name="value", type="number")},
    "PrimitiveBoolean": {"value": UsualInput(name="value", type="boolean")},
    "PrimitiveString": {"value": _text("value")},
    "PrimitiveStringMultiline": {"value": _text("value")},
}  # fmt: skip

OWN_TITLES: Final[Mapping[str, str]] = {
    "LoadImage": "Load Image",
    "LoadImageMask": "Load Image (as Mask)",
    "LoadVideo": "Load Video",
    "LoadAudio": "Load Audio",
    "CLIPTextEncode": "CLIP Text Encode (Prompt)",
    "KSampler": "KSampler",
    "KSamplerAdvanced": "KSampler (Advanced)",
    "EmptyLatentImage": "Empty Latent Image",
    "EmptyFlux2LatentImage": "Empty Flux 2 Latent",
    "EmptyHunyuanLatentVideo": "Empty HunyuanVideo 1.0 Latent",
    "ImageOnlyCheckpointLoader": "Image Only Checkpoint Loader (img2vid model)",
    "CheckpointLoaderSimple": "Load Checkpoint",
    "UNETLoader": "Load Diffusion Model",
    "LoraLoader": "Load LoRA",
    "PrimitiveInt": "Int",
    "PrimitiveFloat": "Float",
    "PrimitiveBoolean": "Boolean",
    "PrimitiveString": "String",
    "PrimitiveStringMultiline": "String (Multiline)",
}
"""What the editor calls these nodes. Any other title that is not the name of the class was given by
the graph's author, and names the parameter."""
