"""What keeps the plugin from its work leaves ComfyUI as it is."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


class Server:
    """A PromptServer that records how it was told to listen."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    async def start_multi_address(self, *arguments: Any) -> None:
        self.told.append(arguments)


@pytest.fixture
def door(plugin: Any, tmp_path: Path) -> Any:
    """``door(server)`` → a front door that is not installed, with an instance to serve."""

    def door(server: Any) -> Any:
        return plugin("front_door").FrontDoor(
            server,
            SimpleNamespace(tls_keyfile=None, tls_certfile=None),
            folder=str(tmp_path),
            data=str(tmp_path / "data"),
            environ={"COMFYUI_HOST_2": "192.0.2.7:1"},
            log=logging.getLogger("comfy_proxy"),
        )

    return door


async def test_a_port_of_another_program_is_comfyuis_to_complain_of(
    plugin: Any, door: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It listens as it would without us, and fails as it would."""
    module, server = plugin("front_door"), Server()
    monkeypatch.setattr(module, "FORMER_TIMEOUT_S", 0.0)
    monkeypatch.setattr(module, "taken", lambda hosts, port: hosts[0])
    door(server).install()
    await server.start_multi_address([("127.0.0.1", 8188)], None, False)
    assert server.told == [([("127.0.0.1", 8188)], None, False)]
    assert "without the proxy: port 8188 is taken by another program." in caplog.messages[-1]


async def test_the_proxy_of_before_is_waited_for(
    plugin: Any, door: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the port is free; what is wrong then is said next."""
    module, server = plugin("front_door"), Server()
    answers = iter(["127.0.0.1", "127.0.0.1", None])
    monkeypatch.setattr(module, "LOOK_INTERVAL_S", 0.001)
    monkeypatch.setattr(module, "taken", lambda hosts, port: next(answers))
    configuration = await door(server)._configuration([("127.0.0.1", 8188)])
    assert configuration.in_front_of(18188)["COMFYUI_HOST_1"] == "127.0.0.1:18188"
    assert next(answers, "all were asked for") == "all were asked for"


async def test_a_fault_of_ours_stops_no_comfyui(
    plugin: Any, door: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()
    monkeypatch.setattr(plugin("front_door"), "read_configuration", lambda *_, **__: 1 / 0)
    door(server).install()
    await server.start_multi_address([("127.0.0.1", 8188)])
    assert server.told == [([("127.0.0.1", 8188)], None, True)]
    assert "ComfyUI listens without the proxy" in caplog.messages[-1]


def test_a_comfyui_without_that_step_is_left_alone(
    door: Any, caplog: pytest.LogCaptureFixture
) -> None:
    door(SimpleNamespace()).install()
    assert "too old" in caplog.messages[-1]


def test_a_folder_that_is_there_twice_is_installed_once(door: Any) -> None:
    """Copied and linked, say."""
    server = Server()
    first, second = door(server), door(server)
    first.install()
    taken = server.start_multi_address
    second.install()
    assert server.start_multi_address == taken
