"""Many runs by id: read lazily, fetched concurrently in bounded memory, one outcome for each.

`Fetch` is what users hold. It owns a `BulkFetcher`, whose tasks hold no reference to the `Fetch`;
dropping the `Fetch` cancels them.
"""

from __future__ import annotations

import asyncio
import itertools
import operator
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from typing import Any, Final, Literal

import attrs

from modellab_async import endpoints
from modellab_async.closing import BackgroundIterator
from modellab_async.converter import YIELD_EVERY_BYTES, LazyPage
from modellab_async.endpoints import MAX_PAGE_SIZE, Call, parse_id
from modellab_async.errors import (
    AuthenticationError,
    BulkError,
    ConfigError,
    DecodeError,
    InvalidIdError,
    ModelLabError,
    NotFoundError,
    PermissionDeniedError,
    StatusError,
    TransportError,
)
from modellab_async.models import Run, RunFilter
from modellab_async.notebook import render
from modellab_async.pydantic_schema import PydanticModel
from modellab_async.run_list import RunList

Perform = Callable[..., Awaitable[Any]]
"""Sends a call: `ModelLabClient.perform`, or a test double."""

Progress = Callable[[int, int | None], object]
Route = Literal["auto", "batch", "single"]

PAGES_IN_FLIGHT: Final = 10
"""Listing calls in flight at most; each response may hold a megabyte."""

UNREAD_PAGES: Final = 4
"""Pages of outcomes that may wait to be taken while all workers continue."""

MOST_RETRYING: Final = 10
"""Workers whose calls are retried, at most, for each worker that sends first attempts."""

FIRST_REQUESTS: Final = 16
"""Requests that may be sent before the first success. If all are refused, no more are sent.

More than `PAGES_IN_FLIGHT`, so that single requests are tried too if the listing is refused.
"""

MAX_ID_LIST_LENGTH: Final = 1_500
"""Characters of ids in one listing call: well below the URL length that proxies accept."""

_ID_ERRORS: Final = (StatusError, TransportError, DecodeError, ConfigError, InvalidIdError)
"""What becomes the outcome of an id; any other error ends the fetch."""

_REFUSALS: Final = (AuthenticationError, PermissionDeniedError, ConfigError)
"""What is about the credentials, as long as nothing has succeeded."""

_NOT_ABOUT_LISTING: Final = frozenset({401, 408, 429})
"""Statuses below 500 that a single request would meet as well."""


@attrs.frozen
class Outcome(PydanticModel):
    """What became of one id: a run or an error, never both.

    Attributes:
        run_id: the id as it was given.
        run: the run, or None if it could not be fetched.
        error: why not, or None.
    """

    run_id: int | str
    run: Run | None = None
    error: ModelLabError | None = None

    @property
    def ok(self) -> bool:
        """Whether the run was fetched; to type checkers, only `unwrap` says that `run` is there."""
        return self.error is None

    def unwrap(self) -> Run:
        """The run.

        Raises:
            ModelLabError: the error, if there is no run.
        """
        if self.error is not None:
            raise self.error
        assert self.run is not None
        return self.run

    def _repr_html_(self) -> str | None:
        return render("outcome", outcome=self)


@attrs.define(eq=False)
class PendingOutcome:
    """The outcome of an id whose run is still JSON; it is structured when the outcome is taken.

    Until then there is little for the garbage collector to visit, however many wait.
    """

    run_id: int | str
    page: LazyPage[Run]
    index: int

    def outcome(self) -> Outcome:
        """The outcome itself."""
        try:
            return Outcome(self.run_id, self.page.structure(self.index))
        except DecodeError as error:
            # The frames of whoever takes the outcome, which may handle an error meanwhile.
            for kept in filter(None, (error, error.__cause__)):
                kept.__traceback__ = kept.__context__ = None
            return Outcome(self.run_id, error=error)


class Fetch(BackgroundIterator[Outcome]):
    """The outcomes of many ids, as they arrive or in the order of the ids.

    Iterate over it, best inside ``async with``. Leaving the block, closing it, dropping it, or
    cancelling the task that iterates stops all requests at once. Cancelling a single ``anext``,
    as ``asyncio.wait_for`` does, loses nothing: the next one returns the outcome.

    Several tasks may iterate; each outcome is returned to one of them. An error that ends the
    iteration is raised to all of them.
    """

    def __init__(self, fetcher: BulkFetcher) -> None:
        super().__init__(fetcher, fetcher.next_outcome)


