"""The exception tree: a status, a stable code and a family for each."""

from __future__ import annotations

import inspect
import json

import pytest

from comfy_proxy import errors
from comfy_proxy.errors import (
    AnswerTooLargeError,
    ComfyProxyError,
    ConnectionBrokenError,
    InstanceError,
    InstanceRefusedError,
    InvalidFieldError,
    JobError,
    MethodNotAllowedError,
    PromptLostError,
    PromptRejectedError,
    RequestError,
    ResultFrameLostError,
    SettingsError,
    UnavailableError,
)

ALL = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, ComfyProxyError)
]
FAMILIES = {RequestError: range(400, 500), UnavailableError: (503,), InstanceError: (502, 504)}


@pytest.mark.parametrize("error", ALL)
def test_status_and_code(error: type[ComfyProxyError]) -> None:
    """Each has a docstring, an error status and a code in snake_case."""
    assert error.__doc__
    assert 400 <= error.status < 600
    assert error.code.islower()
    assert error.code.replace("_", "").isalpha()


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: type[ComfyProxyError]) -> None:
    """What the client is to change is 4xx, what may pass is 503, an instance's fault 502 or 504."""
    for error in ALL:
        if issubclass(error, family):
            assert error.status in FAMILIES[family]


def test_codes_are_stable_and_distinct() -> None:
    """Two errors share a code only where one stands for the other."""
    codes = [error.code for error in ALL]
    shared = {code for code in codes if codes.count(code) > 1}
    assert shared == {PromptRejectedError.code, ConnectionBrokenError.code}


def test_what_counts_as_a_strike() -> None:
    """An answer of ComfyUI's own, however long, is never a strike; all else of an instance's is."""
    no_strike = {e for e in ALL if issubclass(e, InstanceError) and not e.strike}
    lost = {PromptLostError, ResultFrameLostError}
    assert no_strike == {InstanceRefusedError, AnswerTooLargeError, *lost}


def test_families_do_not_mix() -> None:
    """What makes a job run again never ends it, and the other way round."""
    assert not any(issubclass(e, InstanceError) and issubclass(e, JobError) for e in ALL)


def test_fields() -> None:
    """Message, code, details and Retry-After are what the middleware writes."""
    details = {"a": 1}
    error = ComfyProxyError("Sorry.", code="other", details=details, retry_after_s=3)
    details["b"] = 2
    assert (str(error), error.message, error.code) == ("Sorry.", "Sorry.", "other")
    assert (error.details, error.retry_after_s) == ({"a": 1}, 3)
    assert ComfyProxyError.code == "internal_error"


def test_special_fields() -> None:
    """A field, the allowed methods and all problems are told in the details, as JSON."""
    field = InvalidFieldError("scale", "Too large.", details={"maximum": 8})
    assert (field.field, field.details) == ("scale", {"field": "scale", "maximum": 8})
    method = MethodNotAllowedError("PUT", ["GET"])
    assert (method.headers, method.status) == ({"Allow": "GET"}, 405)
    settings = SettingsError(["PORT: x", "HOST: y"])
    assert str(settings) == "PORT: x; HOST: y"
    for error in (field, method, settings):
        assert json.dumps(error.details)
