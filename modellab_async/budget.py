"""The retry budget: what good answers earn pays for repeats; an outage is not multiplied.

Back-off spreads the repeats of one call; the budget bounds those of all calls together. While the
server answers, what it answers pays for what it did not. While it answers nothing, only the savings
are left, and the server sees hardly more than what was asked for. The constants come from
``benchmarks/budget.py``; docs/explanation/retries-and-limits.md gives the reasons.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

SAVINGS: Final = 50.0
"""Repeats that can be saved up, and those that a client begins with."""

EARNED: Final = 0.5
"""Repeats that a good answer earns, beside what a repeat gets back that it answers.

Enough while less than half of all attempts fail.
"""

SILENCE: Final = 1.0
"""Seconds without any request after which one repeat is free: somebody must find out."""


@attrs.define(eq=False)
class RetryBudget:
    """What all calls of one client may still repeat.

    Attributes:
        now: gives the time (monotonic).
        last_sent: when the last request was let out; the client keeps it.
        refusals: how many repeats were not made for want of budget.
    """

    now: Callable[[], float]
    last_sent: float = -math.inf
    refusals: int = 0
    _saved: float = SAVINGS

    def earn(self, *, repeated: bool) -> None:
        """A good answer came; where it came to a repeat, that repeat has cost nothing."""
        self._saved = min(SAVINGS, self._saved + EARNED + repeated)

    def pay(self) -> bool:
        """Take one repeat out; False where there is none."""
        if self._saved >= 1.0:
            self._saved -= 1.0
            return True
        now = self.now()
        if now - self.last_sent < SILENCE:
            return False
        self.last_sent = now
        return True
