"""The server's rate limit: calendar-aligned windows, and the headers that describe them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal

import attrs

from modellab_async.simulator.responses import Headers, Response, plain_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

EVERY_OPERATION: Final = "*"


@attrs.frozen
class RateLimit:
    """A number of requests in each window of the clock.

    Attributes:
        limit: requests allowed in a window.
        period: length of a window in seconds; windows start at multiples of it.
        name: operations whose limits have the same name draw on the same window.
        rounding: how the seconds until the next window become whole ones.
        raw_reset: what `X-RateLimit-Reset` says instead, one header line for each text.
    """

    limit: int
    period: int
    name: str = "model_lab_api"
    rounding: Literal["floor", "ceil"] = "ceil"
    raw_reset: tuple[str, ...] | None = None

    def reset_lines(self, now: float) -> tuple[str, ...]:
        """The values of `X-RateLimit-Reset` at that time."""
        if self.raw_reset is not None:
            return self.raw_reset
        left = self.period - now % self.period
        return (str(math.floor(left) if self.rounding == "floor" else math.ceil(left)),)


class Limits:
    """Counts requests against the limits of their operations."""

    def __init__(
        self, limits: RateLimit | Mapping[str, RateLimit] | None, clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._used: dict[str, tuple[int, int]] = {}  # by name: a window's number, requests in it
        self.replace(limits)

    def replace(self, limits: RateLimit | Mapping[str, RateLimit] | None) -> None:
        """From now on count against other limits; windows that have begun continue.

        Args:
            limits: one limit for every operation, or a limit for each operation's name
                (`get_run`, `list_runs`; `*` is for all others), or None for no limit.
        """
        if isinstance(limits, RateLimit):
            limits = {EVERY_OPERATION: limits}
        self._limits: Mapping[str, RateLimit] = dict(limits or {})

    def spend(self, requests: int, operation: str = EVERY_OPERATION) -> None:
        """Use up part of the current window, as other processes of the organization do.

        Raises:
            KeyError: the operation has no limit.
        """
        limit = self._limits.get(operation) or self._limits[EVERY_OPERATION]
        self._use(limit, requests, self._clock())

    def admit(self, operation: str) -> tuple[Headers, Response | None]:
        """Count one request.

        Returns:
            The headers to send with its response, and the refusal if the limit is used up.
        """
        limit = self._limits.get(operation) or self._limits.get(EVERY_OPERATION)
        if limit is None:
            return (), None
        now = self._clock()
        granted, remaining = self._use(limit, 1, now)
        headers = (
            ("X-RateLimit-Limit", str(limit.limit)),
            ("X-RateLimit-Period", str(limit.period)),
            ("X-RateLimit-Remaining", str(remaining)),
            *(("X-RateLimit-Reset", line) for line in limit.reset_lines(now)),
            ("X-RateLimit-Name", limit.name),
        )
        return headers, None if granted else plain_error(429, "Too many requests")

    def _use(self, limit: RateLimit, requests: int, now: float) -> tuple[int, int]:
        """Count requests; returns how many of them were granted, and how many more can be."""
        window = int(now // limit.period)
        number, used = self._used.get(limit.name, (window, 0))
        remaining = limit.limit - (used if number == window else 0)
        granted = min(requests, max(0, remaining))
        remaining -= granted
        self._used[limit.name] = window, limit.limit - remaining
        return granted, remaining
