"""The one middleware of the proxy: what each request passes on its way to us or to ComfyUI.

Requests for routes of the host application pass untouched. Every other one gets a request id, is
checked, answered by our handler or forwarded, and logged in one line; every error becomes the JSON
``{"error", "code", "details", "request_id"}`` here and nowhere else. The id is put on an answer by
aiohttp's prepare signal: streams and WebSocket handshakes have sent their headers before a
middleware sees them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from loguru import logger

from comfy_proxy import open_streams, security
from comfy_proxy.bodies import ClientGoneError
from comfy_proxy.cluster.self_check import refuse_own
from comfy_proxy.cors import AllowedOrigins
from comfy_proxy.counted_response import send_if_large
from comfy_proxy.errors import MethodNotAllowedError, NotOursError
from comfy_proxy.forwarded import place_under, root_path
from comfy_proxy.gateway import policies, routes
from comfy_proxy.gateway.exchange.answers import ForwardedResponse, abort, gone
from comfy_proxy.gateway.exchange.client_socket import ClientSocket
from comfy_proxy.gateway.exchange.context import CONTEXT, SOCKETS, RequestContext
from comfy_proxy.gateway.exchange.error_answers import ErrorForm, error_response
from comfy_proxy.gateway.exchange.socket_traffic import ALL_TRAFFIC, AllTraffic
from comfy_proxy.gateway.exchange.target import target_path
from comfy_proxy.keys import CLUSTER, GATEWAY, LOGS, REQUEST_OBSERVERS, SETTINGS, SHUTDOWN
from comfy_proxy.logs import AppLogs
from comfy_proxy.metrics.records import OURS
from comfy_proxy.observers import tell
from comfy_proxy.origin_check import is_preflight
from comfy_proxy.our_routes import OUR_ROUTES, OurRoutes, slash_added
from comfy_proxy.request_path import PLACE, normal_path, our_path, our_target
from comfy_proxy.request_records import request_record
from comfy_proxy.settings import Settings
from comfy_proxy.shutdown import Shutdown
from comfy_proxy.stored_files import confine
from comfy_proxy.tracing import Trace, valid_request_id, valid_traceparent

OUR_RESOURCES: web.AppKey[set[web.AbstractResource]] = web.AppKey("comfy_proxy.our_resources")
"""The resources that we registered, the catch-all included; any other one is the host's."""

ORIGINS: web.AppKey[AllowedOrigins] = web.AppKey("comfy_proxy.origins")
"""The origins of other sites whose pages may use the proxy; in the application even if there are
none, because SIGHUP may bring some."""

_ERROR_FORMS: web.AppKey[Mapping[object, ErrorForm]] = web.AppKey("comfy_proxy.error_forms")
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
_SHARED_PATH = re.compile(r"/api/jobs(/[^/]+(/cancel)?)?|/api/v2(/.*)?")
"""Paths that ComfyUI has too: a method that we lack there goes to ComfyUI, instead of our 405."""


def register(
    app: web.Application,
    our_routes: Iterable[web.AbstractRouteDef],
    settings: Settings,
    error_forms: Mapping[object, ErrorForm] = MappingProxyType({}),
) -> None:
    """Make ``app`` carry the proxy: ``our_routes`` are answered by us, all other paths forwarded.

    ``error_forms`` are those of handlers that tell errors by another contract than ours.
    Call it after the host has registered its own routes, before the application starts and before
    another one gets it as a sub-application (:func:`our_routes.require_open`). Needs
    ``app[CLUSTER]`` and ``app[GATEWAY]`` when the first request comes.
    """
    ours = app[OUR_ROUTES] = OurRoutes(our_routes)
    for method in _METHODS:
        if method != hdrs.METH_OPTIONS:  # that one aiohttp-cors adds
            ours.everything_else.add_route(method, _not_ours)
    for resource in ours.resources:
        app.router.register_resource(resource)
    app.cleanup_ctx.append(ours.lifecycle)
    app[SETTINGS] = settings
    app[LOGS] = AppLogs(settings)
    app[SHUTDOWN] = Shutdown()
    app[SOCKETS] = {}
    app[open_streams.EVENT_STREAMS] = {}
    app[ALL_TRAFFIC] = AllTraffic()
    app[REQUEST_OBSERVERS] = []
    app[REQUEST_OBSERVERS].append(app[LOGS].record_request)
    app[OUR_RESOURCES] = set(ours.resources)
    app[_ERROR_FORMS] = error_forms
    app.on_response_prepare.append(partial(_finish_headers, app))
    app.on_shutdown.append(_end_sockets)
    app[ORIGINS] = AllowedOrigins(app, ours.resources, settings.cors_origins)
    app.middlewares.append(proxy_middleware)


