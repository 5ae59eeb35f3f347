"""Time and chance, in one injectable object, so that schedules can be tested without waiting.

Also times in UTC.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Protocol

import attrs


class Timer(Protocol):
    """A call that will happen unless it is cancelled, such as an ``asyncio.TimerHandle``."""

    def cancel(self) -> object:
        """Call it off."""


def in_utc(when: datetime) -> datetime:
    """A time in UTC, which one without an offset is in already.

    The first or last time that a datetime can hold takes the place of one that is beyond it, such
    as ``9999-12-31T23:59:59-14:00``.
    """
    if when.tzinfo is None:
        return when.replace(tzinfo=UTC)
    try:
        return when.astimezone(UTC)
    except OverflowError:
        end = datetime.min if when.year == 1 else datetime.max  # noqa: DTZ901 - has one below
        return end.replace(tzinfo=UTC)


def _call_later(seconds: float, callback: Callable[[], object]) -> Timer:
    return asyncio.get_running_loop().call_later(seconds, callback)


@attrs.frozen
class Clock:
    """Where the client takes time and chance from.

    Attributes:
        monotonic: seconds that only grow; all waits and deadlines are counted in it.
        time: seconds since the epoch, for headers that name a date.
        sleep: an awaitable pause of that many seconds.
        call_later: calls back after that many seconds, unless cancelled.
        random: a number in [0, 1), for jitter.
    """

    monotonic: Callable[[], float] = time.monotonic
    time: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    call_later: Callable[[float, Callable[[], object]], Timer] = _call_later
    random: Callable[[], float] = random.random
