"""How a request is handled: keys, limits and faults, its operation, and the record of it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias
from weakref import WeakSet

import attrs
from aiohttp import web

from modellab_async.simulator.artifacts import CHUNK
from modellab_async.simulator.dataset import Dataset
from modellab_async.simulator.faults import Fault, Faults
from modellab_async.simulator.limits import Limits
from modellab_async.simulator.operations import Request, Route, find_route
from modellab_async.simulator.responses import Headers, RequestRefusedError, Response, plain_error

BeforeRequest: TypeAlias = Callable[[str, str], Awaitable[None] | None]
Sleep: TypeAlias = Callable[[float], Awaitable[None]]

_SECRET_HEADERS: Final = frozenset(
    {"authorization", "cookie", "dd-api-key", "dd-application-key", "proxy-authorization"}
)
_UNANSWERED: Final = frozenset({"close", "reset", "stall"})
_UNAUTHORIZED: Final = plain_error(401, "Unauthorized")
_FORBIDDEN: Final = plain_error(403, "Forbidden")
_NOT_FOUND: Final = plain_error(404, "Not found")
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_half_closed: Final = WeakSet[asyncio.Transport]()


@attrs.frozen
class RequestRecord:
    """One request, and what became of it.

    Attributes:
        method: the HTTP method.
        path: the path, as it was written in the request.
        query: the query string, as it was written, without the question mark.
        operation: the operation's name, such as `get_run`; empty for a path that is none.
        headers: the request's headers under lower-case names, without those that hold secrets.
        status: the status answered, or None if the connection was broken before one was.
        fault: the kind of fault injected, or None.
        time: when it arrived, in seconds by the simulator's clock.
    """

    method: str
    path: str
    query: str
    operation: str
    headers: Mapping[str, str]
    status: int | None
    fault: str | None
    time: float


@attrs.define
class Counts:
    """How many requests were seen.

    Attributes:
        requests: all that were finished or broken off, whatever became of them.
        by_status: how many were answered with each status; None: broken before a status was sent.
        by_operation: how many asked for each (method, path template).
        faults: how many met each kind of fault.
        in_flight: requests being worked on now.
        peak_in_flight: most that were ever worked on at the same time.
        connections: connections open now.
        connections_made: connections ever accepted.
    """

    requests: int = 0
    by_status: Counter[int | None] = attrs.field(factory=Counter)
    by_operation: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    faults: Counter[str] = attrs.field(factory=Counter)
    in_flight: int = 0
    peak_in_flight: int = 0
    connections: int = 0
    connections_made: int = 0


@attrs.frozen(eq=False)
class RequestHandler:
    """Handles requests, and records what became of each.

    Attributes:
        keys: the pair of keys that is accepted, as headers.
        bearer_token: the token that is accepted; it wins over a pair of keys.
        requests: the last requests, as many as its `maxlen`.
        counts: the counts so far, but for those of connections.
    """

    keys: Mapping[str, str]
    bearer_token: str
    limits: Limits
    faults: Faults
    latency: float
    first_page: int
    ranges: bool
    before_request: BeforeRequest | None
    clock: Callable[[], float]
    sleep: Sleep
    requests: deque[RequestRecord]
    counts: Counts = attrs.field(init=False, factory=Counts)

    async def handle(self, dataset: Dataset, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request for a dataset, or let it fail."""
        url, counts = request.rel_url, self.counts
        route, ids = find_route(request.method, url.raw_path)
        operation, template = ("", "") if route is None else (route.name, route.template)
        arrived = self.clock()
        status: int | None = None
        fault: Fault | None = None
        counts.in_flight += 1
        counts.peak_in_flight = max(counts.peak_in_flight, counts.in_flight)
        try:
            if request.transport in _half_closed:
                return _hang_up(request)
            await self._wait(request)
            headers, response = self._refusal(request.headers, operation)
            if response is None:
                fault = self.faults.choose(request.method, request.path_qs)
                if fault is not None and fault.kind in _UNANSWERED:
                    if fault.amount is not None:
                        await self.sleep(fault.amount)
                    return _hang_up(request, reset=fault.kind == "reset")
                if fault is not None and fault.answer is not None:
                    # From the edge in front of the API, which knows nothing of its limits.
                    headers, response = (), fault.answer
                elif route is None:
                    response = _NOT_FOUND
                else:
                    response = self._perform(request, route, ids, dataset)
            if fault is None or fault.kind != "lost":
                status = response.status
            return await self._send(request, response, headers, fault)
        finally:
            record = RequestRecord(
                method=request.method,
                path=url.raw_path,
                query=url.raw_query_string,
                operation=operation,
                headers=_open_headers(request.headers),
                status=status,
                fault=None if fault is None else fault.kind,
                time=arrived,
            )
            self.requests.append(record)
            counts.requests += 1
            counts.in_flight -= 1
            counts.by_status[status] += 1
            counts.by_operation[request.method, template] += 1
            if fault is not None:
                counts.faults[fault.kind] += 1

    async def _wait(self, request: web.BaseRequest) -> None:
        if self.before_request is not None:
            pending = self.before_request(request.method, request.path_qs)
            if pending is not None:
                await pending
        if self.latency:
            await self.sleep(self.latency)

    def _refusal(
        self, headers: Mapping[str, str], operation: str
    ) -> tuple[Headers, Response | None]:
        """The headers of the limit, and the response to a request that is not admitted."""
        bearer = headers.get("Authorization")
        keys = {name: headers.get(name) for name in self.keys}
        if bearer is not None:
            refusal = None if bearer == f"Bearer {self.bearer_token}" else _UNAUTHORIZED
        elif None in keys.values():
            refusal = _UNAUTHORIZED
        else:
            refusal = None if keys == self.keys else _FORBIDDEN
        return self.limits.admit(operation) if refusal is None else ((), refusal)

    def _perform(
        self, request: web.BaseRequest, route: Route, ids: Mapping[str, str], dataset: Dataset
    ) -> Response:
        try:
            values = route.read(ids, request.query)
            return route.operation(Request(values, request, dataset, self.first_page, self.ranges))
        except RequestRefusedError as refused:
            return refused.response

    async def _send(
        self, request: web.BaseRequest, response: Response, headers: Headers, fault: Fault | None
    ) -> web.StreamResponse:
        """Send a response, with further headers, unless the fault prevents it."""
        kind = "answer" if fault is None else fault.kind
        amount = None if fault is None else fault.amount
        part = range(len(response.body)) if response.part is None else response.part
        if kind == "lost" or (kind == "cut" and not part):
            return _hang_up(request)
        every_header = (("Content-Type", response.content_type), *headers, *response.headers)
        if kind == "answer" and isinstance(response.body, bytes):
            return web.Response(status=response.status, headers=every_header, body=response.body)
        answer = web.StreamResponse(status=response.status, headers=every_header)
        answer.content_length = len(part)
        if kind == "cut":
            part = part[: len(part) // 2 if amount is None else min(int(amount), len(part) - 1)]
        step = 1 if kind == "drip" else CHUNK
        try:
            await answer.prepare(request)
            for start in part[::step]:
                if kind == "drip":
                    await self.sleep(amount or 0.0)
                await answer.write(response.read(start, min(start + step, part.stop)))
            if kind != "cut":
                await answer.write_eof()
        except ConnectionError:
            return answer  # the client has hung up
        if kind == "cut":
            _hang_up(request)
        elif kind == "idle_close" and request.transport is not None:
            # Only this half, so that a request that crosses the closing is seen, if not answered.
            _half_closed.add(request.transport)
            request.transport.write_eof()
        return answer


def _hang_up(request: web.BaseRequest, *, reset: bool = False) -> web.StreamResponse:
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


def _open_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """A copy, under lower-case names, without the headers that hold secrets."""
    lowered = {name.lower(): value for name, value in headers.items()}
    return {name: value for name, value in lowered.items() if name not in _SECRET_HEADERS}
