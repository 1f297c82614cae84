"""Spoils HTTP answers as the Faults of a worker say: late, never, wrong, cut or broken off."""

import asyncio

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from comfy_proxy.embedded.faults import Faults, without_api

LOGIN_PAGE = "<!doctype html><title>Sign in</title><p>Please sign in to continue.</p>"


def fault_middleware(faults: Faults) -> Middleware:
    """The outermost middleware of a worker; does nothing while every fault is off.

    `/embedded/…` is never spoiled, so that faults can be cleared.
    """

    @web.middleware
    async def spoil(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/embedded/"):
            return await handler(request)
        if faults.delay_s:
            await asyncio.sleep(faults.delay_s)
        await faults.wait_while_hanging(request.path)
        if _breaks(request, faults):
            return await _break_off(request, handler)
        answer = faults.answer_for(request.path)
        if answer is None:
            return await handler(request)
        return await _wrong_answer(answer, request, handler, faults)

    return spoil


def _breaks(request: web.Request, faults: Faults) -> bool:
    is_prompt = request.method == hdrs.METH_POST and without_api(request.path) == "/prompt"
    return is_prompt and faults.take_broken_prompt()


async def _wrong_answer(
    answer: str, request: web.Request, handler: Handler, faults: Faults
) -> web.StreamResponse:
    if answer.isdecimal():
        return web.Response(status=int(answer), text=f"{answer}: simulated")
    if answer == "html":
        return web.Response(text=LOGIN_PAGE, content_type="text/html")
    if answer == "non_json":
        return web.Response(body=b"this is not JSON", content_type="application/json")
    if answer == "empty":
        return web.Response()
    if answer == "endless":
        return await _endless(request)
    if answer == "break":
        return await _break_off(request, handler)
    return await _slowly(request, await handler(request), faults, cut=answer == "cut")


async def _break_off(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Do what was asked, then reset the connection: the client cannot know that it was done."""
    response = await handler(request)
    abort(request)
    return response


def abort(request: web.Request) -> None:
    """Reset the connection of a request, without an end of the body or a close frame."""
    if isinstance(request.transport, asyncio.Transport):
        request.transport.abort()


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:  # ends when the client (or the worker) closes the connection
        await response.write(b"x" * 1024)
        await asyncio.sleep(0.01)


async def _slowly(
    request: web.Request, true: web.StreamResponse, faults: Faults, *, cut: bool
) -> web.StreamResponse:
    """The true answer in small pieces; with `cut` only half of what Content-Length promised."""
    body = await asyncio.to_thread(_body_of, true)
    response = web.StreamResponse(status=true.status)
    response.headers.extend(true.headers)
    response.content_type = true.content_type
    response.content_length = len(body)
    await response.prepare(request)
    end = len(body) // 2 if cut else len(body)
    size = end if cut else faults.trickle_bytes
    for start in range(0, end, max(size, 1)):
        await response.write(body[start : min(start + size, end)])
        await asyncio.sleep(faults.trickle_s)
    if cut:
        abort(request)
    return response


def _body_of(response: web.StreamResponse) -> bytes:
    if isinstance(response, web.FileResponse):
        return response._path.read_bytes()
    body = response.body if isinstance(response, web.Response) else None
    return bytes(body) if isinstance(body, bytes | bytearray) else b""
