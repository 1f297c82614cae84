"""The step at which ComfyUI begins to listen, with the proxy at its address instead."""

from __future__ import annotations

import asyncio
import atexit
import logging
import ssl
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from functools import partial
from typing import Any

from aiohttp import web

from .configuration import Configuration, NotUsed, read_configuration
from .own_address import taken
from .proxy_process import ProxyProcess
from .supervisor import NotStarted, Supervisor, take_leave_of_former

Addresses = Sequence[tuple[str, int]]
CallOnStart = Callable[[str, str, int], object]

LOOPBACK = "127.0.0.1"
INNER_PORT_STEP = 10_000
"""ComfyUI itself listens at its port plus this, where that is free: the same one at each start, so
that the proxy knows it again."""
LAST_PORT = 65_535
FORMER_TIMEOUT_S = 15.0
"""Seconds to wait for the proxy of a ComfyUI that ran before to leave the address."""
LOOK_INTERVAL_S = 0.1
"""Seconds between two looks at that: the operating system does not tell when a port is free."""


class FrontDoor:
    """Takes the place of `start_multi_address` of ComfyUI's `PromptServer`.

    ComfyUI then listens on the loopback, and the proxy, a child process, at ComfyUI's address.
    Where that is not wanted or not possible, ComfyUI listens as it would without us, and one line
    in its log says why. `args` are ComfyUI's arguments, `folder` is the plugin's, `data` the one
    for logs and state, `environ` ComfyUI's environment.
    """

    def __init__(
        self,
        server: Any,
        args: Any,
        *,
        folder: str,
        data: str,
        environ: MutableMapping[str, str],
        log: logging.Logger,
    ) -> None:
        self._server = server
        self._args = args
        self._folder = folder
        self._data = data
        self._environ = environ
        self._log = log
        self._listen: Callable[..., Awaitable[None]] | None = None
        self._runner: web.AppRunner | None = None
        self.supervisor: Supervisor | None = None
        self.keeper: asyncio.Task[None] | None = None

    def install(self) -> None:
        """From now on ComfyUI listens through us. A ComfyUI without that step is left alone."""
        listen = getattr(self._server, "start_multi_address", None)
        if listen is None:
            self._log.warning("comfy_proxy: this ComfyUI is too old to have the proxy inside")
        elif not isinstance(
            getattr(listen, "__self__", None), FrontDoor
        ):  # the folder is there twice
            self._listen = listen
            self._server.start_multi_address = self.start_multi_address

    async def start_multi_address(
        self,
        addresses: Addresses,
        call_on_start: CallOnStart | None = None,
        verbose: bool = True,
    ) -> None:
        """Listen at `addresses` (address, port), and then call `call_on_start` with the scheme and
        the first of them, as ComfyUI does. Raises what ComfyUI's own method raises."""
        if self._listen is None:
            raise RuntimeError("The front door is not installed.")
        try:
            configuration = await self._configuration(addresses)
        except NotUsed as reason:
            self._log.warning("comfy_proxy: ComfyUI listens without the proxy: %s.", reason)
            await self._listen(addresses, call_on_start, verbose)
            return
        except Exception:  # whatever it is: ComfyUI starts
            self._log.exception("comfy_proxy: ComfyUI listens without the proxy: a fault of ours.")
            await self._listen(addresses, call_on_start, verbose)
            return
        await self._listen_behind(configuration, addresses, verbose)
        self._announce(addresses, call_on_start, verbose)

    async def _configuration(self, addresses: Addresses) -> Configuration:
        """Raises NotUsed, also if the address is another program's."""
        read = partial(
            read_configuration, folder=self._folder, data=self._data, environ=self._environ
        )
        configuration = await asyncio.to_thread(read, self._args, addresses)
        hosts, port = [host.strip() for host, _ in addresses], addresses[0][1]
        waited_s = 0.0
        while take_leave_of_former(self._environ) or taken(hosts, port) is not None:
            if waited_s == 0.0:
                self._log.warning(
                    "comfy_proxy: port %d is taken; waiting for up to %.0f s, in case it is by"
                    " the proxy of the ComfyUI that ran before.",
                    *(port, FORMER_TIMEOUT_S),
                )
            if waited_s >= FORMER_TIMEOUT_S:
                raise NotUsed(f"port {port} is taken by another program")
            await asyncio.sleep(LOOK_INTERVAL_S)
            waited_s += LOOK_INTERVAL_S
        return configuration

    async def _listen_behind(
        self, configuration: Configuration, addresses: Addresses, verbose: bool
    ) -> None:
        """Listen on the loopback with the proxy in front, or at `addresses` without it."""
        if verbose:
            logging.info("Starting server\n")
        if not hasattr(self._server, "address"):  # custom nodes ask for it
            self._server.address, self._server.port = addresses[0]
        runner = self._runner = web.AppRunner(self._server.app, access_log=None)
        await runner.setup()
        try:
            port = await _listen_on_loopback(runner, addresses[0][1])
            environment = configuration.in_front_of(port)
            supervisor = self.supervisor = Supervisor(
                lambda: ProxyProcess(configuration.command, self._log),
                environment,
                self._log,
                environ=self._environ,
            )
            atexit.register(supervisor.end)
            await supervisor.start()
        except (OSError, NotStarted) as reason:
            await self._take_over(addresses, str(reason))
            return
        except Exception:  # whatever it is: ComfyUI starts
            self._log.exception("comfy_proxy: the proxy cannot be started.")
            await self._take_over(addresses, "a fault of ours")
            return
        self._log.info(
            "comfy_proxy: ComfyUI listens at %s:%d, and the proxy (process %d) at its address;"
            " its log files are in %s.",
            *(LOOPBACK, port, supervisor.pid, environment.get("LOG_DIRECTORY", "LOG_DIRECTORY")),
        )
        self.keeper = asyncio.create_task(self._keep(supervisor, addresses), name="comfy_proxy")

    async def _keep(self, supervisor: Supervisor, addresses: Addresses) -> None:
        """While ComfyUI runs. If the proxy cannot be kept ComfyUI serves its clients itself."""
        reason = await supervisor.keep()
        try:
            await self._take_over(addresses, reason)
        except OSError as error:
            self._log.error("comfy_proxy: ComfyUI cannot listen at its address: %s", error)

    async def _take_over(self, addresses: Addresses, reason: str) -> None:
        """Listen at `addresses` too. Raises OSError, as ComfyUI itself would."""
        try:
            for host, port in addresses:
                await self._listen_at(host, port)
        finally:
            self._log.warning("comfy_proxy: ComfyUI listens without the proxy: %s.", reason)

    async def _listen_at(self, host: str, port: int) -> None:
        if self._runner is not None:
            context = _certificate(self._args)
            await web.TCPSite(self._runner, host, port, ssl_context=context).start()

    def _announce(
        self, addresses: Addresses, call_on_start: CallOnStart | None, verbose: bool
    ) -> None:
        """In ComfyUI's words: programs that start it wait for this line."""
        scheme = "https" if self._args.tls_keyfile and self._args.tls_certfile else "http"
        if verbose:
            for host, port in addresses:
                shown = f"[{host}]" if ":" in host else host
                logging.info("To see the GUI go to: %s://%s:%s", scheme, shown, port)
        if call_on_start is not None:
            call_on_start(scheme, self._server.address, self._server.port)


async def _listen_on_loopback(runner: web.AppRunner, port: int) -> int:
    """Listen where only this machine can connect, beside `port`; the port that it became."""
    step = INNER_PORT_STEP if port + INNER_PORT_STEP <= LAST_PORT else -INNER_PORT_STEP
    try:
        await web.TCPSite(runner, LOOPBACK, port + step).start()
    except OSError:
        await web.TCPSite(runner, LOOPBACK, 0).start()
    return int(runner.addresses[-1][1])


def _certificate(args: Any) -> ssl.SSLContext | None:
    """As ComfyUI makes it."""
    if not (args.tls_keyfile and args.tls_certfile):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(args.tls_certfile, args.tls_keyfile)
    return context
