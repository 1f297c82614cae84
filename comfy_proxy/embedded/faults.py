"""What can go wrong with an instance, switched on and off at run time.

Set attributes of `EmbeddedWorker.faults`, or `POST /embedded/faults` the same names as JSON to a
worker started with `--allow-faults`. Path prefixes are matched without a leading `/api`.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields

ANSWERS = ("html", "non_json", "empty", "endless", "trickle", "cut", "break")


class ThreadDiedError(BaseException):
    """The end of the thread that runs prompts. No `except Exception` stops it."""


@dataclass(kw_only=True)
class Faults:
    """What goes wrong now; all is off by default. Times are in seconds.

    `delay_s` passes before every answer. `hang`: path prefixes whose requests are accepted and
    never answered (until the prefix is taken out again); `("/",)` is everything, `/ws` the
    handshake. `answers`: path prefix to one of ANSWERS or a status such as "500":
    html (200, a login page), non_json (200, says JSON, is none), empty (200, nothing), endless
    (a body without end), trickle (the true answer, `trickle_bytes` each `trickle_s`), cut (the
    true answer broken off half way), break (the request is carried out, then the connection
    breaks without an answer). `break_prompts`: so many of the next POST /prompt are queued,
    then their connection breaks before the answer. `disk_full`: uploads answer 500, saving nodes
    fail with OSError. `silent_sockets`: no frame leaves any more. `die_at_node`: the worker dies
    the moment a node of that class starts ("*": any). `slow_node_s`: each node takes so much
    longer, in silence. `oom_until_free`: SimulatedSampler fails for want of memory, until a
    `POST /free` that unloads models. `stands_still`: no prompt is taken from the queue, though all
    requests are answered, as if the thread that runs prompts had died (PROTOCOL.md trap 27); a
    restart of the worker ends it. `thread_dies_at`: that thread dies as it takes a prompt with a
    node of that class ("*": any): the prompt is then in no list, and nothing runs until a restart.

    `on_change` is called after each change.
    """

    delay_s: float = 0.0
    hang: tuple[str, ...] = ()
    answers: dict[str, str] = field(default_factory=dict)
    trickle_bytes: int = 64
    trickle_s: float = 0.02
    break_prompts: int = 0
    disk_full: bool = False
    silent_sockets: bool = False
    die_at_node: str = ""
    slow_node_s: float = 0.0
    oom_until_free: bool = False
    stands_still: bool = False
    thread_dies_at: str = ""

    def __post_init__(self) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._waiters: set[asyncio.Future[None]] = set()

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        # Any change wakes the requests that hang: each looks whether its path hangs still.
        for waiter in self.__dict__.get("_waiters", ()):
            if not waiter.done():
                waiter.set_result(None)
        if (on_change := self.__dict__.get("on_change")) is not None:
            on_change()

    def clear(self) -> None:
        """Switch everything off; requests that hung are answered now."""
        self.update(asdict(Faults()))

    def update(self, values: Mapping[str, object]) -> None:
        """Set several by name, as they come from JSON. Raises ValueError for an unknown name."""
        known = {one.name for one in fields(self)}
        if unknown := values.keys() - known:
            raise ValueError(f"Unknown faults: {', '.join(sorted(unknown))}.")
        for name, value in values.items():
            setattr(self, name, tuple(value) if isinstance(value, list) else value)

    def answer_for(self, path: str) -> str | None:
        """The wrong answer for a path, None for the true one; the longest prefix decides."""
        prefixes = [prefix for prefix in self.answers if without_api(path).startswith(prefix)]
        return self.answers[max(prefixes, key=len)] if prefixes else None

    def hangs(self, path: str) -> bool:
        return any(without_api(path).startswith(prefix) for prefix in self.hang)

    async def wait_while_hanging(self, path: str) -> None:
        """Return as soon as `path` does not hang (any more)."""
        while self.hangs(path):
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    def taking(self, classes: Collection[str]) -> None:
        """A prompt with nodes of these classes is taken from the queue to run. Raises
        ThreadDiedError."""
        if self.thread_dies_at in {"*", *classes}:
            raise ThreadDiedError

    def take_broken_prompt(self) -> bool:
        """Whether this POST /prompt is one of those to break; counts it."""
        if self.break_prompts <= 0:
            return False
        self.break_prompts -= 1
        return True


def without_api(path: str) -> str:
    """`/api/prompt` is `/prompt`: ComfyUI serves every route of its own under both."""
    return path.removeprefix("/api") if path.startswith("/api/") else path
