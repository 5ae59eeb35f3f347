"""Many ids: read lazily, asked for concurrently, in bounded memory, with one outcome each.

``ids`` reads them, ``work`` fetches; here is what users hold.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Self

from modellab_async import endpoints
from modellab_async.bulk.ids import Ids
from modellab_async.bulk.work import Outcome, Perform, Progress, Route, Work
from modellab_async.closing import Closing
from modellab_async.errors import BulkError, ModelLabError

if TYPE_CHECKING:
    from modellab_async.models import Run

__all__ = ["Fetch", "Outcome", "Perform", "Progress", "Route", "collect", "fetch", "refuse_lone_id"]


class Fetch(Closing, AsyncIterator[Outcome]):
    """The outcomes of many ids, one for each, as they arrive or in the order asked.

    Iterate over it, best inside ``async with``. Leaving the loop, closing or dropping it, or
    cancelling the task that iterates stops all its requests at once.
    """

    def __init__(self, work: Work) -> None:
        self._work = work

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        work = self._work
        return work.give() if work.ready else await work.next_outcome()

    async def aclose(self) -> None:
        """Stop all requests and wait until they have let go of everything."""
        await self._work.aclose()

    def __del__(self) -> None:
        self._work.cancel()


def fetch(
    run_ids: Iterable[int | str] | AsyncIterable[int | str],
    *,
    perform: Perform,
    concurrency: int,
    route: Route,
    ordered: bool,
    on_progress: Progress | None,
) -> Fetch:
    """Begin to fetch runs when the result is first iterated.

    Raises:
        TypeError: for a lone string or bytes, which would iterate its digits.
    """
    refuse_lone_id(run_ids)
    if not isinstance(run_ids, Iterable | AsyncIterable):
        raise TypeError(
            f"run_ids must be an iterable or async iterable of ids, not {type(run_ids).__name__}"
        )
    ids = Ids(run_ids, ahead=1 if route == "single" else endpoints.MAX_PAGE_SIZE)
    return Fetch(
        Work(ids, perform, concurrency, route=route, ordered=ordered, on_progress=on_progress)
    )


def refuse_lone_id(run_ids: object) -> None:
    """Refuse a string or bytes where ids are wanted: it would iterate its digits.

    Raises:
        TypeError: which says what to give instead.
    """
    if isinstance(run_ids, str | bytes | bytearray):
        raise TypeError(
            f"run_ids must be an iterable of ids, not {type(run_ids).__name__};"
            f" for one id give a list, or use the method that takes one"
        )


async def collect(
    run_ids: Iterable[int | str] | AsyncIterable[int | str],
    *,
    perform: Perform,
    concurrency: int,
    route: Route,
) -> list[Run]:
    """Fetch runs into a list in the order asked, repeats included.

    Raises:
        BulkError: where any failed; it carries all that did not.
        TypeError: for a lone string or bytes.
    """
    runs: list[Run] = []
    done: dict[Any, Run] = {}
    errors: dict[Any, ModelLabError] = {}
    outcomes = fetch(
        run_ids,
        perform=perform,
        concurrency=concurrency,
        route=route,
        ordered=True,
        on_progress=None,
    )
    async with outcomes:
        async for outcome in outcomes:
            if outcome.run is not None:
                runs.append(outcome.run)
                done[outcome.run_id] = outcome.run
            elif outcome.error is not None:
                errors[outcome.run_id] = outcome.error
    if errors:
        raise BulkError(done, errors)
    return runs