class IdSource:
    """Ids from an iterable or an async iterable, for several workers.

    Args:
        run_ids: the iterable.
        ahead: how many ids of an async iterable may be read before a worker asks for them.

    Attributes:
        total: how many ids there are, or None if the iterable does not know.
        read: how many were handed out.
        error: what the iterable raised.

    Raises:
        TypeError: for a lone string or bytes, and for what is no iterable.
    """

    def __init__(self, run_ids: Iterable[Any] | AsyncIterable[Any], ahead: int) -> None:
        refuse_lone_id(run_ids)
        if not isinstance(run_ids, Iterable | AsyncIterable):
            raise TypeError(
                "run_ids must be an iterable or async iterable of ids,"
                f" not {type(run_ids).__name__}"
            )
        self.total: int | None = _length(run_ids)
        self.read: int = 0
        self.error: BaseException | None = None
        self._stopped = False
        self._iterator: Iterator[Any] | None = None
        self._aiterator: AsyncIterator[Any] | None = None
        if isinstance(run_ids, Iterable):
            self._iterator = iter(run_ids)
        else:
            self._aiterator = aiter(run_ids)
        self._queue: asyncio.Queue[Any] = asyncio.Queue(ahead)  # of an async iterable
        self._reader: asyncio.Task[None] | None = None

    async def take(self, limit: int) -> list[Any]:
        """From 1 to ``limit`` ids, as many as are there without waiting; none at the end."""
        if self._stopped:
            return []
        ids: list[Any] = []
        if self._iterator is not None:
            try:
                ids.extend(itertools.islice(self._iterator, limit))  # keeps what precedes an error
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # it may raise anything
                self.error = error
            self._stopped = len(ids) < limit
        else:
            if self._reader is None:
                self._reader = asyncio.create_task(self._read())
            ids.append(await self._queue.get())
            while len(ids) < limit and not self._queue.empty():
                ids.append(self._queue.get_nowait())
            if ids[-1] is _END:
                ids.pop()
                self._stopped = True
                self._queue.put_nowait(_END)  # for the other workers
        self.read += len(ids)
        return ids

    def stop(self) -> None:
        """Read no more. May be called from a finalizer."""
        self._stopped = True
        if self._reader is not None and not self._reader.get_loop().is_closed():
            self._reader.cancel()

    async def aclose(self) -> None:
        """Read no more, and close an async iterator that can be closed."""
        self.stop()
        if self._reader is not None:
            await asyncio.wait([self._reader])
        close = getattr(self._aiterator, "aclose", None)
        if close is not None:
            await close()

    async def _read(self) -> None:
        """Keep the queue filled from the async iterable."""
        assert self._aiterator is not None
        try:
            async for run_id in self._aiterator:
                await self._queue.put(run_id)
        except asyncio.CancelledError as error:
            if self._stopped:
                raise
            self.error = error  # raised by the iterable
        except Exception as error:  # noqa: BLE001  # it may raise anything
            self.error = error
        await self._queue.put(_END)


_END: Final = object()

Asked = tuple[int, Any]
"""An id as it was given, after its position in the order of the ids."""


