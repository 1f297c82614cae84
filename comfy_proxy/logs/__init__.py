"""Structured logs: JSON lines in files, readable lines on a terminal, none of it on the event loop.

``AppLogs`` (one for each application) takes what loguru hands it, aiohttp's own records and one
record a request; ``LogWriter`` formats and writes in a thread.
"""

from comfy_proxy.logs.app_logs import AppLogs, configure_console

__all__ = ["AppLogs", "configure_console"]
