"""The server's rate limit as it describes it in the headers of every response.

Source: Datadog API v2, Rate Limits; RFC 9110, section 10.2.3 (Retry-After).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final, Self

import attrs

_LONGEST_PERIOD: Final = 86_400.0
"""A reset further away than a day is not believed: no documented period is longer."""

_LONGEST_RETRY_AFTER: Final = 30 * 86_400.0
"""A ``Retry-After`` further away than a month is ignored."""

_EPOCH: Final = 1e9
"""A reset this large is a date (seconds since 1970), not a duration."""


@attrs.frozen
class RateLimit:
    """What the server says about a limit, in the headers of every response.

    Attributes:
        name: the limit's name; operations with the same name share it.
        limit: requests allowed in a period.
        period: the period's length in seconds.
        remaining: requests left in this period.
        reset: seconds until the period ends; None if the server named no plausible time.
    """

    name: str | None = attrs.field(default=None, repr=False)  # the server may echo a key in it
    limit: int | None = None
    period: float | None = None
    remaining: int | None = None
    reset: float | None = None

    @classmethod
    def from_headers(
        cls, headers: Mapping[str, str], *, now: Callable[[], float] = time.time
    ) -> Self | None:
        """Read ``X-RateLimit-*`` and ``Retry-After``; None if there are none. Never raises.

        Args:
            headers: a response's headers; names in lower case, or a case-insensitive mapping.
            now: returns the seconds since the epoch, to read a reset that is a date if the
                response has no ``Date`` of the server's own.
        """
        remaining = headers.get("x-ratelimit-remaining")
        reset = headers.get("x-ratelimit-reset")
        retry_after = headers.get("retry-after")
        if remaining is None and reset is None and retry_after is None:
            return None
        left = _number(remaining)
        limit = _number(headers.get("x-ratelimit-limit"))
        period = _number(headers.get("x-ratelimit-period"))
        return cls(
            name=headers.get("x-ratelimit-name"),
            limit=int(limit) if limit is not None and limit >= 0 else None,
            period=period if period is not None and 0 < period <= _LONGEST_PERIOD else None,
            remaining=None if left is None else max(0, int(left)),
            reset=_later(
                _seconds_until(reset, headers, now),
                _seconds_until(retry_after, headers, now, longest=_LONGEST_RETRY_AFTER),
            ),
        )

    def redacted(self, redact: Callable[[str], str]) -> Self:
        """The same, with a name that shows no secret, should a server have echoed one."""
        return attrs.evolve(self, name=self.name and redact(self.name))


def parse_retry_after(
    headers: Mapping[str, str], *, now: Callable[[], float] = time.time
) -> float | None:
    """Seconds that ``Retry-After`` asks to wait; None if it is absent or not believable."""
    return _seconds_until(headers.get("retry-after"), headers, now, longest=_LONGEST_RETRY_AFTER)


def _later(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)


def _number(text: str | None) -> float | None:
    """A header's number; the largest if proxies folded several into one (``7, 7``)."""
    if text is None:
        return None
    try:
        if "," in text:
            numbers = filter(math.isfinite, map(float, text.split(",")))
            return max(numbers, default=None)
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _seconds_until(
    text: str | None,
    headers: Mapping[str, str],
    now: Callable[[], float],
    *,
    longest: float = _LONGEST_PERIOD,
) -> float | None:
    """A duration in seconds from a duration, an epoch or an HTTP date; None if not believable.

    Dates are read against the server's ``Date``, since the two clocks may differ.
    Source: RFC 9110, section 10.2.3 (Retry-After); an epoch is seen in the wild.
    """
    if text is None:
        return None
    seconds = _number(text)
    if seconds is None:
        at = _date(text)
        seconds = None if at is None else at - (_date(headers.get("date")) or now())
    elif seconds >= _EPOCH:
        seconds -= _date(headers.get("date")) or now()
    return None if seconds is None or seconds > longest else max(0.0, seconds)


def _date(text: str | None) -> float | None:
    """An HTTP date in seconds since the epoch."""
    try:
        date = parsedate_to_datetime(text or "")
        # The old asctime form names no zone; all HTTP dates are in UTC.
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError):
        return None