@web.middleware
async def proxy_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """See the module. Of exceptions only cancellation and aiohttp's redirects pass through."""
    app = request.app
    if _belongs_to_host(request.match_info, app):
        return await handler(request)
    request[PLACE] = app[OUR_ROUTES].place(request)
    given = request.headers.get("X-Request-ID", "")
    context = request[CONTEXT] = RequestContext(valid_request_id(given, app[SETTINGS].api_keys))
    traceparent = valid_traceparent(request.headers.get("traceparent"))
    with app[LOGS].current(Trace(context.id, traceparent)):
        return await _recorded(request, app, handler)


async def _recorded(
    request: web.Request, app: web.Application, handler: Handler
) -> web.StreamResponse:
    """Answer, and tell the observers in one record what came of it; of a client's WebSocket when
    that has ended."""
    started = app[CLUSTER].clock.monotonic()
    answer: web.StreamResponse | None = None  # and stays so if we are cancelled
    try:
        answer = await _answer(request, app, handler)
    except web.HTTPException as redirect:
        answer = redirect
        raise
    finally:
        if isinstance(answer, ClientSocket) and answer.is_waiting:
            answer.on_end = partial(_record, request, app, answer, started)
        else:
            _record(request, app, answer, started)
    return answer


def _record(
    request: web.Request, app: web.Application, answer: web.StreamResponse | None, started: float
) -> None:
    """It is over: tell the observers."""
    open_streams.forget(request, app)
    now, observers = app[CLUSTER].clock.monotonic(), app[REQUEST_OBSERVERS]
    tell(observers, request_record(request, answer, started=started, ended=now))


async def _answer(
    request: web.Request, app: web.Application, handler: Handler
) -> web.StreamResponse:
    try:
        refuse_own(request.headers, app[CLUSTER].connections.mark)
        refused = security.check(request, app[SETTINGS])
        answer = refused or await _ours_or_forwarded(request, app, handler)
        # A large answer is sent here only if no middleware of the host comes after: they must be
        # able to change an answer, which they cannot once its headers are out.
        outermost = _is_outermost(request.match_info, app)
        if isinstance(answer, ClientSocket) and not outermost:
            await answer.write_eof()  # a host's middleware is to see its end
        return await send_if_large(request, answer) if outermost else answer
    except Exception as error:
        if isinstance(error, web.HTTPException) and error.status < 400:
            raise
        if isinstance(error, ClientGoneError):
            return gone(request)
        if (begun := request[CONTEXT].begun) is not None:  # no other answer can be given
            return _broken_off(request, begun, error)
        if isinstance(error, ConnectionError) and request.transport is None:
            return gone(request)
        root = root_path(request, app[SETTINGS])
        answer = error_response(request, error, app[CLUSTER].instances, root=root)
        form = app[_ERROR_FORMS].get(request.match_info.handler)
        return answer if form is None else form(answer)


async def _ours_or_forwarded(
    request: web.Request, app: web.Application, handler: Handler
) -> web.StreamResponse:
    context = request[CONTEXT]
    context.policy = OURS
    if (redirect := slash_added(request)) is not None:
        return redirect
    if handler is not _not_ours and _has_handler(request):
        try:
            return await handler(request)
        except NotOursError:  # from behind a middleware of the host, which had its turn
            pass
    if app[OUR_ROUTES].may_have(normal_path(our_path(request))):
        await _refuse_method(request, app)
    match = routes.match(request.method, target_path(our_target(request)))
    context.policy = match.policy
    if match.policy is routes.Policy.SCHEDULED:
        app[SHUTDOWN].check_open()
    return await policies.answer(request, match, app[GATEWAY])


