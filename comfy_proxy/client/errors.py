"""What the client raises; all of it is a :class:`ClientError`."""

from __future__ import annotations

from typing import Any

from comfy_proxy.errors import ComfyProxyError, Details


class ClientError(ComfyProxyError):
    """Base of all errors of the client. ``message`` is a sentence, ``code`` a stable word.

    ``field`` names the parameter that is wrong, ``request_id`` finds the request in the proxy's
    log; each is None where there is none.
    """

    code = "client_error"
    field: str | None = None
    request_id: str | None = None


class InvalidValueError(ClientError):
    """What was given cannot be sent, and was not: a mistake of the caller. ``field`` names it, if
    it is a parameter."""

    status = 400
    code = "invalid_value"

    def __init__(self, message: str, *, code: str | None = None, field: str | None = None) -> None:
        super().__init__(message, code=code)
        self.field = field


class UnreachableError(ClientError):
    """Nothing answers at the proxy's address, or the connection broke off too often."""

    status = 502
    code = "unreachable"


class ApiError(ClientError):
    """The proxy has answered with an error; ``status`` is that of HTTP, ``details`` is as sent.

    ``retry_after_s`` are the seconds after which it may be tried again, None if it did not say.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        details: Details = None,
        request_id: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message, code=code, details=details, retry_after_s=retry_after_s)
        self.status = status
        self.request_id = request_id
        named: Any = self.details.get("field")
        self.field = named if isinstance(named, str) else None


class JobFailedError(ClientError):
    """The job ``job_id`` ended without a result; code and message are those of the job."""

    status = 502
    code = "job_failed"

    def __init__(self, message: str, *, code: str, job_id: str) -> None:
        super().__init__(message, code=code, details={"job_id": job_id})
        self.job_id = job_id
