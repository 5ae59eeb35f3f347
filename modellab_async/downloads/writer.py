"""Writing behind the reader's back, so that reading and writing go on at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from modellab_async.downloads.part import begun, finished, on_disk

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from modellab_async.clock import Clock, Timer
    from modellab_async.downloads.part import Part, Ts

# A thread writes, since a disk, or a network's, may take its time; reading must go on meanwhile,
# since aiohttp drops what is unread when a connection breaks. For 512 MiB over loopback, where
# reading alone takes 0.4 s: 0.6 s written on the loop, 0.8 s by threads in batches of 1 MiB or
# more, 1.4 s by threads chunk by chunk.
BATCH: Final = 1024 * 1024

FLUSH_AFTER: Final = 0.25
"""Seconds after which less than a batch is written, so that a killed process loses little."""


@attrs.define
class Writer:
    """Writes a part file in batches, one after the other.

    Attributes:
        on_written: told of the bytes that were written, some time after they were.
    """

    _part: Part
    _clock: Clock
    on_written: Callable[[int], object]
    _busy: asyncio.Future[None] = attrs.field(init=False)
    _batch: list[bytes] = attrs.field(factory=list, init=False)
    _size: int = attrs.field(default=0, init=False)
    _under_way: int = attrs.field(default=0, init=False)
    _timer: Timer | None = attrs.field(default=None, init=False)

    def begin(self, function: Callable[[*Ts], None], *args: *Ts) -> None:
        """Begin with something, such as opening the file; nothing else may be under way."""
        self._busy = begun(function, *args)

    async def add(self, chunk: bytes) -> None:
        """Have a chunk written, sooner or later; waits where there is enough to be written.

        Raises:
            DownloadError: where what was begun earlier failed.
        """
        self._batch.append(chunk)
        self._size += len(chunk)
        if self._size >= BATCH:
            self._stop_timer()
            await self._settle()
            self._begin_batch()
        elif self._timer is None:
            self._timer = self._clock.call_later(FLUSH_AFTER, self._flush)

    async def close(self) -> None:
        """Write what is left, and close the file in any case.

        Raises:
            DownloadError: where what was begun earlier failed, or this does.
        """
        self._stop_timer()
        try:
            await self._settle()
            self._begin_batch()
            await self._settle()
        finally:
            await on_disk(self._part.close)

    def _begin_batch(self) -> None:
        batch, self._batch = self._batch, []
        self._under_way, self._size = self._under_way + self._size, 0
        self.begin(self._part.write, batch)

    def _flush(self) -> None:
        self._timer = None
        if not self._busy.done():
            self._timer = self._clock.call_later(FLUSH_AFTER, self._flush)
        elif self._busy.exception() is None:  # which the next to wait for it will raise
            self._begin_batch()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _settle(self) -> None:
        await finished(self._busy)
        written, self._under_way = self._under_way, 0
        self.on_written(written)
