"""Two embedded workers and the proxy, each a process of its own: no ComfyUI is needed."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

STOP_TIMEOUT_S = 30.0
_END = "\r\n--boundary--\r\n"


class EmbeddedServer:
    """``python -m comfy_proxy.embedded`` with the test nodes; killed and started again."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def start(self) -> None:
        """Start it, on the same port as before, and wait until it says that it is ready."""
        command = [sys.executable, "-m", "comfy_proxy.embedded", "--port", str(self._port)]
        command += ["--base-directory", str(self._directory), "--name", self._name, "--test-nodes"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        ready = json.loads(self._process.stdout.readline())
        self._port = int(ready["url"].rpartition(":")[2])

    def kill(self) -> None:
        """As a crash does it: nothing is said to anybody."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate(timeout=STOP_TIMEOUT_S)


def write_workflows(directory: Path) -> Path:
    """``showing``: the picture as a live preview, then ``seconds`` of progress; ``failing``."""
    directory.mkdir()
    load = {"class_type": "LoadImage", "inputs": {"image": "x.png"}}
    timed = {"image": ["1", 0], "salt": 0, "seconds": 0.0}
    preview = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}
    number = {"type": "number", "default": 0, "minimum": 0}
    salt = {"type": "integer", "default": 0}
    _write(
        directory / "showing.json",
        graph={"1": load, "2": {"class_type": "TimedPass", "inputs": timed}, "3": preview},
        bind={"1.image": "$picture", "2.salt": "$salt", "2.seconds": "$seconds"},
        parameters={"salt": salt, "seconds": number},
    )
    fail = {"class_type": "FailNode", "inputs": {"image": ["1", 0], "salt": 0}}
    _write(
        directory / "failing.json",
        graph={"1": load, "2": fail},
        bind={"1.image": "$picture", "2.salt": "$salt"},
        parameters={"salt": salt},
    )
    return directory


def _write(path: Path, *, graph: Any, bind: Any, parameters: Any) -> None:
    variant = {"name": "only", "graph": graph, "bind": bind, "output": ["2", 0]}
    document = {"parameters": parameters, "scale": 1, "variants": [variant]}
    path.write_text(json.dumps(document))


def submit(url: str, workflow: str, picture: Path, **fields: object) -> str:
    """Post a job as a client does; its id. Raises OSError if it is not taken."""
    parts = [
        f'--boundary\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    head = '--boundary\r\nContent-Disposition: form-data; name="image"; filename="p"\r\n\r\n'
    body = "".join([*parts, head]).encode() + picture.read_bytes() + _END.encode()
    request = urllib.request.Request(
        f"{url}/api/workflows/{workflow}",
        data=body,
        headers={"Content-Type": "multipart/form-data; boundary=boundary"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(json.load(answer)["job_id"])
