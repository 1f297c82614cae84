"""What the proxy is started with."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from comfy_proxy.settings import load_settings

HERE = [("127.0.0.1", 8188)]


def comfyui(**changes: Any) -> SimpleNamespace:
    """ComfyUI's arguments by default."""
    return SimpleNamespace(
        **{
            "tls_keyfile": None,
            "tls_certfile": None,
            "enable_cors_header": None,
            "max_upload_size": 100,
            **changes,
        }
    )


@pytest.fixture
def read(plugin: Any, tmp_path: Path) -> Any:
    """``read(environ, toml="", addresses=HERE, **arguments of ComfyUI)`` → the configuration."""

    def read(
        environ: dict[str, str], toml: str | None = None, addresses: Any = HERE, **changes: Any
    ) -> Any:
        if toml is not None:
            (tmp_path / "comfy_proxy.toml").write_text(toml, encoding="utf-8")
        return plugin("configuration").read_configuration(
            comfyui(**changes),
            addresses,
            folder=str(tmp_path),
            data=str(tmp_path / "data"),
            environ=environ,
        )

    return read


def test_what_comfyui_was_told_holds_for_the_proxy(read: Any, tmp_path: Path) -> None:
    """Its addresses, its port, its certificate, who may use it and how large an upload may be; as
    settings that the proxy takes, of which none stands on the command line."""
    configuration = read(
        {"COMFYUI_HOST_2": "gpu:8188", "API_KEYS": "a-secret-of-32-characters-at-all"},
        addresses=[("0.0.0.0", 8188), (" ::", 8188)],
        tls_keyfile="key.pem",
        tls_certfile="cert.pem",
        enable_cors_header="https://app.example",
        max_upload_size=1.5,
    )
    environment = configuration.in_front_of(18188)
    assert environment.pop("TLS_CERT") == str(Path.cwd() / "cert.pem")
    assert environment.pop("TLS_KEY") == str(Path.cwd() / "key.pem")
    settings = load_settings(environment)
    assert [str(url) for url in settings.instances] == ["http://127.0.0.1:18188", "http://gpu:8188"]
    assert (settings.hosts, settings.port) == (("0.0.0.0", "::"), 8188)
    assert settings.cors_origins == ("https://app.example",)
    assert settings.max_upload_size == 1_572_864
    assert settings.log_directory == tmp_path / "data" / "logs"
    assert settings.state_file == tmp_path / "data" / "state.sqlite"
    assert settings.shutdown_timeout_s == 2.0
    assert settings.api_keys == ("a-secret-of-32-characters-at-all",)
    assert "secret" not in " ".join(configuration.command)
    assert configuration.command[0] == sys.executable


def test_what_the_user_sets_wins(read: Any, tmp_path: Path) -> None:
    """In the file or in the environment, also an empty value; but for the address."""
    toml = 'comfyui_host_2 = "gpu:1"\nmax_upload_size = 7\nstate_file = ""\nport = 9\n'
    configuration = read({"SHUTDOWN_TIMEOUT": "5", "COMFYUI_HOST_2": ""}, toml=toml)
    path = tmp_path / "comfy_proxy.toml"
    assert configuration.command[-2:] == ("--config", str(path))
    settings = load_settings(configuration.in_front_of(1), path)
    assert settings.max_upload_size == 7
    assert settings.state_file is None
    assert settings.shutdown_timeout_s == 0.005
    assert settings.port == 8188
    assert [str(url) for url in settings.instances] == ["http://127.0.0.1:1", "http://gpu:1"]


def test_another_python_may_have_the_proxy(read: Any) -> None:
    """COMFY_PROXY_PYTHON keeps ComfyUI's own environment as it is."""
    environ = {
        "COMFYUI_HOST_2": "gpu:1",
        "COMFY_PROXY_PYTHON": "/opt/proxy/python",
        "PYTHONHOME": "/comfyui",
    }
    configuration = read(environ)
    assert configuration.command[0] == "/opt/proxy/python"
    assert not {"PYTHONHOME", "COMFY_PROXY_PYTHON"} & configuration.environment.keys()


def test_an_old_python_and_a_missing_package_are_told(
    plugin: Any, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to do about it."""
    module = plugin("configuration")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(module.NotUsed, match="pip install comfyui-proxy"):
        read({"COMFYUI_HOST_2": "gpu:1"})
    monkeypatch.setattr(module.sys, "version_info", (3, 10, 13))
    with pytest.raises(module.NotUsed, match=r"Python 3\.10, comfyui-proxy needs 3\.11 or newer"):
        read({"COMFYUI_HOST_2": "gpu:1"})


@pytest.mark.parametrize(
    "addresses", [[("127.0.0.1", 0)], [("127.0.0.1", 1), ("127.0.0.2", 2)]]
)  # fmt: skip
def test_a_port_that_clients_cannot_know_is_not_taken(
    plugin: Any, read: Any, addresses: Any
) -> None:
    with pytest.raises(plugin("configuration").NotUsed, match="one port"):
        read({"COMFYUI_HOST_2": "gpu:1"}, addresses=addresses)


def test_the_oldest_python_is_that_of_the_package(plugin: Any) -> None:
    numbers = ".".join(map(str, plugin("configuration").OLDEST_PYTHON))
    setup = (Path(__file__).parents[2] / "setup.cfg").read_text(encoding="utf-8")
    assert f"python_requires = >={numbers}\n" in setup
