"""Settings as options of ``serve`` and ``check``, and what ``serve`` says of its instances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from serving import serving
from yarl import URL

from comfy_proxy.cli import main, typer_front
from comfy_proxy.cli.serving import given_settings
from comfy_proxy.cli.table import ABOUT, COMMANDS
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.errors import SettingsError
from comfy_proxy.settings import Settings, load_settings


def settings(*words: str, environ: dict[str, str], config: Path | None = None) -> Settings:
    parsed = typer_front.parse(COMMANDS, ["serve", *words], ABOUT)
    assert not isinstance(parsed, int)
    return load_settings(environ, config, given_settings(parsed[1]))


def test_options_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('port = 1001\nlog_level = "debug"\nmax_pending_jobs = 7\n')
    environ = {"PORT": "1002", "LOG_LEVEL": "warn"}
    made = settings("--port", "1003", environ=environ, config=config)
    assert (made.port, made.log_level, made.max_pending_jobs) == (1003, "warn", 7)


def test_instances_that_are_options_are_all_there_are(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('comfyui_host_1 = "file:1"\n')
    environ = {"COMFYUI_HOST_2": "environ:1", "COMFYUI_NAME_2": "x"}
    words = ("--instance", "left=one:1", "--instance", "https://two/p=q")
    made = settings(*words, environ=environ, config=config)
    assert made.instances == (URL("http://one:1"), URL("https://two/p=q"))
    assert made.instance_names == ("left", "")
    assert len(settings(environ=environ, config=config).instances) == 2


def test_a_wrong_option_is_told_like_a_wrong_variable() -> None:
    with pytest.raises(SettingsError) as wrong:
        settings("--port", "many", "--instance", "ftp://x", environ={})
    assert [line.partition(":")[0] for line in wrong.value.problems] == ["PORT", "COMFYUI_HOST_1"]


@pytest.mark.parametrize("text", ["", " ", "left=", "left= "])
def test_an_instance_without_an_address_is_told(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With exit code 2: those that nobody has named are not served instead."""
    for command in ("serve", "check"):
        assert main([command, "--instance", "gpu:1", "--instance", text]) == 2
        assert capsys.readouterr().err == f"comfy-proxy: --instance {text!r} has no address\n"


@pytest.mark.long
async def test_serve_says_what_it_has_found(tmp_path: Path, workers: Any) -> None:
    """One line for each instance, with what it can run or lacks; one that does not answer is named
    at the start, and told of when it has come."""
    lacking = EmbeddedWorker(base_directory=tmp_path / "three", missing_nodes=("RemoveBackground",))
    late = EmbeddedWorker(base_directory=tmp_path / "four")
    async with late:
        late_host = late.host
    async with (
        lacking,
        serving(
            workers[0].host, lacking.host, late_host, logs=tmp_path / "logs",
            HEALTH_CHECK_INTERVAL="200",
        ) as served,
    ):  # fmt: skip
        first = await served.logged(lambda line: "it runs" in line["message"]
                                    and line["message"].startswith(workers[0].host))  # fmt: skip
        assert "remove-background, upscale-image, upscale-remove-bg" in first["message"]
        second = await served.logged(lambda line: line["message"].startswith(f"{lacking.host} ans"))
        assert "; it runs upscale-image; not " in second["message"]
        runs_not = second["message"].partition("; not ")[2]
        assert "remove-background" in runs_not
        assert "comfy-proxy check says why" in runs_not
        await served.logged(lambda line: line["message"] == f"{late_host} does not answer yet")
        async with late:
            await served.logged(lambda line: line["message"].startswith(f"{late_host} answers; it"))
        told = [line["message"] for line in served.lines() if " answers; " in line["message"]]
        assert len(told) == 3
