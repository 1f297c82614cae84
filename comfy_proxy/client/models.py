"""The JSON of the job API as objects. Each keeps in ``raw`` all that the proxy said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ResultInfo:
    """One file that a job has made. ``type`` is ``image``, ``video``, ``audio`` or another kind.

    ``width`` and ``height`` are None for what has none.
    """

    name: str
    type: str
    media_type: str
    size_bytes: int | None = None
    width: int | None = None
    height: int | None = None
    raw: Json = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, told: Json) -> ResultInfo:
        return cls(
            name=str(told["name"]),
            type=str(told["type"]),
            media_type=str(told["media_type"]),
            size_bytes=told.get("size_bytes"),
            width=told.get("width"),
            height=told.get("height"),
            raw=told,
        )


@dataclass(frozen=True, kw_only=True)
class Status:
    """A job as it is now: ``status`` is pending, processing, completed or failed.

    ``type`` is its workflow, ``instance`` where it runs. ``error`` is ``{"code", "message"}`` of a
    failed one. ``results`` is None until it has completed.
    """

    job_id: str
    status: str
    type: str
    progress_percentage: float = 0.0
    current_node: str | None = None
    queue_position: int | None = None
    estimated_remaining_time_s: float | None = None
    instance: str | None = None
    error: Json | None = None
    results: tuple[ResultInfo, ...] | None = None
    raw: Json = field(default_factory=dict, repr=False)

    @property
    def finished(self) -> bool:
        return self.status in ("completed", "failed")

    @classmethod
    def read(cls, told: Json) -> Status:
        results = told.get("results")
        return cls(
            job_id=str(told["job_id"]),
            status=str(told["status"]),
            type=str(told["type"]),
            progress_percentage=float(told.get("progress_percentage") or 0.0),
            current_node=told.get("current_node"),
            queue_position=told.get("queue_position"),
            estimated_remaining_time_s=told.get("estimated_remaining_time_seconds"),
            instance=told.get("comfyui_instance"),
            error=told.get("error"),
            results=None if results is None else tuple(map(ResultInfo.read, results)),
            raw=told,
        )


@dataclass(frozen=True, kw_only=True)
class Event:
    """What :meth:`Job.progress` gives. ``name`` is status, progress, preview, completed or failed.

    ``status`` is the job as it is then, None for a preview, which has a picture instead.
    """

    name: str
    status: Status | None = None
    preview: bytes | None = field(default=None, repr=False)
    preview_media_type: str | None = None

    @property
    def is_end(self) -> bool:
        return self.name in ("completed", "failed")


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """What can be submitted. ``parameters`` is a JSON Schema object whose properties are in the
    order in which to show them; ``file_parameters`` names those that are files."""

    name: str
    title: str
    description: str
    parameters: Json
    file_parameters: tuple[str, ...]
    variants: tuple[Json, ...] = ()
    raw: Json = field(default_factory=dict, repr=False)

    @property
    def required(self) -> tuple[str, ...]:
        """The parameters that have to be given."""
        return tuple(map(str, self.parameters.get("required") or ()))

    @classmethod
    def read(cls, told: Json) -> Workflow:
        return cls(
            name=str(told["name"]),
            title=str(told.get("title") or told["name"]),
            description=str(told.get("description") or ""),
            parameters=told.get("parameters") or {},
            file_parameters=tuple(map(str, told.get("file_parameters") or ())),
            variants=tuple(told.get("variants") or ()),
            raw=told,
        )
