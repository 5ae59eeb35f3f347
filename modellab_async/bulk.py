"""Many runs by id: read lazily, fetched concurrently in bounded memory, one outcome for each.

`Fetch` is what users hold. It owns a `BulkFetcher`, whose tasks hold no reference to the `Fetch`;
dropping the `Fetch` cancels them.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import operator
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
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
from modellab_async.documents import YIELD_EVERY_BYTES, LazyPage
from modellab_async.endpoints import MAX_PAGE_SIZE, Call, Perform, parse_id
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
    detached,
)
from modellab_async.models import Run, RunFilter
from modellab_async.notebook import render
from modellab_async.pydantic_schema import PydanticModel
from modellab_async.run_list import RunList

Progress = Callable[[int, int | None], object]
Route = Literal["auto", "batch", "single"]

PAGES_IN_FLIGHT: Final = 10
"""Listing calls in flight at most; each response may hold a megabyte."""

UNREAD_PAGES: Final = 4
"""Pages of outcomes that may wait to be taken while all workers continue."""

MAX_RETRYING: Final = 10
"""Workers whose calls are retried, at most, for each worker that sends first attempts."""

FIRST_REQUESTS: Final = 16
"""Requests that may be sent before the first success. If all are refused, no more are sent.

More than `PAGES_IN_FLIGHT`, so that single requests are tried too if the listing is refused.
"""

MAX_ID_LIST_LENGTH: Final = 1_500
"""Characters of ids in one listing call: well below the URL length that proxies accept."""

_ID_ERRORS: Final = (StatusError, TransportError, DecodeError, ConfigError, InvalidIdError)
"""Errors that become the outcome of an id; any other error ends the fetch."""

_REFUSALS: Final = (AuthenticationError, PermissionDeniedError, ConfigError)
"""Errors that concern the credentials, as long as nothing has succeeded."""

_NOT_ABOUT_LISTING: Final = frozenset({401, 408, 429})
"""Statuses below 500 that a single request would meet as well."""


@attrs.frozen
class Outcome(PydanticModel):
    """What became of one id: a run or an error, never both.

    Attributes:
        run_id: the id as it was passed.
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
            for part in filter(None, (error, error.__cause__)):
                detached(part).__context__ = None  # what the taker of the outcome was handling
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


Requested = tuple[int, Any]
"""An id as it was passed, after its position in the order of the ids."""

_END: Final = object()


