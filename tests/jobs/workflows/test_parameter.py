"""Parameters of the shipped workflows: how a value is read, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest
from fake_instance import shipped

from comfy_proxy.errors import InvalidFieldError


def test_defaults_are_the_contract_s() -> None:
    """What is not given has the contract's default, quality has none."""
    assert shipped("remove-background").parse_parameters({}) == {"crop": True, "format": "PNG"}
    assert shipped("upscale-image").parse_parameters({}) == {"scale": 2, "format": "PNG"}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"format": "webp"}, {"format": "WEBP"}),
        ({"crop": "No"}, {"crop": False}),
        ({"crop": True}, {"crop": True}),
        ({"crop": 0}, {"crop": False}),
        ({"crop": "on"}, {"crop": True}),
        ({"scale": " 1.5 "}, {"scale": 1.5}),
        ({"scale": 8}, {"scale": 8.0}),
        ({"quality": "100"}, {"quality": 100}),
        ({"quality": 7.0}, {"quality": 7}),
    ],
)
def test_text_and_json_values_parse_alike(raw: dict[str, Any], expected: dict[str, Any]) -> None:
    """A value means the same as a form's text and as JSON."""
    values = shipped("upscale-remove-bg").parse_parameters(raw)
    assert expected.items() <= values.items()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "TIFF"), ("format", ""), ("crop", "maybe"), ("crop", 2), ("scale", "-1"),
        ("scale", 0), ("scale", "1e9"), ("scale", "nan"), ("scale", "inf"), ("scale", "1_0"),
        ("scale", "٢"), ("scale", True), ("scale", "1e999"), ("scale", 8.1), ("quality", 0),
        ("quality", 101), ("quality", "9.5"), ("quality", "9" * 2000),
    ],
)  # fmt: skip
def test_a_value_that_does_not_parse_names_its_field(field: str, value: Any) -> None:
    """Every refused value says which parameter it was."""
    with pytest.raises(InvalidFieldError) as caught:
        shipped("upscale-remove-bg").parse_parameters({field: value})
    assert (caught.value.field, caught.value.code) == (field, "invalid_parameter")


def test_an_unknown_parameter_is_named() -> None:
    """A parameter that another workflow has is unknown here."""
    with pytest.raises(InvalidFieldError) as caught:
        shipped("upscale-image").parse_parameters({"crop": "true"})
    assert (caught.value.field, caught.value.code) == ("crop", "unknown_parameter")
