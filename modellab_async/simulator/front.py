"""What every request passes on its way in: keys, limits and faults, then its operation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

from modellab_async.simulator.answers import (
    Answer,
    BadParameterError,
    Headers,
    RequestRefusedError,
    plain_error,
)
from modellab_async.simulator.operations import Asked, Operations, Route, route_of
from modellab_async.simulator.records import Recorder, RequestRecord, open_headers
from modellab_async.simulator.wire import Sleep, hang_up, is_half_closed, send

if TYPE_CHECKING:
    from aiohttp import web

    from modellab_async.simulator.faults import Fault, Faults
    from modellab_async.simulator.limits import Limits

BeforeRequest: TypeAlias = Callable[[str, str], Awaitable[None] | None]

_UNANSWERED: Final = frozenset({"close", "reset", "stall"})


@attrs.frozen
class Keys:
    """The credentials that are accepted."""

    api_key: str
    app_key: str
    bearer_token: str

    def refusal(self, headers: Mapping[str, str]) -> Answer | None:
        """The answer to whoever does not have them, or None."""
        bearer = headers.get("Authorization")
        if bearer is not None:
            return None if bearer == f"Bearer {self.bearer_token}" else _UNAUTHORIZED
        given = headers.get("DD-API-KEY"), headers.get("DD-APPLICATION-KEY")
        if None in given:
            return _UNAUTHORIZED
        return None if given == (self.api_key, self.app_key) else _FORBIDDEN


_UNAUTHORIZED: Final = plain_error(401, "Unauthorized")
_FORBIDDEN: Final = plain_error(403, "Forbidden")


@attrs.define
class Front:
    """Handles requests; everything about it may change while the server runs."""

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
        """Answers one request, or has it fail, and records what became of it."""
        url = request.rel_url
        route, ids = route_of(request.method, url.raw_path)
        arrived = self.clock()
        status: int | None = None
        fault: Fault | None = None
        self.recorder.begin()
        try:
            if is_half_closed(request):
                return hang_up(request)
            await self._before(request)
            headers, answer = self._refusal(request, route)
            if answer is None:
                fault = self.faults.choose(request.method, request.path_qs)
                if fault is not None and fault.kind in _UNANSWERED:
                    if fault.amount is not None:
                        await self.sleep(fault.amount)
                    return hang_up(request, reset=fault.kind == "reset")
                if fault is not None and fault.answer is not None:
                    # From the edge in front of the API, which knows nothing of its limits.
                    headers, answer = (), fault.answer
                else:
                    answer = self._perform(request, route, ids)
            if fault is None or fault.kind != "lost":
                status = answer.status
            return await send(request, answer, headers, fault, self.sleep)
        finally:
            self.recorder.end(
                route.template,
                RequestRecord(
                    method=request.method,
                    path=url.raw_path,
                    query=url.raw_query_string,
                    operation=route.operation,
                    headers=open_headers(request.headers),
                    status=status,
                    fault=None if fault is None else fault.kind,
                    time=arrived,
                ),
            )

    async def _before(self, request: web.BaseRequest) -> None:
        if self.before_request is not None:
            pending = self.before_request(request.method, request.path_qs)
            if pending is not None:
                await pending
        if self.latency:
            await self.sleep(self.latency)

    def _refusal(self, request: web.BaseRequest, route: Route) -> tuple[Headers, Answer | None]:
        refusal = self.keys.refusal(request.headers)
        return ((), refusal) if refusal is not None else self.limits.admit(route.operation)

    def _perform(self, request: web.BaseRequest, route: Route, ids: Mapping[str, str]) -> Answer:
        operation: Callable[[Asked], Answer] = getattr(self.operations, route.operation)
        query = dict(request.query)
        try:
            for name in query if len(query) != len(request.query) else ():
                if len(request.query.getall(name)) > 1:
                    raise BadParameterError(name, "given more than once")
            return operation(Asked(ids, request.rel_url.raw_path, query, request.headers))
        except RequestRefusedError as refused:
            return refused.answer
