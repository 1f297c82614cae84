"""A stand-in for ComfyUI, in a process of its own, that loads the plugin as ComfyUI does.

``server``, ``folder_paths`` and ``comfy.cli_args`` are small modules with what the plugin uses of
them; the server behind is an embedded worker's. Its steps are those of ComfyUI 0.3.75: custom nodes
are loaded, then ``start_multi_address`` is awaited beside a loop that never ends, until ^C.
``GET /stand-in/reboot`` replaces the process by itself, as ComfyUI-Manager does; ``/stand-in/fork``
leaves a copy of it.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import logging
import os
import signal
import ssl
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from aiohttp import web

from comfy_proxy.embedded.server import create_app
from comfy_proxy.embedded.worker import EmbeddedWorker


class PromptServer:
    """ComfyUI's class of that name, as far as it listens."""

    instance: PromptServer

    def __init__(self, app: web.Application, args: argparse.Namespace) -> None:
        PromptServer.instance = self
        self.app = app
        self._args = args

    async def start_multi_address(
        self, addresses: Any, call_on_start: Any = None, verbose: bool = True
    ) -> None:
        runner = web.AppRunner(self.app, access_log=None)
        await runner.setup()
        context, scheme = None, "http"
        if self._args.tls_keyfile and self._args.tls_certfile:
            context, scheme = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), "https"
            context.load_cert_chain(self._args.tls_certfile, self._args.tls_keyfile)
        for address, port in addresses:
            await web.TCPSite(runner, address, port, ssl_context=context).start()
            logging.info("To see the GUI go to: %s://%s:%s", scheme, address, port)
        if call_on_start is not None:
            call_on_start(scheme, *addresses[0])


def load_plugin(folder: Path, args: argparse.Namespace) -> None:
    """As ComfyUI's ``load_custom_node``: by its path, under a name that is no module's."""

    def system_user_directory(name: str) -> str:
        return str(args.base_directory / "user" / f"__{name}")

    stand_ins: dict[str, Any] = {
        "server": SimpleNamespace(PromptServer=PromptServer),
        "folder_paths": SimpleNamespace(get_system_user_directory=system_user_directory),
        "comfy": ModuleType("comfy"),
        "comfy.cli_args": SimpleNamespace(args=args),
    }
    sys.modules.update(stand_ins)
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    assert module.NODE_CLASS_MAPPINGS == {}


async def _reboot(_: web.Request) -> web.Response:
    os.execv(sys.executable, [sys.executable, *sys.argv])


async def _fork(_: web.Request) -> web.Response:
    """A copy of this process, as workers of PyTorch are; it stays when this one is killed."""
    pid = os.fork()
    if pid == 0:
        for stream in (1, 2):  # the test reads those until nobody has them any more
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        signal.pause()
    return web.json_response(pid)


async def run(args: argparse.Namespace) -> None:
    worker = EmbeddedWorker(base_directory=args.base_directory, name="inside", test_nodes=True)
    worker.folders.prepare()
    instance = worker._instance()
    app = create_app(instance, allow_faults=False)
    app.router.add_get("/stand-in/reboot", _reboot)
    app.router.add_get("/stand-in/fork", _fork)
    server = PromptServer(app, args)
    load_plugin(args.plugin, args)
    instance.executor.start(instance.sockets)
    addresses = [(address, args.port) for address in args.listen.split(",")]

    def started(scheme: str, address: str, port: int) -> None:
        print(f"started {scheme} {address} {port}", flush=True)

    await asyncio.gather(
        server.start_multi_address(addresses, started, True), instance.sockets.publish()
    )


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Leave out what asyncio says of a task in whose step ^C came: nobody asks for its result."""
    if not isinstance(context.get("exception"), KeyboardInterrupt):
        loop.default_exception_handler(context)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--plugin", type=Path, required=True)
    parser.add_argument("--base-directory", type=Path, required=True)
    parser.add_argument("--listen", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    for name in ("--tls-keyfile", "--tls-certfile", "--enable-cors-header"):
        parser.add_argument(name)
    parser.add_argument("--max-upload-size", type=float, default=100)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.set_exception_handler(_tell)
    try:
        loop.run_until_complete(run(parser.parse_args()))
    except KeyboardInterrupt:
        logging.info("Stopped server")


if __name__ == "__main__":
    main()
