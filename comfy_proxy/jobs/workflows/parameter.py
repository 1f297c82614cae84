"""What a workflow can be told: each parameter's type and range, and how a value is read.

Values arrive as text (form, query) or as JSON scalars; both obey one rule, so that
``?scale=2``, ``scale=2.0`` in a form and ``{"scale": 2}`` are the same request. Files are
parameters too, of which ``comfy_proxy/jobs/requests/intake.py`` reads the bytes.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from comfy_proxy.errors import InvalidFieldError
from comfy_proxy.jobs.media.file_info import FileKind

Scalar = str | int | float | bool

MAX_VALUE_LENGTH: Final = 1024
"""Characters of a value that is no text; a longer one is refused with 400."""
MAX_TEXT_LENGTH: Final = 65_536
"""The same for a ``string``, which may be a long prompt."""
MAX_SEED: Final = 2**64 - 1
"""The largest seed that ComfyUI's samplers take."""
_RANDOM_SEEDS: Final = 2**53
"""Seeds that we draw are below it: JavaScript would round a larger one when it is told."""

# float() and int() would take "1_000", "infinity" and digits of any script too. A client that sends
# those has made a mistake and should hear of it.
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_MAX_DIGITS: Final = 40
"""Digits of an integer; one with more is refused with 400: it is no number of any node."""
_EXACT: Final = 2**53
"""From here on a float of a JSON body may not be the integer that was sent: it is refused."""
TRUTHS: Final = {
    "true": True, "1": True, "yes": True, "on": True,
    "false": False, "0": False, "no": False, "off": False,
}  # fmt: skip
"""What counts as a truth, in lower case: as a parameter's value, and for flags of a request."""

Bound = int | Annotated[float, Field(allow_inf_nan=False)] | None
"""A float alone would round the largest seed up to one that ComfyUI refuses."""


class Parameter(BaseModel):
    """One parameter of a workflow, as a template file describes it.

    ``default`` None means optional, unless it is ``required``: if no value is given the graph keeps
    the one that its author put there. A file is required unless ``required`` says no. The bounds
    concern numbers, ``choices`` an enum (any case is accepted), ``kind`` a file. An integer that is
    ``random`` and not given is drawn for each job.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    type: Literal["number", "integer", "boolean", "string", "enum", "file"]
    kind: Annotated[FileKind | None, Field(strict=False)] = None
    default: Scalar | None = None
    random: bool = False
    required: bool | None = None
    minimum: Bound = None
    exclusive_minimum: Bound = None
    maximum: Bound = None
    choices: Annotated[tuple[str, ...], Field(strict=False)] = ()
    description: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.type == "enum") != bool(self.choices):
            raise ValueError("choices belong to an enum, and an enum needs them")
        if (self.type == "file") != (self.kind is not None):
            raise ValueError(f"a file, and nothing else, has a kind: {', '.join(FileKind)}")
        least = [one for one in (self.minimum, self.exclusive_minimum) if one is not None]
        if self.maximum is not None and least and max(least) > self.maximum:
            raise ValueError(f"minimum: is above the maximum, {_plain(self.maximum)}")
        if self.random and self.type != "integer":
            raise ValueError("random belongs to an integer")
        if self.default is not None:
            if self.is_file or self.required or self.random:
                raise ValueError("a file has no default, nor what is required or random")
            try:
                self.parse(self.default)
            except InvalidFieldError as error:
                raise ValueError(f"default: {error.message}") from None
        return self

    @property
    def is_file(self) -> bool:
        """Its value is a file that is uploaded."""
        return self.type == "file"

    @property
    def is_required(self) -> bool:
        """A request without it is refused."""
        return self.is_file if self.required is None else self.required

    @property
    def max_length(self) -> int:
        """Characters that a value may have."""
        return MAX_TEXT_LENGTH if self.type == "string" else MAX_VALUE_LENGTH

    def parse(self, raw: Scalar) -> Scalar:
        """``raw`` as this parameter's type; raises InvalidFieldError naming the parameter."""
        if isinstance(raw, str) and len(raw) > self.max_length:
            raise self._refusal(f"is longer than {self.max_length} characters")
        match self.type:
            case "boolean":
                return self._boolean(raw)
            case "integer" | "number":
                return self._number(raw)
            case "enum":
                return self._choice(raw)
            case _:
                return self._text(raw)

    def schema_of(self) -> dict[str, Any]:
        """Its JSON Schema (2020-12), as ``GET /api/workflows`` and OpenAPI 3.1 show it."""
        schema: dict[str, Any] = {"type": "string" if self.type in ("enum", "file") else self.type}
        if self.is_file:
            schema |= {"format": "binary", "x-kind": str(self.kind)}
        if self.choices:
            schema["enum"] = list(self.choices)
        bounds = {
            "minimum": self.minimum,
            "exclusiveMinimum": self.exclusive_minimum,
            "maximum": self.maximum,
        }
        schema |= {name: _plain(bound) for name, bound in bounds.items() if bound is not None}
        if self.type == "string":
            schema["maxLength"] = self.max_length
        if self.default is not None:
            schema["default"] = self.default
        text = self.description
        if self.random:
            text = f"{text}; random if it is left out".removeprefix("; ")
        return {**schema, "description": text} if text else schema

    def _boolean(self, raw: Scalar) -> bool:
        value = TRUTHS.get(str(raw).strip().lower())
        if value is None:
            raise self._refusal("must be true or false")
        return value

    def _number(self, raw: Scalar) -> float | int:
        text = str(raw).strip()
        if isinstance(raw, bool) or not _NUMBER.fullmatch(text):
            raise self._refusal(self._expectation())
        value = self._integer(raw, Decimal(text)) if self.type == "integer" else float(text)
        if not math.isfinite(value):
            raise self._refusal(self._expectation())
        too_small = (self.minimum is not None and value < self.minimum) or (
            self.exclusive_minimum is not None and value <= self.exclusive_minimum
        )
        if too_small or (self.maximum is not None and value > self.maximum):
            raise self._refusal(self._expectation())
        return value

    def _integer(self, raw: Scalar, value: Decimal) -> int:
        """``value`` of ``raw`` as it was sent, to the last digit."""
        if isinstance(raw, float) and abs(raw) >= _EXACT:
            reason = "must be written without fraction and exponent: it is too large to be exact"
            raise self._refusal(reason)
        if value.adjusted() >= _MAX_DIGITS:
            raise self._refusal(f"must be a whole number of at most {_MAX_DIGITS} digits")
        if value != int(value):
            raise self._refusal(self._expectation())
        return int(value)

    def _choice(self, raw: Scalar) -> str:
        text = str(raw).strip().lower()
        for choice in self.choices:
            if choice.lower() == text:
                return choice
        raise self._refusal(f"must be one of {', '.join(self.choices)}")

    def _text(self, raw: Scalar) -> str:
        if not isinstance(raw, str):
            raise self._refusal("must be a text")
        return raw

    def _expectation(self) -> str:
        parts = ["must be a whole number" if self.type == "integer" else "must be a number"]
        if self.minimum is not None:
            parts.append(f"of at least {_plain(self.minimum)}")
        if self.exclusive_minimum is not None:
            parts.append(f"above {_plain(self.exclusive_minimum)}")
        if self.maximum is not None:
            parts.append(f"up to {_plain(self.maximum)}")
        return " ".join(parts)

    def _refusal(self, reason: str) -> InvalidFieldError:
        return InvalidFieldError(self.name, f"{self.name} {reason}.")


