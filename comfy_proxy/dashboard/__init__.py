"""``/dashboard``: a page to look at, live through Server-Sent Events."""

from comfy_proxy.dashboard.routes import feed, routes

__all__ = ["feed", "routes"]
