"""The retry budget: what good answers earn pays for repeats; an outage is not multiplied.

Back-off spreads the repeats of one call; the budget bounds those of all calls together. While the
server answers, what it answers pays for what it did not. While it answers nothing, only the savings
and a trickle are left, and the server sees hardly more than what was asked for. The constants come
from ``benchmarks/budget.py``; docs/explanation/retries-and-limits.md gives the reasons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

SAVINGS: Final = 50.0
"""Repeats that can be saved up, and those that a client begins with."""

EARNED: Final = 1.0
"""Repeats that a good answer earns: enough while less than half of all attempts fail."""

TRICKLE: Final = 1.0
"""Repeats per second that cost nothing, so that a client alone, or one that waits, goes on."""


class RetryBudget:
    """What all calls of one client may still repeat.

    Args:
        now: gives the time (monotonic).

    Attributes:
        refusals: how many repeats were not made for want of budget.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.refusals = 0
        self._now = now
        self._saved = SAVINGS
        self._counted_at = now()

    @property
    def left(self) -> float:
        """Repeats that can be paid for now."""
        trickled = (self._now() - self._counted_at) * TRICKLE
        return min(SAVINGS, self._saved + trickled)

    def earn(self) -> None:
        """A good answer came."""
        self._saved = min(SAVINGS, self._saved + EARNED)

    def pay(self) -> bool:
        """Take one repeat out; False where there is none."""
        left = self.left
        if left < 1.0:
            return False
        self._saved, self._counted_at = left - 1.0, self._now()
        return True
