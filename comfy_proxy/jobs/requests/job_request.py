"""What a client asks for, checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from comfy_proxy.jobs.media.file_info import FileInfo
from comfy_proxy.jobs.requests.input_file import InputFile
from comfy_proxy.jobs.requests.request_fields import WEBHOOK_URL
from comfy_proxy.jobs.workflows.parameter import Scalar
from comfy_proxy.lenient_json import SORT_KEYS, dumps


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """Whoever gets it owns its files, and calls :meth:`close`.

    ``parameters`` are typed, defaults filled in. ``options`` has those of
    ``request_fields.OPTIONS`` that were given, as text, ``async`` and ``mode`` in lower case.
    ``files`` are by parameter, in the order of the workflow's. ``fingerprint`` is a hash, the same
    for requests with the same workflow, parameters, ``webhook_url`` and bytes of files: an
    ``Idempotency-Key`` is held to it. Random numbers that were drawn for this request are no part
    of it. ``client`` is who gets a fair share (``client_identity.py``).
    """

    workflow: str
    parameters: dict[str, Scalar]
    options: dict[str, str]
    files: Mapping[str, InputFile]
    fingerprint: str
    client: str = ""

    @property
    def infos(self) -> dict[str, FileInfo]:
        """What each file is."""
        return {name: file.info for name, file in self.files.items()}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    @property
    def in_memory(self) -> int:
        """How many of them are in memory."""
        return sum(file.size for file in self.files.values() if file.in_memory)

    def close(self) -> None:
        """Forget the bytes of the files; what is known of them stays."""
        for file in self.files.values():
            file.close()


def fingerprint_of(
    workflow: str,
    parameters: Mapping[str, Scalar],
    files: Mapping[str, InputFile],
    options: Mapping[str, str],
) -> str:
    """As :attr:`JobRequest.fingerprint`."""
    digests: dict[str, str] | str = {name: file.digest for name, file in files.items()}
    if len(digests) == 1:  # as it was when there was only one, for the jobs of a STATE_FILE
        (digests,) = (file.digest for file in files.values())
    # Who repeats a request with another URL waits for a webhook that the first one's job never
    # sends there: it is to be told so.
    urls = [options[WEBHOOK_URL]] if WEBHOOK_URL in options else []
    document = dumps([workflow, parameters, digests, *urls], option=SORT_KEYS)
    return hashlib.sha256(document).hexdigest()
