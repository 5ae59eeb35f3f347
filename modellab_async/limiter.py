"""Admission: when a request may be sent, decided in one place for all tasks of a client.

Two things bound what is in flight. The *window* is the client's own: at most ``max_concurrency``
requests, fewer while the server answers 503 or not at all. A *quota* is the server's: what the
rate-limit headers of its responses say is left of an organization's allowance.

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
from modellab_async.ratelimit import RateLimit

SLOW_START: Final = 8
"""Requests of an operation in flight before its first success.

Until then neither the keys nor the quota are known to be good.
"""

OVERLOADED_SHARE: Final = 0.1
"""The window narrows after a round of responses of which more than this share were 503 or late."""

NARROWING: Final = 0.7
WIDENING: Final = 1 / 32
"""The window shrinks by this factor, and grows by this part of ``max_concurrency``, per round."""

STAGGER: Final = 0.05
"""Seconds over which the first requests of a period are spread, so that processes differ."""

PROBE_TIMEOUT: Final = 1.0
"""Seconds after which an unanswered probe no longer holds back other calls."""

MAX_QUOTAS: Final = 8
"""Limits that one operation may count against; beyond that, the longest unnamed is forgotten."""

_HEADROOM: Final = 2.0
"""How many times its share of the last period a process may begin the next one with."""

_CAUTION: Final = 0.5
"""How much of its share a process may have in flight: what others have is not known yet."""

_FIRST_PART: Final = 1 / 32
"""How much of what remains may be in flight after one success, while others' part is unknown."""

_ROUNDING: Final = 0.25
"""How much of a request a share may lack to be rounded up to it."""

_LEFTOVER: Final = 0.05
"""Part of a period, up to doubled by jitter, after which what others left is used."""

_STRAY_REFUSALS: Final = 2
"""429s that name no time and are ignored between successes: their own calls back off."""

