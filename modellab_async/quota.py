"""A server's quota, as its responses describe it, and whether one more request may be sent.

Pure: no I/O, no asyncio. Times are monotonic, in seconds, and come in as arguments.

`Quota` asks three others: `Period` about what remains and until when, `UnnamedRefusals` about 429s
that name no time, and `Neighbors` about other processes that use the same quota.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import attrs

from modellab_async.ratelimit import RateLimit

SLOW_START: Final = 8
"""Requests of an operation in flight before its first success.

Until then neither the keys nor the quota are known to be good.
"""

PROBE_TIMEOUT: Final = 1.0
"""Seconds after which an unanswered probe no longer holds back other calls."""

_FIRST_PART: Final = 1 / 32
"""The part of what remains that may be in flight after one success. It doubles every round trip."""

_PART_ALONE: Final = 1 / 2
_PART_WITH_NEIGHBORS: Final = 1 / 16
"""The part of what remains that may be in flight.

Half, since neighbors are not noticed before their requests outnumber ours in flight. A sixteenth
while there are neighbors: up to eight processes then have half of it in flight together.
"""

_IGNORED_REFUSALS: Final = 2
"""429s between successes that name no time and do not pause the quota: their calls back off."""

_FIRST_UNNAMED_PAUSE: Final = 0.5
_LONGEST_UNNAMED_PAUSE: Final = 60.0
"""Seconds to pause, at most, after the first and after the last of 429s that name no time."""


@attrs.define(eq=False)
class Period:
    """The current period of a quota: what remains of it, and when it ends.

    ``X-RateLimit-Reset`` is in whole seconds, rounded down, up or not at all. A response therefore
    names an end that is up to a second too early or too late::

                                          true end - 1     true end     true end + 1
        ----+---------------+-------- ... ------|--------------|--------------|----> time
         began_at   first_response_at
        ends that are named if the server
            rounds down                         [--------------]
            rounds up                                          [--------------]

    `earliest_end` and `latest_end` are the bounds of the ends named so far.

    Attributes:
        length: the period's length, if the server says it.
        remaining: requests left; infinite if no response of the period has arrived yet.
        began_at: when the request was sent whose response began the period, if it was a probe.
        first_response_at: when the period's first response arrived.
        earliest_end: the earliest end that a response named.
        latest_end: the latest end that a response named, or the guess if none did.
        end_is_guessed: whether `latest_end` was chosen after a 429 that names no time.
        rounds_up: whether the server rounds the end up; None if that is not known yet.
    """

    length: float | None = None
    remaining: float = math.inf
    began_at: float = -math.inf
    first_response_at: float = math.inf
    earliest_end: float = -math.inf
    latest_end: float = -math.inf
    end_is_guessed: bool = False
    rounds_up: bool | None = None

    @property
    def ends_at(self) -> float:
        """When the next period should have begun.

        - Not known how the server rounds: at the latest end that was named.
        - Rounds up: at the earliest, since none of them is too early.
        - Rounds down: a second after the earliest, or a length after the first response if that
          is sooner, but not before the latest.
        """
        if self.rounds_up is None or self.end_is_guessed:
            return self.latest_end
        if self.rounds_up:
            return self.earliest_end
        return max(self.latest_end, min(self.earliest_end + 1.0, self._ends_by_length))

    @property
    def _ends_by_length(self) -> float:
        return self.first_response_at + (self.length or math.inf)

    def time_left(self, now: float) -> float:
        """Seconds until the period ends at the latest, by its length."""
        return self._ends_by_length - now

    def begin(self, now: float) -> None:
        """Expect a new period, whose first request is sent now."""
        self.remaining = math.inf
        self.began_at = now

    def includes(self, end: float, sent_at: float) -> bool:
        """Whether a response that names this end may be of the current period."""
        over_by = self.earliest_end + (0.0 if self.rounds_up else 1.0)
        if sent_at >= min(over_by, self._ends_by_length):
            return False
        if self.length is not None and self.length < 3.0:
            return True  # each may be off by a second: the ends of two periods overlap
        return self.earliest_end - 1.5 <= end <= self.latest_end + 1.5

    def count_down(self, remaining: int, end: float, sent_at: float, now: float) -> bool:
        """Note what remains, in whatever order responses arrive.

        Returns:
            Whether the response is the first of a new period.
        """
        if sent_at < self.began_at:
            return False
        is_included = self.includes(end, sent_at)
        if self.remaining == math.inf or (not is_included and end >= self.earliest_end):
            self.earliest_end = self.latest_end = end
            self.first_response_at = now
            self.remaining = remaining
            self.end_is_guessed = False
            return True
        if is_included:
            self._widen(end)
            self.remaining = min(self.remaining, remaining)
        # Else it is a late response of an earlier period.
        return False

    def exhaust(self, end: float, sent_at: float, now: float) -> None:
        """Note that nothing remains until an end that the server named."""
        if self.includes(end, sent_at):
            self._widen(end)
        else:
            self.earliest_end = self.latest_end = end
            self.first_response_at = now
        self.end_is_guessed = False
        self.remaining = 0

    def exhaust_until(self, guess: float) -> None:
        """Note that nothing remains until an end that the server did not name."""
        self.latest_end = guess
        self.end_is_guessed = True
        self.remaining = 0

    def postpone(self, end: float, sent_at: float) -> None:
        """Note a later end of the same period, if nothing remains of it."""
        if self.remaining == 0 and self.includes(end, sent_at):
            self.latest_end = max(self.latest_end, end)

    def _widen(self, end: float) -> None:
        self.earliest_end = min(self.earliest_end, end)
        self.latest_end = max(self.latest_end, end)


@attrs.define(eq=False)
class UnnamedRefusals:
    """429s that name no time, or 0 seconds: one may concern its own call only, many a quota."""

    _refusals: int = 0  # since the last success
    _pauses: int = 0  # since the last success

    def reset(self) -> None:
        """Forget all, after a success."""
        self._refusals = self._pauses = 0

    def count(self) -> bool:
        """Count a refusal; returns whether it is one of the first since the last success."""
        self._refusals += 1
        return self._refusals <= _IGNORED_REFUSALS

    def pause(self, reset: float | None, period: Period, now: float, random: float) -> float:
        """Seconds to pause: until the period ends if that is known, else longer each time.

        Args:
            reset: what the 429 says: nothing, or 0 seconds.
            period: the period that it may concern.
            now: when it arrived.
            random: a number in [0, 1), for jitter.
        """
        self._pauses += 1
        if self._pauses == 1:
            # Rounded down, 0 means less than a second; and no period outlasts its length.
            time_left = period.time_left(now)
            if 0 < time_left < (math.inf if reset is None else 1.0):
                return time_left
            if reset == 0:
                return 1.0
        pause = _FIRST_UNNAMED_PAUSE * 2.0 ** min(self._pauses - 1, 16)
        return min(period.length or math.inf, _LONGEST_UNNAMED_PAUSE, pause) * (1 + random) / 2


@attrs.define(eq=False)
class Neighbors:
    """Other processes that use the same quota.

    They are noticed if more of a period is used than this process's own requests explain. That
    takes a while, so neighbors are expected until a whole period shows no sign of them.
    """

    _noticed: bool = True  # in this period
    _expected: bool = True  # since they were noticed in the period before
    _used_before: float = 0.0  # in this period, by anybody, before our first response
    _responses: int = 0  # to our requests in this period

    def begin_period(self) -> None:
        """Start counting again."""
        self._expected, self._noticed = self._noticed, False
        self._responses = 0

    def count(self, used: float, in_flight: int) -> None:
        """Note what was used of a period when a response arrived.

        Args:
            used: requests of all processes in this period.
            in_flight: our own requests in flight, with the one of this response. The server may
                have counted any of them, since responses arrive in any order.
        """
        if self._responses == 0:
            self._used_before = used - 1
        self._noticed |= used - self._used_before > self._responses + in_flight
        self._responses += 1

    def count_own(self) -> None:
        """Note a response that does not say what was used; the server may have counted it."""
        if self._responses:
            self._responses += 1

    def max_in_flight(self, remaining: float) -> float:
        """How many of our requests may be in flight, so that all processes stay in bounds."""
        shared = self._noticed or self._expected
        return max(1.0, remaining * (_PART_WITH_NEIGHBORS if shared else _PART_ALONE))


@attrs.define(eq=False)
class Quota:
    """One limit of the server's.

    - No more requests are in flight than the server says remain, so that a 429 is the exception.
    - After a pause a period begins with one request, a probe. Its response admits others, and
      tells how the server rounds.
    - A response to a request that was sent before the current period began is too old to count.
    - A 429 to a request that was sent before the current pause began says nothing new: a burst of
      refusals counts as one.

    Attributes:
        name: the limit's name, if the server gave one.
        in_flight: requests in flight that count against it.
        last: the latest description of it in a response.
        shares_operation: whether an operation counts against another limit as well.
    """

    name: str | None = attrs.field(default=None, repr=False)  # the server may echo a key in it
    in_flight: int = 0
    last: RateLimit | None = None
    shares_operation: bool = False
    _allowance: float = SLOW_START  # requests in flight at most; grows with each success
    _probed_at: float | None = None  # when the probe in flight was sent; -inf if it told nothing
    _refused_at: float = -math.inf  # when the current pause began
    _period: Period = attrs.field(factory=Period)
    _unnamed_refusals: UnnamedRefusals = attrs.field(factory=UnnamedRefusals)
    _neighbors: Neighbors = attrs.field(factory=Neighbors)

    @property
    def opens_at(self) -> float:
        """When the next period should have begun."""
        return self._period.ends_at

    def pause(self, now: float) -> float:
        """Seconds until the next period, if what is in flight uses up what remains; else 0."""
        return max(0.0, self.opens_at - now) if self._is_used_up else 0.0

    def admits(self, now: float) -> bool:
        """Whether one more request may be sent."""
        if self._is_used_up:
            return now >= self.opens_at
        if self._probed_at is not None:
            return now >= self.next_check_at
        return self.in_flight < min(
            self._allowance, self._neighbors.max_in_flight(self._period.remaining)
        )

    @property
    def next_check_at(self) -> float:
        """When to ask :meth:`admits` again if no response comes before."""
        if self._is_used_up:
            return self.opens_at
        return math.inf if self._probed_at is None else self._probed_at + PROBE_TIMEOUT

    def acquire(self, now: float) -> None:
        """Count a request in flight; after a pause it is the probe that begins a new period."""
        if self._is_used_up:
            self._period.begin(now)
            self._probed_at = now
            self._allowance = self.in_flight + 1
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
            self._period.length = rate_limit.period or self._period.length
            if reset == 0 and self._period.rounds_up is None:
                self._period.rounds_up = False
        if status == 429:
            self._refuse(reset, sent_at, now, random)
            return
        if rate_limit is not None and remaining is not None:
            if reset is not None:
                if self._period.count_down(remaining, now + reset, sent_at, now):
                    self._neighbors.begin_period()
                if rate_limit.limit is not None:
                    self._neighbors.count(rate_limit.limit - self._period.remaining, self.in_flight)
            elif remaining == 0:
                self._refuse(None, sent_at, now, random, certain=True)
            else:
                self._period.remaining = remaining
        else:
            self._neighbors.count_own()
        if status < 500 and status not in {401, 403} and sent_at >= self._period.began_at:
            self._succeed(rate_limit)

    def count_for_other_limit(self) -> bool:
        """Count a success that described another limit of the same operation.

        Returns:
            Whether this limit still matters: not if the server stopped naming it, as it does
            when a limit is renamed.
        """
        self._period.remaining -= 1
        self._succeed(None)
        return self._period.remaining > 0 or self.shares_operation

    @property
    def _is_used_up(self) -> bool:
        return self.in_flight >= self._period.remaining

    def _succeed(self, rate_limit: RateLimit | None) -> None:
        """Raise the in-flight allowance: to a part of what remains, then doubling each round."""
        self._unnamed_refusals.reset()
        self._allowance += 1
        if rate_limit is not None and rate_limit.remaining is not None:
            self._allowance = max(self._allowance, rate_limit.remaining * _FIRST_PART)
        elif self._allowance > SLOW_START:
            self._allowance = math.inf
        if self._probed_at is not None:
            self._probed_at = None
            if rate_limit is not None and rate_limit.reset and rate_limit.period:
                is_whole = rate_limit.reset >= rate_limit.period
                if is_whole and self._period.rounds_up is None:
                    self._period.rounds_up = True

    def _refuse(
        self,
        reset: float | None,
        sent_at: float,
        now: float,
        random: Callable[[], float],
        *,
        certain: bool = False,
    ) -> None:
        """Pause after a 429, or (``certain``) after a success that says that nothing remains.

        The first case that applies:

        1. The request was sent before the period or the current pause began: the 429 belongs to
           the burst that began the pause. It may name a later end of it.
        2. It names no time, and is one of the first two since a success while requests remain:
           ignored. Its own call backs off.
        3. It names no time: pause as `UnnamedRefusals` says.
        4. It names an end: pause until the period ends. If it refuses a probe for no more than a
           second, though not for a whole period, which others may have used up, then the probe
           came too early: the server rounds down.
        """
        period = self._period
        end = now + (reset or 0.0)
        if sent_at < period.began_at or sent_at <= self._refused_at:
            if reset:
                period.postpone(end, sent_at)
            return
        if not reset:
            is_early = self._unnamed_refusals.count()
            is_open = self._allowance > SLOW_START and period.remaining > 0
            if is_early and is_open and not certain:
                return
        whole = period.length or math.inf
        if self._probed_at is not None and reset is not None and reset <= 1.0 and reset < whole:
            period.rounds_up = False
        if reset:
            period.exhaust(end, sent_at, now)
        else:
            pause = self._unnamed_refusals.pause(reset, period, now, random())
            period.exhaust_until(now + pause)
        self._refused_at = now
        self._probed_at = None
