"""One quota for all workers of a read: an actor counts it, and grants their requests permits.

The actor is a `QuotaCoordinator`. A worker's client gets a `WorkerLimiter`, which bounds the
worker's own concurrency, and asks the actor for a permit before each request.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from typing import TYPE_CHECKING, Any, Final

import attrs

from modellab_async.clock import Clock
from modellab_async.limiter import AdaptiveLimiter

if TYPE_CHECKING:
    from modellab_async.clock import Timer
    from modellab_async.limiter import Permit, PermitRequest
    from modellab_async.ratelimit import RateLimit

LEASE: Final = 60.0
"""Seconds after which a permit lapses: twice as long as an attempt may take by default."""


@attrs.frozen
class Grant:
    """A permit as the coordinator sends it to a worker.

    Attributes:
        permit_id: names the permit in :meth:`QuotaCoordinator.release`.
        request: the request, with what the coordinator's limiter noted in it.
        paused_seconds: how long requests of any worker were held back for quota so far.
    """

    permit_id: str
    request: PermitRequest
    paused_seconds: float


class QuotaCoordinator:
    """The actor: a limiter that all workers share. Runs on its own event loop.

    A permit lapses after `LEASE` seconds, in case the worker that holds it has died. If the actor
    dies, Ray starts another one, which learns the quota from the next response.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._limiter = AdaptiveLimiter(sys.maxsize, self._clock)
        self._permits: dict[str, tuple[Permit, Timer]] = {}

    async def acquire(self, request: PermitRequest) -> Grant:
        """Wait until a request may be sent.

        Args:
            request: its deadline is in seconds from now, since machines' clocks differ.

        Raises:
            QuotaExhaustedError: as soon as it is known that the quota comes back too late.
            TimeoutError: if a retry got no permit until its deadline.
        """
        request.deadline += self._clock.monotonic()
        permit = await self._limiter.acquire(request)
        permit_id = uuid.uuid4().hex  # unique among the coordinators that may follow this one
        timer = self._clock.call_later(LEASE, lambda: self._lapse(permit_id))
        self._permits[permit_id] = permit, timer
        return Grant(permit_id, request, self._limiter.paused_seconds)

    async def release(
        self, permit_id: str, status: int | None = None, rate_limit: RateLimit | None = None
    ) -> None:
        """Return a permit, and learn from the response. Does nothing if the permit has lapsed.

        One call does both, since an asynchronous actor may run calls in another order.

        Args:
            permit_id: of the grant.
            status: the response's HTTP status; None if there was no response.
            rate_limit: what the response's headers say.
        """
        permit, timer = self._permits.pop(permit_id, (None, None))
        if permit is None or timer is None:
            return
        timer.cancel()
        if status is not None:
            permit.update(status, rate_limit)
        permit.release()

    def _lapse(self, permit_id: str) -> None:
        permit, _ = self._permits.pop(permit_id)
        permit.release()


@attrs.define(eq=False)
class WorkerPermit:
    """A `Permit` of a `WorkerLimiter`: one from the worker, and one from the coordinator."""

    _own: Permit
    _coordinator: Any
    _permit_id: str
    _status: int | None = None
    _rate_limit: RateLimit | None = None

    def update(self, status: int, rate_limit: RateLimit | None) -> None:
        """See `Permit`."""
        self._status, self._rate_limit = status, rate_limit
        if status != 429:  # the quota is the coordinator's affair
            self._own.update(status, None)

    def release(self, *, overloaded: bool | None = None) -> None:
        """See `Permit`."""
        self._own.release(overloaded=overloaded)
        self._coordinator.release.remote(self._permit_id, self._status, self._rate_limit)


class WorkerLimiter:
    """The `Limiter` of a worker's client; to be made in a running event loop.

    Args:
        coordinator: the handle of a `QuotaCoordinator` actor.
        max_concurrency: the most requests that this worker has in flight.
        clock: the source of time, timers and jitter.

    Attributes:
        max_concurrency: as given.
        paused_seconds: how long requests were held back for quota so far, by all workers of the
            coordinator together; waits at the same time count once.
    """

    def __init__(self, coordinator: Any, max_concurrency: int, clock: Clock | None = None) -> None:
        self.max_concurrency: int = max_concurrency
        self.paused_seconds: float = 0.0
        self._coordinator = coordinator
        self._clock = clock or Clock()
        self._own = AdaptiveLimiter(max_concurrency, self._clock)
        self._closed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    async def acquire(self, request: PermitRequest) -> WorkerPermit:
        """See `Limiter`."""
        own = await self._own.acquire(request)
        try:
            grant = await self._ask(request)
        except BaseException:
            own.release()
            raise
        self.paused_seconds = max(self.paused_seconds, grant.paused_seconds)
        request.queued |= grant.request.queued
        request.paused, request.paused_by = grant.request.paused, grant.request.paused_by
        return WorkerPermit(own, self._coordinator, grant.permit_id)

    def close(self, error: Exception) -> None:
        """See `Limiter`."""
        self._own.close(error)
        if not self._closed.done():
            self._closed.set_result(error)

    async def _ask(self, request: PermitRequest) -> Grant:
        """The coordinator's permit, unless this limiter is closed before it comes."""
        left = request.deadline - self._clock.monotonic()
        asked = self._coordinator.acquire.remote(attrs.evolve(request, deadline=left))
        answer: asyncio.Future[Grant] = asyncio.ensure_future(asked)
        either: list[asyncio.Future[Any]] = [answer, self._closed]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise self._closed.result()
            return answer.result()
        finally:
            answer.cancel()  # a permit that is granted all the same lapses
