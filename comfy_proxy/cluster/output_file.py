"""A file that an instance has made."""

from __future__ import annotations

from dataclasses import dataclass

from comfy_proxy.errors import PromptLostError, ResultError


class ResultFileLostError(PromptLostError):
    """The instance has told of a file that it does not give: it was restarted since, or the node
    that told of it never wrote it where ``/view`` looks."""

    code = "result_file_lost"


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputFile:
    """As ``executed`` and ``/history`` name it."""

    filename: str
    subfolder: str
    type: str

    def query(self) -> dict[str, str]:
        """The query of ``/view`` for it. Raises ResultError for a name that is no UTF-8."""
        query = {"filename": self.filename, "subfolder": self.subfolder, "type": self.type}
        try:
            "".join(query.values()).encode()
        except UnicodeEncodeError as error:
            raise ResultError(f"The result has a name that is no UTF-8: {self!r}.") from error
        return query
