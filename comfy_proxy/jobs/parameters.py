"""What a workflow can be told: each parameter's type and range, and how a value is read.

Values arrive as text (form, query) or as JSON scalars; both obey one rule, so that
``?scale=2``, ``scale=2.0`` in a form and ``{"scale": 2}`` are the same request.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from comfy_proxy.errors import InvalidFieldError

Scalar = str | int | float | bool

TYPES: Final = ("number", "integer", "boolean", "string", "enum")
MAX_VALUE_LENGTH: Final = 1024
"""Characters of a parameter's value (bytes in a form); a longer one is refused with 400."""

# float() and int() would take "1_000", "infinity" and digits of any script too. A client that sends
# those has made a mistake and should hear of it.
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_BOOLEANS: Final = {
    "true": True, "1": True, "yes": True, "on": True,
    "false": False, "0": False, "no": False, "off": False,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a workflow.

    ``default`` None means optional: if no value is given the graph keeps the one that its author
    put there. The bounds concern numbers, ``choices`` an enum (any case is accepted).
    """

    name: str
    type: str
    default: Scalar | None = None
    minimum: float | None = None
    exclusive_minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    description: str = ""

    def parse(self, raw: Scalar) -> Scalar:
        """``raw`` as this parameter's type; raises InvalidFieldError naming the parameter."""
        if isinstance(raw, str) and len(raw) > MAX_VALUE_LENGTH:
            raise self._refusal(f"is longer than {MAX_VALUE_LENGTH} characters")
        match self.type:
            case "boolean":
                return self._boolean(raw)
            case "integer" | "number":
                return self._number(raw)
            case "enum":
                return self._choice(raw)
            case _:
                return self._text(raw)

    def _boolean(self, raw: Scalar) -> bool:
        value = _BOOLEANS.get(str(raw).strip().lower())
        if value is None:
            raise self._refusal("must be true or false")
        return value

    def _number(self, raw: Scalar) -> float | int:
        text = str(raw).strip()
        value = float(text) if not isinstance(raw, bool) and _NUMBER.fullmatch(text) else math.nan
        if not math.isfinite(value) or (self.type == "integer" and not value.is_integer()):
            raise self._refusal(self._expectation())
        too_small = (self.minimum is not None and value < self.minimum) or (
            self.exclusive_minimum is not None and value <= self.exclusive_minimum
        )
        if too_small or (self.maximum is not None and value > self.maximum):
            raise self._refusal(self._expectation())
        return int(value) if self.type == "integer" else value

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
            parts.append(f"of at least {self.minimum:g}")
        if self.exclusive_minimum is not None:
            parts.append(f"above {self.exclusive_minimum:g}")
        if self.maximum is not None:
            parts.append(f"up to {self.maximum:g}")
        return " ".join(parts)

    def _refusal(self, reason: str) -> InvalidFieldError:
        return InvalidFieldError(self.name, f"{self.name} {reason}.")


COMMON: Final = (
    Parameter(
        name="format",
        type="enum",
        default="PNG",
        choices=("PNG", "JPEG", "WEBP"),
        description="format of the result",
    ),
    Parameter(
        name="quality",
        type="integer",
        minimum=1,
        maximum=100,
        description="of the lossy formats; 100 makes WEBP lossless",
    ),
)
"""Parameters that every workflow has."""


def parse_parameters(
    parameters: Mapping[str, Parameter], raw: Mapping[str, Scalar]
) -> dict[str, Scalar]:
    """``raw`` read by ``parameters``, defaults filled in; optional ones not given are left out.

    Raises InvalidFieldError: ``unknown_parameter`` or ``invalid_parameter``, naming the field.
    """
    for name in raw:
        if name not in parameters:
            raise unknown_parameter(name, parameters)
    values: dict[str, Scalar] = {}
    for name, parameter in parameters.items():
        if name in raw:
            values[name] = parameter.parse(raw[name])
        elif parameter.default is not None:
            # Parsed like a given value: `scale` left out and `scale=2` must be one request to an
            # Idempotency-Key, whether the default is written 2 or 2.0.
            values[name] = parameter.parse(parameter.default)
    return values


def unknown_parameter(name: str, parameters: Mapping[str, Parameter]) -> InvalidFieldError:
    """The error for a parameter that the workflow does not have."""
    shown = name if len(name) <= 64 else name[:64] + "…"
    return InvalidFieldError(
        shown,
        f"There is no parameter {shown!r} here; there are {', '.join(parameters)}.",
        code="unknown_parameter",
    )
