"""Admission: who may send a request now, decided for every task of a client in one place.

Two things bound what is in flight. The *window* is the client's own: at most ``max_concurrency``,
narrowed while the server answers 503 or not at all, widened again as it recovers. A *quota* is the
server's: what the rate-limit headers of every answer say is left of an organization's allowance.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from itertools import takewhile
from typing import TYPE_CHECKING, Final

import attrs

from modellab_async.quota import Quota

if TYPE_CHECKING:
    from modellab_async.clock import Clock, Timer
    from modellab_async.ratelimit import RateLimit

OVERLOADED_SHARE: Final = 0.1
"""The window narrows after a round of answers of which more than this share were 503 or late."""

NARROWING: Final = 0.7
WIDENING: Final = 1 / 32
"""How the window moves: times 0.7 after an overloaded round, by cap / 32 after a good one."""

MOST_QUOTAS: Final = 32
"""Limits that are remembered beyond those that operations count against at this moment."""

STAGGER: Final = 0.05
"""Seconds within which a probe goes out, so that the processes of one quota do not act as one."""


class QuotaWaitError(Exception):
    """The quota stays used up for longer than a call may wait. Only the client sees this."""

    def __init__(self, rate_limit: RateLimit | None, seconds: float) -> None:
        super().__init__(rate_limit, seconds)
        self.rate_limit = rate_limit
        self.seconds = seconds


class LateError(Exception):
    """No place came free before the call's deadline. Only the client sees this."""


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
    again: bool

    def turn_away(self) -> None:
        if not self.future.done():
            self.future.set_exception(LateError())

    def accepts(self, now: float, opens_at: float) -> bool:
        return opens_at <= self.give_up_at and opens_at - now <= self.longest_pause


def _is_again(waiter: _Waiter) -> bool:
    return waiter.again


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
        self.max_concurrency = cap
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

    def warmed_up(self, operation: str) -> bool:
        """Whether an operation has had a good answer, at least of the limit it counts against."""
        quota = self._quotas.get(operation)
        return quota is not None and quota.proven

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
            again: a retry, which goes ahead of first attempts, behind the retries before it.
            give_up_at: the time (monotonic) after which quota is of no use to the call.
            longest_pause: seconds that the call is willing to sit through in one pause.

        Raises:
            QuotaWaitError: as soon as it is known that the quota comes back too late.
            LateError: when a retry has waited for a place until ``give_up_at``.
        """
        free = self.enter_at_once(operation)
        if free is not None:
            return free
        quota = self._quotas[operation]
        queue = self._queues[quota]
        now = self._clock.monotonic()
        future: asyncio.Future[Quota] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(future, give_up_at, longest_pause, again)
        if quota.closed(now) and not waiter.accepts(now, quota.opens_at):
            raise QuotaWaitError(quota.last, quota.opens_at - now)
        bell: Timer | None = None
        if again:
            if give_up_at < math.inf:
                bell = self._clock.call_later(give_up_at - now, waiter.turn_away)
            queue.waiters.insert(sum(1 for _ in takewhile(_is_again, queue.waiters)), waiter)
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
            if bell is not None:
                bell.cancel()
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
        quota.learn(status, rate_limit, now=self._clock.monotonic(), jitter=self._clock.random)

    def admit(self) -> None:
        """Let in whoever may go by what was learned, while a place is kept for long."""
        if self._waiting:
            self._admit()

    def paused_since(self, operation: str, moment: float) -> tuple[bool, RateLimit | None]:
        """Whether an operation's quota paused at some time after a moment; what is known of it."""
        quota = self._quotas[operation]
        paused = self._queues[quota].due > moment
        return paused, quota.last if paused else None

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
        forgettable = quota.name is None or len(self._queues) > MOST_QUOTAS
        if forgettable and quota not in self._quotas.values():
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
            self.window = min(self.window + self.max_concurrency * WIDENING, self.max_concurrency)
        self._answers = self._overloaded = 0
