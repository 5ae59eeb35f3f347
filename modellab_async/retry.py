"""Retries: what is worth another attempt, after how long, how often, and at what total cost.

From top to bottom: the policy that a user sets, the rule that decides on a failure, the budget
that all calls of a client share, the state of one call, and the tenacity objects made of these.
Back-off is exponential with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS
Architecture Blog, 2015). Waits for a rate limit are the limiter's: nothing waits twice.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Final, Self

import attrs
from tenacity import AsyncRetrying, RetryCallState
from tenacity.retry import retry_base
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from modellab_async.clock import Clock, Timer
from modellab_async.endpoints import Call
from modellab_async.errors import (
    CallError,
    FailureKind,
    ModelLabError,
    RateLimitedError,
    ServerError,
    StatusError,
)
from modellab_async.hooks import CallObserver

LOOKUP_ATTEMPTS: Final = 3
"""The maximum of attempts for a host name that does not resolve."""


# --- The policy


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How a failed call is repeated. All times are in seconds.

    All calls of a client also share a retry budget, whatever their policies: a success adds half
    a repeat, a repeat that succeeds is refunded, and at most 50 accumulate. While the budget is
    empty, calls wait for it up to their deadline. A 429 that names its time costs no budget.

    Attributes:
        attempts: how often a request is sent at most, the first time included. Under 30 % faults
            6 attempts complete 99.93 % of all calls, 8 complete 99.99 %.
        base: the first pause is drawn between 0 and this, the next one between 0 and twice this.
        cap: no pause is drawn longer than this.
        deadline: how long a call may take from its first admission, waits included; None for as
            long as its attempts take. Bulk work does not count pauses for quota.
        max_rate_limit_wait: how long a call may wait for quota at a time. None by default: bulk
            work (`fetch`, `get_many`, `list`) waits however long it takes, and a single call
            fails at once if the pause is longer than ``deadline``.
    """

    attempts: int = attrs.field(default=8)
    base: float = attrs.field(default=0.5)
    cap: float = attrs.field(default=20.0)
    deadline: float | None = attrs.field(default=120.0)
    max_rate_limit_wait: float | None = attrs.field(default=None)

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot be counted or waited."""
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int):
            raise TypeError(f"attempts must be an integer, not {self.attempts!r}")
        if self.attempts < 1:
            raise ValueError(f"attempts must be 1 or more, not {self.attempts}")
        for name in ("base", "cap", "deadline", "max_rate_limit_wait"):
            value = getattr(self, name)
            if value is None and name in {"deadline", "max_rate_limit_wait"}:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number of seconds, not {value!r}")
            allowed = "more than 0" if name == "deadline" else "0 or more"
            if not (value > 0 if name == "deadline" else value >= 0):
                raise ValueError(f"{name} must be {allowed} seconds, not {value!r}")

    @classmethod
    def none(cls) -> Self:
        """No repeats at any layer: one attempt is one request that the server sees."""
        return cls(attempts=1)

    def backoff(self, attempt: int, random: float) -> float:
        """The pause after a failed attempt, in seconds.

        Args:
            attempt: the attempt that failed, counted from 1.
            random: a number in [0, 1), for the jitter.
        """
        # 2.0 ** 1024 overflows; no cap is that far away.
        return random * min(self.cap, self.base * 2.0 ** min(attempt - 1, 64))


# --- Which failures are repeated


NOT_PROCESSED: Final = frozenset[FailureKind]({"not_sent", "unresolved", "rate_limited"})
"""Failures after which the server has certainly not acted on the request."""


def is_repeatable(error: BaseException, call: Call) -> bool:
    """Whether a call may be sent again after a failure.

    A call that is not idempotent is sent again only if the server certainly did not act on it.
    """
    if not isinstance(error, CallError) or error.kind == "final" or error.stopped_by is not None:
        return False
    return call.idempotent or error.kind in NOT_PROCESSED


def is_transient(error: ModelLabError) -> bool:
    """Whether the same request may succeed later."""
    return isinstance(error, ServerError) or (
        isinstance(error, CallError) and error.kind != "final"
    )


def waits_for_quota(error: BaseException | None) -> bool:
    """Whether the limiter waits for what an error names; it then costs no budget."""
    return isinstance(error, RateLimitedError) and bool(error.reset)


# --- The budget


BUDGET_CAPACITY: Final = 50.0
"""Repeats that can accumulate, and those that a client starts with."""

CREDIT: Final = 0.5
"""Repeats that a success adds. Enough while less than half of all attempts fail."""

SILENCE: Final = 1.0
"""Seconds without any request after which one repeat is free, as a probe of the server."""


class RetryBudget:
    """What all calls of one client may still repeat, so that an outage is not multiplied.

    Back-off spreads the repeats of one call; the budget bounds those of all calls together. While
    the server answers, successes fund the repeats. While it does not respond, only what has
    accumulated is spent, then about one repeat a second, and the server sees hardly more requests
    than calls. docs/explanation/retries-and-limits.md says where the constants come from.

    Args:
        clock: the source of time and timers.

    Attributes:
        last_sent: when the last request was sent (monotonic); the client keeps it up to date.
        refusals: repeats that were not made because the budget stayed empty until the deadline.
    """

    def __init__(self, clock: Clock) -> None:
        self.last_sent: float = -math.inf
        self.refusals: int = 0
        self._clock = clock
        self._balance = BUDGET_CAPACITY
        self._waiters: dict[asyncio.Future[float], None] = {}
        self._timer: Timer | None = None

    def credit(self, *, repeated: bool) -> None:
        """Add what a success is worth; if it was a repeat's, the repeat is refunded."""
        self._add(CREDIT + repeated)

    def refund(self) -> None:
        """Return a repeat that was not made."""
        self._add(1.0)

    def _add(self, amount: float) -> None:
        self._balance = min(BUDGET_CAPACITY, self._balance + amount)
        while self._waiters and self._balance >= 1.0:
            self._wake_one(cost=1.0)

    def try_acquire(self) -> bool:
        """Take one repeat, if there is one and no call waits for it."""
        if self._waiters or self._balance < 1.0:
            return False
        self._balance -= 1.0
        return True

    async def acquire(self, deadline: float) -> bool:
        """Take one repeat, waiting for it in turn; False if there is none until the deadline."""
        if self.try_acquire():
            return True
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiters[future] = None
        alarm: Timer | None = None
        if deadline < math.inf:
            remaining = max(0.0, deadline - self._clock.monotonic())
            alarm = self._clock.call_later(remaining, future.cancel)
        self._watch_for_silence()
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._add(future.result())  # it was granted at the moment of cancellation
            raise
        finally:
            if alarm is not None:
                alarm.cancel()
            self._waiters.pop(future, None)
            if not self._waiters and self._timer is not None:
                self._timer.cancel()
                self._timer = None
        self.refusals += future.cancelled()
        return not future.cancelled()

    def close(self) -> None:
        """Stop waiting: every call that waits is refused."""
        for future in self._waiters:
            future.cancel()

    def _wake_one(self, cost: float) -> None:
        future = next(iter(self._waiters))
        del self._waiters[future]
        if not future.done():
            future.set_result(cost)
            self._balance -= cost

    def _watch_for_silence(self) -> None:
        if self._timer is None and self._waiters:
            last_sent = self.last_sent
            quiet_in = max(0.0, last_sent + SILENCE - self._clock.monotonic())
            self._timer = self._clock.call_later(quiet_in, lambda: self._probe(last_sent))

    def _probe(self, last_sent: float) -> None:
        """Let one repeat go for free, unless something was sent meanwhile."""
        self._timer = None
        if self._waiters and self.last_sent == last_sent:
            self.last_sent = self._clock.monotonic()
            self._wake_one(cost=0.0)
        self._watch_for_silence()


