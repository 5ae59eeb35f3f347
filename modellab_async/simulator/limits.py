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


@attrs.define
class _Window:
    number: int = -1
    used: int = 0

    def at(self, number: int) -> _Window:
        if number != self.number:
            self.number, self.used = number, 0
        return self


class Limits:
    """Counts requests against the limits of their operations."""

    def __init__(
        self, limits: RateLimit | Mapping[str, RateLimit] | None, clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._limits: Mapping[str, RateLimit] = {}
        self._windows: dict[str, _Window] = {}
        self.replace(limits)

    def replace(self, limits: RateLimit | Mapping[str, RateLimit] | None) -> None:
        """From now on count against other limits; windows that have begun continue.

        Args:
            limits: one limit for every operation, or a limit for each operation's name
                (`get_run`, `list_runs`; `*` is for all others), or None for no limit.
        """
        if limits is None:
            self._limits = {}
        elif isinstance(limits, RateLimit):
            self._limits = {EVERY_OPERATION: limits}
        else:
            self._limits = dict(limits)

    def spend(self, requests: int, operation: str = EVERY_OPERATION) -> None:
        """Use up part of the current window, as other processes of the organization do.

        Raises:
            KeyError: the operation has no limit.
        """
        limit = self._limits.get(operation) or self._limits[EVERY_OPERATION]
        window = self._window(limit, self._clock())
        window.used = min(limit.limit, window.used + requests)

    def admit(self, operation: str) -> tuple[Headers, Response | None]:
        """Count one request.

        Returns:
            The headers to send with its response, and the refusal if the limit is used up.
        """
        limit = self._limits.get(operation) or self._limits.get(EVERY_OPERATION)
        if limit is None:
            return (), None
        now = self._clock()
        window = self._window(limit, now)
        admitted = window.used < limit.limit
        window.used += admitted
        headers = (
            ("X-RateLimit-Limit", str(limit.limit)),
            ("X-RateLimit-Period", str(limit.period)),
            ("X-RateLimit-Remaining", str(limit.limit - window.used)),
            *(("X-RateLimit-Reset", line) for line in limit.reset_lines(now)),
            ("X-RateLimit-Name", limit.name),
        )
        return headers, None if admitted else plain_error(429, "Too many requests")

    def _window(self, limit: RateLimit, now: float) -> _Window:
        return self._windows.setdefault(limit.name, _Window()).at(int(now // limit.period))
