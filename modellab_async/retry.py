"""Which failures are worth another attempt, after how long, and how often: a tenacity policy.

The first attempt runs plainly; only its failure is replayed into tenacity, so that a call that
succeeds pays nothing. Back-off is exponential with full jitter (M. Brooker, "Exponential Backoff
And Jitter", AWS Architecture Blog, 2015). Waits that a rate limit asks for are the limiter's.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, Literal, Self, TypeVar

import attrs
from tenacity import AsyncRetrying, RetryCallState

from modellab_async.errors import (
    DecodeError,
    ModelLabError,
    NotFoundError,
    RateLimitedError,
    StatusError,
    TransportError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from modellab_async.budget import RetryBudget
    from modellab_async.clock import Clock
    from modellab_async.endpoints import Idempotency

T = TypeVar("T")

RETRYABLE_STATUSES: Final = frozenset({408, 429, 500, 502, 503, 504, 512})
"""408 is RFC 9110's (section 15.5.9); 512 is undocumented, and seen on deep pages."""


_REPEATED: Final = (StatusError, TransportError, DecodeError)
"""What a call can end in and be repeated."""

_LOOK_AGAIN: Final = 1.0
"""Seconds at the most between two looks of a patient call at an empty budget."""


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How a call is repeated. All times are in seconds.

    All calls of a client also share a retry budget, whatever their policies: a good answer earns
    half a repeat, one that answers a repeat pays for it, and at most 50 are saved up. Where it is
    empty, a call takes its pause and then fails with its last error, which says so; bulk fetches
    wait instead. A 429 that names its time costs no budget.

    Attributes:
        attempts: how often a request is sent at the most, the first time included. Under 30 %
            faults 6 attempts bring back 99.93 % of all calls, 8 bring back 99.99 %.
        base: the first pause is drawn between 0 and this, the next one between 0 and twice this.
        cap: no pause is drawn longer than this.
        deadline: how long a call may take, counted from the moment it is first let out, waits
            included; None for as long as its attempts take.
        max_rate_limit_wait: how long a call may wait for quota at a time;
            None for as long as it takes. A single pause longer than ``deadline`` is never waited.
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
            least = "more than 0" if name == "deadline" else "0 or more"
            if not (value > 0 if name == "deadline" else value >= 0):
                raise ValueError(f"{name} must be {least} seconds, not {value!r}")

    @classmethod
    def none(cls) -> Self:
        """No repeats at any layer: one attempt is one request that the server sees."""
        return cls(attempts=1)

    def backoff(self, attempt: int, chance: float) -> float:
        """The pause after a failed attempt.

        Args:
            attempt: the attempt that failed, counted from 1.
            chance: a number in [0, 1), for the jitter.
        """
        # 2.0 ** 1024 overflows; no cap is that far away.
        return chance * min(self.cap, self.base * 2.0 ** min(attempt - 1, 64))


class Ending(enum.Enum):
    """How a failed attempt ended: what may have happened to what it asked for."""

    NEVER_SENT = "no connection, or none through the proxy"
    LIMITED = "429"
    FAILED = "408, 500, 502, 503, 504, 512"
    LOST = "connection lost, time-out, body cut short"
    SPOILT = "answer empty or not JSON"
    GONE_AFTER_LOSS = "404 after an attempt whose answer was lost"
    FINAL = "anything else"


Decision = Literal["repeat", "raise", "done"]

TABLE: Final[Mapping[Ending, Mapping[Idempotency, Decision]]] = {
    Ending.NEVER_SENT: {
        "safe": "repeat",
        "idempotent": "repeat",
        "delete": "repeat",
        "none": "repeat",
    },
    Ending.LIMITED: {
        "safe": "repeat",
        "idempotent": "repeat",
        "delete": "repeat",
        "none": "repeat",
    },
    Ending.FAILED: {"safe": "repeat", "idempotent": "repeat", "delete": "repeat", "none": "raise"},
    Ending.LOST: {"safe": "repeat", "idempotent": "repeat", "delete": "repeat", "none": "raise"},
    Ending.SPOILT: {"safe": "repeat", "idempotent": "repeat", "delete": "repeat", "none": "raise"},
    Ending.GONE_AFTER_LOSS: {
        "safe": "raise",
        "idempotent": "raise",
        "delete": "done",
        "none": "raise",
    },
    Ending.FINAL: {"safe": "raise", "idempotent": "raise", "delete": "raise", "none": "raise"},
}
"""Every decision on a failed attempt, by how it ended and by what its call changes.

Setting a state twice is setting it once, and what a removal finds gone after its answer was lost,
it took away itself. What changes something in another way is sent again only where the server
certainly did not act.
"""


