"""Keys as settings: how long they are, their file, and variables that nearly have their name."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfy_proxy.errors import SettingsError
from comfy_proxy.security import start_warnings
from comfy_proxy.settings import Settings, load_settings

LONG, LONGER, SHORT = "0123456789abcdef", "0123456789abcdef0", "0123456789abcde"
LOOPBACK, EVERYWHERE = ("127.0.0.1", "localhost", "::1"), ("0.0.0.0", "::", "192.168.0.7")


def problems(**environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ)
    return caught.value.problems


def keys_file(directory: Path, text: str) -> str:
    path = directory / "keys"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("host", EVERYWHERE)
def test_a_short_key_is_refused_where_others_can_try(host: str, tmp_path: Path) -> None:
    """Those of the file too; each is told by its number, none as it is."""
    told = problems(
        HOST=host,
        API_KEYS=f"{LONG},{SHORT}",
        API_KEYS_FILE=keys_file(tmp_path, f"{LONGER}\nshort\n"),
    )
    assert [line.partition(";")[0] for line in told] == [
        "API_KEYS: key 2 has 15 characters",
        "API_KEYS: key 4 has 5 characters",
    ]
    assert not any(SHORT in line or "'short'" in line for line in told)
    assert load_settings({"HOST": host, "API_KEYS": LONG}).api_keys == (LONG,)


@pytest.mark.parametrize("host", LOOPBACK)
def test_a_short_key_is_warned_of_on_loopback(host: str) -> None:
    """Only this machine can try keys there."""
    settings = load_settings({"HOST": host, "API_KEYS": SHORT})
    (warning,) = start_warnings(settings, {})
    assert "key 1 has 15 characters" in warning
    assert SHORT not in warning
    assert start_warnings(load_settings({"HOST": host, "API_KEYS": LONG}), {}) == []


def test_keys_of_a_file_come_after_the_others(tmp_path: Path) -> None:
    """One a line, blanks around it taken off, comments and empty lines left out, each key once."""
    text = f"# of the night shift\n  {LONG}  \n\n{LONGER}\n{LONG}#2\n"
    environ = {"API_KEYS": f"{LONGER}", "API_KEYS_FILE": keys_file(tmp_path, text)}
    assert load_settings(environ).api_keys == (LONGER, LONG, f"{LONG}#2")


@pytest.mark.parametrize("text", ["", "\n", "# none\n"])
def test_a_file_without_keys_stops_the_start(tmp_path: Path, text: str) -> None:
    """Or emptying it would open the door."""
    (told,) = problems(API_KEYS_FILE=keys_file(tmp_path, text))
    assert told.startswith("API_KEYS_FILE: ")


def test_a_file_that_is_no_text_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"\xff\xfe\x00")
    (told,) = problems(API_KEYS_FILE=str(path))
    assert told.startswith("API_KEYS_FILE: ")


SLIPS = [
    ("API_KEY", "API_KEYS"),
    ("APIKEY", "API_KEYS"),
    ("api_keys", "API_KEYS"),
    ("API_KEY_FILE", "API_KEYS_FILE"),
    ("COMFYUI_HOSTS", "COMFYUI_HOST_1"),
    ("COMFYUI_HOST", "COMFYUI_HOST_1"),
    ("COMFYUI_HOST1", "COMFYUI_HOST_1"),
    ("COMFY_HOST_1", "COMFYUI_HOST_1"),
    ("COMFYUI_TIME_OUT", "COMFYUI_TIMEOUT"),
    ("CORS_ORIGIN", "CORS_ORIGINS"),
    ("LOGLEVEL", "LOG_LEVEL"),
    ("TLS_CERTS", "TLS_CERT"),
    ("MAX_UPLOADSIZE", "MAX_UPLOAD_SIZE"),
]
OF_OTHERS = [
    *("COMFYUI_PATH", "COMFYUI_PORT", "COMFYUI_MODEL_PATH", "COMFYUI_DIR", "COMFYUI_ARGS"),
    *("HOSTNAME", "HOSTS", "PORTS", "LOGNAME", "OPENAI_API_KEY", "UV_LOG_LEVEL", "KLOG_LEVEL"),
    *("SSL_CERT_FILE", "PATH", "HOME", "LANG", "API_URL", "ROOT", "http_proxy"),
]


@pytest.mark.parametrize(("name", "right"), SLIPS)
def test_a_slip_is_told_with_the_right_name(name: str, right: str) -> None:
    """At the start, without its value, which may be a key."""
    (warning,) = start_warnings(Settings(), {name: "secret value"})
    assert name in warning
    assert f"do you mean {right}?" in warning
    assert "secret" not in warning


@pytest.mark.parametrize("name", OF_OTHERS)
def test_variables_of_others_are_left_alone(name: str) -> None:
    assert start_warnings(Settings(), {name: "1"}) == []


def test_settings_and_what_is_not_set_are_no_slips() -> None:
    environ = {"API_KEYS": LONG, "COMFYUI_HOST_2": "a", "COMFYUI_NAME_2": "b", "API_KEY": " "}
    assert start_warnings(Settings(), environ) == []


@pytest.mark.parametrize("name", ["API_KEY", "APIKEYS", "API_KEY_FILE"])
def test_a_slip_of_the_keys_name_does_not_open_the_door(name: str) -> None:
    """It stops the start if there is no key at all and others than this machine may come."""
    (told,) = problems(HOST="0.0.0.0", **{name: LONG})
    assert told.startswith(f"{name}: the name is API_KEYS")
    assert LONG not in told
    assert load_settings({name: LONG}).api_keys == ()
    assert load_settings({"HOST": "0.0.0.0", name: LONG, "API_KEYS": LONGER}).api_keys == (LONGER,)
