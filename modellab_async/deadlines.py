"""Time-outs of many short jobs, at the price of one timer for all of them.

A timer for each request, as ``asyncio.timeout`` and aiohttp's ``total`` set, costs some ten
microseconds that hardly any request makes use of.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


class Deadline:
    """A context manager that ends its task's wait by a `TimeoutError`, as ``asyncio.timeout`` does.

    Attributes:
        at: when (in the event loop's time).
        passed: whether that time came first.
    """

    __slots__ = ("_cancelling", "_deadlines", "_task", "at", "passed")

    def __init__(self, deadlines: Deadlines, task: asyncio.Task[object], at: float) -> None:
        self._deadlines = deadlines
        self._task = task
        self._cancelling = task.cancelling()
        self.at: float = at
        self.passed: bool = False

    def __enter__(self) -> None:
        self._deadlines.add(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._deadlines.discard(self)
        if not self.passed:
            return
        # Somebody else may have cancelled the task as well: then it is their cancellation.
        ours = self._task.uncancel() <= self._cancelling
        if ours and kind is asyncio.CancelledError:
            raise TimeoutError

    def expire(self) -> None:
        """The time has come."""
        self.passed = True
        self._task.cancel()


class Deadlines:
    """The deadlines of one event loop's tasks, watched by a single timer.

    The timer is set for the earliest deadline known when it was set; most jobs are done by then,
    so that it runs about once per time-out, not once per job.
    """

    def __init__(self) -> None:
        self._open: set[Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf

    def within(self, seconds: float) -> Deadline:
        """A deadline for what the current task does inside ``with``."""
        task = asyncio.current_task()
        assert task is not None  # whoever awaits runs in a task
        return Deadline(self, task, task.get_loop().time() + seconds)

    def add(self, deadline: Deadline) -> None:
        """Watch a deadline from now on."""
        self._open.add(deadline)
        if deadline.at < self._due:
            self._set(deadline.at)

    def discard(self, deadline: Deadline) -> None:
        """Watch it no longer."""
        self._open.discard(deadline)

    def expire_all(self) -> None:
        """End all waits now."""
        for deadline in self._open:
            deadline.expire()
        self._open.clear()
        self._set(math.inf)

    def _set(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = None
        if due < math.inf:
            self._timer = asyncio.get_running_loop().call_at(due, self._sweep)

    def _sweep(self) -> None:
        # A timer may run early by the resolution of the loop's clock.
        for deadline in [deadline for deadline in self._open if deadline.at <= self._due]:
            self._open.discard(deadline)
            deadline.expire()
        self._set(min((deadline.at for deadline in self._open), default=math.inf))
