"""Makes transcripts of different servers and days comparable.

Ids, times, salts, counters and tracebacks are replaced by names in the order of appearance;
whatever is left must be equal.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from frames import parse_frame

Json = dict[str, Any]
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
SAVED = re.compile(r"\b(?P<stem>[\w ]+)_(?P<counter>\d{5})_\.png")
TEMP_STEM = re.compile(r"ComfyUI_temp_[a-z]{5}")
OPAQUE_BODY = re.compile(r"^<(\d+) bytes[^>]*>$")
TIMES = ("timestamp", "create_time")
# What the CPU worker says about itself, and what only the real server can know.
STATISTICS = re.compile(r"GET (/api)?/system_stats")


class Normaliser:
    """Replaces what differs by chance; one for each transcript, as names count appearances."""

    def __init__(self, salt: int | None = None) -> None:
        self._salt = salt
        self._names: dict[str, str] = {}
        self._base: int | None = None

    def transcript(
        self,
        transcript: Json,
        *,
        apart: Iterable[str] = (),
        first_progress_only: bool = False,
        sockets: bool = True,
    ) -> Json:
        """The whole record. Events in `apart` stand by themselves: their place is chance."""
        record: Json = {"http": [self._exchange(one) for one in transcript["http"]]}
        for name, frames in transcript["sockets"].items() if sockets else ():
            cleaned = [self.value(frame) for frame in frames]
            if first_progress_only:
                cleaned = _without_later_progress(cleaned)
            record[name] = [frame for frame in cleaned if frame["type"] not in apart]
            for event in apart:
                record[f"{name} {event}"] = [one for one in cleaned if one["type"] == event]
        return record

    def _exchange(self, record: Json) -> Json:
        cleaned = self.value(record)
        if STATISTICS.match(record["request"]):
            cleaned["body"] = _shape_of_statistics(record["body"])
        return cleaned

    def value(self, value: Any, key: str = "") -> Any:
        """One JSON value, deep; `key` is the name it stands under."""
        if key in REPLACED and value:
            return REPLACED[key](value)
        if key in TIMES:
            return "<time>"
        if key == "number" or (key == "row number"):
            return self._number(value)
        if isinstance(value, dict):
            return {self.value(k): self.value(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return self._list(value, key)
        if isinstance(value, str):
            return self._text(value)
        if value == self._salt and self._salt is not None:
            return "<salt>"
        return value

    def _list(self, value: list[Any], key: str) -> Any:
        is_row = len(value) == 5 and isinstance(value[2], dict) and isinstance(value[4], list)
        if is_row:  # of /queue or of the history: [number, id, graph, extra data, outputs]
            number, prompt_id, graph, extra, outputs = value
            shown = [self.value(number, "row number"), self.value(prompt_id), self.value(graph)]
            return [*shown, self.value(extra), sorted(outputs)]
        cleaned = [self.value(one) for one in value]
        if key in ("current_outputs", "errors", "dependent_outputs", "executed"):
            # Sets in the real server: their order changes with every process.
            return sorted(cleaned, key=json.dumps)
        return cleaned

    def _number(self, number: Any) -> Any:
        """Queue numbers count from the server's start; a float was chosen by the client."""
        if isinstance(number, float) or number is None:
            return number
        if self._base is None:
            self._base = abs(number)
        return f"{'-' if number < 0 else ''}<base + {abs(number) - self._base}>"

    def _text(self, text: str) -> str:
        if text.startswith(("tensor(", "[[[[")):
            return "<tensor>"
        text = OPAQUE_BODY.sub(r"<\1 bytes>", text)
        text = UUID.sub(lambda match: self._name(match[0], "id"), text)
        if self._salt is not None:
            text = text.replace(str(self._salt), "<salt>")
        return SAVED.sub(self._saved, text)

    def _saved(self, match: re.Match[str]) -> str:
        stem = TEMP_STEM.sub("ComfyUI_temp_letters", match["stem"])
        return f"{stem}_{self._name(match[0], 'file')}_.png"

    def _name(self, original: str, kind: str) -> str:
        number = sum(name.startswith(f"<{kind} ") for name in self._names.values()) + 1
        return self._names.setdefault(original, f"<{kind} {number}>")


# Replaced whole, if there is anything: what these say is nobody's promise.
REPLACED: dict[str, Callable[[Any], Any]] = {
    "salt": lambda _value: "<salt>",
    "traceback": lambda _value: "<traceback>",
    "migrated": lambda _value: False,
}


def _shape_of_statistics(body: Json) -> Json:
    """The keys of /system_stats, the worker's own additions aside."""
    system = sorted(body["system"].keys() - {"embedded_worker", "name"})
    return {"system": system, "devices": [sorted(device) for device in body["devices"]]}


def _without_later_progress(frames: list[Json]) -> list[Json]:
    """Keep the first `progress` of a socket and the state before it: how many follow is chance."""
    kept: list[Json] = []
    seen = False
    for frame in frames:
        if frame["type"] == "progress":
            if seen:
                kept.pop()  # its progress_state
                continue
            seen = True
        kept.append(frame)
    return kept


def recorded(path: Path) -> Json:
    """A recording (one JSON line an exchange or frame) as a raw transcript."""
    http, frames = [], []
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "http":
            http.append({key: record[key] for key in ("request", "json", "status", "body")})
        elif record["kind"] == "ws-text":
            frames.append(record["data"])
        else:
            frames.append(parse_frame(base64.b64decode(record["head_base64"])))
    return {"http": http, "sockets": {"A": frames} if frames else {}}
