"""Listings: ``await`` returns a page, ``async for`` yields items, ``pages()`` yields pages.

The API pages by offset over live data: a row that is inserted or deleted shifts all rows after it,
past the boundaries of pages that are read later. `OverlappingPages` says when it is certain all
the same that nothing was missed.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections import deque
from collections.abc import Callable, Generator, Sequence
from datetime import datetime
from typing import Any, Final, Generic, Literal, Protocol, TypeVar, cast

import attrs

from modellab_async.closing import BackgroundIterator
from modellab_async.endpoints import MAX_PAGE_SIZE, Call, Perform
from modellab_async.errors import DecodeError
from modellab_async.idset import IdSet
from modellab_async.models import Page


class _Listed(Protocol):
    """An item of a listing."""

    @property
    def id(self) -> int: ...

    @property
    def created_at(self) -> datetime | None: ...


T = TypeVar("T", bound=_Listed)

PAGES_AHEAD: Final = 16
"""Pages that are requested before the iteration reaches them."""

OVERLAP: Final = 3
"""Rows that overlapping pages share at least: all but two of them may vanish in between."""

FEW_ROWS: Final = 10
"""Rows that even tiny pages may repeat one after the other."""

PAGES_BEYOND_TOTAL: Final = 200
"""Pages with new items beyond twice those that the total explains."""

UNCOUNTED_ITEMS: Final = 5_000_000
"""What counts as the total if the server names none."""

Verify = Literal["created_at", "-created_at"]
"""The sort order that verification relies on: by a field that never changes."""


class Pager(Generic[T]):
    """A listing that has not been requested yet.

    ``await pager`` requests the first page; ``async for item in pager`` yields every item of every
    page, once; ``async for page in pager.pages()`` yields the pages. Each of these starts over.

    Attributes:
        complete: what is known after the last iteration that reached the end. True: no item that
            the listing held from the first request to the last is missing. False: items are
            missing, since the listing always counted more than were received. None: it cannot be
            known, or no iteration has reached the end. True is known in two cases: one response
            held the whole listing, or the pages were verified (``verify=True``).
    """

    def __init__(
        self,
        build: Callable[[int | None, int | None], Call],
        *,
        perform: Perform,
        page_size: int | None,
        verify: Verify | None = None,
    ) -> None:
        build(page_size, None)  # raises for bad arguments now instead of on iteration
        self.complete: bool | None = None
        self._build = build
        self._perform = perform
        self._page_size = page_size
        self._verify: Verify | None = verify

    def __await__(self) -> Generator[Any, None, Page[T]]:
        return self.load(self._page_size, None).__await__()

    def __aiter__(self) -> BackgroundIterator[T]:
        reader = self._reader()
        return BackgroundIterator(reader, reader.next_item)

    def pages(self) -> BackgroundIterator[Page[T]]:
        """The pages, without items that an earlier page had."""
        reader = self._reader()
        return BackgroundIterator(reader, reader.next_page)

    def _reader(self) -> ListingReader[T]:
        if self._verify is not None:
            return ListingReader(self, OverlappingPages(self._verify), MAX_PAGE_SIZE)
        return ListingReader(self, ConsecutivePages(), self._page_size or MAX_PAGE_SIZE)

    async def load(self, size: int | None, number: int | None) -> Page[T]:
        """One page by its number, or the first one.

        Raises:
            DecodeError: if an item is not what the API promises.
        """
        decoded = await self._perform(self._build(size, number))
        return cast("Page[T]", decoded.page())


@attrs.frozen
class PageRequest:
    """A page to request: the first one if it has no number.

    Attributes:
        offset: how many rows precede it, if pages are counted in rows.
    """

    size: int
    number: int | None = None
    offset: int = 0

    @property
    def end(self) -> int:
        """How many rows there are up to the end of a full page."""
        return self.offset + self.size


class PagePlan:
    """Which pages to read, and what they prove.

    Attributes:
        in_order: whether pages must be read one after the other while rows come and go.
        accepted: whether the last page continues those before it.
        proved: whether nothing was missed so far.
        stepped_back: how many rows were stepped back since the last progress.
    """

    in_order = True
    accepted: bool = True
    proved: bool = False
    stepped_back: int = 0

    def following(self, request: PageRequest, page: Page[Any]) -> list[PageRequest]:
        """The pages to read after this one, in order; none at the end.

        Raises:
            DecodeError: if the server names a next page that is not after this one.
        """
        raise NotImplementedError


class ConsecutivePages(PagePlan):
    """Follows ``next_number`` from page to page; the server may count from 0 or from 1."""

    def following(self, request: PageRequest, page: Page[Any]) -> list[PageRequest]:
        """See `PagePlan`."""
        number = page.number if request.number is None else request.number
        following = page.next_number
        if following is None or not page.items:
            return []
        if number is None:
            return [PageRequest(request.size, following)]
        if following <= number:
            raise DecodeError(
                f"page {number} names page {following} as the next one, which does not advance",
                path="$.meta.page.next_number",
            )
        last = following
        if page.last_number is not None and following == number + 1:
            last = max(following, min(page.last_number, number + PAGES_AHEAD))
        return [PageRequest(request.size, ahead) for ahead in range(following, last + 1)]


class OverlappingPages(PagePlan):
    """Chooses pages that overlap, so as to know that nothing was missed while rows came and went.

    Theorem: let the listing be sorted by a key that no item ever changes, and let each response be
    a part of the listing without gaps, as it was at some moment. Let K be the last key of the pages
    read so far, and let every item before K that was listed throughout have been read. If the next
    page begins before K and ends with L, every such item before L has been read as well: it is
    before K, or behind the page's first row, and before the page's last row. If nothing follows the
    page, every such item has been read. Nothing precedes the first page.

    "Before" is strict: keys can be equal, and the order of equal ones is the server's affair. The
    moments can be in any order, which allows for requests ahead. Rows may come and go between any
    two of them.

    Sizes vary, since the API counts pages: a page of ``size`` can only begin at a multiple of it.
    If a page begins too late, because rows before it have vanished, earlier pages are read until
    one begins before K.
    """

    in_order = False
    accepted: bool = True
    proved: bool = True
    stepped_back: int = 0

    def __init__(self, verify: Verify) -> None:
        self._descending = verify.startswith("-")
        self._largest = 0
        self._base: int | None = None
        self._total: int | None = None
        self._last_key: datetime | None = None
        self._end = 0
        self._fallback = ConsecutivePages()

    def following(self, request: PageRequest, page: Page[Any]) -> list[PageRequest]:
        """See `PagePlan`."""
        if not self.proved:
            return self._fallback.following(request, page)
        total, self._total = self._total, page.total
        keys: list[datetime] = [item.created_at for item in page.items]
        if None in keys or keys != sorted(keys, reverse=self._descending):
            return self._give_up(request, page)
        if request.number is None:
            self._base = page.number if page.first_number is None else page.first_number
            self._largest = min(request.size, page.size or len(keys))
        elif not (keys and self._last_key and self._before(keys[0], self._last_key)):
            if self.stepped_back >= self._end:
                return self._give_up(request, page)
            vanished = (total or 0) - (page.total or 0)
            self.stepped_back = 2 * self.stepped_back + max(0, vanished) + OVERLAP
            self.accepted = False
            return [self._page_with(self._end - self.stepped_back)]
        self.accepted = True
        self._end = request.offset + len(keys)
        if keys and (self._last_key is None or self._before(self._last_key, keys[-1])):
            self._last_key = keys[-1]
            self.stepped_back = 0
        if not keys or page.next_number is None:
            return []
        return self._ahead(keys) or self._give_up(request, page)

    def _ahead(self, keys: list[datetime]) -> list[PageRequest]:
        """Pages that each begin before the end of the one before; none if that is impossible."""
        ties = keys.count(keys[-1])
        requests: list[PageRequest] = []
        overlap, end = max(OVERLAP, ties + 1), self._end
        while self._base is not None and len(requests) < PAGES_AHEAD:
            if requests and end >= (self._total or 0):
                break
            request = self._page_with(end - overlap)
            if request.end <= end:
                break
            requests.append(request)
            overlap, end = OVERLAP, request.end
        return requests

    def _before(self, key: datetime, other: datetime) -> bool:
        return key > other if self._descending else key < other

    def _page_with(self, row: int) -> PageRequest:
        """The page that contains a row, by its position, and reaches furthest beyond it."""
        size = _furthest(max(0, row), self._largest)
        index = max(0, row) // size
        return PageRequest(size, cast("int", self._base) + index if index else None, index * size)

    def _give_up(self, request: PageRequest, page: Page[Any]) -> list[PageRequest]:
        """Read on without proof."""
        self.accepted = True
        self.proved = False
        self.stepped_back = 0
        if request.number is None or self._base is None:
            return self._fallback.following(request, page)
        return [PageRequest(self._largest, self._base + self._end // self._largest)]


@functools.lru_cache(maxsize=1024)
def _furthest(row: int, largest: int) -> int:
    """The size of pages, up to the largest, of which the one with a row reaches furthest."""
    return max(range(largest, 0, -1), key=lambda size: (row // size + 1) * size)


class ListingReader(Generic[T]):
    """Reads the pages of a listing once, in the order of a plan, several at a time.

    A page that cannot be read is requested again when the iteration is continued.
    """

    def __init__(self, pager: Pager[T], plan: PagePlan, size: int) -> None:
        self._pager = pager
        self._plan = plan
        self._upcoming = [PageRequest(size)]
        self._ahead: dict[PageRequest, asyncio.Task[Page[T]]] = {}
        self._tasks: set[asyncio.Task[Page[T]]] = set()
        self._in_turn: asyncio.Task[Page[T]] | None = None  # sent after all pages before were read
        self._turn = asyncio.Lock()
        self._items: deque[T] = deque()
        self._seen = IdSet()
        self._pages = self._new_pages = self._repeated = 0
        self._total: int | None = None
        self._total_of_new: int | None = None
        self._least_total: float = math.inf

    async def next_item(self) -> T:
        """The next item of all pages.

        Raises:
            StopAsyncIteration: after the last.
        """
        while not self._items:
            self._items.extend((await self.next_page()).items)
        return self._items.popleft()

    async def next_page(self) -> Page[T]:
        """The next page that has anything new, or the first one whatever it has.

        Raises:
            StopAsyncIteration: after the last.
        """
        async with self._turn:
            while self._upcoming:
                page = await self._read(self._upcoming[0])
                upcoming = self._plan.following(self._upcoming[0], page)
                new: tuple[T, ...] = ()
                if self._plan.accepted:
                    new = tuple(item for item in page.items if item.id not in self._seen)
                    self._check_progress(page, new, last=not upcoming)
                for item in new:
                    self._seen.add(item.id)
                self._pages += 1
                self._read_ahead(upcoming)
                if not upcoming:
                    self._pager.complete = self._complete(page)
                if new or self._pages == 1:
                    return attrs.evolve(page, items=new)
            raise StopAsyncIteration

    def cancel(self) -> None:
        """Cancel all requests now. May be called from a finalizer."""
        self._upcoming = []
        self._items.clear()
        for task in self._tasks:
            if not task.get_loop().is_closed():
                task.cancel()

    async def aclose(self) -> None:
        """Cancel all requests, and wait until they have released everything."""
        self.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _read(self, request: PageRequest) -> Page[T]:
        """A page; a caller that is cancelled meanwhile leaves its request to the next one."""
        task = self._ahead.get(request)
        if task is None:
            task = self._in_turn = self._start(request)
        page = await self._result(request, task)
        if task is not self._in_turn and self._plan.in_order and page.total != self._total:
            # Rows came or went since it was requested: items may have moved to it from the page
            # that was read before it, but later.
            self._in_turn = self._start(request)
            page = await self._result(request, self._in_turn)
        self._in_turn = None
        self._total = page.total
        if page.total is not None:
            self._least_total = min(self._least_total, page.total)
        return page

    async def _result(self, request: PageRequest, task: asyncio.Task[Page[T]]) -> Page[T]:
        await asyncio.wait([task])
        self._ahead.pop(request, None)
        if task.cancelled() and not self._upcoming:
            raise StopAsyncIteration  # closed meanwhile
        return task.result()

    def _start(self, request: PageRequest) -> asyncio.Task[Page[T]]:
        task = asyncio.create_task(self._pager.load(request.size, request.number))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        self._ahead[request] = task
        return task

    def _done(self, task: asyncio.Task[Page[T]]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, since nobody may ever come to read this page

    def _read_ahead(self, upcoming: list[PageRequest]) -> None:
        """Request the pages to read next, and cancel requests for others."""
        self._upcoming = upcoming
        for request in self._ahead.keys() - set(upcoming):
            self._ahead.pop(request).cancel()
        for request in upcoming:
            if request not in self._ahead:
                self._start(request)

    def _check_progress(self, page: Page[T], new: Sequence[T], *, last: bool) -> None:
        """Refuse a listing without end: one that repeats its items, or exceeds its own total."""
        if new or last:
            self._repeated, self._total_of_new = 0, page.total
            self._new_pages += 1
            total = UNCOUNTED_ITEMS if page.total is None else page.total
            if not last and self._new_pages > PAGES_BEYOND_TOTAL + 2 * total // len(page.items):
                raise DecodeError(
                    f"{self._new_pages} pages of {page.total} items, and still a next one",
                    path="$.meta.page.next_number",
                )
            return
        self._repeated += len(page.items)
        allowed = max(FEW_ROWS, 2 * len(page.items)) + 2 * self._plan.stepped_back
        if page.total is not None and self._total_of_new is not None:
            allowed += max(0, page.total - self._total_of_new)  # rows before may have shifted it
        if self._repeated >= allowed:
            raise DecodeError(
                f"page {page.number} and those before it repeat items, and still name a next page",
                path="$.meta.page.next_number",
            )

    def _complete(self, last: Page[T]) -> bool | None:
        """What can be known at the end of the listing; see `Pager`."""
        whole = last.total is not None and last.total <= len(last.items)
        if whole if self._pages == 1 else self._plan.proved:
            return True
        return False if len(self._seen) < self._least_total < math.inf else None
