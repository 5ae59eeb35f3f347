"""Bringing a store up to date: which runs to request, and when to stop.

There are three kinds of sync:

- ``listing`` reads every page, sorted by creation, so that new runs come last. Its position is
  written with the runs; an interrupted one resumes at the last page whose first run it has. A full
  sync reads overlapping pages instead (``Runs.list(verify=True)``), from the beginning.
- ``update`` reads pages sorted by ``updated_at``, newest first, until a page has nothing new and
  reaches `OVERLAP` further back than the newest run that the last finished sync began with. That
  moment is taken from the runs themselves, so this machine's clock may be wrong. Only one in the
  future counts as the beginning of that sync.
- ``ids`` fetches by id.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing
from datetime import timedelta
from operator import length_hint
from typing import TYPE_CHECKING, Any, Final

import attrs

from modellab_async.bulk import refuse_lone_id
from modellab_async.clock import in_utc
from modellab_async.downloads.part import on_disk
from modellab_async.endpoints import MAX_PAGE_SIZE, list_runs, parse_id
from modellab_async.errors import (
    AuthenticationError,
    DecodeError,
    InvalidIdError,
    ModelLabError,
    PermissionDeniedError,
    StatusError,
)
from modellab_async.idset import IdSet
from modellab_async.models import Run
from modellab_async.store.database import Failure, Store, Sync

if TYPE_CHECKING:
    from datetime import datetime

    from modellab_async.bulk import Progress
    from modellab_async.client import ModelLabClient
    from modellab_async.documents import DecodedPage
    from modellab_async.models import RunFilter

    RunIds = Iterable[int | str] | AsyncIterable[int | str]

OVERLAP: Final = timedelta(minutes=1)
"""How much further back an update reads than it has to, for servers whose clocks differ."""

_ORDER: Final = "created_at"
_NEWEST_FIRST: Final = "-updated_at"

_PAGES_AHEAD: Final = 8
_REWALKS: Final = 3
_STEP: Final = 1_000
_STEP_SECONDS: Final = 1.0
"""After so many runs or seconds, what was fetched is written."""


async def sync(
    lab: ModelLabClient,
    store: Store,
    *,
    filter: RunFilter | None = None,  # noqa: A002 - the API's own name
    run_ids: RunIds | None = None,
    full: bool = False,
    on_progress: Progress | None = None,
) -> Sync:
    """Bring a store up to date: everything the first time, then what was updated since.

    Runs are written in transactions while they arrive. After an interruption of any kind, the same
    call resumes: nothing is lost, and nothing is there twice. Runs that cannot be fetched become
    rows of ``failures``; every sync requests those of earlier ones again.

    An update sees neither deletions nor what changes without a new ``updated_at``. ``full=True``
    reads the whole listing again, verified by overlapping pages, and then fetches, by id, every
    run of the store that was not listed: those that exist are brought up to date, and the others
    get a ``vanished_at``.

    Operations: ``GET /runs``, and ``GET /runs/{run_id}`` for what a listing does not show.

    Args:
        lab: the client.
        store: an open store.
        filter: which runs; all by default. Each filter has its own updates.
        run_ids: fetch these runs instead of a listing; an interrupted sync by ids resumes if it
            began less than a day ago.
        full: read the whole listing, and verify by id what it does not show.
        on_progress: called with how many runs are done, and of how many, if that is known.

    Returns:
        What was done; also the last row of the table ``syncs``.

    Raises:
        AuthenticationError: if the keys are refused before anything was fetched.
        PermissionDeniedError: likewise.
        StoreError: if the database cannot be written.
        ModelLabError: if the listing fails; what was read by then is kept.
        TypeError: for a single string as ``run_ids``.
        ValueError: if ``run_ids`` is combined with ``filter`` or ``full``.
    """
    work = Syncing(lab, store, on_progress)
    await work.run(filter, run_ids, full=full)
    return await work.finish()


def filter_key(run_filter: RunFilter | None) -> str:
    """What tells one filter from another: the query that it makes."""
    return list_runs(run_filter).query.replace("%5B", "[").replace("%5D", "]")


class Syncing:
    """One sync under way.

    Attributes:
        sync: the sync, once it has begun.
        asked: the ids that were requested individually.
    """

    def __init__(self, lab: ModelLabClient, store: Store, on_progress: Progress | None) -> None:
        self.sync: Sync
        self.asked: IdSet = IdSet()
        self._lab = lab
        self._store = store
        self._on_progress: Progress = on_progress or (lambda _done, _total: None)
        self._filter: RunFilter | None = None
        self._runs: list[Run] = []
        self._failures: list[Failure] = []
        self._due = 0.0
        self._anything = False

    async def run(
        self, run_filter: RunFilter | None, run_ids: RunIds | None, *, full: bool = False
    ) -> None:
        """Fetch everything; `finish` is still to come. Arguments and errors are those of `sync`."""
        refuse_lone_id(run_ids)
        if run_ids is not None and (run_filter is not None or full):
            raise ValueError("run_ids exclude filter and full")
        try:
            if run_ids is not None:
                self.sync = await on_disk(self._store.begin, "ids", None, None)
                await self._fetch(run_ids)
            else:
                self._filter = run_filter
                await self._by_filter(full=full)
            again = ["SELECT run_id FROM failures WHERE sync < ?"]
            if full:
                again.append("SELECT id FROM runs WHERE sync < ? AND vanished_at IS NULL")
            for query in again:
                await self._write()
                if ids := await on_disk(self._store.column, query, [self.sync.id]):
                    await self._fetch(ids)
        finally:
            if self._runs or self._failures:
                await self._write()

    async def finish(self) -> Sync:
        """Note that the sync is finished, and count what it did."""
        return await on_disk(self._store.finish, self.sync)

    # By id

    async def _fetch(self, run_ids: RunIds) -> None:
        """Fetch runs by id, each once, but for those that this sync has already."""
        have = IdSet()
        fetched = "SELECT id FROM runs WHERE sync = ?"
        for run_id in await on_disk(self._store.column, fetched, [self.sync.id]):
            have.add(run_id)
        skipped = 0

        def is_new(given: Any) -> bool:
            nonlocal skipped
            try:
                number = parse_id(given)
            except InvalidIdError:
                return True  # its outcome says so
            self.asked.add(number)
            if number in have:
                skipped += 1
                return False
            have.add(number)
            return True

        async def new(ids: AsyncIterable[Any]) -> AsyncIterator[Any]:
            async for given in ids:
                if is_new(given):
                    yield given

        total = length_hint(run_ids, -1)
        done = 0
        wanted = filter(is_new, run_ids) if isinstance(run_ids, Iterable) else new(run_ids)
        async with self._lab.runs.fetch(wanted) as outcomes:
            async for outcome in outcomes:
                done += 1
                if outcome.run is not None:
                    self._runs.append(outcome.run)
                elif outcome.error is not None:
                    self._fail(outcome.run_id, outcome.error)
                await self._write_if_due()
                self._on_progress(done + skipped, None if total < 0 else total)

    def _fail(self, given: Any, error: ModelLabError) -> None:
        refused = isinstance(error, AuthenticationError | PermissionDeniedError)
        if refused and not self._anything and not self._runs:
            raise error
        try:
            run_id = str(parse_id(given))
        except InvalidIdError:
            run_id = given if isinstance(given, str) else repr(given)
        self._failures.append(
            Failure(
                run_id=run_id.encode("utf-8", "replace").decode(),
                error=type(error).__name__,
                status=error.status if isinstance(error, StatusError) else None,
                message=str(error).encode("utf-8", "replace").decode(),
                sync=self.sync.id,
            )
        )

    # By listing

    async def _by_filter(self, *, full: bool) -> None:
        newest = await self._load(_NEWEST_FIRST, None)
        # What changes while the sync is under way is newer than this: the next one finds it.
        mark = max(
            (in_utc(run.updated_at) for run in _runs(newest) if run.updated_at), default=None
        )
        key = filter_key(self._filter)
        finished = "filter = ? AND kind <> 'ids' AND finished_at IS NOT NULL"
        earlier = await on_disk(self._store.syncs, finished, [key])
        kind = "listing" if full or not earlier else "update"
        self.sync = await on_disk(self._store.begin, kind, key, mark)
        if kind == "listing":
            await self._listing(verify=full)
        else:
            self.sync = attrs.evolve(self.sync, mark=mark)
            # A time in the future says nothing about how much had been read by then.
            marks = [min(s.mark, s.started_at) for s in earlier if s.mark]
            await self._update(newest, max(marks, default=None))

    async def _listing(self, *, verify: bool) -> None:
        """Read all pages: overlapping ones, or again if runs left the listing meanwhile."""
        try:
            complete = await (self._verified() if verify else self._walk_until_still())
        except DecodeError as error:  # a run that cannot be read, which only a walk gets past
            if error.resource_id is None or not verify:
                raise
            complete = await self._walk_until_still()
        self.sync = attrs.evolve(self.sync, complete=complete)

    async def _verified(self) -> bool | None:
        """Read overlapping pages; whether that proves that they showed every run."""
        pager = self._lab.runs.list(self._filter, verify=True)
        done = 0
        async with pager.pages() as pages:
            async for page in pages:
                self._runs.extend(page.items)
                await self._write_if_due()
                done += len(page.items)
                self._on_progress(done, page.total)
        return pager.complete

    async def _walk_until_still(self) -> bool | None:
        complete = await self._walk(await self._resumed_page())
        for _ in range(_REWALKS):
            if complete is not False:
                break
            complete = await self._walk(None)
        return complete

    async def _walk(self, start: int | None) -> bool | None:
        """Read the pages from one on; whether they showed every run, see `Sync`."""
        pages, moved = 0, False
        total: int | None = None
        async with aclosing(self._pages(_ORDER, start, _PAGES_AHEAD)) as listing:
            async for page in listing:
                numbers = page.numbers
                before, total, pages = total, numbers.total, pages + 1
                moved |= before is not None and total is not None and total < before
                self._take(page)
                self.sync = attrs.evolve(self.sync, page=numbers.number)
                await self._write_if_due()
                index = (numbers.number or 0) - (numbers.first_number or 0)
                self._on_progress(index * MAX_PAGE_SIZE + len(page.items), total)
        return False if moved else True if pages == 1 and start is None else None

    async def _resumed_page(self) -> int | None:
        """The page to resume at: its first run is in the database, so all before it are, too.

        Runs that were deleted since have moved the others to earlier pages.
        """
        known = "SELECT 1 FROM runs WHERE id = ? AND sync = ?"
        number, back = self.sync.page, 1
        while number is not None:
            runs = _runs(await self._load(_ORDER, number))
            if runs and await on_disk(self._store.value, known, [runs[0].id, self.sync.id]):
                break
            number = number - back if number > back else None
            back *= 2
        return number

    async def _update(self, newest: DecodedPage, since: datetime | None) -> None:
        """Read pages from the newest on, until one has nothing new and is old enough."""
        done = 0
        async with aclosing(self._pages(_NEWEST_FIRST, None, 1, first=newest)) as pages:
            async for page in pages:
                new = await on_disk(self._new, _runs(page))
                self._take(page, new)
                done += len(page.items)
                self._on_progress(done, None)
                await self._write_if_due()
                times = [run.updated_at for run in _runs(page) if run.updated_at]
                # The difference of two times cannot overflow, whatever the server sent.
                if not new and since and any(since - time > OVERLAP for time in times):
                    return

    def _new(self, runs: list[Run]) -> set[int]:
        """Those that no other sync has written with the same ``updated_at``."""
        rows = self._store.rows(
            "SELECT id, updated_at FROM runs WHERE sync <> ? AND vanished_at IS NULL"
            " AND id IN (SELECT unnest(?))",
            [self.sync.id, [run.id for run in runs]],
        )
        known = {(row["id"], row["updated_at"]) for row in rows}
        times = {run.id: run.updated_at and in_utc(run.updated_at) for run in runs}
        return {run_id for run_id, time in times.items() if (run_id, time) not in known}

    def _take(self, page: DecodedPage, new: set[int] | None = None) -> None:
        for item in page.items:
            if not isinstance(item, Run):
                self._fail("unknown" if item.resource_id is None else item.resource_id, item)
            elif new is None or item.id in new:
                self._runs.append(item)

    async def _load(self, sort: str, number: int | None) -> DecodedPage:
        call = list_runs(
            self._filter,
            sort=sort,
            page_size=MAX_PAGE_SIZE,
            page_number=number,
            wait_for_quota=True,
        )
        page: DecodedPage = await self._lab.perform(call)
        self._anything = True
        return page

    async def _pages(
        self, sort: str, start: int | None, ahead: int, *, first: DecodedPage | None = None
    ) -> AsyncGenerator[DecodedPage, None]:
        """The pages from ``start`` or ``first`` on, with up to ``ahead`` requests in flight."""
        tasks: dict[int, asyncio.Task[DecodedPage]] = {}
        try:
            page = first or await self._load(sort, start)
            while True:
                yield page
                numbers = page.numbers
                following = numbers.next_number
                if following is None or not page.items:
                    return
                if numbers.number is not None and following <= numbers.number:
                    raise DecodeError(
                        f"page {numbers.number} names page {following} as the next one",
                        path="$.meta.page.next_number",
                    )
                last = max(following, min(numbers.last_number or 0, following + ahead - 1))
                for number in range(following, last + 1):
                    if number not in tasks:
                        tasks[number] = asyncio.create_task(self._load(sort, number))
                page = await tasks[following]
                del tasks[following]
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    # Into the database

    async def _write_if_due(self) -> None:
        now = asyncio.get_running_loop().time()
        if len(self._runs) + len(self._failures) >= _STEP or now >= self._due:
            await self._write()

    async def _write(self) -> None:
        self._due = asyncio.get_running_loop().time() + _STEP_SECONDS
        runs, failures = self._runs, self._failures
        self._runs, self._failures = [], []
        self._anything |= bool(runs)
        if runs or failures:
            await on_disk(self._store.write, self.sync, runs, failures)


def _runs(page: DecodedPage) -> list[Run]:
    return [item for item in page.items if isinstance(item, Run)]