class IdSource:
    """Ids from an iterable or an async iterable, for several workers.

    Args:
        run_ids: the iterable.
        ahead: how many ids of an async iterable may be read before a worker asks for them.

    Attributes:
        total: how many ids there are, or None if the iterable does not know.
        read: how many were handed out.
        ended: whether no more will be handed out.
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
        self.ended: bool = False
        self.error: BaseException | None = None
        self._iterator: Iterator[Any] | None = None
        self._aiterator: AsyncIterator[Any] | None = None
        if isinstance(run_ids, Iterable):
            self._iterator = iter(run_ids)
        else:
            self._aiterator = aiter(run_ids)
        self._queue: asyncio.Queue[Any] = asyncio.Queue(ahead)  # of an async iterable
        self._reader: asyncio.Task[None] | None = None

    async def take(self, limit: int) -> list[Requested]:
        """From 1 to ``limit`` ids, as many as are there without waiting; none at the end."""
        if self.ended:
            return []
        ids: list[Any] = []
        if self._iterator is not None:
            try:
                ids.extend(itertools.islice(self._iterator, limit))  # keeps what precedes an error
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # it may raise anything
                self.error = error
            self.ended = len(ids) < limit
        else:
            if self._reader is None:
                self._reader = asyncio.create_task(self._read())
            ids.append(await self._queue.get())
            while len(ids) < limit and not self._queue.empty():
                ids.append(self._queue.get_nowait())
            if ids[-1] is _END:
                ids.pop()
                self.ended = True
                self._queue.put_nowait(_END)  # for the other workers
        first = self.read
        self.read += len(ids)
        return list(enumerate(ids, start=first))

    def stop(self) -> None:
        """Read no more. May be called from a finalizer."""
        self.ended = True
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
            if self.ended:
                raise
            self.error = error  # raised by the iterable
        except Exception as error:  # noqa: BLE001  # it may raise anything
            self.error = error
        await self._queue.put(_END)


class OutcomeQueue:
    """Outcomes that wait to be taken, as they arrive or in the order of the ids.

    Attributes:
        delivered: how many outcomes there were so far.
        returned: how many of them were taken.
    """

    def __init__(self, *, ordered: bool) -> None:
        self.delivered: int = 0
        self.returned: int = 0
        self._ordered = ordered
        self._ready: deque[Outcome | PendingOutcome] = deque()
        self._early: dict[int, Outcome | PendingOutcome] = {}  # by position; others come first
        self._next_position = 0
        self._arrived = asyncio.Event()
        self._bytes_since_yield = 0.0

    def __bool__(self) -> bool:
        return bool(self._ready)

    def put(self, outcomes: Sequence[tuple[int, Outcome | PendingOutcome]]) -> None:
        """Add outcomes, each after the position of its id."""
        self.delivered += len(outcomes)
        if self._ordered:
            self._early.update(outcomes)
            while (outcome := self._early.pop(self._next_position, None)) is not None:
                self._ready.append(outcome)
                self._next_position += 1
        else:
            self._ready.extend([outcome for _, outcome in outcomes])
        if self._ready:
            self._arrived.set()

    def wake(self) -> None:
        """End all waits, since there will be no more outcomes."""
        self._arrived.set()

    def clear(self) -> None:
        """Drop the outcomes that wait."""
        self._ready.clear()

    async def wait(self) -> None:
        """Wait until there are outcomes, or will be no more."""
        self._arrived.clear()
        await self._arrived.wait()

    def first(self) -> Outcome:
        """The next outcome, which stays in the queue."""
        outcome = self._ready[0]
        if isinstance(outcome, PendingOutcome):
            self._bytes_since_yield += outcome.page.item_size
            return outcome.outcome()
        return outcome

    def pop(self) -> None:
        """Take the next outcome out of the queue, unless it was cleared."""
        if self._ready:
            self._ready.popleft()
        self.returned += 1

    async def structure(self, outcome: PendingOutcome) -> Outcome:
        """Structure an outcome before it is put in the queue."""
        await self.let_others_run()
        self._bytes_since_yield += outcome.page.item_size
        return outcome.outcome()

    async def let_others_run(self) -> None:
        """Let other tasks run once `YIELD_EVERY_BYTES` of JSON have been structured."""
        if self._bytes_since_yield >= YIELD_EVERY_BYTES:
            self._bytes_since_yield = 0
            await asyncio.sleep(0)


class Credentials:
    """Whether the server accepts the keys, as the first requests show.

    A refusal before any success may concern its own run, or the keys. If all of the first
    `FIRST_REQUESTS` requests are refused, it is the keys.

    Attributes:
        accepted: whether a request has succeeded: from now on, a refusal concerns its own run.
        refusal: the last of the refusals, if it is the keys.
    """

    def __init__(self) -> None:
        self.accepted: bool = False
        self.refusal: ModelLabError | None = None
        self._refusals = 0

    @property
    def max_requests(self) -> float:
        """How many requests may be in flight: those that were refused are not sent again."""
        decided = self.accepted or self.refusal is not None
        return math.inf if decided else FIRST_REQUESTS - self._refusals

    def accept(self) -> None:
        """Note a success."""
        self.accepted = True

    def refuse(self, error: ModelLabError) -> None:
        """Count a refusal."""
        self._refusals += 1
        if not self.accepted and self._refusals == FIRST_REQUESTS:
            self.refusal = error


class TaskSet:
    """Tasks that stop together: when one fails, or when they are cancelled.

    Args:
        on_end: called when the last of them has ended.

    Attributes:
        failure: what one of them raised.
        stopped: whether they were cancelled; tasks that start later are cancelled too.
    """

    def __init__(self, on_end: Callable[[], object]) -> None:
        self.failure: BaseException | None = None
        self.stopped: bool = False
        self._on_end = on_end
        self._tasks: set[asyncio.Task[None]] = set()

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task; with an eager task factory, it may have ended on return."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        if self.stopped:
            task.cancel()

    def cancel(self) -> None:
        """Cancel all. May be called from a finalizer."""
        self.stopped = True
        for task in self._tasks:
            if not task.get_loop().is_closed():
                task.cancel()

    async def aclose(self) -> None:
        """Cancel all, and wait until they have ended."""
        self.cancel()
        self.failure = None
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error: BaseException | None = asyncio.CancelledError("a worker was cancelled")
        if not task.cancelled():
            error = task.exception()
        if error is not None and not self.stopped:
            self.failure = error
            self.cancel()
        if not self._tasks:
            self._on_end()


class BulkFetcher:
    """Fetches runs with a bounded number of workers until there are no more ids.

    A worker whose call has to be retried is replaced by another one, so that ids which fail again
    and again do not hold up those behind them.

    Until the credentials are accepted there are no more workers than requests that may still be
    sent, and each refusal ends one.

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
        self._perform = perform
        self._concurrency = concurrency
        self._listing = route != "single"
        self._only_listing = route == "batch"
        self._keep_all = keep_all
        self._on_progress = on_progress
        spare = UNREAD_PAGES if self._listing else concurrency
        self._max_unread = (self._workers + spare) * self._chunk

        self._source = IdSource(run_ids, ahead=self._chunk)
        self._unlisted: deque[Requested] = deque()  # ids to be requested individually
        self._outcomes = OutcomeQueue(ordered=ordered)
        self._credentials = Credentials()
        self._tasks = TaskSet(on_end=self._outcomes.wake)
        self._active = 0  # workers that send first attempts
        self._retrying = 0  # workers whose calls are retried, and which were replaced
        self._room = asyncio.Event()  # not set while workers wait for space
        self._room.set()

    async def next_outcome(self) -> Outcome:
        """Wait for the next outcome; a caller that is cancelled meanwhile takes nothing with it.

        Raises:
            StopAsyncIteration: after the last.
        """
        if self._source.read == 0:
            self._add_workers()
        outcomes = self._outcomes
        await outcomes.let_others_run()  # while outcomes are ready, nothing below waits
        while not outcomes:
            if not self._tasks:
                raise self._tasks.failure or self._source.error or StopAsyncIteration
            await outcomes.wait()
        outcome = outcomes.first()
        if self._on_progress is not None:
            self._on_progress(outcomes.returned + 1, self._source.total)  # may close the fetch
        outcomes.pop()  # only when nothing can raise any more
        self._check_room()
        return outcome

    def cancel(self) -> None:
        """Stop all requests now. May be called from a finalizer."""
        self._tasks.cancel()
        self._source.stop()
        self._source.error = None
        self._unlisted.clear()
        self._outcomes.clear()

    async def aclose(self) -> None:
        """Stop all requests, and wait until they have released everything."""
        self.cancel()
        await self._tasks.aclose()
        await self._source.aclose()

    # Workers

    @property
    def _chunk(self) -> int:
        """How many ids a worker takes at once."""
        return MAX_PAGE_SIZE if self._listing else 1

    @property
    def _workers(self) -> int:
        """How many workers may read ids."""
        return min(PAGES_IN_FLIGHT, self._concurrency) if self._listing else self._concurrency

    @property
    def _max_active(self) -> float:
        """How many workers there may be: more than read ids if ids are requested individually."""
        return min(
            self._concurrency,
            self._workers + len(self._unlisted),
            self._credentials.max_requests - self._retrying,
        )

    def _add_workers(self) -> None:
        """Start workers for the work that is left, as many as there may be."""
        chunks: float = len(self._unlisted)
        if not self._source.ended:
            total = self._source.total
            left = math.inf if total is None else total - self._source.read
            chunks += max(1, math.ceil(left / self._chunk)) if left < math.inf else math.inf
        while chunks > 0 and self._active < self._max_active:
            chunks -= 1
            self._active += 1
            self._tasks.start(self._work())

    async def _work(self) -> None:
        """Fetch chunk after chunk, until there are no more or another worker takes over."""
        is_replaced = False

        def replace() -> None:
            nonlocal is_replaced
            in_flight = self._active + self._retrying
            if (
                not is_replaced
                and self._retrying < MAX_RETRYING * self._workers
                and in_flight < self._credentials.max_requests
            ):
                is_replaced = True
                self._active -= 1
                self._retrying += 1
                self._add_workers()

        try:
            while not is_replaced and self._active <= self._max_active:
                if self._unlisted:
                    await self._get(self._unlisted.popleft(), on_retry=replace)
                    continue
                while not self._has_room():
                    self._room.clear()
                    await self._room.wait()
                requested = await self._source.take(self._chunk)
                if not requested:
                    break
                await self._fetch(requested, on_retry=replace)
        finally:
            self._retrying -= is_replaced
            self._active -= not is_replaced
        self._add_workers()

    def _has_room(self) -> bool:
        """Whether another chunk may be read before more outcomes are taken.

        An id is unread from when it is read from the source until its outcome is returned, or
        delivered if outcomes may wait in any number. Those of calls that are retried do not count
        (``MAX_RETRYING`` bounds them), so that one of them in an ordered fetch stops no others:

            read - returned - retrying * chunk + chunk <= max_unread
        """
        done = self._outcomes.delivered if self._keep_all else self._outcomes.returned
        unread = self._source.read - done - self._retrying * self._chunk
        return unread + self._chunk <= self._max_unread

    def _check_room(self) -> None:
        """Wake the workers that wait for space if there is any."""
        if not self._room.is_set() and self._has_room():
            self._room.set()

    # Requests

    async def _fetch(
        self, requested: Sequence[Requested], *, on_retry: Callable[[], object]
    ) -> None:
        """Fetch ids from the listing, and individually those that it does not settle."""
        if self._credentials.refusal is not None:
            self._fail(requested, self._credentials.refusal)
            return
        if self._listing and len(requested) > 1:
            requested = await self._list(requested, on_retry=on_retry)
        if len(requested) == 1:
            await self._get(requested[0], on_retry=on_retry)
        else:  # their number is bounded, as that of outcomes is
            self._unlisted.extend(requested)
            self._add_workers()

    async def _get(self, requested: Requested, *, on_retry: Callable[[], object]) -> None:
        position, original = requested
        try:
            call = endpoints.get_run(original, wait_for_quota=True, unstructured=True)
            page: LazyPage[Run] = await self._send(call, on_retry)
        except _ID_ERRORS as error:
            self._fail([requested], error)
        else:
            pending = PendingOutcome(original, page, 0)
            self._deliver([(position, pending.outcome() if self._keep_all else pending)])

    async def _list(
        self, requested: Sequence[Requested], *, on_retry: Callable[[], object]
    ) -> Sequence[Requested]:
        """Fetch ids by listing calls; returns those that these do not settle."""
        unsettled: dict[int, list[Requested]] = {}
        for position, original in requested:
            try:
                unsettled.setdefault(parse_id(original), []).append((position, original))
            except InvalidIdError as error:
                self._fail([(position, original)], error)
        ids = list(unsettled) if len(unsettled) > 1 else []
        size = min(MAX_PAGE_SIZE, MAX_ID_LIST_LENGTH // (len(str(max(ids, default=0))) + 1))
        for start in range(0, len(ids), size):
            batch = ids[start : start + size]
            try:
                await self._list_pages(batch, unsettled, on_retry=on_retry)
            except _ID_ERRORS as error:
                if self._only_listing or not _refuses_listing(error):
                    for run_id in batch:
                        self._fail(unsettled.pop(run_id, ()), error)
                else:
                    self._listing = False
            if not self._listing:
                break
        return list(itertools.chain(*unsettled.values()))

    async def _list_pages(
        self,
        ids: Sequence[int],
        unsettled: dict[int, list[Requested]],
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
                self._listing = self._only_listing  # this server ignores the filter
                return
            following = page.numbers.next_number
            if following is None or len(page) == 0 or unsettled.keys().isdisjoint(ids):
                return
            if number is not None and following <= number:
                return
            number = following

    async def _deliver_page(
        self, page: LazyPage[Run], ids: frozenset[int], unsettled: dict[int, list[Requested]]
    ) -> bool:
        """Deliver the items of a page; False if most of them were not requested."""
        page_ids = page.ids()
        outcomes = [
            (position, PendingOutcome(original, page, index))
            for index, run_id in enumerate(page_ids)
            if run_id is not None
            for position, original in unsettled.pop(run_id, ())
        ]
        if not self._keep_all:
            self._deliver(outcomes)
        else:  # nothing bounds how many of these wait, so no JSON must wait with them
            for position, pending in outcomes:
                self._deliver([(position, await self._outcomes.structure(pending))])
        foreign = [run_id for run_id in page_ids if run_id is not None and run_id not in ids]
        return len(foreign) <= len(page_ids) / 2

    async def _send(self, call: Call, on_retry: Callable[[], object]) -> Any:
        """Perform a call, unless the credentials are refused, and learn whether they are."""
        if self._credentials.refusal is not None:
            raise self._credentials.refusal
        try:
            response = await self._perform(call, on_retry=on_retry)
        except NotFoundError:
            self._accept()
            raise
        except _REFUSALS as error:
            self._credentials.refuse(error)
            raise
        self._accept()
        return response

    def _accept(self) -> None:
        if not self._credentials.accepted:
            self._credentials.accept()
            self._add_workers()

    # Outcomes

    def _fail(self, requested: Iterable[Requested], error: ModelLabError) -> None:
        """Deliver an error as the outcome of ids."""
        error = detached(error)
        self._deliver([(position, Outcome(run_id, error=error)) for position, run_id in requested])

    def _deliver(self, outcomes: Sequence[tuple[int, Outcome | PendingOutcome]]) -> None:
        """Hand outcomes to the consumers, each after the position of its id."""
        if not self._tasks.stopped:
            self._outcomes.put(outcomes)
            self._check_room()


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
    run_ids: list[Any] = []
    runs: dict[Any, Run] = {}
    errors: dict[Any, ModelLabError] = {}
    async with outcomes:
        try:
            async for outcome in outcomes:
                run_id = _key(outcome.run_id)
                run_ids.append(run_id)
                if outcome.run is not None:
                    runs[run_id] = outcome.run
                elif outcome.error is not None:
                    errors.setdefault(run_id, outcome.error)
        except Exception as error:
            if not run_ids:
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
    return RunList(runs[run_id] for run_id in run_ids)


def _key(run_id: Any) -> Any:
    """An id as a key, in writing if it cannot be one, as a list cannot."""
    try:
        hash(run_id)
    except TypeError:
        return repr(run_id)
    return run_id
