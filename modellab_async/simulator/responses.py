"""What is answered: responses, errors in their forms, and how both are put on the wire."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Final, Protocol, TypeAlias
from weakref import WeakSet

import attrs
import msgspec
from aiohttp import web

Headers: TypeAlias = tuple[tuple[str, str], ...]
Sleep: TypeAlias = Callable[[float], Awaitable[None]]

JSON: Final = "application/json"


class Body(Protocol):
    """Bytes too many to hold at once."""

    def __len__(self) -> int: ...

    def chunks(self) -> Iterator[bytes]:
        """The bytes, a piece at a time."""
        ...


@attrs.frozen
class Response:
    """A status, a body and the headers that belong to them."""

    status: int = 200
    body: bytes | Body = b""
    content_type: str = JSON
    headers: Headers = ()


NO_CONTENT: Final = Response(status=204)


def json_response(content: Any, *, status: int = 200) -> Response:
    """A response with a JSON body."""
    return Response(status, msgspec.json.encode(content))


def error_response(
    status: int, title: str, detail: str, more: Mapping[str, Any] | None = None
) -> Response:
    """The error form that is a list of objects, here of one."""
    error = {"title": title, "detail": detail, **(more or {})}
    return json_response({"errors": [error]}, status=status)


def plain_error(status: int, message: str) -> Response:
    """The error form that is a list of strings."""
    return json_response({"errors": [message]}, status=status)


class RequestRefusedError(Exception):
    """The request cannot be carried out; holds the response that says so."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"status {response.status}")
        self.response = response


class NotFoundError(RequestRefusedError, LookupError):
    """There is no such resource; the body is the recorded one."""

    def __init__(self, what: str) -> None:
        super().__init__(error_response(404, "Generic Error", f"{what} not found"))


class BadParameterError(RequestRefusedError):
    """A parameter of the path or the query makes no sense."""

    def __init__(self, parameter: str, detail: str) -> None:
        more = {"status": "400", "source": {"parameter": parameter}}
        super().__init__(error_response(400, "Bad Request", detail, more))


# Putting a response on the wire

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
    """Whether a request crossed the closing of its connection."""
    return request.transport in _half_closed


async def send(
    request: web.BaseRequest,
    response: Response,
    headers: Headers,
    *,
    fault: str | None,
    amount: float | None,
    sleep: Sleep,
) -> web.StreamResponse:
    """Send a response, with further headers, unless the fault of that kind prevents it."""
    body = response.body
    if fault == "lost" or (fault == "cut" and not len(body)):
        return hang_up(request)
    every_header = (("Content-Type", response.content_type), *headers, *response.headers)
    whole = not len(body) or (isinstance(body, bytes) and fault not in {"cut", "drip"})
    answer: web.StreamResponse
    if whole:
        content = body if isinstance(body, bytes) else b""
        answer = web.Response(status=response.status, headers=every_header, body=content)
        if fault is None:
            return answer
    else:
        answer = web.StreamResponse(status=response.status, headers=every_header)
        answer.content_length = len(body)
    try:
        await answer.prepare(request)
        if not whole:
            async with aclosing(_pieces(body, fault, amount, sleep)) as pieces:
                async for piece in pieces:
                    await answer.write(piece)
        if fault != "cut":
            await answer.write_eof()
    except ConnectionError:
        return answer  # the client has hung up
    if fault == "cut":
        hang_up(request)
    elif fault == "idle_close" and request.transport is not None:
        # Only this half, so that a request that crosses the closing is seen, if not answered.
        _half_closed.add(request.transport)
        request.transport.write_eof()
    return answer


async def _pieces(
    body: bytes | Body, fault: str | None, amount: float | None, sleep: Sleep
) -> AsyncGenerator[bytes, None]:
    chunks = iter([body]) if isinstance(body, bytes) else body.chunks()
    if fault == "drip":
        for chunk in chunks:
            for at in range(len(chunk)):
                await sleep(amount or 0.0)
                yield chunk[at : at + 1]
        return
    left = len(body)
    if fault == "cut":
        left = left // 2 if amount is None else min(int(amount), left - 1)
    for chunk in chunks:
        yield chunk[:left]
        left -= len(chunk)
        if left <= 0:
            return
