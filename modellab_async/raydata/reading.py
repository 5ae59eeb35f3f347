"""What a worker does in a read task: open a client, fetch runs, and make one block of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import attrs
import pyarrow as pa

from modellab_async import frames
from modellab_async.bulk import Outcome
from modellab_async.client import DEFAULT_CONCURRENCY, ModelLabClient
from modellab_async.config import positive_int
from modellab_async.endpoints import MAX_PAGE_SIZE, list_runs, parse_id
from modellab_async.errors import AuthenticationError, InvalidIdError, PermissionDeniedError
from modellab_async.models import Run
from modellab_async.raydata import ListingChangedError
from modellab_async.raydata.coordinator import WorkerLimiter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from modellab_async.frames import Statistic
    from modellab_async.models import RunFilter

SORT: Final = "created_at"
"""Runs that are created while a listing is read come last, and shift no other."""

PAGES_IN_FLIGHT: Final = 10
"""Listing calls that a task has in flight at most; each response may hold a megabyte."""

_ERROR: Final = pa.field("error", pa.string())


@attrs.frozen
class RunIds:
    """The runs of a read task, by their ids."""

    run_ids: Sequence[Any]

    def __len__(self) -> int:
        return len(self.run_ids)

    def first(self, rows: int) -> RunIds:
        """At most so many of them."""
        return RunIds(self.run_ids[:rows])

    async def fetch(self, lab: ModelLabClient) -> list[Outcome]:
        """Their outcomes, in order."""
        async with lab.runs.fetch(self.run_ids, ordered=True) as outcomes:
            return [outcome async for outcome in outcomes]


@attrs.frozen
class ListingPages:
    """The runs of a read task, as consecutive pages of a listing.

    Attributes:
        filter: which runs the listing has.
        number: the number of the first page, as the server counts.
        rows: how many runs to read from there on.
        total: how many runs the listing had when it was divided into tasks.
    """

    filter: RunFilter | None
    number: int
    rows: int
    total: int

    def __len__(self) -> int:
        return self.rows

    def first(self, rows: int) -> ListingPages:
        """At most so many of them."""
        return attrs.evolve(self, rows=min(rows, self.rows))

    async def fetch(self, lab: ModelLabClient) -> list[Outcome]:
        """Their outcomes, in order.

        Raises:
            ListingChangedError: if runs vanished from the listing or moved within it.
            ModelLabError: if a page cannot be read.
        """
        in_flight = asyncio.Semaphore(PAGES_IN_FLIGHT)

        async def load(offset: int) -> list[Outcome]:
            async with in_flight:
                return await self._page(lab, offset)

        pages = await asyncio.gather(*map(load, range(0, self.rows, MAX_PAGE_SIZE)))
        outcomes = [outcome for page in pages for outcome in page]
        ids = [outcome.run_id for outcome in outcomes if outcome.run is not None]
        if len(set(ids)) < len(ids):
            raise ListingChangedError("runs moved within the listing while it was read")
        return outcomes

    async def _page(self, lab: ModelLabClient, offset: int) -> list[Outcome]:
        number = self.number + offset // MAX_PAGE_SIZE
        page = await lab.perform(
            list_runs(
                self.filter,
                sort=SORT,
                page_size=MAX_PAGE_SIZE,
                page_number=number,
                wait_for_quota=True,
            )
        )
        wanted = min(MAX_PAGE_SIZE, self.rows - offset)
        items, total = page.items[:wanted], page.numbers.total
        if len(items) < wanted or (total is not None and total < self.total):
            raise ListingChangedError(
                f"the listing had {self.total} runs and now has {total}: read it again, or collect"
                " the ids first and read those"
            )
        return [
            Outcome(item.id, item)
            if isinstance(item, Run)
            else Outcome("" if item.resource_id is None else item.resource_id, error=item)
            for item in items
        ]


@attrs.frozen
class BlockFormat:
    """How outcomes become the rows of a block.

    Attributes:
        columns: as in `frames.to_batches`.
        statistic: as in `frames.to_batches`.
        failures_are_rows: whether a run that cannot be read is a row with an error.
    """

    columns: tuple[str, ...] | None
    statistic: Statistic
    failures_are_rows: bool

    @property
    def schema(self) -> pa.Schema:
        """The schema of every block."""
        schema = self._table([]).schema
        return schema.append(_ERROR) if self.failures_are_rows else schema

    def block(self, outcomes: Sequence[Outcome]) -> pa.Table:
        """Outcomes as a block, in order.

        Raises:
            ModelLabError: the first error, if failures are no rows, or if it refuses the keys.
        """
        errors = [outcome.error for outcome in outcomes]
        runs = [outcome.run for outcome in outcomes if outcome.run is not None]
        for error in errors:
            refused = isinstance(error, AuthenticationError | PermissionDeniedError) and not runs
            if error is not None and (refused or not self.failures_are_rows):
                raise error
        table = self._table(runs)
        if len(runs) < len(outcomes):
            rows = iter(range(len(runs)))
            table = table.take(
                pa.array([None if error else next(rows) for error in errors], pa.int64())
            ).set_column(0, "id", pa.array(map(_id_of, outcomes), pa.int64()))
        if self.failures_are_rows:
            texts = [error and f"{type(error).__name__}: {error}" for error in errors]
            table = table.append_column(_ERROR, pa.array(texts, pa.string()))
        return table

    def _table(self, runs: Sequence[Run]) -> pa.Table:
        """Not `frames.to_table`, whose types depend on the values, but for the empty table."""
        empty = frames.to_table([], columns=self.columns, statistic=self.statistic)
        batches = frames.to_batches(runs, columns=self.columns, statistic=self.statistic)
        return pa.Table.from_batches(batches, empty.schema)


def read_block(
    runs: RunIds | ListingPages, form: BlockFormat, coordinator: Any, options: Mapping[str, Any]
) -> pa.Table:
    """Fetch the runs of one task on its own event loop, as one block.

    Args:
        runs: which runs.
        form: how they become rows.
        coordinator: the handle of the read's `QuotaCoordinator`.
        options: of the client.

    Raises:
        ModelLabError: if the task fails as a whole, or for a run if failures are no rows.
    """
    options = dict(options)
    concurrency = options.pop("max_concurrency", None)
    if concurrency is None:
        concurrency = DEFAULT_CONCURRENCY

    async def fetch() -> list[Outcome]:
        limiter = WorkerLimiter(coordinator, positive_int(concurrency, "max_concurrency"))
        async with ModelLabClient(limiter=limiter, **options) as lab:
            return await runs.fetch(lab)

    return form.block(asyncio.run(fetch()))


def _id_of(outcome: Outcome) -> int | None:
    try:
        return parse_id(outcome.run_id)
    except InvalidIdError:
        return None
