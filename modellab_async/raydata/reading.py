"""What a worker does in one read task: open a client, fetch, and make one block of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import attrs
import pyarrow as pa

from modellab_async import endpoints
from modellab_async.bulk import PAGES_IN_FLIGHT, Outcome
from modellab_async.endpoints import parse_id
from modellab_async.errors import AuthenticationError, InvalidIdError, PermissionDeniedError
from modellab_async.models import Run
from modellab_async.raydata import ListingChangedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from modellab_async.client import ModelLabClient
    from modellab_async.frames import BatchPlan
    from modellab_async.models import RunFilter

SORT: Final = "created_at"
"""Runs that are created while a listing is read come last, and shift nothing."""

_ERROR: Final = pa.field("error", pa.string())


class Selection(Protocol):
    """The runs of one read task."""

    def __len__(self) -> int: ...

    def first(self, rows: int) -> Self:
        """The same with fewer rows."""
        ...

    async def outcomes(self, lab: ModelLabClient) -> list[Outcome]:
        """Fetch them, in order."""
        ...


@attrs.frozen
class ByIds:
    """Runs by their ids."""

    run_ids: Sequence[Any]

    def __len__(self) -> int:
        return len(self.run_ids)

    def first(self, rows: int) -> ByIds:
        """The same with fewer rows."""
        return ByIds(self.run_ids[:rows])

    async def outcomes(self, lab: ModelLabClient) -> list[Outcome]:
        """Fetch them, in order."""
        async with lab.runs.fetch(self.run_ids, ordered=True) as outcomes:
            return [outcome async for outcome in outcomes]


@attrs.frozen
class ByPages:
    """Some pages of a listing.

    Attributes:
        filter: which runs are listed.
        number: the number of the first page, by the server's own count.
        rows: how many runs to take from there on.
        total: how many the listing had when it was split.
    """

    filter: RunFilter | None
    number: int
    rows: int
    total: int

    def __len__(self) -> int:
        return self.rows

    def first(self, rows: int) -> ByPages:
        """The same with fewer rows."""
        return attrs.evolve(self, rows=min(rows, self.rows))

    async def outcomes(self, lab: ModelLabClient) -> list[Outcome]:
        """Fetch them, in order.

        Raises:
            ListingChangedError: where runs vanished from the listing.
            ModelLabError: where a page cannot be had.
        """
        places = asyncio.Semaphore(PAGES_IN_FLIGHT)

        async def load(offset: int) -> list[Outcome]:
            async with places:
                return await self._page(lab, offset)

        offsets = range(0, self.rows, endpoints.MAX_PAGE_SIZE)
        pages = await asyncio.gather(*map(load, offsets))
        found = [outcome for page in pages for outcome in page]
        ids = [outcome.run_id for outcome in found if outcome.run is not None]
        if len(set(ids)) < len(ids):
            raise ListingChangedError("runs moved within the listing while it was read")
        return found

    async def _page(self, lab: ModelLabClient, offset: int) -> list[Outcome]:
        number = self.number + offset // endpoints.MAX_PAGE_SIZE
        wanted = min(endpoints.MAX_PAGE_SIZE, self.rows - offset)
        raw = await lab.perform(
            endpoints.list_runs(
                self.filter, sort=SORT, page_size=endpoints.MAX_PAGE_SIZE, page_number=number
            )
        )
        items = raw.items[:wanted]
        total = raw.numbers.total
        if len(items) < wanted or (total is not None and total < self.total):
            raise ListingChangedError(
                f"the listing had {self.total} runs and now has {total}:"
                " read again, or by ids, which no run can escape"
            )
        return [
            Outcome(item.id, item)
            if isinstance(item, Run)
            else Outcome("" if item.resource_id is None else item.resource_id, error=item)
            for item in items
        ]


@attrs.frozen
class Rows:
    """How outcomes become a block.

    Attributes:
        plan: how runs become rows.
        with_errors: whether a failure is a row, with its error in a column of its own.
    """

    plan: BatchPlan
    with_errors: bool

    @property
    def schema(self) -> pa.Schema:
        """The schema of every block."""
        schema = self.plan.schema
        return schema.append(_ERROR) if self.with_errors else schema

    def block(self, outcomes: Sequence[Outcome]) -> pa.Table:
        """Outcomes as a block, in order.

        Raises:
            ModelLabError: the first error, where failures are no rows.
        """
        errors = [outcome.error for outcome in outcomes]
        runs = [outcome.run for outcome in outcomes if outcome.run is not None]
        for error in errors:
            refused = isinstance(error, AuthenticationError | PermissionDeniedError) and not runs
            if error is not None and (refused or not self.with_errors):
                raise error
        table = pa.Table.from_batches([self.plan.batch(runs)])
        if len(runs) < len(outcomes):
            places = iter(range(len(runs)))
            table = table.take(
                pa.array([None if error else next(places) for error in errors], pa.int64())
            ).set_column(0, "id", pa.array(map(_id_of, outcomes), pa.int64()))
        if self.with_errors:
            texts = [error and f"{type(error).__name__}: {error}" for error in errors]
            table = table.append_column(_ERROR, pa.array(texts, pa.string()))
        return table


def read(
    selection: Selection,
    rows: Rows,
    open_client: Callable[..., ModelLabClient],
    options: Mapping[str, Any],
) -> pa.Table:
    """Fetch the runs of one task on an event loop of its own, as one block.

    Raises:
        ModelLabError: where the task as a whole fails, or a run where failures are no rows.
    """

    async def fetch() -> list[Outcome]:
        async with open_client(**options) as lab:
            return await selection.outcomes(lab)

    return rows.block(asyncio.run(fetch()))


def _id_of(outcome: Outcome) -> int | None:
    try:
        return parse_id(outcome.run_id)
    except InvalidIdError:
        return None