# --- One call


@attrs.define(eq=False)
class CallState:
    """The state of a call between its attempts.

    Attributes:
        call: the call.
        on_retry: called before the call waits for its next attempt.
        observer: reports to hooks, if there are any.
        attempts: how many were sent.
        deadline: when the call ends (monotonic); counts from the first admission.
        failure: how the last attempt failed, until the next one succeeds.
        response_lost: whether the server may have acted on an attempt that got no response.
        sent_at: when the last attempt was sent (monotonic).
        status: the status of its response.
    """

    call: Call
    on_retry: Callable[[], object] | None = None
    observer: CallObserver | None = None
    attempts: int = 0
    deadline: float = math.inf
    failure: CallError | None = None
    response_lost: bool = False
    sent_at: float = 0.0
    status: int | None = None


# --- tenacity


class retry_if_repeatable(retry_base):  # noqa: N801  # named like tenacity's own
    """Retries a failure after which the call may be sent again."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def __call__(self, retry_state: RetryCallState) -> bool:
        """Decide on the attempt that just ended."""
        error = _error_of(retry_state)
        return error is not None and is_repeatable(error, self._call)


class wait_backoff(wait_base):  # noqa: N801
    """Waits as a `RetryPolicy` says, after the ``Retry-After`` of a 503; not for quota."""

    def __init__(self, policy: RetryPolicy, clock: Clock) -> None:
        self._policy = policy
        self._clock = clock

    def __call__(self, retry_state: RetryCallState) -> float:
        """Seconds to wait after the attempt that just ended."""
        error = _error_of(retry_state)
        if waits_for_quota(error):
            return 0.0
        backoff = self._policy.backoff(retry_state.attempt_number, self._clock.random())
        retry_after = error.retry_after if isinstance(error, StatusError) else None
        return backoff + (retry_after or 0.0)


class stop_by_policy(stop_base):  # noqa: N801
    """Stops at the last attempt, or if the next one would begin after the call's deadline."""

    def __init__(self, policy: RetryPolicy, state: CallState, clock: Clock) -> None:
        self._policy = policy
        self._state = state
        self._clock = clock

    def __call__(self, retry_state: RetryCallState) -> bool:
        """Decide after the attempt that just ended; if it was the last, its error says why."""
        error = _error_of(retry_state)
        assert isinstance(error, CallError)  # as nothing else is repeatable
        maximum = self._policy.attempts
        if error.kind == "unresolved":
            maximum = min(maximum, LOOKUP_ATTEMPTS)
        next_at = self._clock.monotonic() + retry_state.upcoming_sleep
        if retry_state.attempt_number >= maximum:
            error.stopped_by = "attempts"
        elif next_at >= self._state.deadline:
            error.stopped_by = "deadline"
        return error.stopped_by is not None


def retrying(
    state: CallState,
    policy: RetryPolicy,
    clock: Clock,
    *,
    sleep: Callable[[float], Awaitable[None]],
    before_sleep: Callable[[CallError, float], None],
) -> AsyncRetrying:
    """The retries of one call.

    Args:
        state: the call's state.
        policy: how often, and after how long.
        clock: the source of time and jitter.
        sleep: pauses for that many seconds, or raises if the client is closed meanwhile.
        before_sleep: called with each failure that is repeated, and the pause in seconds.
    """

    def report(retry_state: RetryCallState) -> None:
        error = _error_of(retry_state)
        assert isinstance(error, CallError)
        before_sleep(error, retry_state.upcoming_sleep)

    return AsyncRetrying(
        retry=retry_if_repeatable(state.call),
        wait=wait_backoff(policy, clock),
        stop=stop_by_policy(policy, state, clock),
        sleep=sleep,
        before_sleep=report,
        reraise=True,
    )


def _error_of(retry_state: RetryCallState) -> BaseException | None:
    return retry_state.outcome.exception() if retry_state.outcome is not None else None
