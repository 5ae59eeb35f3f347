"""Admission: who may send a request now, decided for every task of a client in one place.

Two things bound what is in flight. The *window* is the client's own: at most ``max_concurrency``,
narrowed while the server answers 503 or not at all, widened again as it recovers. A *quota* is the
server's: what the rate-limit headers of every answer say is left of an organization's allowance.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from modellab_async.clock import Clock, Timer
    from modellab_async.wire import RateLimit

OPENING: Final = 16
"""How many requests of an operation may be in flight before its first good answer.

Until then neither the quota nor the keys are known to be good.
"""

OVERLOADED_SHARE: Final = 0.1
"""The window narrows after a round of answers of which more than this share were 503 or late."""

NARROWING: Final = 0.7
WIDENING: Final = 1 / 32
"""How the window moves: times 0.7 after an overloaded round, by cap / 32 after a good one."""

STAGGER: Final = 0.05
"""Seconds within which a probe goes out, so that the processes of one quota do not act as one."""

_SLACK: Final = 1.5
"""Seconds by which two answers of the same period may name different ends: both are rounded."""

_FIRST_BLIND_PAUSE: Final = 0.5
_LONGEST_BLIND_PAUSE: Final = 60.0
"""Seconds to pause at the most after the first of several 429s that name no time, and at last."""


class QuotaWaitError(Exception):
    """The quota stays used up for longer than a call may wait. Only the client sees this."""

    def __init__(self, rate_limit: RateLimit | None, seconds: float) -> None:
        super().__init__(rate_limit, seconds)
        self.rate_limit = rate_limit
        self.seconds = seconds


@attrs.define(eq=False)
class Quota:
    """What is known of one server-side limit. Pure: time comes in as an argument.

    Never more requests are in flight than the server said remain, so that a 429 is the exception.
    A period's end is known only to a second, since ``X-RateLimit-Reset`` is rounded one way or the
    other; so the first request after a pause is a probe, and its answer tells which way.
    """

    name: str | None = attrs.field(default=None, repr=False)  # the server may echo a key in it
    in_flight: int = 0
    last: RateLimit | None = None
    _allowed: float = OPENING
    _remaining: float = math.inf
    _earliest_end: float = -math.inf
    _latest_end: float = -math.inf
    _rounds_up: bool | None = None
    _probing: bool = False
    _refusals: int = 0

    @property
    def opens_at(self) -> float:
        """When the next period should have begun; no attempt is made before."""
        if self._rounds_up is None:
            return self._latest_end
        if self._rounds_up:
            return self._earliest_end
        return max(self._latest_end, self._earliest_end + 1.0)

    def closed(self, now: float) -> bool:
        """Whether what is in flight uses up what remains until :attr:`opens_at`.

        A new period opens with a probe: one request, whatever is still on its way.
        """
        if self.in_flight < self._remaining:
            return False
        if now < self.opens_at:
            return True
        self._remaining = math.inf
        self._allowed = self.in_flight + 1
        self._probing = True
        return False

    def admits(self, now: float) -> bool:
        """Whether one more request may go out."""
        return not self.closed(now) and self.in_flight < self._allowed

    def learn(
        self, status: int, rate_limit: RateLimit | None, *, now: float, jitter: float
    ) -> None:
        """Take in what an answer says of the limit, or that it says nothing.

        Args:
            status: the answer's HTTP status.
            rate_limit: what its headers say.
            now: when it arrived (monotonic).
            jitter: a number in [0, 1), for the pause after a 429 that names no time.
        """
        reset = None
        if rate_limit is not None:
            self.last, reset = rate_limit, rate_limit.reset
        if status == 429:
            self._refuse(reset, now, jitter)
            return
        if rate_limit is not None and rate_limit.remaining is not None:
            if reset is not None:
                self._count_down(rate_limit.remaining, now + reset)
            elif rate_limit.remaining == 0:
                self._refuse(None, now, jitter)
            else:
                self._remaining = rate_limit.remaining
        if status < 500 and status not in {401, 403}:
            self._accept(rate_limit)

    def _accept(self, rate_limit: RateLimit | None) -> None:
        """A good answer opens the way: at once at the start, doubling each round after a pause."""
        self._refusals = 0
        self._allowed = math.inf if self._allowed >= OPENING else self._allowed + 1
        if self._probing:
            self._probing = False
            if rate_limit is not None and rate_limit.reset and rate_limit.period:
                full = rate_limit.reset >= rate_limit.period
                self._rounds_up = True if full and self._rounds_up is None else self._rounds_up

    def _count_down(self, remaining: int, end: float) -> None:
        """Count a period's remaining requests down, whatever the order its answers come in."""
        if self._remaining == math.inf or end > self._latest_end + _SLACK:
            self._earliest_end = self._latest_end = end
            self._remaining = remaining
        elif end >= self._earliest_end - _SLACK:
            self._earliest_end = min(self._earliest_end, end)
            self._latest_end = max(self._latest_end, end)
            self._remaining = min(self._remaining, remaining)
        # Else it is a late answer of an earlier period.

    def _refuse(self, reset: float | None, now: float, jitter: float) -> None:
        """Nothing is left, until the time named; where none is, ask less and less often."""
        self._refusals += 1
        if reset is None or (reset == 0 and self._refusals > 1):
            pause = _FIRST_BLIND_PAUSE * 2.0 ** min(self._refusals - 1, 16)
            reset = min(_LONGEST_BLIND_PAUSE, pause) * (1 + jitter) / 2
        elif self._probing and reset <= 1.0:
            self._rounds_up = False  # the probe came too early: named times are rounded down
        self._probing = False
        end = now + reset
        if not self._earliest_end - _SLACK <= end <= self._latest_end + _SLACK:
            self._earliest_end = self._latest_end = end
        self._earliest_end = min(self._earliest_end, end)
        self._latest_end = max(self._latest_end, end)
        self._remaining = 0