def ending_of(error: BaseException, *, answer_lost: bool = False) -> Ending:
    """How the attempt ended that raised an error.

    Args:
        error: what it raised.
        answer_lost: whether the answer to an earlier attempt of the call was lost.
    """
    match error:
        case RateLimitedError(too_late=False):
            return Ending.LIMITED
        case NotFoundError() if answer_lost:
            return Ending.GONE_AFTER_LOSS
        case StatusError(status=status) if status in RETRYABLE_STATUSES - {429}:
            return Ending.FAILED
        case TransportError(permanent=False, answer_lost=lost):
            return Ending.LOST if lost else Ending.NEVER_SENT
        case DecodeError(cut_short=True):
            return Ending.SPOILT
        case _:
            return Ending.FINAL


async def repeat(
    first_error: ModelLabError,
    attempt: Callable[[], Awaitable[T]],
    *,
    policy: RetryPolicy,
    clock: Clock,
    sleep: Callable[[float], Awaitable[None]],
    budget: RetryBudget,
    idempotency: Idempotency,
    patient: bool,
    give_up_at: float,
    on_retry: Callable[[ModelLabError, float], None],
) -> T:
    """Go on after a call's first failure, until it succeeds or the policy ends it.

    Args:
        first_error: what the first attempt raised.
        attempt: makes one more attempt.
        policy: how often, and after how long.
        clock: where time and jitter come from.
        sleep: pauses for that many seconds, or raises where the call has no future.
        budget: what pays for the attempts.
        idempotency: what the call changes, see ``TABLE``.
        patient: whether to wait for budget until the deadline.
        give_up_at: the call's deadline (monotonic).
        on_retry: told of each failure that is worth another attempt, and of the pause before
            that, in seconds.

    Raises:
        ModelLabError: the last attempt's.
    """
    failure: ModelLabError | None = first_error
    unpaid: StatusError | TransportError | DecodeError | None = None
    del first_error

    async def replay() -> T:
        nonlocal failure
        if failure is None:
            return await attempt()
        error, failure = failure, None
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def retry(state: RetryCallState) -> bool:
        error = _error_of(state)
        return error is not None and TABLE[ending_of(error)][idempotency] == "repeat"

    def wait(state: RetryCallState) -> float:
        error = _error_of(state)
        if _waits_for_quota(error):
            return 0.0  # the limiter's to wait for
        backoff = policy.backoff(state.attempt_number, clock.random())
        named = error.retry_after if isinstance(error, StatusError) else None
        return backoff if named is None else named + backoff

    def stop(state: RetryCallState) -> bool:
        too_late = clock.monotonic() + state.upcoming_sleep >= give_up_at
        return state.attempt_number >= policy.attempts or too_late

    def before_sleep(state: RetryCallState) -> None:
        nonlocal unpaid
        error = _error_of(state)
        if isinstance(error, _REPEATED):
            on_retry(error, state.upcoming_sleep)
            unpaid = None if _waits_for_quota(error) else error

    async def pause(seconds: float) -> None:
        nonlocal unpaid
        if seconds > 0:
            await sleep(seconds)
        error, unpaid = unpaid, None
        while error is not None and not budget.pay():
            if not patient or clock.monotonic() >= give_up_at:
                budget.refusals += 1
                error.budget_empty = True
                try:
                    raise error
                finally:
                    del error
            await sleep(clock.random() * _LOOK_AGAIN)

    return await AsyncRetrying(
        retry=retry, wait=wait, stop=stop, before_sleep=before_sleep, sleep=pause, reraise=True
    )(replay)


def _waits_for_quota(error: BaseException | None) -> bool:
    """Whether it is a 429 that names its time: it costs the call time, and no budget."""
    return isinstance(error, RateLimitedError) and error.reset is not None


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def is_transient(error: ModelLabError) -> bool:
    """Whether repeating the same safe call later could succeed."""
    if isinstance(error, RateLimitedError) or (
        isinstance(error, StatusError) and error.status >= 500
    ):
        return True
    return TABLE[ending_of(error)]["safe"] == "repeat"
