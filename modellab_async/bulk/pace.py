"""How many listing calls a fetch has in flight: as many as keep its processor busy, and no more."""

from __future__ import annotations

import math
import time
from typing import Final

OPENING_PAGES: Final = 4
"""Before the first good answer: a wrong key costs hardly more than that."""

PAGES_AT_ONCE: Final = 16
"""Listing calls in flight at the most: each may hold a megabyte."""

_IDLE: Final = 0.9
_BUSY: Final = 0.98
"""Shares of the time that this thread has computed: below the first, more pages would help.

Above the second they would only wait for each other, and fall out of the processor's cache
meanwhile.
"""


class Pace:
    """Looks at how busy the thread was, from time to time: every two pages for each in flight.

    Args:
        concurrency: how many there may ever be.

    Attributes:
        pages: how many there should be now.
    """

    def __init__(self, concurrency: int) -> None:
        self._most = min(PAGES_AT_ONCE, concurrency)
        self.pages: int = min(OPENING_PAGES, concurrency)
        self._unread = self.pages
        self._began, self._worked = time.perf_counter(), time.thread_time()

    def look(self) -> None:
        """A good page has been read."""
        self._unread -= 1
        if self._unread > 0:
            return
        now, worked = time.perf_counter(), time.thread_time()
        passed, busy = now - self._began, worked - self._worked
        if busy < _IDLE * passed:
            filling = self.pages * passed / max(busy, 1e-6)
            self.pages = min(math.ceil(filling), self._most)
        elif busy > _BUSY * passed:
            self.pages = max(self.pages * 3 // 4, min(2, self._most))
        self._began, self._worked, self._unread = now, worked, 2 * self.pages
