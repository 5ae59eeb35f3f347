"""Points in time as the API writes them, and a clock for tests."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

import attrs

_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001  # naive on purpose: the suffix is written here


def to_text(microseconds: int) -> str:
    """A time since the epoch as `2026-05-15T02:57:03.079Z`, with 0 to 6 fraction digits."""
    text = (_EPOCH + timedelta(microseconds=microseconds)).isoformat()
    return (text.rstrip("0") if "." in text else text) + "Z"


def seconds_to_text(seconds: float) -> str:
    """A time of a clock in the same form."""
    return to_text(round(seconds * 1_000_000))


def to_microseconds(text: object) -> int:
    """The reverse of `to_text`; 0 for anything that is not a time."""
    if not isinstance(text, str):
        return 0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0
    return (moment - datetime(1970, 1, 1, tzinfo=moment.tzinfo or UTC)) // timedelta(microseconds=1)


@attrs.define
class ManualClock:
    """A clock for tests: it is called for the time, and moves only by `advance` and `sleep`.

    Attributes:
        now: seconds since the epoch.
    """

    now: float = 1_779_000_000.0

    def __call__(self) -> float:
        """The time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Advance the time by that many seconds."""
        self.now += seconds

    async def sleep(self, seconds: float) -> None:
        """Let that many seconds pass at once, and let other tasks run."""
        self.advance(seconds)
        await asyncio.sleep(0)
