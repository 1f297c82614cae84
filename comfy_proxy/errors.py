"""Every error of the project, with the HTTP status and the stable code a client sees.

Four families, told apart by what is to be done about them:

* :class:`RequestError`: the client must change the request (4xx).
* :class:`UnavailableError`: the client may send the same request again later (503).
* :class:`InstanceError`: a ComfyUI instance did not do its part; another one may. These alone
  count against an instance's circuit breaker.
* :class:`JobError`: how an accepted job can fail for good.

Those of libraries are translated where they arise (``cluster/translation.py``, ``bodies.py``, …).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

Details = Mapping[str, Any] | None


class ComfyProxyError(Exception):
    """Base of all errors of this package; raised as it is, an internal fault (500).

    ``message`` is one sentence for the client: never a stack trace, a file path of an instance or
    data of another client. ``details`` is JSON; ``headers`` and ``retry_after_s`` are headers.
    """

    status: int = 500
    code: str = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        details: Details = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.code if code is None else code
        self.details: dict[str, Any] = dict(details or {})
        self.retry_after_s = retry_after_s
        self.headers: dict[str, str] = {}


class NotOursError(Exception):
    """ComfyUI is to answer this request; raised by a handler of ours before it reads the body.
    ComfyUI has an ``/api/jobs/{id}`` too, and only the handler can tell whose job the id names."""


class SettingsError(ComfyProxyError):
    """The configuration cannot be used; ``problems`` has one line for each thing that is wrong."""

    code = "invalid_settings"

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems), details={"problems": problems})
        self.problems = problems


# --- the client is to change something ------------------------------------------------------


class RequestError(ComfyProxyError):
    """The request cannot be served as it is."""

    status = 400
    code = "bad_request"


class InvalidFieldError(RequestError):
    """A field of the request is missing or wrong; ``details.field`` names it."""

    code = "invalid_parameter"

    def __init__(
        self, field: str, message: str, *, code: str | None = None, details: Details = None
    ) -> None:
        super().__init__(message, code=code, details={"field": field, **(details or {})})
        self.field = field


class UnauthorizedError(RequestError):
    """``API_KEYS`` is set and the request carries none of them."""

    status = 401
    code = "unauthorized"


class ForbiddenError(RequestError):
    """A page of a foreign origin, or a host name that is not served (``origin_check.py``)."""

    status = 403
    code = "forbidden"


class NotFoundError(RequestError):
    """No such job (unknown, forgotten or deleted) or no such workflow."""

    status = 404
    code = "not_found"


class MethodNotAllowedError(RequestError):
    """The path is ours, the method is not; ``Allow`` tells which is."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, method: str, allowed: list[str]) -> None:
        super().__init__(f"{method} is not allowed here.", details={"allowed": allowed})
        self.headers["Allow"] = ", ".join(allowed)


class JobNotReadyError(RequestError):
    """The result was asked for while the job is not finished, or after it failed."""

    status = 409
    code = "job_not_ready"


class PayloadTooLargeError(RequestError):
    """The body is larger than ``MAX_UPLOAD_SIZE``."""

    status = 413
    code = "payload_too_large"


class UnsupportedMediaTypeError(RequestError):
    """The body is neither a form, nor JSON, nor a picture."""

    status = 415
    code = "unsupported_media_type"


class IdempotencyConflictError(RequestError):
    """The ``Idempotency-Key`` was used with another request."""

    status = 422
    code = "idempotency_key_reused"


# --- nobody can take it now ---------------------------------------------------------------


class UnavailableError(ComfyProxyError):
    """The request cannot be served now; the same one may succeed later."""

    status = 503
    code = "unavailable"


class NoHealthyInstanceError(UnavailableError):
    """No ComfyUI instance can be used: each is unhealthy, full or was passed over."""

    code = "no_instance"


class QueueFullError(UnavailableError):
    """``MAX_PENDING_JOBS`` jobs are waiting already."""

    code = "queue_full"


class DrainingError(UnavailableError):
    """The proxy is stopping and takes no new jobs."""

    code = "draining"


class WorkflowUnavailableError(UnavailableError):
    """No instance has the node classes or model files that any variant of the workflow needs."""

    code = "workflow_unavailable"


# --- an instance did not do its part ------------------------------------------------------


class InstanceError(ComfyProxyError):
    """A ComfyUI instance failed; a job runs again elsewhere. ``strike``: the breaker counts it."""

    status = 502
    code = "instance_failed"
    strike: ClassVar[bool] = True


class InstanceUnreachableError(InstanceError):
    """Connection refused, reset or broken off."""

    code = "instance_unreachable"


class ConnectionBrokenError(InstanceUnreachableError):
    """A connection ended before its answer did. Several within a second are one strike."""


class InstanceDiedError(InstanceUnreachableError):
    """ComfyUI's process ended while this prompt was posted to it, and the prompt may be why."""


class InstanceTimeoutError(InstanceError):
    """No answer in the time that was given; whether the request had an effect is not known."""

    status = 504
    code = "instance_timeout"


class InvalidAnswerError(InstanceError):
    """The answer is not ComfyUI's protocol: HTML of a login page, broken JSON."""

    code = "instance_invalid_answer"


class AnswerTooLargeError(InstanceError):
    """An answer is longer than we keep in memory. The instance works, so this is no strike."""

    code = "instance_answer_too_large"
    strike = False


class InstanceRefusedError(InstanceError):
    """ComfyUI answered with an error where none belongs (500: the disk is full). No strike."""

    code = "instance_refused"
    strike = False


class PromptLostError(InstanceError):
    """The instance answers but has no such prompt or result now (PROTOCOL.md traps 4 and 5)."""

    code = "prompt_lost"
    strike = False


class ResultFrameLostError(PromptLostError):
    """The socket on which the picture would have come was lost: the prompt has to run again."""

    code = "result_frame_lost"


# --- how a job can end badly --------------------------------------------------------------


class JobError(ComfyProxyError):
    """The job ends as failed with this code and message; it is not run again."""

    status = 502
    code = "job_failed"


class WorkflowError(JobError):
    """In ComfyUI's words; ``node_traceback`` has the instance's paths in it: for our log alone."""

    code = "workflow_error"
    node_traceback: str | None = None


class GpuMemoryError(WorkflowError):
    """A node ran out of memory, of its GPU as a rule. ComfyUI has unloaded every model since."""

    code = "out_of_memory"


class PromptRejectedError(WorkflowError):
    """``POST /prompt`` refused the graph, or a part of it: it does not fit this instance."""


class ProcessEndedError(JobError):
    """The process of ComfyUI ended each time that it ran this prompt (``cluster/retry_law.py``)."""

    code = "process_ended"


class InterruptedPromptError(JobError):
    """Somebody else interrupted or deleted the prompt at the instance."""

    code = "interrupted"


class JobTimeoutError(JobError):
    """The instance answers but the prompt was silent for too long (``COMFYUI_TIMEOUT``)."""

    status = 504
    code = "timeout"


class JobCancelledError(JobError):
    """The job was deleted by its client."""

    status = 409
    code = "cancelled"


class ResultError(JobError):
    """The workflow ended without a picture that can be used."""

    code = "invalid_result"