async def _refuse_method(request: web.Request, app: web.Application) -> None:
    """405 with Allow (RFC 9110 15.5.6) if the path is ours alone and only the method is not."""
    if _SHARED_PATH.fullmatch(normal_path(our_path(request))):
        return
    match = await app[OUR_ROUTES].router.resolve(request)
    refusal = match.http_exception
    if isinstance(refusal, web.HTTPMethodNotAllowed):
        preflights = set() if app[SETTINGS].cors_origins else {hdrs.METH_OPTIONS}
        allowed = set(refusal.allowed_methods) - preflights
        raise MethodNotAllowedError(request.method, sorted(allowed))
    if refusal is None and not _has_handler(request) and match.route.resource is not None:
        methods = {route.method for route in match.route.resource} - {hdrs.METH_OPTIONS}
        raise MethodNotAllowedError(request.method, sorted(methods))


def _belongs_to_host(match: web.UrlMappingMatchInfo, app: web.Application) -> bool:
    """A route of the host application, or anything inside a sub-application of it."""
    if match.apps[-1] is not app:
        return True
    return match.http_exception is None and match.route.resource not in app[OUR_RESOURCES]


def _is_outermost(match: web.UrlMappingMatchInfo, app: web.Application) -> bool:
    """True if no middleware of the host sees our answer, none of an outer application either."""
    if app.middlewares[0] is not proxy_middleware:
        return False
    return not any(outer.middlewares for outer in match.apps[:-1])


def _has_handler(request: web.Request) -> bool:
    """False where the router found nothing, and for an OPTIONS that is no preflight, or that is one
    while no origin is allowed.

    aiohttp-cors would answer such an OPTIONS with 403; it is forwarded instead.
    """
    if request.method == hdrs.METH_OPTIONS and not (
        is_preflight(request) and request.app[SETTINGS].cors_origins
    ):
        return False
    return request.match_info.http_exception is None


async def _not_ours(request: web.Request) -> web.StreamResponse:
    raise NotOursError


def _broken_off(
    request: web.Request, answer: web.StreamResponse, error: Exception
) -> web.StreamResponse:
    """Our handler failed with its ``answer`` half sent: cut the connection.

    Otherwise the client could take what it has for the whole answer.
    """
    if isinstance(error, ConnectionError):
        return gone(request)
    logger.opt(exception=error).error("{} failed in mid-answer", request[CONTEXT].id)
    abort(request, answer)
    return answer


async def _finish_headers(
    app: web.Application, request: web.Request, answer: web.StreamResponse
) -> None:
    """The last word on the headers of every answer that is not the host's. ``app`` is the
    application that carries us: ``request.app`` is known only while a handler runs."""
    if request.match_info.apps[-1] is not app:
        return  # of another proxy, say, that is inside this application
    if (context := request.get(CONTEXT)) is not None:
        settings = app[SETTINGS]
        context.begun = answer
        open_streams.note(request, answer, app)
        context.begun_at = app[CLUSTER].clock.monotonic()
        answer.headers["X-Request-ID"] = context.id
        if isinstance(answer, ForwardedResponse):
            answer.drop_additions()
        if context.shows_file and answer.status in (200, 206):
            confine(answer.headers)
        if settings.cors_origins:
            answer.headers.add(hdrs.VARY, hdrs.ORIGIN)
        if root := root_path(request, settings):  # last: all URLs above are without the root
            place_under(answer.headers, root)
    await app[ORIGINS].add_headers(request, answer)  # last: it names all others


async def _end_sockets(app: web.Application) -> None:
    """End all WebSockets: aiohttp waits for handlers at shutdown, and theirs end only then."""
    sockets = app[SOCKETS]
    for socket in list(sockets):
        socket.stop()
