"""What is known of one server-side limit: what remains, whose it is, and when it comes back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

    from modellab_async.ratelimit import RateLimit

OPENING: Final = 8
"""How many requests of an operation may be in flight before its first good answer.

Until then neither the quota nor the keys are known to be good, nor who else draws on the quota.
"""

_SLACK: Final = 1.5
"""Seconds by which two answers of the same period may name different ends: both are rounded."""

_HEADROOM: Final = 2.0
"""How many times its share of the last period a process may begin the next one with."""

_CAUTION: Final = 0.5
"""How much of its share a process may have in flight: what others have is not known yet."""

_FIRST_PART: Final = 1 / 32
"""How much of what remains may be in flight at once, while others' part is not known."""

_ROUNDING: Final = 0.25
"""How much of a request a share may lack to be rounded up to it, once others use the quota too."""

_STRAY: Final = 2
"""How many 429s that name no time mean nothing, before the next good answer."""

_FIRST_BLIND_PAUSE: Final = 0.5
_LONGEST_BLIND_PAUSE: Final = 60.0
"""Seconds to pause at the most after the first of several 429s that name no time, and at last."""


@attrs.define(eq=False)
class Quota:
    """What is known of one server-side limit. Pure: time comes in as an argument.

    Never more requests are in flight than the server said remain, so that a 429 is the exception.
    Other processes may draw on the same quota: what remains falls by more than our own answers
    explain, and only our share of it is used.
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
    _blind_pauses: int = 0
    _answers: int = 0
    _used_before: float = 0
    _ours: float = 1.0
    _share: float = 1.0

    @property
    def proven(self) -> bool:
        """Whether a good answer has come: the keys are known to be good."""
        return self._allowed > OPENING

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
        if self.in_flight < self._remaining and self._ours * self._remaining + _ROUNDING >= 1:
            return False
        if now < self.opens_at:
            return True
        self._remaining = math.inf
        self._allowed = self.in_flight + 1
        self._probing = True
        return False

    def admits(self, now: float) -> bool:
        """Whether one more request may go out."""
        if self._ours == self._share == 1.0 and self.in_flight < self._remaining:
            return self.in_flight < self._allowed  # as nearly always
        if self.closed(now):
            return False
        return self.in_flight < min(self._allowed, self._room)

    @property
    def _room(self) -> float:
        """How many may be in flight, so that all processes' together are no more than remain."""
        if self._share == 1.0:
            return self._remaining
        return max(1.0, self._share * self._remaining * _CAUTION)

    def learn(
        self,
        status: int,
        rate_limit: RateLimit | None,
        *,
        now: float,
        jitter: Callable[[], float],
    ) -> None:
        """Take in what an answer says of the limit, or that it says nothing.

        Args:
            status: the answer's HTTP status.
            rate_limit: what its headers say.
            now: when it arrived (monotonic).
            jitter: gives a number in [0, 1), for the pause after a 429 that names no time.
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
                self._divide(rate_limit.limit)
            elif rate_limit.remaining == 0:
                self._refuse(None, now, jitter)
            else:
                self._remaining = rate_limit.remaining
        elif self._answers:
            self._answers += 1  # from the edge, though it may have counted all the same
        if status < 500 and status not in {401, 403}:
            self._accept(rate_limit)

    def _accept(self, rate_limit: RateLimit | None) -> None:
        """A good answer opens the way: to a part of what remains, then doubling each round."""
        self._refusals = self._blind_pauses = 0
        left = None if rate_limit is None else rate_limit.remaining
        self._allowed += 1
        if left is not None:
            self._allowed = max(self._allowed, left * _FIRST_PART)
        elif self._allowed > OPENING:
            self._allowed = math.inf
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
            self._answers = 0
            self._share = min(1.0, self._ours * _HEADROOM)
        elif end >= self._earliest_end - _SLACK:
            self._earliest_end = min(self._earliest_end, end)
            self._latest_end = max(self._latest_end, end)
            self._remaining = min(self._remaining, remaining)
        # Else it is a late answer of an earlier period.

    def _divide(self, limit: int | None) -> None:
        """Leave others their share of what remains: as much as they used since our first answer."""
        used = 0 if limit is None else limit - self._remaining
        if self._answers == 0:
            self._used_before = used - 1
        self._answers += 1
        used -= self._used_before
        # Those on their way may be counted already: answers come in any order.
        alone = used < self._answers + self.in_flight
        self._ours = 1.0 if alone else min(1.0, self._answers / used)
        # The lowest of a period counts: the answers to a burst of ours come in a row.
        self._share = min(self._ours, self._share)

    def _refuse(self, reset: float | None, now: float, jitter: Callable[[], float]) -> None:
        """Nothing is left, until the time named; where none is, ask less and less often."""
        if reset is None and self._remaining == 0 and now < self.opens_at:
            return  # it was on its way when the pause began, and says nothing new
        self._refusals += 1
        if reset is None and self._allowed > OPENING and self._refusals <= _STRAY:
            return  # good answers come beside it: its own call backs off, as after a 503
        if self._probing and reset is not None and reset <= 1.0:
            self._rounds_up = False  # the probe came too early: named times are rounded down
        if reset is None or (reset == 0 and self._refusals > 1):
            self._blind_pauses += 1
            pause = _FIRST_BLIND_PAUSE * 2.0 ** min(self._blind_pauses - 1, 16)
            reset = min(_LONGEST_BLIND_PAUSE, pause) * (1 + jitter()) / 2
        self._probing = False
        end = now + reset
        if not self._earliest_end - _SLACK <= end <= self._latest_end + _SLACK:
            self._earliest_end = self._latest_end = end
        self._earliest_end = min(self._earliest_end, end)
        self._latest_end = max(self._latest_end, end)
        self._remaining = 0
