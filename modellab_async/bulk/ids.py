"""Ids from any iterable or async iterable, read as they are needed."""

from __future__ import annotations

import asyncio
import itertools
import operator
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any, Final

_END: Final = object()


class Ids:
    """A lazy source of ids for several workers.

    Args:
        source: an iterable, or an async iterable, of ids.
        ahead: how many ids of an async iterable may be read before anybody wants them.

    Attributes:
        total: how many there are in all, or None where the source does not know.
        read: how many were handed out.
        exhausted: whether there are no more, or nobody wants them any more.
        error: what the source itself raised.
    """

    def __init__(self, source: Iterable[Any] | AsyncIterable[Any], ahead: int) -> None:
        try:
            hint = operator.length_hint(source, -1)
        except OverflowError:  # such as range(10**20)
            hint = -1
        self.total: int | None = hint if hint >= 0 else None
        self.read: int = 0
        self.exhausted: bool = False
        self.error: BaseException | None = None
        self._now: Iterator[Any] | None = None
        self._later: AsyncIterator[Any] | None = None
        if isinstance(source, Iterable):
            self._now = iter(source)
        else:
            self._later = aiter(source)
        self._queue: asyncio.Queue[Any] = asyncio.Queue(ahead)
        self._pump: asyncio.Task[None] | None = None

    def take_at_once(self, limit: int) -> list[Any] | None:
        """As :meth:`take` does; None where that has to wait for an async iterable."""
        if self.exhausted:
            return []
        if self._now is None:
            return None
        ids: list[Any] = []
        try:
            ids.extend(itertools.islice(self._now, limit))  # what comes before an error is kept
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # it may raise anything
            self.error = error
        self.exhausted = len(ids) < limit
        self.read += len(ids)
        return ids

    async def take(self, limit: int) -> list[Any]:
        """From 1 to ``limit`` ids, as many as there are without waiting; none at the end."""
        ids = self.take_at_once(limit)
        if ids is None:
            ids = await self._take_queued(limit)
            self.read += len(ids)
        return ids

    def stop(self) -> None:
        """Read no more, from anywhere, also from a finalizer."""
        self.exhausted = True
        if self._pump is not None and not self._pump.get_loop().is_closed():
            self._pump.cancel()

    async def aclose(self) -> None:
        """Read no more, and close the source where it can be closed."""
        self.stop()
        if self._pump is not None:
            await asyncio.wait([self._pump])
        close = getattr(self._later, "aclose", None)
        if close is not None:
            await close()

    async def _take_queued(self, limit: int) -> list[Any]:
        if self._pump is None and self._later is not None:
            self._pump = asyncio.create_task(self._fill(self._later))
        ids = [await self._queue.get()]
        while len(ids) < limit and not self._queue.empty():
            ids.append(self._queue.get_nowait())
        if ids[-1] is _END:
            ids.pop()
            self.exhausted = True
            self._queue.put_nowait(_END)  # for the others who wait
        return ids

    async def _fill(self, source: AsyncIterator[Any]) -> None:
        try:
            async for run_id in source:
                await self._queue.put(run_id)
        except asyncio.CancelledError as error:
            if self.exhausted:
                raise
            self.error = error  # the iterable's own
        except Exception as error:  # noqa: BLE001  # an iterable may raise anything
            self.error = error
        await self._queue.put(_END)
