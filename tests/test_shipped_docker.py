"""The image of the proxy and the example of Docker Compose, as far as they tell without Docker."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

from aiohttp.test_utils import TestClient
from shipped_files import (
    CONFIG,
    ROOT,
    check_command,
    is_setting,
    read_dockerfile,
    read_yaml,
    setup_cfg,
    supported_pythons,
)

from comfy_proxy.settings import Settings, load_settings

COMPOSE = CONFIG / "docker" / "compose.yml"
DOCKERFILE = CONFIG / "docker" / "Dockerfile"


def docker(name: str) -> list[list[str]]:
    """The words of each instruction of that name."""
    return [words for found, words in read_dockerfile(DOCKERFILE) if found == name]


def docker_environment() -> dict[str, str]:
    return dict(word.split("=", 1) for words in docker("ENV") for word in words)


def test_the_image_is_built_from_what_is_there() -> None:
    """The Python is one that we support, sources and extras exist, the user is made before."""
    names = [name for name, _ in read_dockerfile(DOCKERFILE)]
    assert names[0] == "FROM"
    image, _, tag = docker("FROM")[0][0].partition(":")
    assert image == "python"
    assert tag.removesuffix("-slim") in supported_pythons()
    for words in docker("COPY"):
        for source in words[:-1]:
            assert (ROOT / source).exists()
    run = docker("RUN")[0]
    extras = re.fullmatch(r"\.\[(.*)\]", run[run.index("install") + 2])[1]
    assert set(extras.split(",")) <= set(setup_cfg()["options.extras_require"])
    user = docker("USER")[0][0]
    assert run[run.index("useradd") + 2] == user
    assert f"--owner={user}" in run
    assert names.index("RUN") < names.index("USER")


def test_the_image_gets_all_that_is_needed_to_build_it() -> None:
    """.dockerignore leaves out none of the files that the build of the package reads."""
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in ignored if line and not line.startswith("#")]
    for name in ("README.md", "LICENSE", "setup.cfg", "pyproject.toml", "comfy_proxy", "config"):
        assert not any(Path(name).match(pattern) for pattern in patterns)
    assert {".git", ".venv*", "logs"} <= set(patterns)


def test_the_image_starts_what_exists() -> None:
    """Its variables are accepted as settings, its folders and ports agree, its command is ours."""
    environment = docker_environment()
    assert all(map(is_setting, environment))
    settings = load_settings(environment)
    assert docker("EXPOSE") == [[str(settings.port)]]
    folders = [str(settings.log_directory), str(settings.state_file.parent)]
    assert docker("VOLUME") == [folders]
    assert set(folders) <= set(docker("RUN")[0])
    check_command(docker("CMD")[0])


async def test_the_health_check_of_the_image_asks_the_proxy(
    proxy: TestClient, unused_tcp_port: int
) -> None:
    """Also at another PORT than the default; it fails where nobody answers."""
    words = docker("HEALTHCHECK")[0]
    assert words[0] == "python"
    codes = []
    for port in (proxy.port, unused_tcp_port):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *words[1:]),
            env={"PORT": str(port)},
            stderr=asyncio.subprocess.DEVNULL,
        )
        codes.append(await process.wait())
    assert codes == [0, 1]


def test_docker_compose_names_what_exists() -> None:
    """Variables, the file to build, hosts that are its own services, and ports that agree."""
    services = read_yaml(COMPOSE)["services"]
    proxy = services["proxy"]
    environment = proxy["environment"]
    assert all(map(is_setting, environment))
    for url in load_settings(environment).instances:
        assert url.host in services
    context = (COMPOSE.parent / proxy["build"]["context"]).resolve()
    assert context == ROOT
    assert (context / proxy["build"]["dockerfile"]) == DOCKERFILE
    (volume,) = proxy["volumes"]
    name, folder = volume.split(":")
    assert name in read_yaml(COMPOSE)["volumes"]
    assert folder == str(load_settings(docker_environment()).state_file.parent)
    assert [ports.split(":")[-1] for ports in proxy["ports"]] == [docker_environment()["PORT"]]


def test_docker_compose_gives_each_instance_a_gpu_of_its_own() -> None:
    """Or both would compute on the same one."""
    services = read_yaml(COMPOSE)["services"]
    gpus = [
        device["device_ids"]
        for name, service in services.items()
        if name != "proxy"
        for device in service["deploy"]["resources"]["reservations"]["devices"]
    ]
    assert gpus == [["0"], ["1"]]


def test_docker_compose_asks_for_what_it_cannot_know() -> None:
    """``${NAME:?text}``: without the key or the image it says which one is missing."""
    text = COMPOSE.read_text(encoding="utf-8")
    assert set(re.findall(r"\"\$\{(\w+):\?[^:}]+\}\"", text)) == {"API_KEYS", "COMFYUI_IMAGE"}
    assert text.count("${") == 2


def test_docker_waits_while_jobs_have_time_to_finish() -> None:
    """It kills after ten seconds by default: that is no longer than SHUTDOWN_TIMEOUT alone."""
    wait = read_yaml(COMPOSE)["services"]["proxy"]["stop_grace_period"]
    assert float(wait.removesuffix("s")) >= 2 * Settings().shutdown_timeout_s + 10
