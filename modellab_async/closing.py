"""Base classes of objects that ``async with`` closes, since they hold tasks or sockets."""

from __future__ import annotations

import asyncio
import contextlib
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from modellab_async.errors import ModelLabError, detached

T = TypeVar("T")


class Closing:
    """Entering returns the object itself; leaving closes it, whatever happened."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    @abstractmethod
    async def aclose(self) -> None:
        """Release everything, and wait until that is done."""


class BackgroundWork(Protocol):
    """Work of tasks that hold no reference to the iterator over its results."""

    def cancel(self) -> None:
        """Cancel all tasks, at once and from anywhere, also from a finalizer."""

    async def aclose(self) -> None:
        """Cancel all tasks, and wait until they have ended."""


class BackgroundIterator(Closing, AsyncIterator[T]):
    """An async iterator over the results of background work, which ends with it.

    It alone refers to the work, so dropping it cancels the tasks. A cancelled ``anext`` cancels
    nothing: with ``asyncio.wait_for(anext(...), seconds)`` the next one returns the result.
    """

    def __init__(self, work: BackgroundWork, take: Callable[[], Awaitable[T]]) -> None:
        """Iterate over work.

        Args:
            work: its tasks are cancelled when this iterator is closed or dropped.
            take: waits for the next result, or raises StopAsyncIteration.
        """
        self._work = work
        self._take = take

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        __tracebackhide__ = True
        try:
            return await self._take()
        except ModelLabError as error:
            raise detached(error)  # noqa: B904  # it is the same error
        except asyncio.CancelledError:
            # The traceback holds this frame, and those of the caller that may hold the iterator;
            # a cancelled task holds the traceback. Neither must keep the work running.
            if (task := asyncio.current_task()) is not None:
                task.remove_done_callback(_drop_traceback)
                task.add_done_callback(_drop_traceback)
            del self
            raise

    async def aclose(self) -> None:
        """Stop all requests, and wait until they have released everything."""
        await self._work.aclose()

    def __del__(self) -> None:
        self._work.cancel()


def _drop_traceback(task: asyncio.Task[Any]) -> None:
    """Release the traceback that a cancelled task keeps until somebody asks for its result."""
    if task.cancelled():
        with contextlib.suppress(asyncio.CancelledError):
            task.exception()