class BulkFetcher:
    """Fetches runs with a fixed number of workers until there are no more ids.

    A worker whose call has to be retried is replaced by another one, so that ids which fail again
    and again do not hold up those behind them.

    Args:
        run_ids: an iterable or async iterable of ids.
        perform: sends a call.
        concurrency: how many single requests there may be at once.
        route: see `Runs.fetch`.
        ordered: whether outcomes keep the order of the ids.
        keep_all: whether outcomes may wait to be returned however many they are.
        on_progress: called with the number of outcomes returned and of all ids, if known.

    Raises:
        TypeError: for a lone string or bytes, and for what is no iterable.
    """

    def __init__(
        self,
        run_ids: Iterable[Any] | AsyncIterable[Any],
        perform: Perform,
        concurrency: int,
        *,
        route: Route = "auto",
        ordered: bool = False,
        keep_all: bool = False,
        on_progress: Progress | None = None,
    ) -> None:
        self._paged = route != "single"
        self._only_paged = route == "batch"
        self._chunk = MAX_PAGE_SIZE if self._paged else 1
        self._workers = min(PAGES_IN_FLIGHT, concurrency) if self._paged else concurrency
        spare = UNREAD_PAGES if self._paged else concurrency
        self._most_unread = (self._workers + spare) * self._chunk
        self._retrying = 0
        self._source = IdSource(run_ids, ahead=self._chunk)
        self._perform = perform
        self._ordered = ordered
        self._keep_all = keep_all
        self._on_progress = on_progress

        self._ready: deque[Outcome | PendingOutcome] = deque()
        self._early: dict[int, Outcome | PendingOutcome] = {}
        self._bytes_since_yield = 0.0
        self._delivered = self._returned = self._sorted = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()  # not set while workers wait for space
        self._room.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = self._stopped = False
        self._failure: BaseException | None = None

        self._accepted = False
        self._refusal: ModelLabError | None = None
        self._refusals_left = FIRST_REQUESTS
        self._slow_start = asyncio.Semaphore(self._refusals_left)

    async def next_outcome(self) -> Outcome:
        """Wait for the next outcome; a caller that is cancelled meanwhile takes nothing with it.

        Raises:
            StopAsyncIteration: after the last.
        """
        if not self._started:
            self._start()
        if self._bytes_since_yield >= YIELD_EVERY_BYTES:
            await self._yield()  # while outcomes are ready, nothing below waits
        while not self._ready:
            if not self._tasks:
                raise self._failure or self._source.error or StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        outcome = self._ready[0]  # removed only when nothing can raise any more
        if isinstance(outcome, PendingOutcome):
            self._bytes_since_yield += outcome.page.item_size
            outcome = outcome.outcome()
        if self._on_progress is not None:
            self._on_progress(self._returned + 1, self._source.total)
        if self._ready:  # on_progress may have closed the fetch
            self._ready.popleft()
        self._returned += 1
        self._check_room()
        return outcome

    def cancel(self) -> None:
        """Stop all requests now. May be called from a finalizer."""
        self._started = self._stopped = True
        self._source.stop()
        self._source.error = None
        self._ready.clear()
        for task in self._tasks:
            if not task.get_loop().is_closed():
                task.cancel()

    async def aclose(self) -> None:
        """Stop all requests, and wait until they have released everything."""
        self.cancel()
        self._failure = None
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._source.aclose()

    # Workers

    def _start(self) -> None:
        self._started = True
        workers = self._workers
        if self._source.total is not None:
            workers = min(workers, max(1, -(-self._source.total // self._chunk)))
        for _ in range(workers):
            self._spawn(self._work())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)  # with an eager task factory, it may have ended already
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        if self._stopped:
            task.cancel()

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error: BaseException | None = asyncio.CancelledError("a worker was cancelled")
        if not task.cancelled():
            error = task.exception()
        if error is not None and not self._stopped:
            self._failure = error
            self.cancel()
        if not self._tasks:
            self._arrived.set()

    async def _work(self) -> None:
        """Fetch chunk after chunk, until there are no more or another worker takes over."""
        replaced = False

        def replace() -> None:
            nonlocal replaced
            if not replaced and self._retrying < MOST_RETRYING * self._workers:
                replaced = True
                self._retrying += 1
                self._spawn(self._work())

        try:
            while not replaced:
                while not self._has_room():
                    self._room.clear()
                    await self._room.wait()
                ids = await self._source.take(self._chunk)
                if not ids:
                    return
                first = self._source.read - len(ids)
                await self._fetch_chunk(list(enumerate(ids, start=first)), on_retry=replace)
        finally:
            self._retrying -= replaced

    def _has_room(self) -> bool:
        """Whether another chunk may be read before more outcomes are taken."""
        done = self._delivered if self._keep_all else self._returned
        unread = self._source.read - done - self._retrying * self._chunk
        return unread + self._chunk <= self._most_unread

    def _check_room(self) -> None:
        """Wake the workers that wait for space if there is any."""
        if not self._room.is_set() and self._has_room():
            self._room.set()

    async def _fetch_chunk(self, asked: Sequence[Asked], *, on_retry: Callable[[], object]) -> None:
        """Fetch ids from the listing, and individually those that it does not settle."""
        if self._refusal is not None:
            self._fail(asked, self._refusal)
            return
        if self._paged and len(asked) > 1:
            asked = await self._list(asked, on_retry=on_retry)
        if len(asked) == 1:
            await self._get(asked[0], on_retry=on_retry)
        else:
            for entry in asked:  # their number is bounded, as that of outcomes is
                self._spawn(self._get(entry))

    async def _get(self, asked: Asked, on_retry: Callable[[], object] | None = None) -> None:
        position, given = asked
        try:
            run = await self._send(endpoints.get_run(given, wait_for_quota=True), on_retry)
        except _ID_ERRORS as error:
            self._fail([asked], error)
        else:
            self._deliver([(position, Outcome(given, run))])

    async def _list(
        self, asked: Sequence[Asked], *, on_retry: Callable[[], object]
    ) -> Sequence[Asked]:
        """Fetch ids by listing calls; returns those that these do not settle."""
        unsettled: dict[int, list[Asked]] = {}
        for position, given in asked:
            try:
                unsettled.setdefault(parse_id(given), []).append((position, given))
            except InvalidIdError as error:
                self._fail([(position, given)], error)
        ids = list(unsettled) if len(unsettled) > 1 else []
        size = min(MAX_PAGE_SIZE, MAX_ID_LIST_LENGTH // (len(str(max(ids, default=0))) + 1))
        for start in range(0, len(ids), size):
            some = ids[start : start + size]
            try:
                await self._list_pages(some, unsettled, on_retry=on_retry)
            except _ID_ERRORS as error:
                if self._only_paged or not _refuses_listing(error):
                    for run_id in some:
                        self._fail(unsettled.pop(run_id, ()), error)
                else:
                    self._paged = False
            if not self._paged:
                break
        return list(itertools.chain(*unsettled.values()))

    async def _list_pages(
        self,
        ids: Sequence[int],
        unsettled: dict[int, list[Asked]],
        *,
        on_retry: Callable[[], object],
    ) -> None:
        """Fetch all pages with these ids, and take those that they hold out of ``unsettled``."""
        run_filter = RunFilter(ids=tuple(ids))
        number: int | None = None
        while True:
            call = endpoints.list_runs(
                run_filter, page_size=len(ids), page_number=number, wait_for_quota=True
            )
            page: LazyPage[Run] = await self._send(attrs.evolve(call, unstructured=True), on_retry)
            if not await self._deliver_page(page, frozenset(ids), unsettled):
                self._paged = self._only_paged  # this server ignores the filter
                return
            following = page.numbers.next_number
            if following is None or len(page) == 0 or unsettled.keys().isdisjoint(ids):
                return
            if number is not None and following <= number:
                return
            number = following

    async def _deliver_page(
        self, page: LazyPage[Run], ids: frozenset[int], unsettled: dict[int, list[Asked]]
    ) -> bool:
        """Deliver the items of a page; False if most of them were not asked for."""
        found = page.ids()
        outcomes = [
            (position, PendingOutcome(given, page, index))
            for index, run_id in enumerate(found)
            if run_id is not None
            for position, given in unsettled.pop(run_id, ())
        ]
        if not self._keep_all:
            self._deliver(outcomes)
        else:  # nothing bounds how many of these wait, so no JSON must wait with them
            for position, pending in outcomes:
                if self._bytes_since_yield >= YIELD_EVERY_BYTES:
                    await self._yield()
                self._bytes_since_yield += page.item_size
                self._deliver([(position, pending.outcome())])
        foreign = [run_id for run_id in found if run_id is not None and run_id not in ids]
        return len(foreign) <= len(found) / 2

    async def _yield(self) -> None:
        self._bytes_since_yield = 0
        await asyncio.sleep(0)

    # Credentials

    async def _send(self, call: Call, on_retry: Callable[[], object] | None = None) -> Any:
        """Perform a call, once it is clear that the credentials are not refused."""
        if not self._accepted:
            await self._slow_start.acquire()
            if self._decided:
                self._slow_start.release()  # each task that waits wakes the next one
            if self._refusal is not None:
                raise self._refusal
        try:
            response = await self._perform(call, on_retry=on_retry)
        except NotFoundError:
            self._accept()
            raise
        except _REFUSALS as error:
            self._refuse(error)
            raise
        except ModelLabError:
            self._slow_start.release()  # undecided
            raise
        self._accept()
        return response

    @property
    def _decided(self) -> bool:
        return self._accepted or self._refusal is not None

    def _accept(self) -> None:
        """The credentials are good: from now on, a refusal is about its own id."""
        if not self._accepted:
            self._accepted = True
            self._slow_start.release()

    def _refuse(self, error: ModelLabError) -> None:
        """Count a refusal; the last one that is allowed becomes the outcome of all ids left."""
        if not self._accepted:
            self._refusals_left -= 1
            if not self._refusals_left:
                self._refusal = error
                self._slow_start.release()

    # Outcomes

    def _fail(self, asked: Iterable[Asked], error: ModelLabError) -> None:
        """Deliver an error as the outcome of ids."""
        error.__traceback__ = None  # a million kept errors must not keep a million frames
        self._deliver([(position, Outcome(given, error=error)) for position, given in asked])

    def _deliver(self, outcomes: Sequence[tuple[int, Outcome | PendingOutcome]]) -> None:
        """Hand outcomes to the consumers, each with the position of its id."""
        if self._stopped:
            return
        self._delivered += len(outcomes)
        self._check_room()
        if self._ordered:
            self._early.update(outcomes)
            while (outcome := self._early.pop(self._sorted, None)) is not None:
                self._ready.append(outcome)
                self._sorted += 1
        else:
            self._ready.extend([outcome for _, outcome in outcomes])
        if self._ready:
            self._arrived.set()


def _refuses_listing(error: ModelLabError) -> bool:
    """Whether single requests may succeed although a listing call ended in this error."""
    if isinstance(error, StatusError):
        return error.status == 501 or (
            error.status < 500 and error.status not in _NOT_ABOUT_LISTING
        )
    return isinstance(error, DecodeError)


def _length(iterable: object) -> int | None:
    try:
        length = operator.length_hint(iterable, -1)
    except OverflowError:  # such as of range(10**20)
        return None
    return None if length < 0 else length


def refuse_lone_id(run_ids: object) -> None:
    """Refuse a string or bytes in place of several ids: iterating it would yield its digits.

    Raises:
        TypeError: which says what to pass instead.
    """
    if isinstance(run_ids, str | bytes | bytearray):
        raise TypeError(
            f"run_ids must be an iterable of ids, not {type(run_ids).__name__};"
            f" for one id pass a list, or use the method that takes one"
        )


async def collect(outcomes: Fetch) -> RunList:
    """The runs of an ordered fetch, repeats included.

    Raises:
        BulkError: if any id failed, or the ids could not be read to their end; it carries all
            runs fetched.
    """
    given: list[Any] = []
    runs: dict[Any, Run] = {}
    errors: dict[Any, ModelLabError] = {}
    async with outcomes:
        try:
            async for outcome in outcomes:
                run_id = _key(outcome.run_id)
                given.append(run_id)
                if outcome.run is not None:
                    runs[run_id] = outcome.run
                elif outcome.error is not None:
                    errors.setdefault(run_id, outcome.error)
        except Exception as error:
            if not given:
                raise
            raise BulkError(runs, errors) from error  # the ids could not be read to their end
    # One of several copies of an id may fail alone; 5.0 is no copy of 5, although they are equal.
    failed = {
        run_id: error
        for run_id, error in errors.items()
        if run_id not in runs or isinstance(error, InvalidIdError)
    }
    if failed:
        raise BulkError(runs, failed)
    return RunList(runs[run_id] for run_id in given)


def _key(run_id: Any) -> Any:
    """An id as a key, in writing if it cannot be one, as a list cannot."""
    try:
        hash(run_id)
    except TypeError:
        return repr(run_id)
    return run_id
