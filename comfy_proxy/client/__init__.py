"""A Python client of the job API, synchronous (``Client``) and asynchronous (``AsyncClient``).

It needs the extra ``client`` (httpx, httpx-sse) and nothing of the server::

    from comfy_proxy.client import Client

    with Client("http://127.0.0.1:3000") as proxy:
        job = proxy.submit("upscale-image", "photo.jpg", scale=2)
        for event in job.progress():
            print(event.status.progress_percentage)
        job.result().save("photo-large.png")
"""

from comfy_proxy.client.asynchronous import AsyncClient, AsyncJob, AsyncResult
from comfy_proxy.client.errors import (
    ApiError,
    ClientError,
    InvalidValueError,
    JobFailedError,
    UnreachableError,
)
from comfy_proxy.client.models import Event, ResultInfo, Status, Workflow
from comfy_proxy.client.policy import Policy
from comfy_proxy.client.synchronous import Client, Job, Result
from comfy_proxy.client.uploads import FileInput

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncJob",
    "AsyncResult",
    "Client",
    "ClientError",
    "Event",
    "FileInput",
    "InvalidValueError",
    "Job",
    "JobFailedError",
    "Policy",
    "Result",
    "ResultInfo",
    "Status",
    "UnreachableError",
    "Workflow",
]
