"""The routes that we answer, and where they are: at the root of an application, or mounted in
another one by ``parent.add_subapp("/comfy/", create_app())``.

aiohttp then puts that path before each route, and leaves requests as they came. A server in front
of us (``forwarded.py``) takes its path off before it forwards; here :meth:`OurRoutes.place` does,
once for each request, and ``request_path.py`` tells every part of the proxy what is left.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Iterable

from aiohttp import hdrs, web
from yarl import URL

from comfy_proxy.addresses import parse_root_path
from comfy_proxy.errors import SettingsError
from comfy_proxy.request_path import PLACE, Place

_REST = "path"
_HOST = r"\A(?:[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*)?"
"""What the absolute form of a request target (RFC 9112 3.2.2) has before the path."""
_SEGMENT = "(?:/[^/?#]*)"


class OurRoutes:
    """``routes`` are answered by us, and ``everything_else`` is forwarded.

    ``mount`` is the path under which another application has them, ``/a/b``, known when that
    starts; "" at the root. ``router`` then finds one of ``routes`` by the whole path of a request.
    """

    def __init__(self, routes: Iterable[web.AbstractRouteDef]) -> None:
        # A router of its own: aiohttp adds a route to the last resource if that has the same path,
        # and the last one may be the host's.
        first = web.UrlDispatcher()
        first.add_routes(routes)
        self.everything_else = web.DynamicResource(f"/{{{_REST}:.*}}")
        self.mount = ""
        self.router = web.UrlDispatcher()
        self._routes = tuple(first.resources())
        self._prefixes = frozenset(
            one.canonical.partition("{")[0].rstrip("/") or "/" for one in self._routes
        )
        self._above = re.compile(_HOST)
        self._has_started = False

    @property
    def resources(self) -> tuple[web.AbstractResource, ...]:
        """All, in the order in which they are to be registered."""
        return (*self._routes, self.everything_else)

    def may_have(self, path: str) -> bool:
        """False if none of our routes has ``path`` (:func:`normal_path` of what it is to us).

        Most forwarded requests end here: the router need not look for a route a second time.
        """
        while path not in self._prefixes:
            if path == "/":
                return False
            path = path.rpartition("/")[0] or "/"
        return True

    async def lifecycle(self, app: web.Application) -> AsyncIterator[None]:
        """Learn the mount when ``app`` starts: until then it may be added to others.

        Raises SettingsError for what aiohttp would answer with an empty 404 for ever: a path with
        characters that it encodes in one place and not in another, or an application that was added
        twice and so has both paths before its routes.
        """
        if self._has_started:
            raise SettingsError(
                [
                    "An application with comfy_proxy starts once, and has one place: call"
                    " create_app() again for another."
                ]
            )
        self._has_started = True
        self.mount = _plain(self.everything_else.canonical.removesuffix(f"/{{{_REST}}}"))
        self._above = re.compile(_HOST + _SEGMENT * self.mount.count("/"))
        for resource in self._routes:
            self.router.register_resource(resource)
        yield

    def place(self, request: web.Request) -> Place:
        """What ``request`` asks of us. Its path begins with the mount, however that is encoded:
        else aiohttp had not brought it here. So the mount's number of segments is taken off."""
        target, path = request.raw_path, request.rel_url.raw_path
        if not self.mount:
            return Place(mount="", target=target, path=path, lacks_slash=False)
        below = self._above.sub("", path)
        return Place(
            mount=self.mount,
            target=_with_slash(self._above.sub("", target)),
            path=_with_slash(below),
            lacks_slash=not below,
        )


OUR_ROUTES: web.AppKey[OurRoutes] = web.AppKey("comfy_proxy.our_routes")


def require_open(app: web.Application) -> None:
    """Raises SettingsError if ``app`` takes no more routes: it has started, or another has it."""
    if app.pre_frozen:
        raise SettingsError(
            ["comfy_proxy.setup(app) has to come before app starts, and before add_subapp(…, app)."]
        )


def slash_added(request: web.Request) -> web.Response | None:
    """The redirect from ``/comfy`` to ``/comfy/``, None for any other request.

    Links in the page there are relative. ``middleware.py`` puts the root path before the Location.
    """
    if not request[PLACE].lacks_slash:
        return None
    query = request.rel_url.raw_query_string
    return web.Response(status=307, headers={hdrs.LOCATION: f"/?{query}" if query else "/"})


def _plain(path: str) -> str:
    with contextlib.suppress(ValueError):
        if not path or parse_root_path(path) == path == URL.build(path=path).raw_path:
            return path
    raise SettingsError(
        [
            f"add_subapp({path[:100]!r}, …) cannot carry comfy_proxy: a path of letters, digits and"
            " - . _ ~ can, like /comfy, because aiohttp does not find one that has to be encoded."
            " Or use setup(app) on the application itself, or a server in front with ROOT_PATH."
        ]
    )


def _with_slash(below: str) -> str:
    """``/comfy?a`` is ``/?a`` to us."""
    return below if below.startswith("/") else f"/{below}"