_FIRST_BLIND_PAUSE: Final = 0.5
_LONGEST_BLIND_PAUSE: Final = 60.0
"""Seconds to pause, at most, after the first and after the last of 429s that name no time."""


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
        """The most requests that are ever in flight; bulk work sizes itself by it."""
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

    def warmed_up(self, operation: str) -> bool:
        """Whether an operation has succeeded before, so that the keys are known to be good."""
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
class Quota:
    """What is known of one server-side limit. No I/O: times come in as arguments (monotonic).

    Invariants:

    - No more requests are in flight than the server said remain, so that a 429 is the exception.
    - Other processes may use the same quota. If what remains falls faster than this process's own
      requests explain, it uses only its share.
    - ``X-RateLimit-Reset`` is in whole seconds, rounded down, up or not at all, so the end of a
      period is an interval. A period begins with one request, a probe, whose response tells how
      the server rounds.
    - A response to a request that was sent before the current period began is too old to count.
    - A 429 to a request that was sent before the current pause began says nothing new: a burst of
      refusals counts as one.
    """

    name: str | None = attrs.field(default=None, repr=False)  # the server may echo a key in it
    in_flight: int = 0
    last: RateLimit | None = None
    is_one_of_several: bool = False
    warmed_up: bool = False
    _allowed: float = SLOW_START  # most in flight; grows with each success
    # The current period: its requests, its end
    _remaining: float = math.inf  # as counted last; inf if no response of the period came yet
    _period: float | None = None  # its length in seconds
    _began_at: float = -math.inf  # when its probe was sent
    _first_seen: float = math.inf  # when its first response came
    _earliest_end: float = -math.inf  # it ends between these two
    _latest_end: float = -math.inf
    _rounds_up: bool | None = None  # how the server rounds Reset; None if not known yet
    _probed_at: float | None = None  # when the probe in flight was sent; -inf if it told nothing
    # 429s
    _refused_at: float = -math.inf  # when the current pause began
    _blind: bool = False  # that pause is for a 429 that named no time
    _refusals: int = 0  # since the last success
    _blind_pauses: int = 0  # since the last success
    # Other processes
    _responses: int = 0  # to our requests in this period
    _used_before: float = 0.0  # by anybody, before the first of them
    _ours: float = 1.0  # our part of what was used since then
    _share: float = 1.0  # the lowest such part of the period, with headroom
    _leftover_at: float = math.inf  # when to begin using what others left

    @property
    def opens_at(self) -> float:
        """When the next period should have begun.

        The latest time that was named, while it is not known how the server rounds. If it rounds
        up, the earliest of the named times bounds the end. If it rounds down, a second later does,
        or the length of a period since its first response.
        """
        if self._rounds_up is None or self._blind:
            return self._latest_end
        if self._rounds_up:
            return self._earliest_end
        lasted = self._first_seen + (self._period or math.inf)
        return max(self._latest_end, min(self._earliest_end + 1.0, lasted))

    def pause(self, now: float) -> float:
        """Seconds until the next period, if what is in flight uses up what remains; else 0."""
        return max(0.0, self.opens_at - now) if self._used_up else 0.0

    def admits(self, now: float) -> bool:
        """Whether one more request may be sent."""
        if self._used_up:
            return now >= self.opens_at
        if self._probed_at is not None:
            return now >= self.look_again_at
        if self._share_used_up and now < self.look_again_at:
            return False
        return self.in_flight < min(self._allowed, self._most_in_flight)

    @property
    def look_again_at(self) -> float:
        """When to ask :meth:`admits` again if no response comes before."""
        if self._probed_at is not None:
            return self._probed_at + PROBE_TIMEOUT
        return min(self._leftover_at, self.opens_at) if self._share_used_up else math.inf

    def acquire(self, now: float) -> None:
        """Count a request in flight; after a pause it is the probe that begins a new period."""
        if self._used_up or (self._share_used_up and now >= self.opens_at):
            self._remaining = math.inf
            self._began_at = self._probed_at = now
            self._allowed = self.in_flight + 1
        elif self._probed_at is not None:
            self._probed_at = now  # the one before hangs
        self.in_flight += 1

    def release(self, sent_at: float) -> None:
        """Count a request as over; a probe that ended without a verdict is followed by another."""
        self.in_flight -= 1
        if self._probed_at == sent_at:
            self._probed_at = -math.inf

    def update(
        self,
        status: int,
        rate_limit: RateLimit | None,
        *,
        sent_at: float,
        now: float,
        random: Callable[[], float],
    ) -> None:
        """Learn from a response that describes this limit, or none.

        Args:
            status: the response's HTTP status.
            rate_limit: what its headers say.
            sent_at: when its request was sent.
            now: when it arrived.
            random: returns a number in [0, 1), for the pause after a 429 that names no time.
        """
        reset = remaining = None
        # A Retry-After alone is about a quota only if the status says so.
        if rate_limit is not None and (status == 429 or rate_limit.remaining is not None):
            self.last, reset, remaining = rate_limit, rate_limit.reset, rate_limit.remaining
            self._period = rate_limit.period or self._period
            if reset == 0 and self._rounds_up is None:
                self._rounds_up = False
        if status == 429:
            self._refuse(reset, sent_at, now, random)
            return
        if rate_limit is not None and remaining is not None:
            if reset is not None:
                self._count_down(remaining, now + reset, sent_at, now)
                self._update_share(rate_limit.limit)
                self._leftover_at = now + (1 + random()) * _LEFTOVER * (self._period or math.inf)
            elif remaining == 0:
                self._refuse(None, sent_at, now, random, certain=True)
            else:
                self._remaining = remaining
        elif self._responses:
            self._responses += 1  # from the edge, though the server may have counted it
        if status < 500 and status not in {401, 403} and sent_at >= self._began_at:
            self.succeed(rate_limit)

    def succeed(self, rate_limit: RateLimit | None = None) -> None:
        """Raise the in-flight allowance: to a part of what remains, then doubling each round."""
        self.warmed_up = True
        self._refusals = self._blind_pauses = 0
        left = None if rate_limit is None else rate_limit.remaining
        self._allowed += 1
        if left is not None:
            self._allowed = max(self._allowed, left * _FIRST_PART)
        elif self._allowed > SLOW_START:
            self._allowed = math.inf
        if self._probed_at is not None:
            self._probed_at = None
            if rate_limit is not None and rate_limit.reset and rate_limit.period:
                full = rate_limit.reset >= rate_limit.period
                self._rounds_up = True if full and self._rounds_up is None else self._rounds_up

    def count_unnamed(self) -> bool:
        """Count a success that described another limit of the same operation.

        Returns:
            Whether this limit still matters: not if the server stopped naming it, as it does
            when a limit is renamed.
        """
        self._remaining -= 1
        self.succeed()
        return self._remaining > 0 or self.is_one_of_several

    @property
    def _used_up(self) -> bool:
        return self.in_flight >= self._remaining

    @property
    def _share_used_up(self) -> bool:
        """Whether what remains is others'; if they leave it, it is used after a while."""
        return self._ours * self._remaining + _ROUNDING < 1

    @property
    def _most_in_flight(self) -> float:
        """How many requests may be in flight so that all processes together stay in bounds."""
        if self._share == 1.0:
            return self._remaining
        return max(1.0, self._share * self._remaining * _CAUTION)

    @property
    def _ends_by(self) -> float:
        """A time by which the current period is certainly over."""
        named = self._earliest_end + (0.0 if self._rounds_up else 1.0)
        return min(named, self._first_seen + (self._period or math.inf))

    def _is_same_period(self, end: float, sent_at: float) -> bool:
        """Whether a response that names this end can be of the current period."""
        if sent_at >= self._ends_by:
            return False
        if self._period is not None and self._period < 3.0:
            return True  # each may be off by a second: the ends of neighbours overlap
        return self._earliest_end - 1.5 <= end <= self._latest_end + 1.5

    def _count_down(self, remaining: int, end: float, sent_at: float, now: float) -> None:
        """Count down what remains of a period, in whatever order its responses arrive."""
        if sent_at < self._began_at:
            return
        same = self._is_same_period(end, sent_at)
        if self._remaining == math.inf or (not same and end >= self._earliest_end):
            self._earliest_end = self._latest_end = end
            self._first_seen = now
            self._remaining = remaining
            self._responses = 0
            self._share = min(1.0, self._ours * _HEADROOM)
            self._blind = False
        elif same:
            self._earliest_end = min(self._earliest_end, end)
            self._latest_end = max(self._latest_end, end)
            self._remaining = min(self._remaining, remaining)
        # Else it is a late response of an earlier period.

    def _update_share(self, limit: int | None) -> None:
        """Leave others their share: as much as they used since our first response."""
        used = 0 if limit is None else limit - self._remaining
        if self._responses == 0:
            self._used_before = used - 1
        self._responses += 1
        used -= self._used_before
        # Those in flight may be counted already: responses arrive in any order.
        alone = used < self._responses + self.in_flight
        self._ours = 1.0 if alone else min(1.0, self._responses / used)
        # The lowest of a period counts: the responses to a burst of ours arrive in a row.
        self._share = min(self._ours, self._share)

    def _refuse(
        self,
        reset: float | None,
        sent_at: float,
        now: float,
        random: Callable[[], float],
        *,
        certain: bool = False,
    ) -> None:
        """Pause until the time that was named; if none was, ask less and less often."""
        end = now + (reset or 0.0)
        if sent_at < self._began_at or sent_at <= self._refused_at:
            # Part of the burst that began the last pause: it can only name a later end.
            if reset and self._remaining == 0 and self._is_same_period(end, sent_at):
                self._latest_end = max(self._latest_end, end)
            return
        self._refusals += 1
        opened = self._allowed > SLOW_START
        stray = opened and self._refusals <= _STRAY_REFUSALS and self._remaining > 0
        if not reset and stray and not certain:
            return
        # A probe came too early if it is refused for less than a whole period, which others may
        # have used up.
        whole = self._period or math.inf
        if self._probed_at is not None and reset is not None and reset <= 1.0 and reset < whole:
            self._rounds_up = False
        self._blind = not reset
        if not reset:
            end = now + self._blind_pause(reset, now, random)
        elif self._is_same_period(end, sent_at):
            self._earliest_end = min(self._earliest_end, end)
            end = max(self._latest_end, end)
        else:
            self._earliest_end = end
            self._first_seen = now
        self._latest_end = end
        self._refused_at = now
        self._probed_at = None
        self._remaining = 0

    def _blind_pause(self, reset: float | None, now: float, random: Callable[[], float]) -> float:
        """Seconds to pause after a 429 that names no time, or 0 seconds."""
        left = self._first_seen + (self._period or math.inf) - now
        self._blind_pauses += 1
        if self._blind_pauses == 1:
            # Rounded down, 0 means less than a second; and no period outlasts its length.
            if 0 < left < (math.inf if reset is None else 1.0):
                return left
            if reset == 0:
                return 1.0
        pause = _FIRST_BLIND_PAUSE * 2.0 ** min(self._blind_pauses - 1, 16)
        return min(self._period or math.inf, _LONGEST_BLIND_PAUSE, pause) * (1 + random()) / 2