def common_parameters(*, default_format: str | None) -> tuple[Parameter, ...]:
    """The parameters that every workflow has: how its still pictures are encoded.

    ``default_format`` None: as ComfyUI made them, unless the client names a format.
    """
    return (
        Parameter(
            name="format",
            type="enum",
            default=default_format,
            choices=("PNG", "JPEG", "WEBP"),
            description="format of resulting pictures",
        ),
        Parameter(
            name="quality",
            type="integer",
            minimum=1,
            maximum=100,
            description="of the lossy formats; 100 makes WEBP lossless",
        ),
    )


def parse_parameters(
    parameters: Mapping[str, Parameter], raw: Mapping[str, Scalar]
) -> dict[str, Scalar]:
    """``raw`` read by ``parameters``, defaults filled in; optional ones not given are left out.

    Files are none of its business. Raises InvalidFieldError: ``unknown_parameter``,
    ``missing_parameter`` or ``invalid_parameter``, naming the field.
    """
    for name in raw:
        if name not in parameters:
            raise unknown_parameter(name, parameters)
    values: dict[str, Scalar] = {}
    for name, parameter in parameters.items():
        if parameter.is_file:
            continue
        if name in raw:
            values[name] = parameter.parse(raw[name])
        elif parameter.default is not None:
            # Parsed like a given value: `scale` left out and `scale=2` must be one request to an
            # Idempotency-Key, whether the default is written 2 or 2.0.
            values[name] = parameter.parse(parameter.default)
        elif parameter.is_required:
            raise InvalidFieldError(name, f"{name} is missing.", code="missing_parameter")
    return values


def draw_seeds(
    parameters: Mapping[str, Parameter], values: Mapping[str, Scalar]
) -> dict[str, Scalar]:
    """``values``, and a random number for each ``random`` parameter that has none."""
    drawn = {
        name: secrets.randbelow(_RANDOM_SEEDS)
        for name, parameter in parameters.items()
        if parameter.random and name not in values
    }
    return {**values, **drawn}


def schema_of(parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a request: an object with a property for each parameter."""
    required = [name for name, parameter in parameters.items() if parameter.is_required]
    return {
        "type": "object",
        "properties": {name: parameter.schema_of() for name, parameter in parameters.items()},
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def unknown_parameter(name: str, parameters: Mapping[str, Parameter]) -> InvalidFieldError:
    """The error for a parameter that the workflow does not have."""
    shown = name if len(name) <= 64 else name[:64] + "…"
    return InvalidFieldError(
        shown,
        f"There is no parameter {shown!r} here; there are {', '.join(parameters)}.",
        code="unknown_parameter",
    )


def _plain(bound: float) -> float | int:
    return int(bound) if isinstance(bound, int) or bound.is_integer() else bound
