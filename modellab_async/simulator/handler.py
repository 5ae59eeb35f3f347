"""How a request is handled: keys, limits and faults, its operation, and the record of it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

from modellab_async.simulator.operations import Operations, Request, Route, find_route
from modellab_async.simulator.responses import (
    BadParameterError,
    Headers,
    RequestRefusedError,
    Response,
    Sleep,
    hang_up,
    is_half_closed,
    plain_error,
    send,
)

if TYPE_CHECKING:
    from aiohttp import web

    from modellab_async.simulator.faults import Fault, Faults
    from modellab_async.simulator.limits import Limits

BeforeRequest: TypeAlias = Callable[[str, str], Awaitable[None] | None]

_SECRET_HEADERS: Final = frozenset(
    {"authorization", "cookie", "dd-api-key", "dd-application-key", "proxy-authorization"}
)
_UNANSWERED: Final = frozenset({"close", "reset", "stall"})
_UNAUTHORIZED: Final = plain_error(401, "Unauthorized")
_FORBIDDEN: Final = plain_error(403, "Forbidden")


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


@attrs.frozen
class Counts:
    """A snapshot of how many requests were seen.

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

    requests: int
    by_status: Mapping[int | None, int]
    by_operation: Mapping[tuple[str, str], int]
    faults: Mapping[str, int]
    in_flight: int
    peak_in_flight: int
    connections: int
    connections_made: int


class Recorder:
    """Keeps the last requests and counts all of them."""

    def __init__(self, capacity: int) -> None:
        self.requests: deque[RequestRecord] = deque(maxlen=capacity)
        self._by_status: Counter[int | None] = Counter()
        self._by_operation: Counter[tuple[str, str]] = Counter()
        self._faults: Counter[str] = Counter()
        self._in_flight = 0
        self._peak = 0

    def begin(self) -> None:
        """A request arrived."""
        self._in_flight += 1
        self._peak = max(self._peak, self._in_flight)

    def end(self, template: str, record: RequestRecord) -> None:
        """A request to a path of that template is finished, or broken off."""
        self.requests.append(record)
        self._in_flight -= 1
        self._by_status[record.status] += 1
        self._by_operation[record.method, template] += 1
        if record.fault is not None:
            self._faults[record.fault] += 1

    def counts(self, *, connections: int, connections_made: int) -> Counts:
        """The counts so far."""
        return Counts(
            requests=self._by_status.total(),
            by_status=dict(self._by_status),
            by_operation=dict(self._by_operation),
            faults=dict(self._faults),
            in_flight=self._in_flight,
            peak_in_flight=self._peak,
            connections=connections,
            connections_made=connections_made,
        )


@attrs.frozen
class Keys:
    """The credentials that are accepted."""

    api_key: str
    app_key: str
    bearer_token: str

    def refusal(self, headers: Mapping[str, str]) -> Response | None:
        """The response to a request without them, or None."""
        bearer = headers.get("Authorization")
        if bearer is not None:
            return None if bearer == f"Bearer {self.bearer_token}" else _UNAUTHORIZED
        given = headers.get("DD-API-KEY"), headers.get("DD-APPLICATION-KEY")
        if None in given:
            return _UNAUTHORIZED
        return None if given == (self.api_key, self.app_key) else _FORBIDDEN


@attrs.frozen(eq=False)
class RequestHandler:
    """Handles requests, and records what became of each."""

    keys: Keys
    operations: Operations
    recorder: Recorder
    limits: Limits
    faults: Faults
    latency: float
    before_request: BeforeRequest | None
    clock: Callable[[], float]
    sleep: Sleep

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, or let it fail."""
        url = request.rel_url
        route, ids = find_route(request.method, url.raw_path)
        arrived = self.clock()
        status: int | None = None
        fault: Fault | None = None
        self.recorder.begin()
        try:
            if is_half_closed(request):
                return hang_up(request)
            await self._wait(request)
            headers, response = self._refusal(request, route)
            if response is None:
                fault = self.faults.choose(request.method, request.path_qs)
                if fault is not None and fault.kind in _UNANSWERED:
                    if fault.amount is not None:
                        await self.sleep(fault.amount)
                    return hang_up(request, reset=fault.kind == "reset")
                if fault is not None and fault.answer is not None:
                    # From the edge in front of the API, which knows nothing of its limits.
                    headers, response = (), fault.answer
                else:
                    response = self._perform(request, route, ids)
            kind, amount = (None, None) if fault is None else (fault.kind, fault.amount)
            if kind != "lost":
                status = response.status
            return await send(
                request, response, headers, fault=kind, amount=amount, sleep=self.sleep
            )
        finally:
            self.recorder.end(
                route.template,
                RequestRecord(
                    method=request.method,
                    path=url.raw_path,
                    query=url.raw_query_string,
                    operation=route.operation,
                    headers=_open_headers(request.headers),
                    status=status,
                    fault=None if fault is None else fault.kind,
                    time=arrived,
                ),
            )

    async def _wait(self, request: web.BaseRequest) -> None:
        if self.before_request is not None:
            pending = self.before_request(request.method, request.path_qs)
            if pending is not None:
                await pending
        if self.latency:
            await self.sleep(self.latency)

    def _refusal(self, request: web.BaseRequest, route: Route) -> tuple[Headers, Response | None]:
        refusal = self.keys.refusal(request.headers)
        return ((), refusal) if refusal is not None else self.limits.admit(route.operation)

    def _perform(self, request: web.BaseRequest, route: Route, ids: Mapping[str, str]) -> Response:
        operation: Callable[[Request], Response] = getattr(self.operations, route.operation)
        query = dict(request.query)
        try:
            for name in query if len(query) != len(request.query) else ():
                if len(request.query.getall(name)) > 1:
                    raise BadParameterError(name, "given more than once")
            return operation(Request(ids, request.rel_url.raw_path, query, request.headers))
        except RequestRefusedError as refused:
            return refused.response


def _open_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """A copy, under lower-case names, without the headers that hold secrets."""
    lowered = {name.lower(): value for name, value in headers.items()}
    return {name: value for name, value in lowered.items() if name not in _SECRET_HEADERS}