@attrs.define(eq=False)
class _Queue:
    """The tasks that wait for one quota, first come first served, and the timer that ends a pause.

    A waiter whose task was cancelled stays until its turn, and is passed over then.
    """

    waiters: deque[_Waiter] = attrs.field(factory=deque)
    timer: Timer | None = None
    due: float = -math.inf

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


@attrs.frozen(eq=False)
class _Waiter:
    """A task in a queue, to be woken with the quota that has a place for it."""

    future: asyncio.Future[Quota]
    give_up_at: float
    longest_pause: float

    def accepts(self, now: float, opens_at: float) -> bool:
        return opens_at <= self.give_up_at and opens_at - now <= self.longest_pause


class Limiter:
    """The one gate of a client, shared by all its tasks and views.

    Args:
        cap: how many requests may be in flight at once.
        clock: where time, timers and jitter come from.

    Attributes:
        in_flight: how many are.
        window: how many may be, at this time.
        pauses: how often a quota was used up and made tasks wait.
        paused_for: for how many seconds.
    """

    def __init__(self, cap: int, clock: Clock) -> None:
        self.cap = cap
        self.in_flight: int = 0
        self.pauses: int = 0
        self.paused_for: float = 0.0
        self._clock = clock
        self.window: float = float(cap)
        self._threshold = self.window
        self._answers = self._overloaded = 0
        self._waiting = 0
        self._quotas: dict[str, Quota] = {}
        self._queues: OrderedDict[Quota, _Queue] = OrderedDict()  # served last stands last

    def enter_at_once(self, operation: str) -> Quota | None:
        """A place where one is free, as :meth:`enter` gives it; None where it has to be waited for.

        Args:
            operation: the operation's name; its limit is learned from its answers.
        """
        quota = self._quotas.get(operation)
        if quota is None:
            quota = self._quotas[operation] = Quota()
            self._queues[quota] = _Queue()
        free = self.in_flight < self.window and not self._queues[quota].waiters
        if free and quota.admits(self._clock.monotonic()):
            return self._take(quota)
        return None

    async def enter(
        self,
        operation: str,
        *,
        again: bool = False,
        give_up_at: float = math.inf,
        longest_pause: float = math.inf,
    ) -> Quota:
        """Wait for a place; give it back by a :meth:`leave` of the quota returned.

        Args:
            operation: as for :meth:`enter_at_once`, which need not be asked first.
            again: a retry, which keeps its place ahead of first attempts.
            give_up_at: the time (monotonic) after which quota is of no use to the call.
            longest_pause: seconds that the call is willing to sit through in one pause.

        Raises:
            QuotaWaitError: as soon as it is known that the quota comes back too late.
        """
        free = self.enter_at_once(operation)
        if free is not None:
            return free
        quota = self._quotas[operation]
        queue = self._queues[quota]
        now = self._clock.monotonic()
        future: asyncio.Future[Quota] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(future, give_up_at, longest_pause)
        if quota.closed(now) and not waiter.accepts(now, quota.opens_at):
            raise QuotaWaitError(quota.last, quota.opens_at - now)
        if again:
            queue.waiters.appendleft(waiter)
        else:
            queue.waiters.append(waiter)
        self._waiting += 1
        self._admit()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and not future.exception():
                self.leave(future.result())  # the place was given in the moment of cancellation
            raise
        finally:
            self._waiting -= 1
            if not self._waiting:
                for queue in self._queues.values():
                    queue.stop_timer()
                    queue.waiters.clear()

    def leave(self, quota: Quota, *, overloaded: bool | None = None) -> None:
        """Give a place back.

        Args:
            quota: what :meth:`enter` returned.
            overloaded: whether the server did not cope (503, or no answer in time); None where
                the attempt says nothing about that.
        """
        self.in_flight -= 1
        quota.in_flight -= 1
        if overloaded is not None:
            self._answers += 1
            self._overloaded += overloaded
            if self._answers >= self.window:
                self._end_round()
        if self._waiting:
            self._admit()

    def learn(self, operation: str, status: int, rate_limit: RateLimit | None) -> None:
        """Take in an answer's rate-limit headers, or their absence, before its place is left."""
        quota = self._quotas[operation]
        if rate_limit is not None and rate_limit.name != quota.name and rate_limit.name:
            quota = self._rename(operation, quota, rate_limit.name)
        quota.learn(status, rate_limit, now=self._clock.monotonic(), jitter=self._clock.random())

    def admit(self) -> None:
        """Let in whoever may go by what was learned, while a place is kept for long."""
        if self._waiting:
            self._admit()

    def close(self, error: Exception) -> None:
        """Send everyone who waits away with an error."""
        for queue in self._queues.values():
            queue.stop_timer()
            for waiter in queue.waiters:
                if not waiter.future.done():
                    waiter.future.set_exception(error)

    def _take(self, quota: Quota) -> Quota:
        self.in_flight += 1
        quota.in_flight += 1
        return quota

    def _admit(self) -> None:
        """Let in whoever may go, one of each quota in turn, so that none starves another."""
        now = self._clock.monotonic()
        ready = [item for item in self._queues.items() if item[1].waiters]
        while ready and self.in_flight < self.window:
            ready = [item for item in ready if self._admit_one(*item, now)]
        for quota, queue in self._queues.items():
            if queue.waiters and quota.closed(now):
                self._pause(quota, queue, now)

    def _admit_one(self, quota: Quota, queue: _Queue, now: float) -> bool:
        while queue.waiters and queue.waiters[0].future.done():
            queue.waiters.popleft()
        if not queue.waiters or self.in_flight >= self.window or not quota.admits(now):
            return False
        queue.waiters.popleft().future.set_result(self._take(quota))
        self._queues.move_to_end(quota)
        return True

    def _pause(self, quota: Quota, queue: _Queue, now: float) -> None:
        """Wake the queue once the quota opens; turn away those that cannot wait so long."""
        opens_at = quota.opens_at
        if queue.timer is not None and queue.due == opens_at:
            return
        for waiter in queue.waiters:
            if not waiter.future.done() and not waiter.accepts(now, opens_at):
                waiter.future.set_exception(QuotaWaitError(quota.last, opens_at - now))
        if queue.timer is None:
            self.pauses += 1
        else:
            queue.timer.cancel()
        queue.due = opens_at
        delay = opens_at - now + self._clock.random() * STAGGER

        def wake() -> None:
            queue.timer = None
            self.paused_for += self._clock.monotonic() - now
            self._admit()

        queue.timer = self._clock.call_later(delay, wake)

    def _rename(self, operation: str, quota: Quota, name: str) -> Quota:
        """Learn which limit an operation counts against; operations may share one."""
        shared = next((known for known in self._queues if known.name == name), None)
        if shared is None and quota.name is None:
            quota.name = name
            return quota
        if shared is None:
            shared = Quota(name)
            self._queues[shared] = _Queue()
        self._quotas[operation] = shared
        if quota not in self._quotas.values():
            queue = self._queues.pop(quota)
            queue.stop_timer()
            self._queues[shared].waiters.extend(queue.waiters)
        return shared

    def _end_round(self) -> None:
        """Narrow or widen the window by what the last round of answers showed.

        A sprinkle of 503 is not overload: only their share in a round counts. After an outage
        the window doubles each round up to where trouble began, and grows slowly from there.
        """
        if self._overloaded > OVERLOADED_SHARE * self._answers:
            if self._overloaded < self._answers:
                self._threshold = max(1.0, self.window * NARROWING)
            self.window = max(1.0, self.window * NARROWING)
        elif self.window < self._threshold:
            self.window = min(self.window * 2, self._threshold)
        else:
            self.window = min(self.window + self.cap * WIDENING, self.cap)
        self._answers = self._overloaded = 0
