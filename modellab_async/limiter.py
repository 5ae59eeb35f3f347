"""Admission: when a request may be sent, decided in one place for all tasks of a client.

Two things bound what is in flight. The *window* is the client's own: at most ``max_concurrency``
requests, fewer while the server answers 503 or not at all. A *quota* is the server's: what the
rate-limit headers of its responses say is left of an organization's allowance (`quota.py`).

`AdaptiveLimiter` is what a client uses by default. ``ModelLabClient(limiter=...)`` takes any object
that implements `Limiter`, for instance one that shares a quota between processes.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import attrs

from modellab_async.clock import Clock, Timer
from modellab_async.quota import Quota
from modellab_async.ratelimit import RateLimit

_OVERLOADED: Final = 0.1
"""The window narrows after a round of responses of which more than this part were 503 or late."""

_NARROWING: Final = 0.7
_WIDENING: Final = 1 / 32
"""The window shrinks by this factor, and grows by this part of ``max_concurrency``, per round."""

_STAGGER: Final = 0.05
"""Seconds over which the first requests of a period are spread, so that processes differ."""

_MAX_QUOTAS: Final = 8
"""Limits that one operation may count against; beyond that, the longest unnamed is forgotten."""


class QuotaExhaustedError(Exception):
    """The quota stays used up for longer than a request may wait.

    Raised by `Limiter.acquire`; the client turns it into a `RateLimitedError`.

    Attributes:
        rate_limit: the last description of the limit, if the server gave one.
        seconds: how long the quota stays used up.
    """

    def __init__(self, rate_limit: RateLimit | None, seconds: float) -> None:
        super().__init__(rate_limit, seconds)
        self.rate_limit = rate_limit
        self.seconds = seconds


@attrs.define(eq=False)
class PermitRequest:
    """What a call asks of a limiter before each attempt. Times are monotonic, in seconds.

    The limiter sets the last three attributes.

    Attributes:
        operation: the operation's name, such as ``runs.get``; limits are learned per operation.
        is_retry: whether the call was sent before; retries go ahead of first attempts.
        deadline: when a permit is of no more use.
        max_wait: the longest single quota pause that the call accepts.
        queued: set by the limiter if the request had to wait.
        paused: set by the limiter if it waited for quota, not just for a slot within
            ``max_concurrency``.
        paused_by: set by the limiter to what is known of that quota.
    """

    operation: str
    is_retry: bool = False
    deadline: float = math.inf
    max_wait: float = math.inf
    queued: bool = False
    paused: bool = False
    paused_by: RateLimit | None = None

    def accepts(self, now: float, pause: float) -> bool:
        """Whether the call waits for a quota pause of so many seconds."""
        return pause <= self.max_wait and now + pause <= self.deadline


class Permit(Protocol):
    """Permission to send one request."""

    def update(self, status: int, rate_limit: RateLimit | None) -> None:
        """Learn from a response, before :meth:`release`."""

    def release(self, *, overloaded: bool | None = None) -> None:
        """Return the permit; called exactly once.

        Args:
            overloaded: whether the server could not cope (503, or no response in time); None if
                the attempt says nothing about that.
        """


class Limiter(Protocol):
    """What ``ModelLabClient(limiter=...)`` needs."""

    @property
    def max_concurrency(self) -> int:
        """The maximum of requests in flight; bulk work sizes itself by it."""
        ...

    @property
    def paused_seconds(self) -> float:
        """How long requests were held back for quota so far; waits at the same time count once."""
        ...

    async def acquire(self, request: PermitRequest) -> Permit:
        """Wait until a request may be sent.

        Raises:
            QuotaExhaustedError: as soon as it is known that the quota comes back too late.
            TimeoutError: if a retry got no permit until its deadline.
        """
        ...

    def close(self, error: Exception) -> None:
        """Raise an error in every task that waits."""


@attrs.frozen
class Pause:
    """A quota is used up, and calls wait for it.

    Attributes:
        operation: the operation that waits.
        rate_limit: the last description of the limit, if the server gave one.
        seconds: until when, from now.
    """

    operation: str
    rate_limit: RateLimit | None
    seconds: float


@attrs.define(eq=False)
class _Round:
    """The responses since the window changed last, and how many of them came too late or were 503.

    The repeats of calls that fail again and again, such as for a bad shard, are no sign of
    overload. First attempts decide while there are enough of them.
    """

    first_attempts: int = 0
    retries: int = 0
    overloaded_first_attempts: int = 0
    overloaded_retries: int = 0

    def count(self, *, overloaded: bool, is_retry: bool) -> None:
        if is_retry:
            self.retries += 1
            self.overloaded_retries += overloaded
        else:
            self.first_attempts += 1
            self.overloaded_first_attempts += overloaded

    @property
    def responses(self) -> int:
        return self.first_attempts + self.retries

    @property
    def overloaded_part(self) -> float:
        if self.first_attempts >= self.retries / 4:
            return self.overloaded_first_attempts / self.first_attempts
        return (self.overloaded_first_attempts + self.overloaded_retries) / self.responses


@attrs.define(eq=False)
class Window:
    """How many requests may be in flight: fewer than the maximum while the server is overloaded.

    The window changes once a round, which is as many responses as it is wide. A few 503s are no
    overload, so the part that they are of a round counts. After an outage the window doubles each
    round up to where a partial overload began, and grows slowly from there.

    Attributes:
        maximum: the window without overload.
        size: the window now.
    """

    maximum: int
    size: float = attrs.field(init=False)
    _threshold: float = attrs.field(init=False)  # where the last partial overload began
    _round: _Round = attrs.field(init=False, factory=_Round)

    def __attrs_post_init__(self) -> None:
        self.size = self._threshold = float(self.maximum)

    def count(self, *, overloaded: bool, is_retry: bool) -> None:
        """Count a response, or that none came in time; the last of a round changes the window."""
        self._round.count(overloaded=overloaded, is_retry=is_retry)
        if self._round.responses >= self.size:
            self._adapt(self._round.overloaded_part)
            self._round = _Round()

    def _adapt(self, overloaded_part: float) -> None:
        if overloaded_part > _OVERLOADED:
            self.size = max(1.0, self.size * _NARROWING)
            if overloaded_part < 1:
                self._threshold = self.size
        elif self.size < self._threshold:
            self.size = min(self.size * 2, self._threshold)
        else:
            self.size = min(self.size + self.maximum * _WIDENING, self.maximum)


@attrs.define(eq=False)
class _PausedTime:
    """How often and how long calls wait for quota; waits at the same time count once."""

    pauses: int = 0
    _seconds: float = 0.0  # of the pauses that are over
    _since: float | None = None  # when the current pause began

    def seconds(self, clock: Clock) -> float:
        if self._since is None:
            return self._seconds
        return self._seconds + clock.monotonic() - self._since

    def track(self, now: float, *, paused: bool) -> None:
        if paused and self._since is None:
            self._since = now
            self.pauses += 1
        elif not paused and self._since is not None:
            self._seconds += now - self._since
            self._since = None


class _Waiter:
    """A request in a queue."""

    __slots__ = ("future", "request", "timer")

    def __init__(self, request: PermitRequest) -> None:
        self.request = request
        self.future: asyncio.Future[_AdaptivePermit] = asyncio.get_running_loop().create_future()
        self.timer: Timer | None = None  # until the request's deadline

    def refuse(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


@attrs.define(eq=False)
class _Operation:
    """The quotas that an operation counts against, and the requests that wait for them.

    Attributes:
        quotas: the one that the server named last comes last.
        retries: waiting retries, in order.
        first_attempts: waiting first attempts, in order.
        paused_until: the end of the quota pause that was last announced.
    """

    name: str
    quotas: list[Quota] = attrs.field(factory=lambda: [Quota()])
    retries: dict[_Waiter, None] = attrs.field(factory=dict)
    first_attempts: dict[_Waiter, None] = attrs.field(factory=dict)
    paused_until: float = -math.inf

    @property
    def has_waiters(self) -> bool:
        return bool(self.retries or self.first_attempts)

    def waiters(self) -> Iterator[_Waiter]:
        yield from self.retries
        yield from self.first_attempts

    def admits(self, now: float) -> bool:
        return all(quota.admits(now) for quota in self.quotas)

    def pause(self, now: float) -> float:
        return max(quota.pause(now) for quota in self.quotas)

    def paused_by(self, now: float) -> RateLimit | None:
        """The limit that is restored last."""
        return max(self.quotas, key=lambda quota: quota.pause(now)).last

    def next_check_at(self, now: float) -> float:
        """When all quotas may admit a request, even if no response comes before."""
        times = [quota.next_check_at for quota in self.quotas]
        return max((time for time in times if now < time < math.inf), default=math.inf)

    def count_for_others(self, quota: Quota) -> None:
        """Count a success that described one quota against the others, and drop obsolete ones."""
        if len(self.quotas) > 1:
            self.quotas = [
                other for other in self.quotas if other is quota or other.count_for_other_limit()
            ]


class _AdaptivePermit:
    """A permit of an `AdaptiveLimiter`."""

    __slots__ = ("_is_retry", "_limiter", "_operation", "_quotas", "_sent_at")

    def __init__(
        self, limiter: AdaptiveLimiter, operation: _Operation, sent_at: float, *, is_retry: bool
    ) -> None:
        self._limiter = limiter
        self._operation = operation
        self._quotas = tuple(operation.quotas)
        self._sent_at = sent_at
        self._is_retry = is_retry

    def update(self, status: int, rate_limit: RateLimit | None) -> None:
        """See `Permit`."""
        self._limiter._update(self._operation, status, rate_limit, self._sent_at)  # noqa: SLF001

    def release(self, *, overloaded: bool | None = None) -> None:
        """See `Permit`."""
        for quota in self._quotas:
            quota.release(self._sent_at)
        self._limiter._release(overloaded=overloaded, is_retry=self._is_retry)  # noqa: SLF001


class AdaptiveLimiter:
    """The default `Limiter`: an adaptive window and the server's quotas.

    Args:
        max_concurrency: the maximum of requests in flight.
        clock: the source of time, timers and jitter.
        on_pause: called with a `Pause` whenever calls begin to wait for quota.

    Attributes:
        in_flight: requests in flight.
    """

    def __init__(
        self,
        max_concurrency: int,
        clock: Clock,
        on_pause: Callable[[Pause], object] = lambda _: None,
    ) -> None:
        self.in_flight: int = 0
        self._window = Window(max_concurrency)
        self._clock = clock
        self._on_pause = on_pause
        self._operations: dict[str, _Operation] = {}  # the one that waits longest comes first
        self._waiters = 0
        self._timer: Timer | None = None
        self._timer_due = math.inf
        self._paused_time = _PausedTime()

    @property
    def max_concurrency(self) -> int:
        """See `Limiter`."""
        return self._window.maximum

    @property
    def window(self) -> float:
        """How many requests may be in flight now."""
        return self._window.size

    @property
    def pauses(self) -> int:
        """How often a quota was used up while requests waited."""
        return self._paused_time.pauses

    @property
    def paused_seconds(self) -> float:
        """See `Limiter`; a pause that is under way counts up to now."""
        return self._paused_time.seconds(self._clock)

    async def acquire(self, request: PermitRequest) -> Permit:
        """See `Limiter`."""
        operation = self._operations.get(request.operation)
        if operation is None:
            operation = self._operations[request.operation] = _Operation(request.operation)
        now = self._clock.monotonic()
        if not operation.has_waiters and self._admits(operation, now):
            return self._grant(operation, request, now)
        return await self._wait(operation, request, now)

    def close(self, error: Exception) -> None:
        """See `Limiter`."""
        for operation in self._operations.values():
            for waiter in operation.waiters():
                waiter.refuse(error)
        self._set_timer(math.inf)

    # The queue

    async def _wait(self, operation: _Operation, request: PermitRequest, now: float) -> Permit:
        pause = operation.pause(now)
        if not request.accepts(now, pause):
            raise QuotaExhaustedError(operation.paused_by(now), pause)
        waiter = _Waiter(request)
        queue = operation.retries if request.is_retry else operation.first_attempts
        if request.is_retry and request.deadline < math.inf:
            waiter.timer = self._clock.call_later(
                request.deadline - now, lambda: waiter.refuse(TimeoutError())
            )
        queue[waiter] = None
        self._waiters += 1
        request.queued = True
        if pause > 0:
            request.paused, request.paused_by = True, operation.paused_by(now)
        self._admit()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            future = waiter.future
            if future.done() and not future.cancelled() and not future.exception():
                future.result().release()  # it was granted at the moment of cancellation
            raise
        finally:
            if waiter.timer is not None:
                waiter.timer.cancel()
            queue.pop(waiter, None)
            self._waiters -= 1
            if not self._waiters:
                self._paused_time.track(self._clock.monotonic(), paused=False)
                self._set_timer(math.inf)

    def _admits(self, operation: _Operation, now: float) -> bool:
        return self.in_flight < self._window.size and operation.admits(now)

    def _admit(self) -> None:
        """Grant permits, one operation in turn after another, so that none starves another."""
        now = self._clock.monotonic()
        ready = [operation for operation in self._operations.values() if operation.has_waiters]
        while ready and self.in_flight < self._window.size:
            ready = [operation for operation in ready if self._admit_one(operation, now)]
        due = math.inf
        paused = False
        for operation in self._operations.values():
            if operation.has_waiters:
                due = min(due, operation.next_check_at(now))
                pause = operation.pause(now)
                if pause > 0:
                    paused = True
                    self._announce(operation, pause, now)
        self._paused_time.track(now, paused=paused)
        self._set_timer(due)

    def _admit_one(self, operation: _Operation, now: float) -> bool:
        """Grant a permit to an operation; returns whether more of its requests may follow."""
        if not self._admits(operation, now):
            return False
        for queue in (operation.retries, operation.first_attempts):
            while queue:
                waiter = next(iter(queue))
                del queue[waiter]
                if not waiter.future.done():
                    waiter.future.set_result(self._grant(operation, waiter.request, now))
                    self._operations[operation.name] = self._operations.pop(operation.name)
                    return operation.has_waiters
        return False

    def _announce(self, operation: _Operation, pause: float, now: float) -> None:
        """Announce a pause that begins or grows; refuse those that cannot wait so long."""
        if now + pause <= operation.paused_until + 0.001:
            return
        operation.paused_until = now + pause
        rate_limit = operation.paused_by(now)
        for waiter in operation.waiters():
            waiter.request.paused, waiter.request.paused_by = True, rate_limit
            if not waiter.request.accepts(now, pause):
                waiter.refuse(QuotaExhaustedError(rate_limit, pause))
        self._on_pause(Pause(operation.name, rate_limit, pause))

    # The timer

    def _set_timer(self, due: float) -> None:
        if due == self._timer_due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_due = None, due
        if due < math.inf:
            delay = due - self._clock.monotonic() + self._clock.random() * _STAGGER
            self._timer = self._clock.call_later(delay, self._wake)

    def _wake(self) -> None:
        self._timer, self._timer_due = None, math.inf
        self._admit()

    # Permits

    def _grant(self, operation: _Operation, request: PermitRequest, now: float) -> _AdaptivePermit:
        self.in_flight += 1
        for quota in operation.quotas:
            quota.acquire(now)
        return _AdaptivePermit(self, operation, now, is_retry=request.is_retry)

    def _release(self, *, overloaded: bool | None, is_retry: bool) -> None:
        self.in_flight -= 1
        if overloaded is not None:
            self._window.count(overloaded=overloaded, is_retry=is_retry)
        if self._waiters:
            self._admit()

    def _update(
        self, operation: _Operation, status: int, rate_limit: RateLimit | None, sent_at: float
    ) -> None:
        quota = operation.quotas[-1]
        if rate_limit is not None and rate_limit.name and rate_limit.name != quota.name:
            quota = self._find_quota(operation, rate_limit.name)
        now, random = self._clock.monotonic(), self._clock.random
        quota.update(status, rate_limit, sent_at=sent_at, now=now, random=random)
        if status < 500 and status not in {401, 403, 429}:
            operation.count_for_others(quota)

    def _find_quota(self, operation: _Operation, name: str) -> Quota:
        """The operation's quota of that name; operations may share one, or have several."""
        quotas = operation.quotas
        every_quota = (quota for other in self._operations.values() for quota in other.quotas)
        quota = next((quota for quota in every_quota if quota.name == name), None)
        if quota is None and quotas[-1].name is None:
            quotas[-1].name = name
            return quotas[-1]
        quota = quota or Quota(name)
        quota.shares_operation |= quota in quotas
        others = [other for other in quotas if other is not quota and other.name is not None]
        operation.quotas = [*others, quota][-_MAX_QUOTAS:]
        return quota
