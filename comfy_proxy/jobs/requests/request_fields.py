"""Parameters and options of a request, as they come: in the query or in the body."""

from __future__ import annotations

from typing import Any, Final

from comfy_proxy.errors import InvalidFieldError
from comfy_proxy.jobs.workflows.parameter import (
    MAX_TEXT_LENGTH,
    MAX_VALUE_LENGTH,
    Scalar,
    unknown_parameter,
)
from comfy_proxy.jobs.workflows.workflow import Workflow

WEBHOOK_URL: Final = "webhook_url"
"""The option that says where a job's end is told (``webhooks/``)."""
OPTIONS: Final = frozenset(("async", "mode", "token", WEBHOOK_URL))
"""Keys of the query or the body that tell how to answer; workflows have no such parameters."""


class RequestFields:
    """Parameters (``values``) and options of the query, or of the body; each at most once."""

    def __init__(self, workflow: Workflow) -> None:
        self._known = workflow.parameters
        self.values: dict[str, Scalar] = {}
        self.options: dict[str, str] = {}

    def check(self, name: str) -> None:
        """Raises InvalidFieldError if ``name`` is unknown or was there before."""
        if name not in self._known and name not in OPTIONS:
            raise unknown_parameter(name, self._known)
        if name in self.values or name in self.options:
            message = f"{name} is given more than once."
            raise InvalidFieldError(name, message, code="duplicate_parameter")

    def limit(self, name: str) -> int:
        """Characters that the value of ``name`` may have."""
        parameter = self._known.get(name)
        return MAX_VALUE_LENGTH if parameter is None else parameter.max_length

    def add(self, name: str, value: Any) -> None:
        """Take a client's value; raises InvalidFieldError unless it is a text, number or truth."""
        self.check(name)
        if not isinstance(value, str | int | float):
            raise InvalidFieldError(name, f"{name} must be a text, a number, true or false.")
        if isinstance(value, str) and len(value) > self.limit(name):
            raise InvalidFieldError(name, f"{name} is longer than {self.limit(name)} characters.")
        if name in OPTIONS:
            is_a_word = name in ("async", "mode")
            self.options[name] = str(value).strip().lower() if is_a_word else str(value)
        else:
            self.values[name] = value


MAX_FIELDS_BYTES: Final = 16 * MAX_TEXT_LENGTH
"""Bytes of all fields of a request that are no files, names included; beyond, 413."""
