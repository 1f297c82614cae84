"""The JSON by which ``/object_info`` describes one node class. Pure functions, no I/O.

For the files of this folder only: all others ask ``catalog.py`` and never see this JSON.

``info["input"][group][name]`` is ``[type, options?]``. A choice among values (model files, methods,
pictures) is written in two ways: ``[["a", "b"], {…}]`` or ``["COMBO", {"options": ["a", "b"]}]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

NodeInfo = Mapping[str, Any]

FILE_INPUTS: Final[Mapping[str, tuple[str, ...]]] = {
    "LoadImage": ("image",),
    "LoadImageMask": ("image",),
    "LoadImageOutput": ("image",),
    "LoadAudio": ("audio",),
    "LoadVideo": ("file",),
    "LoadLatent": ("latent",),
}
"""Class → its inputs that name files whatever ``/object_info`` says: LoadLatent's has no flag."""
_FILE_FLAGS = ("image_upload", "video_upload", "audio_upload", "file_upload")
_VISIBLE_GROUPS = ("required", "optional")


def specs(info: NodeInfo) -> Iterator[tuple[str, str, Any]]:
    """``(group, name, spec)`` of each input that a graph may name."""
    inputs = info.get("input")
    if not isinstance(inputs, dict):
        return
    for group in _VISIBLE_GROUPS:
        members = inputs.get(group)
        for name, spec in members.items() if isinstance(members, dict) else ():
            yield group, name, spec


def is_output(info: NodeInfo) -> bool | None:
    """Whether ComfyUI runs a graph for the sake of such a node; None if it is not told."""
    told = info.get("output_node")
    return told if isinstance(told, bool) else None


def spec_of(info: NodeInfo, input_name: str) -> Any:
    """What ``info`` says of the first input of that name; None if it has none."""
    return next((spec for _, name, spec in specs(info) if name == input_name), None)


def choices(spec: Any) -> list[Any] | None:
    """The values to choose from; None if it is no such input or they are listed elsewhere."""
    if not isinstance(spec, list) or not spec:
        return None
    if isinstance(spec[0], list):
        return spec[0]
    listed = _options(spec).get("options") if spec[0] == "COMBO" else None
    return listed if isinstance(listed, list) else None


def is_upload(spec: Any) -> bool:
    """True if the choices are files that clients upload or that runs leave behind."""
    options = _options(spec)
    marked = any(value and name.endswith("_upload") for name, value in options.items())
    return marked or "remote" in options


def names_file(spec: Any) -> bool:
    """True if the input's value is the name of a file in a directory of the instance."""
    options = _options(spec)
    return any(options.get(flag) for flag in _FILE_FLAGS)


def _options(spec: Any) -> dict[str, Any]:
    if isinstance(spec, list | tuple) and len(spec) > 1 and isinstance(spec[1], dict):
        return spec[1]
    return {}


def united(infos: Sequence[NodeInfo]) -> NodeInfo:
    """One class as several instances describe it: the first one's, with everybody's choices.

    Choices stand in the first one's order, then what only others have. Where all agree the result
    is the first one itself.
    """
    first = infos[0]
    others = [info for info in infos[1:] if info != first]
    if not others:
        return first
    result = dict(first)
    if isinstance(first.get("input"), dict):
        result["input"] = _united_inputs(first, others)
    if isinstance(first.get("output"), list):
        result["output"] = [
            _united_output(index, kind, others) for index, kind in enumerate(first["output"])
        ]
    return result


def _united_inputs(first: NodeInfo, others: Sequence[NodeInfo]) -> dict[str, Any]:
    inputs: dict[str, Any] = dict(first["input"])
    for group, name, spec in specs(first):
        own = choices(spec)
        if own is None:
            continue
        theirs = [spec_of(other, name) for other in others]
        values = _in_order(own, [listed for one in theirs if (listed := choices(one))])
        if len(values) > len(own):
            inputs[group] = {**inputs[group], name: _with_choices(spec, values)}
    return inputs


def _with_choices(spec: list[Any], values: list[Any]) -> list[Any]:
    """A copy of ``spec``, which has choices, with others in the same form."""
    if isinstance(spec[0], list):
        return [values, *spec[1:]]
    return [spec[0], {**spec[1], "options": values}, *spec[2:]]


def _united_output(index: int, kind: Any, others: Sequence[NodeInfo]) -> Any:
    """An output type may be a list of choices too: what fits an input of the same list."""
    if not isinstance(kind, list):
        return kind
    theirs = [other.get("output") for other in others]
    lists = [one[index] for one in theirs if isinstance(one, list) and len(one) > index]
    return _in_order(kind, [one for one in lists if isinstance(one, list)])


def _in_order(first: list[Any], others: Sequence[list[Any]]) -> list[Any]:
    values = list(first)
    seen = {repr(value) for value in values}
    for value in (value for other in others for value in other):
        if (key := repr(value)) not in seen:
            seen.add(key)
            values.append(value)
    return values
