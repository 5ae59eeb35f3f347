"""Putting answers on the wire, whole or spoilt by a fault."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, TypeAlias
from weakref import WeakSet

from aiohttp import web

if TYPE_CHECKING:
    from modellab_async.simulator.answers import Answer, Body, Headers
    from modellab_async.simulator.faults import Fault

Sleep: TypeAlias = Callable[[float], Awaitable[None]]

_half_closed: Final = WeakSet[asyncio.Transport]()

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


def hang_up(request: web.BaseRequest, *, reset: bool = False) -> web.StreamResponse:
    """Close the connection (FIN), or reset it (RST).

    Returns:
        A response for the handler to return; none of it is sent.
    """
    transport = request.transport
    if transport is not None:
        if reset:
            connection: socket.socket = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()
        else:
            transport.close()
    return web.Response()


def is_half_closed(request: web.BaseRequest) -> bool:
    """Whether a request came on a connection whose closing it has crossed."""
    return request.transport in _half_closed


async def send(
    request: web.BaseRequest, answer: Answer, headers: Headers, fault: Fault | None, sleep: Sleep
) -> web.StreamResponse:
    """Send an answer, with further headers, unless the fault spoils that."""
    body = answer.body
    kind = None if fault is None else fault.kind
    if kind == "lost" or (kind == "cut" and not len(body)):
        return hang_up(request)
    every_header = (("Content-Type", answer.content_type), *headers, *answer.headers)
    response: web.StreamResponse
    whole = not len(body) or (isinstance(body, bytes) and kind not in {"cut", "drip"})
    if whole:
        response = web.Response(
            status=answer.status,
            headers=every_header,
            body=body if isinstance(body, bytes) else b"",
        )
    else:
        response = web.StreamResponse(status=answer.status, headers=every_header)
        response.content_length = len(body)
    if whole and kind is None:
        return response
    try:
        await response.prepare(request)
        if not whole:
            async with aclosing(_pieces(body, fault, sleep)) as pieces:
                async for piece in pieces:
                    await response.write(piece)
        if kind != "cut":
            await response.write_eof()
    except ConnectionError:
        return response  # the client has hung up: nobody is left to answer
    if kind == "cut":
        hang_up(request)
    elif kind == "idle_close" and request.transport is not None:
        # Only this half, so that a request that crosses the closing is seen, if not answered.
        _half_closed.add(request.transport)
        request.transport.write_eof()
    return response


async def _pieces(
    body: bytes | Body, fault: Fault | None, sleep: Sleep
) -> AsyncGenerator[bytes, None]:
    chunks = iter([body]) if isinstance(body, bytes) else body.chunks()
    if fault is not None and fault.kind == "drip":
        for chunk in chunks:
            for at in range(len(chunk)):
                await sleep(fault.amount or 0.0)
                yield chunk[at : at + 1]
        return
    left = len(body)
    if fault is not None and fault.kind == "cut":
        left = left // 2 if fault.amount is None else min(int(fault.amount), left - 1)
    for chunk in chunks:
        yield chunk[:left]
        left -= len(chunk)
        if left <= 0:
            return
