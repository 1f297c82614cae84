"""What the clients of a chaos run have asked for, and what they saw of it."""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime

from PIL import Image

SLOW_S = 7.0  # for an answer: longer than an instance has to be silent to count as hung
STEP = 5  # between two values of a channel: pictures lose a level on their way
LEVELS = 51


@dataclass
class Work:
    """One prompt or job. Times are those of ``time.time()``, None for what has not happened."""

    kind: str  # "prompt" or "job"
    client: str
    colour: int
    posted: float
    polled: bool = False  # its client has no socket
    id: str = ""
    uploaded: float | None = None
    """When its input was uploaded, if it has one."""
    accepted: float | None = None
    told: list[tuple[float, str]] = field(default_factory=list)
    """Ends that its client heard on its socket."""
    ended: float | None = None
    """When its client saw the end, however."""
    failure: str = ""
    gone: list[tuple[float, str]] = field(default_factory=list)
    """When ``/history/{id}`` answered ``{}`` after a success, and when in its life that was."""
    unseen: int = 0
    """How often it was in neither history nor queue before its end."""
    wrong: str = ""
    image: dict[str, str] = field(default_factory=dict)
    """Its picture as the history names it, once that has been seen."""
    picture_seen: bool = False

    @property
    def succeeded(self) -> bool:
        return self.ended is not None and not self.failure


@dataclass
class Refusal:
    """A request that was not taken although an instance answered."""

    at: float
    what: str
    why: str


@dataclass
class Records:
    """All that happened to all clients of one run."""

    works: list[Work] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    """Notes that are no findings: reads that failed, sockets that the proxy closed."""
    strangers: list[tuple[str, str]] = field(default_factory=list)
    """Client and id of a prompt of somebody else whose end it was told."""
    slow: list[str] = field(default_factory=list)
    """Requests that took longer than SLOW_S."""
    uploads: int = 0
    _colours: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def new_colour(self) -> int:
        """One that nobody else has; neighbours differ much."""
        number = next(self._colours) * 7919 % LEVELS**3
        red, rest = divmod(number, LEVELS**2)
        green, blue = divmod(rest, LEVELS)
        return red * STEP << 16 | green * STEP << 8 | blue * STEP


def clock(at: float) -> str:
    """A time as the proxy's log has it: 18:29:41.244."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S.%f")[:-3]


def rgb(colour: int) -> tuple[int, int, int]:
    return colour >> 16, colour >> 8 & 255, colour & 255


def png(colour: int, side: int = 16) -> bytes:
    """A picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (side, side), rgb(colour)).save(out, "PNG")
    return out.getvalue()


def colour_of(picture: Image.Image) -> tuple[int, int, int]:
    """That of a pixel in its corner."""
    red, green, blue = picture.convert("RGB").crop((0, 0, 1, 1)).tobytes()
    return red, green, blue


def fault_of(data: bytes, colour: int) -> str:
    """What is wrong with a picture that ought to have the colour; empty if nothing is."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            found = colour_of(picture)
    except OSError as error:
        return f"no picture: {error}"
    wanted = rgb(colour)
    if any(abs(a - b) > STEP // 2 for a, b in zip(found, wanted, strict=True)):
        return f"{found} instead of {wanted}"
    return ""
