"""A listing as an export reads it: from where a killed process was, and past runs that are broken.

With a stable ascending order, what is in the spool is what comes first in the listing, so that a
page of which every run is there has nothing new before it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from modellab_async.endpoints import MAX_PAGE_SIZE
from modellab_async.errors import DecodeError
from modellab_async.models import Page

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from modellab_async.errors import ModelLabError
    from modellab_async.idset import IdSet
    from modellab_async.models import Run
    from modellab_async.pagination import Pager


_PROBES: Final = 20
"""How many runs in a row may be broken where a listing begins."""


class Listing:
    """The pages of a listing, each run that cannot be read left out and told of."""

    def __init__(
        self,
        pager: Pager[Run],
        known: IdSet,
        place: Path | None,
        on_broken: Callable[[Any, ModelLabError], object],
    ) -> None:
        """Nothing is asked for yet.

        Args:
            pager: in pages of 100.
            known: the runs that are in the spool.
            place: the file that says how far the listing was read; None where its order is not
                stable, and it has to be read from the beginning.
            on_broken: called with the id and the error of a run that cannot be read.
        """
        self._pager = pager
        self._known = known
        self._place = place
        self._on_broken = on_broken
        self._last: Page[Run] | None = None
        self._shrank = False

    async def pages(self) -> AsyncGenerator[Page[Run], None]:
        """The pages, from where an earlier process was.

        Raises:
            ModelLabError: where a page cannot be read for another reason than one of its runs.
        """
        start = await self._start()
        while True:
            try:
                async with self._pager.pages(start) as pages:
                    async for page in pages:
                        self._follow(page)
                        yield page
            except DecodeError as error:
                if error.resource_id is None or error.cut_short:
                    raise
                page = await self._page_of_singles(start, error)
            else:
                return
            self._follow(page)
            yield page
            start = page.next_number
            if start is None:
                return

    async def first(self) -> Page[Run]:
        """The first page by itself, from the beginning.

        Raises:
            ModelLabError: where it cannot be read for another reason than one of its runs.
        """
        try:
            return await self._pager.load(MAX_PAGE_SIZE, None)
        except DecodeError as error:
            if error.resource_id is None or error.cut_short:
                raise
            return await self._page_of_singles(None, error)

    def note(self) -> None:
        """Note that all pages given so far are on disk. Blocks."""
        if self._place is None or self._last is None or self._last.number is None:
            return
        if self._shrank:  # what moved to a page that was read before, only a new walk finds
            self._place.unlink(missing_ok=True)
        else:
            growing = self._place.with_suffix(".new")
            growing.write_text(str(self._last.number), encoding="ascii")
            growing.replace(self._place)

    async def _start(self) -> int | None:
        """The last page of which all runs are in the spool; None for the beginning.

        Deleted runs move the others to earlier pages.
        """
        number = self._noted()
        back = 1
        while number is not None:
            page = await self._load(MAX_PAGE_SIZE, number)
            if page is not None and page.items and all(run.id in self._known for run in page.items):
                return number
            number = number - back if number > back else None
            back *= 2
        return None

    def _noted(self) -> int | None:
        if self._place is not None:
            with contextlib.suppress(FileNotFoundError, ValueError):
                return int(self._place.read_text(encoding="ascii"))
        return None

    def _follow(self, page: Page[Run]) -> None:
        before = self._last.total if self._last is not None else None
        self._shrank |= before is not None and page.total is not None and page.total < before
        self._last = page

    async def _load(self, size: int, number: int | None) -> Page[Run] | None:
        """A page, or None where a run of it is broken, which is told of where it is alone."""
        try:
            return await self._pager.load(size, number)
        except DecodeError as error:
            if error.resource_id is None or error.cut_short:
                raise
            if size == 1:
                self._on_broken(error.resource_id, error)
            return None

    async def _page_of_singles(self, start: int | None, error: DecodeError) -> Page[Run]:
        """The page that could not be read, put together from pages of one run each.

        Raises:
            DecodeError: the one given, where the server does not count its pages.
        """
        first = self._last
        for attempt in range(1, _PROBES):  # any page tells how they are counted
            first = first or await self._load(1, attempt)
        if first is None or first.total is None:
            raise error
        base = first.first_number or 0
        number = start if start is not None else base
        if self._last is not None and self._last.next_number is not None:
            number = self._last.next_number
        offset = (number - base) * MAX_PAGE_SIZE
        size = min(MAX_PAGE_SIZE, first.total - offset)
        singles = await asyncio.gather(
            *(self._load(1, base + offset + index) for index in range(size))
        )
        following = number + 1 if first.total > offset + MAX_PAGE_SIZE else None
        return Page(
            items=tuple(run for page in singles if page is not None for run in page.items),
            total=first.total,
            number=number,
            next_number=following,
            first_number=base,
        )
