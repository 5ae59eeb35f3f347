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
    wide: bool = False,
) -> Fetch:
    """Begin to fetch runs when the result is first iterated.

    ``wide`` is for keys that are known to be good: one by one, it begins at full concurrency.

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
        Work(
            ids,
            perform,
            concurrency,
            route=route,
            ordered=ordered,
            on_progress=on_progress,
            wide=wide,
        )
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
    wide: bool,
) -> list[Run]:
    """Fetch runs into a list in the order asked, repeats included.

    Raises:
        BulkError: where any failed, or the ids could not be read to their end; it carries all
            that was fetched.
        TypeError: for a lone string or bytes.
    """
    given: list[Any] = []
    done: dict[Any, Run] = {}
    errors: dict[Any, ModelLabError] = {}
    outcomes = fetch(
        run_ids,
        perform=perform,
        concurrency=concurrency,
        route=route,
        ordered=True,
        on_progress=None,
        wide=wide,
    )
    async with outcomes:
        try:
            async for outcome in outcomes:
                run_id = _key(outcome.run_id)
                given.append(run_id)
                if outcome.run is not None:
                    done[run_id] = outcome.run
                elif outcome.error is not None:
                    errors[run_id] = outcome.error
        except Exception as error:
            if not given:
                raise
            raise BulkError(done, errors) from error  # the ids could not be read to their end
    failed = {run_id: error for run_id, error in errors.items() if run_id not in done}
    if failed:
        raise BulkError(done, failed)
    return [done[run_id] for run_id in given]


def _key(run_id: Any) -> Any:
    """An id as a key; what cannot be one, such as a list, in writing."""
    try:
        hash(run_id)
    except TypeError:
        return repr(run_id)
    return run_id
