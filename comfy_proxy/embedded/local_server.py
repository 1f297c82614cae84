"""What every worker is to those who use it: a server on the loopback that they start and stop."""

from abc import ABC, abstractmethod
from typing import Self

HOST = "127.0.0.1"


class LocalServer(ABC):
    """`port` is 0 until the first start, and stays the same over restarts.

    An async context manager: started when it is entered, stopped when it is left.
    """

    port = 0

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://{self.host}"

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`, as `COMFYUI_HOST_1` takes it."""
        return f"{HOST}:{self.port}"

    @abstractmethod
    async def start(self) -> None:
        """Listen; the port is known when it returns."""

    @abstractmethod
    async def stop(self) -> None:
        """End in order."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.stop()
