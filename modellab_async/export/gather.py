"""Fetching the runs of an export into its spool, by id or by filter."""

from __future__ import annotations

import operator
from collections.abc import AsyncIterable, Iterable, Iterator
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, TypeGuard

import msgspec

from modellab_async.downloads.part import on_disk
from modellab_async.endpoints import parse_id
from modellab_async.errors import (
    AuthenticationError,
    ConfigError,
    InvalidIdError,
    ModelLabError,
    PermissionDeniedError,
    StatusError,
)
from modellab_async.export.listing import Listing
from modellab_async.export.part import failed_ids
from modellab_async.idset import IdSet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime
    from pathlib import Path

    from modellab_async.client import ModelLabClient
    from modellab_async.export.part import Lines
    from modellab_async.export.spool import Spool
    from modellab_async.models import Page, Run, RunFilter


async def newest_of(lab: ModelLabClient, chosen: RunFilter | None) -> tuple[Page[Run], bool]:
    """The runs that changed last, as of now, and whether all of these can be read.

    Raises:
        ModelLabError: where the listing fails.
    """
    pager = lab.runs.list(chosen, sort="-updated_at")
    broken: list[int] = []
    listing = Listing(pager, IdSet(), None, lambda run_id, _error: broken.append(run_id))
    return await listing.first(), not broken


class Gathering:
    """Fetches runs into a spool, and what could not be fetched into a side file.

    Attributes:
        listed: how many runs the listing counts, where it says so.
        complete: whether the listing saw every run, see `Pager`; None where that is unknown.
    """

    def __init__(
        self,
        lab: ModelLabClient,
        spool: Spool,
        failures: Lines,
        place: Path,
        on_progress: Callable[[int, int | None], object],
    ) -> None:
        self.listed: int | None = None
        self.complete: bool | None = None
        self._lab = lab
        self._spool = spool
        self._failures = failures
        self._place = place
        self._on_progress = on_progress
        self._failed = 0
        self._asked = IdSet()
        self._repeats = 0

    async def by_id(self, run_ids: Iterable[Any] | AsyncIterable[Any]) -> None:
        """Fetch runs by id; those that are in the spool are not asked for again.

        Raises:
            AuthenticationError: where the keys are refused before anything was fetched.
            PermissionDeniedError: likewise.
            ConfigError: where runs are in the spool that are not among these.
        """
        if len(self._spool.earlier) and _is_lasting(run_ids):
            named = IdSet()  # they can be gone through beforehand
            for given in run_ids:
                with suppress(InvalidIdError):
                    named.add(parse_id(given))
            self._refuse_others(named)
        total = operator.length_hint(run_ids, -1)
        new: Iterable[Any] | AsyncIterable[Any]
        new = filter(self._is_new, run_ids) if isinstance(run_ids, Iterable) else self._new(run_ids)
        async with self._lab.runs.fetch(new) as outcomes:
            async for outcome in outcomes:
                if outcome.run is not None:
                    self._spool.add(outcome.run)
                elif outcome.error is not None:
                    self._fail(outcome.run_id, outcome.error)
                if self._spool.due:
                    await self.write()
                done = len(self._spool.ids) + self._failed
                self._on_progress(done, None if total < 0 else max(done, total - self._repeats))
        await self.write()
        try:
            self._refuse_others(self._asked)
        except ConfigError:
            await on_disk(self._spool.forget_new)
            raise

    async def by_filter(
        self, chosen: RunFilter | None, since: datetime | None, newest: Page[Run] | None
    ) -> None:
        """Fetch the runs that a filter lets through, all or those updated ``since``.

        Args:
            chosen: the filter.
            since: how far back to go.
            newest: the newest runs as of a moment ago, where known; often that is all there is.

        Raises:
            ModelLabError: where the listing fails.
        """
        if since is not None and newest is not None and self._take(newest, since):
            return
        for run_id in failed_ids(self._failures.path):
            self._asked.add(run_id)
        pager = self._lab.runs.list(chosen, sort="created_at" if since is None else "-updated_at")
        listing = Listing(pager, self._spool.ids, None if since else self._place, self._break)
        async with aclosing(listing.pages()) as pages:
            async for page in pages:
                if self._take(page, since):
                    return
                if self._spool.due:
                    await self.write()
                    await on_disk(listing.note)
                self._on_progress(len(self._spool.ids), None if since else page.total)
        self.complete = pager.complete

    def _refuse_others(self, named: IdSet) -> None:
        """Refuse to mix the runs that are asked for with what an earlier process fetched."""
        other = self._spool.earlier.outside(named)
        if other is not None:
            raise ConfigError(
                f"the export that broke off was begun with other ids, such as {other}:"
                " resume it with those, or remove its directory to begin anew"
            )

    def _take(self, page: Page[Run], since: datetime | None) -> bool:
        """Take in a page's runs; True where one is older than ``since``, as all behind it are."""
        self.listed = page.total
        for run in page.items:
            if since is not None and run.updated_at is not None and run.updated_at < since:
                return True
            self._spool.add(run)
        return False

    async def write(self) -> None:
        """Bring to disk what was fetched so far."""
        await on_disk(self._spool.write)
        await on_disk(self._failures.write)
        self._spool.written()

    def _is_new(self, given: Any) -> bool:
        try:
            number = parse_id(given)
        except InvalidIdError:
            return True  # its outcome says so
        if number in self._asked:
            self._repeats += 1
            return False
        self._asked.add(number)
        return number not in self._spool.ids

    async def _new(self, run_ids: AsyncIterable[Any]) -> AsyncIterator[Any]:
        async for given in run_ids:
            if self._is_new(given):
                yield given

    def _break(self, run_id: int, error: ModelLabError) -> None:
        """Note a run that the listing gives in a form that cannot be read, once."""
        if run_id not in self._asked:
            self._asked.add(run_id)
            self._fail(run_id, error)

    def _fail(self, run_id: Any, error: ModelLabError) -> None:
        refused = isinstance(error, AuthenticationError | PermissionDeniedError)
        if refused and not len(self._spool.ids):
            raise error
        self._failed += 1
        self._failures.add(
            msgspec.json.encode(
                {
                    "run_id": run_id if isinstance(run_id, int | str) else repr(run_id),
                    "error": type(error).__name__,
                    "status": error.status if isinstance(error, StatusError) else None,
                    "message": str(error),
                }
            )
        )


def _is_lasting(run_ids: Iterable[Any] | AsyncIterable[Any]) -> TypeGuard[Iterable[Any]]:
    """Whether ids can be gone through more than once."""
    return isinstance(run_ids, Iterable) and not isinstance(run_ids, Iterator)
