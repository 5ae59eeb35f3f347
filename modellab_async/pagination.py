"""Listings: ``await`` gives a page, ``async for`` gives items, ``pages()`` gives pages.

The API pages by offset over live data: a row inserted or deleted meanwhile shifts those behind it.
So a walk drops repeated items, reads a page again that an earlier answer made doubtful, and walks
again where rows vanished, until one walk holds from end to end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, Self, TypeVar, cast

import attrs

from modellab_async.closing import Closing
from modellab_async.endpoints import MAX_PAGE_SIZE
from modellab_async.errors import DecodeError
from modellab_async.idset import IdSet
from modellab_async.models import Page

if TYPE_CHECKING:
    from modellab_async.bulk import Perform
    from modellab_async.endpoints import Call


class _Listed(Protocol):
    """What a listing lists."""

    @property
    def id(self) -> int: ...


T = TypeVar("T", bound=_Listed)

AHEAD: Final = 16
"""How many pages are asked for before the walk reaches them."""

REWALKS: Final = 4
SPARE_PAGES: Final = 200
"""Walks are repeated while they cost at most so many times the pages of the first, or so many."""

_UNCOUNTED_PAGES: Final = 100_000
"""How long a walk may get where the server does not say how many items there are."""


class Pager(Generic[T]):
    """A listing that has not been asked for yet.

    ``await pager`` asks for the first page; ``async for item in pager`` gives every item of every
    page, once; ``async for page in pager.pages()`` gives the pages. Each of them asks anew.

    Attributes:
        complete: what the last finished walk can say of itself: True if it saw every item that
            existed throughout, False if rows kept vanishing while it read, None if no walk has
            finished or the server gives no totals.
    """

    def __init__(
        self,
        build: Callable[[int | None, int | None], Call],
        *,
        perform: Perform,
        page_size: int | None,
    ) -> None:
        build(page_size, None)  # bad arguments are refused here, not in the first iteration
        self.complete: bool | None = None
        self._build = build
        self._perform = perform
        self._page_size = page_size

    def __await__(self) -> Generator[Any, None, Page[T]]:
        return self.load(self._page_size, None).__await__()

    def __aiter__(self) -> Items[T]:
        return Items(self.pages())

    def pages(self, start: int | None = None) -> Pages[T]:
        """The pages of one walk, without items that an earlier one had.

        Args:
            start: the page to begin with, by the server's own count, for who has read the ones
                before it; `complete` then speaks of the rest. By default the first.
        """
        size = MAX_PAGE_SIZE if self._page_size is None else self._page_size
        return Pages(_Walk(self, size, start))

    async def load(self, size: int | None, number: int | None) -> Page[T]:
        """One page by its number, or the first one.

        Raises:
            DecodeError: where an item is not what the API promises.
        """
        decoded = await self._perform(self._build(size, number))
        return cast("Page[T]", decoded.page())


class Pages(Closing, AsyncIterator[Page[T]]):
    """The pages of one walk; leaving the loop or dropping this stops what was asked for ahead."""

    def __init__(self, walk: _Walk[T]) -> None:
        self._walk = walk

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Page[T]:
        return await self._walk.next_page()

    async def aclose(self) -> None:
        """Stop what was asked for ahead, and wait until it has let go of everything."""
        await self._walk.aclose()

    def __del__(self) -> None:
        self._walk.cancel()


class Items(Closing, AsyncIterator[T]):
    """The items of one walk, each once; to be left like `Pages`."""

    def __init__(self, pages: Pages[T]) -> None:
        self._pages = pages
        self._ready: deque[T] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._ready:
            self._ready.extend((await anext(self._pages)).items)
        return self._ready.popleft()

    async def aclose(self) -> None:
        """Stop what was asked for ahead, and wait until it has let go of everything."""
        await self._pages.aclose()


class _Walk(Generic[T]):
    """One walk over all pages, repeated where it has to be."""

    def __init__(self, pager: Pager[T], size: int, start: int | None) -> None:
        self._pager = pager
        self._size = size
        self._ahead: dict[int, asyncio.Task[Page[T]]] = {}
        self._tasks: set[asyncio.Task[Page[T]]] = set()
        self._seen = IdSet()
        self._finished = False
        self._read = 0
        self._first_walk = 0
        self._begin(start)

    def _begin(self, start: int | None = None) -> None:
        self._next = start
        self._total: int | None = None
        self._walked = 0
        self._shrank = False

    async def next_page(self) -> Page[T]:
        """The next page that has something new, or the first one whatever it has.

        Raises:
            StopAsyncIteration: after the last.
        """
        while not self._finished:
            try:
                page = await self._settled_page()
            except BaseException:
                self._finished = True
                self.cancel()
                raise
            first = self._read == 1
            new = tuple(item for item in page.items if item.id not in self._seen)
            for item in new:
                self._seen.add(item.id)
            self._advance(page)
            if new or first:
                return attrs.evolve(page, items=new)
        raise StopAsyncIteration

    def cancel(self) -> None:
        """Stop what was asked for ahead, from anywhere, also from a finalizer."""
        self._finished = True
        for task in self._tasks:
            if not task.get_loop().is_closed():
                task.cancel()

    async def aclose(self) -> None:
        self.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _settled_page(self) -> Page[T]:
        """The page that is next, as of a moment no earlier than that of the page before it."""
        number = self._next
        task = self._ahead.pop(number, None) if number is not None else None
        if task is None:
            self._drop_ahead()
            page = await self._load(number)
        else:
            try:
                page = await task
            except asyncio.CancelledError:
                task.cancel()
                raise
            if self._fell(page):  # asked for too early, or rows are gone: a fresh look tells
                page = await self._load(number)
        self._shrank |= self._fell(page)
        return page

    async def _load(self, number: int | None) -> Page[T]:
        self._read += 1
        return await self._pager.load(self._size, number)

    def _fell(self, page: Page[T]) -> bool:
        return page.total is not None and self._total is not None and page.total < self._total

    def _advance(self, page: Page[T]) -> None:
        """Find the number to go on with, ask ahead, or end the walk."""
        reached = page.number if self._next is None else self._next
        self._next, self._total = page.next_number, page.total
        self._walked += 1
        if self._next is None or not page.items:
            self._end_walk()
            return
        if reached is not None and self._next <= reached:
            raise DecodeError(
                f"page {reached} names page {self._next} as the next one, which does not advance",
                path="$.meta.page.next_number",
            )
        self._check_length(page)
        last = page.last_number if reached is not None else None
        if last is not None and self._next == cast("int", reached) + 1:
            for number in range(self._next, min(last, self._next + AHEAD - 1) + 1):
                if number not in self._ahead:
                    self._read += 1
                    task = asyncio.create_task(self._pager.load(self._size, number))
                    task.add_done_callback(self._ended)
                    self._tasks.add(task)
                    self._ahead[number] = task

    def _check_length(self, page: Page[T]) -> None:
        """Refuse a listing that never ends."""
        if page.total is None:
            longest = _UNCOUNTED_PAGES
        else:
            longest = SPARE_PAGES + 2 * page.total // max(1, min(len(page.items), self._size))
        if self._walked > longest:
            raise DecodeError(
                f"{self._walked} pages of {page.total} items, and still a next one",
                path="$.meta.page.next_number",
            )

    def _end_walk(self) -> None:
        """The end of the listing: of the walk, too, unless rows vanished from under it."""
        self._drop_ahead()
        self._first_walk = self._first_walk or self._walked
        allowed = max(SPARE_PAGES, (1 + REWALKS) * self._first_walk)
        if self._shrank and self._read < allowed:
            self._begin()
            return
        self._finished = True
        self._pager.complete = None if self._total is None else not self._shrank

    def _drop_ahead(self) -> None:
        for task in self._ahead.values():
            task.cancel()
        self._ahead.clear()

    def _ended(self, task: asyncio.Task[Page[T]]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved: nobody may ever come to read this page