class _Waiter:
    """A request in a queue."""

    __slots__ = ("alarm", "future", "request")

    def __init__(self, request: PermitRequest) -> None:
        self.request = request
        self.future: asyncio.Future[_AdaptivePermit] = asyncio.get_running_loop().create_future()
        self.alarm: Timer | None = None

    def refuse(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


@attrs.define(eq=False)
class _Operation:
    """The limits that an operation counts against, and the requests that wait for them.

    Attributes:
        quotas: the limits; the one that the server named last comes last.
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
    def waiting(self) -> bool:
        return bool(self.retries or self.first_attempts)

    def waiters(self) -> Iterator[_Waiter]:
        yield from self.retries
        yield from self.first_attempts

    def admits(self, now: float) -> bool:
        return all(quota.admits(now) for quota in self.quotas)

    def pause(self, now: float) -> float:
        return max(quota.pause(now) for quota in self.quotas)

    def slowest(self, now: float) -> RateLimit | None:
        return max(self.quotas, key=lambda quota: quota.pause(now)).last


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
        max_concurrency: the most requests in flight.
        clock: the source of time, timers and jitter.
        on_pause: called with a `Pause` whenever calls begin to wait for quota.

    Attributes:
        in_flight: requests in flight.
        window: requests that may be in flight at this time.
        pauses: how often a quota was used up while requests waited.
    """

    def __init__(
        self,
        max_concurrency: int,
        clock: Clock,
        on_pause: Callable[[Pause], object] = lambda _: None,
    ) -> None:
        self.max_concurrency: int = max_concurrency
        self.in_flight: int = 0
        self.pauses: int = 0
        self.window: float = float(max_concurrency)
        self._threshold = self.window
        self._clock = clock
        self._on_pause = on_pause
        self._operations: dict[str, _Operation] = {}
        self._first_attempts = self._overloaded_first_attempts = 0
        self._retries = self._overloaded_retries = 0
        self._waiting = 0
        self._timer: Timer | None = None
        self._timer_due = math.inf
        self._paused_since: float | None = None
        self._paused_before = 0.0

    @property
    def paused_seconds(self) -> float:
        """See `Limiter`; a pause that is under way counts up to now."""
        if self._paused_since is None:
            return self._paused_before
        return self._paused_before + self._clock.monotonic() - self._paused_since

    def warmed_up(self, operation: str) -> bool:
        """See `Limiter`."""
        known = self._operations.get(operation)
        return known is not None and all(quota.warmed_up for quota in known.quotas)

    async def acquire(self, request: PermitRequest) -> Permit:
        """See `Limiter`."""
        operation = self._operations.get(request.operation)
        if operation is None:
            operation = self._operations[request.operation] = _Operation(request.operation)
        now = self._clock.monotonic()
        if not operation.waiting and self.in_flight < self.window and operation.admits(now):
            return self._grant(operation, request, now)
        return await self._wait(operation, request, now)

    def close(self, error: Exception) -> None:
        """See `Limiter`."""
        for operation in self._operations.values():
            for waiter in operation.waiters():
                waiter.refuse(error)
        self._set_timer(math.inf)

    async def _wait(self, operation: _Operation, request: PermitRequest, now: float) -> Permit:
        pause = operation.pause(now)
        if not request.accepts(now, pause):
            raise QuotaExhaustedError(operation.slowest(now), pause)
        waiter = _Waiter(request)
        queue = operation.retries if request.is_retry else operation.first_attempts
        if request.is_retry and request.deadline < math.inf:
            waiter.alarm = self._clock.call_later(
                request.deadline - now, lambda: waiter.refuse(TimeoutError())
            )
        queue[waiter] = None
        self._waiting += 1
        request.queued = True
        if pause > 0:
            request.paused, request.paused_by = True, operation.slowest(now)
        self._admit()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            future = waiter.future
            if future.done() and not future.cancelled() and not future.exception():
                future.result().release()  # it was granted at the moment of cancellation
            raise
        finally:
            if waiter.alarm is not None:
                waiter.alarm.cancel()
            queue.pop(waiter, None)
            self._waiting -= 1
            if not self._waiting:
                self._track_pause(self._clock.monotonic(), paused=False)
                self._set_timer(math.inf)

    def _grant(self, operation: _Operation, request: PermitRequest, now: float) -> _AdaptivePermit:
        self.in_flight += 1
        for quota in operation.quotas:
            quota.acquire(now)
        return _AdaptivePermit(self, operation, now, is_retry=request.is_retry)

    def _release(self, *, overloaded: bool | None, is_retry: bool) -> None:
        self.in_flight -= 1
        if overloaded is not None:
            if is_retry:
                self._retries += 1
                self._overloaded_retries += overloaded
            else:
                self._first_attempts += 1
                self._overloaded_first_attempts += overloaded
            if self._first_attempts + self._retries >= self.window:
                self._end_round()
        if self._waiting:
            self._admit()

    def _update(
        self, operation: _Operation, status: int, rate_limit: RateLimit | None, sent_at: float
    ) -> None:
        quota = operation.quotas[-1]
        if rate_limit is not None and rate_limit.name and rate_limit.name != quota.name:
            quota = self._named(operation, rate_limit.name)
        now, random = self._clock.monotonic(), self._clock.random
        quota.update(status, rate_limit, sent_at=sent_at, now=now, random=random)
        if len(operation.quotas) > 1 and status < 500 and status not in {401, 403, 429}:
            operation.quotas = [
                known for known in operation.quotas if known is quota or known.count_unnamed()
            ]

    def _named(self, operation: _Operation, name: str) -> Quota:
        """The operation's limit of that name; operations may share one, or have several."""
        quotas = operation.quotas
        named = next(
            (
                quota
                for known in self._operations.values()
                for quota in known.quotas
                if quota.name == name
            ),
            None,
        )
        if named is None and quotas[-1].name is None:
            quotas[-1].name = name
            return quotas[-1]
        if named is None:
            named = Quota(name)
        named.is_one_of_several |= named in quotas
        operation.quotas = [
            *(quota for quota in quotas if quota is not named and quota.name is not None),
            named,
        ][-MAX_QUOTAS:]
        return named

    def _admit(self) -> None:
        """Grant permits, one operation in turn after another, so that none starves another."""
        now = self._clock.monotonic()
        ready = [operation for operation in self._operations.values() if operation.waiting]
        while ready and self.in_flight < self.window:
            ready = [operation for operation in ready if self._admit_one(operation, now)]
        due = math.inf
        paused = False
        for operation in self._operations.values():
            if not operation.waiting:
                continue
            pause = operation.pause(now)
            if pause > 0:
                paused = True
                self._announce(operation, pause, now)
                due = min(due, now + pause)
            for quota in operation.quotas:
                if quota.look_again_at > now:
                    due = min(due, quota.look_again_at)
        self._track_pause(now, paused=paused)
        self._set_timer(due)

    def _track_pause(self, now: float, *, paused: bool) -> None:
        if paused and self._paused_since is None:
            self._paused_since = now
            self.pauses += 1
        elif not paused and self._paused_since is not None:
            self._paused_before += now - self._paused_since
            self._paused_since = None

    def _admit_one(self, operation: _Operation, now: float) -> bool:
        if self.in_flight >= self.window or not operation.admits(now):
            return False
        for queue in (operation.retries, operation.first_attempts):
            while queue:
                waiter = next(iter(queue))
                del queue[waiter]
                if not waiter.future.done():
                    waiter.future.set_result(self._grant(operation, waiter.request, now))
                    self._operations[operation.name] = self._operations.pop(operation.name)
                    return operation.waiting
        return False

    def _announce(self, operation: _Operation, pause: float, now: float) -> None:
        """Announce a pause that begins or grows; refuse those that cannot wait so long."""
        if now + pause <= operation.paused_until + 0.001:
            return
        operation.paused_until = now + pause
        rate_limit = operation.slowest(now)
        for waiter in operation.waiters():
            waiter.request.paused, waiter.request.paused_by = True, rate_limit
            if not waiter.request.accepts(now, pause):
                waiter.refuse(QuotaExhaustedError(rate_limit, pause))
        self._on_pause(Pause(operation.name, rate_limit, pause))

    def _set_timer(self, due: float) -> None:
        if due == self._timer_due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_due = None, due
        if due < math.inf:
            delay = due - self._clock.monotonic() + self._clock.random() * STAGGER
            self._timer = self._clock.call_later(delay, self._wake)

    def _wake(self) -> None:
        self._timer, self._timer_due = None, math.inf
        self._admit()

    def _end_round(self) -> None:
        """Narrow or widen the window by what the last round of responses showed.

        A few 503s are no overload: their share of a round counts. Nor are the repeats of calls
        that fail again and again, such as for a bad shard, so first attempts decide while there
        are enough of them. After an outage the window doubles each round up to where trouble
        began, and grows slowly from there.
        """
        responses, overloaded = self._first_attempts, self._overloaded_first_attempts
        if responses < self._retries / 4:
            responses += self._retries
            overloaded += self._overloaded_retries
        if overloaded > OVERLOADED_SHARE * responses:
            if overloaded < responses:
                self._threshold = max(1.0, self.window * NARROWING)
            self.window = max(1.0, self.window * NARROWING)
        elif self.window < self._threshold:
            self.window = min(self.window * 2, self._threshold)
        else:
            self.window = min(self.window + self.max_concurrency * WIDENING, self.max_concurrency)
        self._first_attempts = self._overloaded_first_attempts = 0
        self._retries = self._overloaded_retries = 0
