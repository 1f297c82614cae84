"""``comfy-proxy demo``: it needs the extra ``embedded``, which brings the CPU workers."""

from __future__ import annotations

import asyncio
from pathlib import Path

from comfy_proxy.cli.command import Command, CommandError, Values, check_range, option


def _demo(values: Values) -> int:
    from comfy_proxy.logs import configure_console

    try:
        from comfy_proxy.embedded.demo import run_demo
        from comfy_proxy.embedded.process import WorkerProcessError
    except ModuleNotFoundError as error:
        raise CommandError(
            f"the demo needs the extra 'embedded' ({error.name} is missing):"
            " pip install 'comfyui-proxy[embedded]'"
        ) from None
    check_range("--port", values.port, 0, 65_535)
    configure_console("warn")
    output = values.output.absolute()
    try:
        output.mkdir(parents=True, exist_ok=True)
        return asyncio.run(run_demo(output=output, keep=values.keep, port=values.port))
    except BrokenPipeError:
        raise
    except (OSError, WorkerProcessError) as error:
        raise CommandError(str(error)) from None


COMMANDS = (
    Command(
        name="demo",
        help="two CPU workers, the proxy, real pictures",
        more="No GPU and no ComfyUI is needed.",
        run=_demo,
        parameters=(
            option("output", "where the pictures are written", type=Path,
                   default=Path("demo-output"), metavar="FOLDER"),
            option("port", "where the proxy listens; a free port by default", type=int,
                   default=0, metavar="PORT"),
            option("keep", "leave everything running, until Ctrl-C", type=bool),
        ),
    ),
)  # fmt: skip
