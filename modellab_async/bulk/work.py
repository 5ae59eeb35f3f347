"""What a fetch does behind its back: workers, and outcomes that wait to be taken."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from modellab_async import endpoints
from modellab_async.bulk.pace import PAGES_AT_ONCE, Pace
from modellab_async.endpoints import parse_id
from modellab_async.errors import (
    AuthenticationError,
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

if TYPE_CHECKING:
    from modellab_async.bulk.ids import Ids
    from modellab_async.endpoints import Call

Perform = Callable[["Call"], Awaitable[Any]]
Progress = Callable[[int, int | None], object]
Route = Literal["auto", "batch", "single"]

OPENING: Final = 16
"""Requests made before the first good answer: a wrong key costs hardly more than that."""

SPARE_PAGES: Final = 4
"""Pages' worth of outcomes that may wait to be taken while all workers go on."""

LONGEST_ID_LIST: Final = 1_500
"""Characters of ids in one listing call, well below what any proxy takes for an address."""

_PER_ID: Final = (StatusError, TransportError, DecodeError, InvalidIdError, ConfigError)
"""What becomes an id's outcome; anything else ends the fetch."""

_OF_ANY_REQUEST: Final = frozenset({401, 408, 429})
"""Statuses below 500 that say nothing of the listing itself."""


@attrs.frozen
class Outcome(PydanticModel):
    """What became of one id asked for: a run or an error, never both.

    ``run_id`` is the id as it was given.
    """

    run_id: int | str
    run: Run | None = None
    error: ModelLabError | None = None

    @property
    def ok(self) -> bool:
        """Whether the run was fetched."""
        return self.error is None

    def _repr_html_(self) -> str | None:
        return render("outcome", outcome=self)


Asked = tuple[int, Any]
"""An id as it was given, behind its place in the order asked."""

Wanted = dict[int, tuple[Asked, ...]]
"""Who asked for a run, by its id."""


class Work:
    """Fetches runs until there are no more ids; knows nothing of the object that users hold.

    Attributes:
        ready: outcomes that wait to be taken.
    """

    def __init__(
        self,
        ids: Ids,
        perform: Perform,
        concurrency: int,
        *,
        route: Route,
        ordered: bool,
        on_progress: Progress | None,
        wide: bool,
    ) -> None:
        self._ids = ids
        self._perform = perform
        self._concurrency = concurrency
        self._route = route
        self._ordered = ordered
        self._on_progress = on_progress
        self._wide = wide
        self._take_pages(paged=route != "single")
        self._tasks: set[asyncio.Task[None]] = set()
        self._alone: deque[Asked] = deque()
        self._room = asyncio.Event()
        self._room.set()
        self.ready: deque[Outcome] = deque()
        self._early: dict[int, Outcome] = {}
        self._consumers: set[asyncio.Future[None]] = set()
        self._started = self._stopped = False
        self._given = self._sorted = 0
        self._failure: BaseException | None = None
        self._proven = False
        self._refusal: ModelLabError | None = None
        self._pace = Pace(concurrency)

    async def next_outcome(self) -> Outcome:
        """The next outcome.

        Raises:
            StopAsyncIteration: after the last.
        """
        if not self._started:
            self._started = True
            self._start()
        while not self.ready:
            if not self._tasks:
                failure, self._failure = self._failure or self._ids.error, None
                self._ids.error = None
                raise failure if failure is not None else StopAsyncIteration
            consumer = asyncio.get_running_loop().create_future()
            self._consumers.add(consumer)
            try:
                await consumer
            except asyncio.CancelledError:
                self.cancel()
                raise
            finally:
                self._consumers.discard(consumer)
        return self.give()

    def give(self) -> Outcome:
        """The next outcome, where one is ready."""
        if self._on_progress is not None:
            self._on_progress(self._given + 1, self._ids.total)
        outcome = self.ready.popleft()
        self._given += 1
        if not self._room.is_set() and self._has_room():
            self._room.set()
        return outcome

    def cancel(self) -> None:
        """Stop all requests now, from anywhere, also from a finalizer."""
        self._stopped = True
        self._ids.stop()
        self._ids.error = None
        self._alone.clear()
        self.ready.clear()
        for task in self._tasks:
            if not task.get_loop().is_closed():
                task.cancel()

    async def aclose(self) -> None:
        """Stop all requests, and wait until they have let go of everything."""
        self.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._ids.aclose()

    def _take_pages(self, *, paged: bool) -> None:
        """Ask for pages of runs from now on, or for each run by itself."""
        self._paged = paged
        self._chunk = endpoints.MAX_PAGE_SIZE if paged else 1
        pages = min(PAGES_AT_ONCE, self._concurrency) + SPARE_PAGES
        self._most_waiting = pages * self._chunk if paged else 2 * self._concurrency

    def _has_room(self) -> bool:
        return self._ids.read - self._given + self._chunk <= self._most_waiting

    def _start(self) -> None:
        """Bring up as many workers as there is work for, and as the keys have earned."""
        if self._stopped or self._refusal is not None:
            return
        if self._paged:
            most = self._pace.pages
        else:
            known = self._proven or self._wide
            most = self._concurrency if known else min(OPENING, self._concurrency)
        work = len(self._alone)
        if not self._ids.exhausted:
            left = most if self._ids.total is None else max(1, self._ids.total - self._ids.read)
            work += -(-left // self._chunk) if self._ids.total is not None else left
        if self._alone and self._proven:
            most = self._concurrency
        for _ in range(min(most, len(self._tasks) + work) - len(self._tasks)):
            self._spawn()

    def _spawn(self) -> None:
        task = asyncio.create_task(self._run())
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        failure: BaseException | None
        if task.cancelled():
            failure = None if self._stopped else asyncio.CancelledError("a worker was cancelled")
        else:
            failure = task.exception()
        if failure is not None:
            self._failure = failure
            self.cancel()
        if self._tasks:
            return
        if self._refusal is not None and not self._stopped:
            # All answers of the first round are in: either the keys are good after all, or one
            # worker hands the refusal to every id that is left.
            if self._proven:
                self._refusal = None
                self._start()
            elif self._alone or not self._ids.exhausted:
                self._spawn()
        if not self._tasks:
            self._wake()

    async def _run(self) -> None:
        """One worker: a chunk at a time, until there are no more or the keys are refused."""
        task: Any = asyncio.current_task()
        hopeless = self._refusal
        while self._refusal is hopeless:
            if self._paged and not self._alone and len(self._tasks) > self._pace.pages:
                self._tasks.remove(task)  # at once: who looks next must not leave as well
                return
            asked = await self._next()
            if not asked:
                return
            if hopeless is not None:
                self._fail(asked, hopeless)
            elif len(asked) == 1:
                await self._ask(asked)
            else:
                await self._ask_page(asked)

    async def _next(self) -> list[Asked]:
        """What to ask for next: an id that a listing left out, or the next chunk of ids."""
        while not self._alone:
            if self._has_room():
                ids = self._ids.take_at_once(self._chunk)
                if ids is None:
                    ids = await self._ids.take(self._chunk)
                if ids or not self._alone:
                    first = self._ids.read - len(ids)
                    return list(enumerate(ids, start=first))
            else:
                self._room.clear()
                await self._room.wait()
        return [self._alone.popleft()]

    async def _ask(self, asked: Sequence[Asked]) -> None:
        """One run by itself."""
        ((index, run_id),) = asked
        try:
            run = await self._perform(endpoints.get_run(run_id, wait_for_quota=True))
        except _PER_ID as error:
            if isinstance(error, NotFoundError):
                self._prove()
            self._note_refusal(error)
            self._fail(asked, error)
        else:
            self._prove()
            self._deliver([index], [Outcome(run_id, run)])

    async def _ask_page(self, asked: Sequence[Asked]) -> None:
        """Many runs by a listing call; whatever it does not answer is asked for by itself."""
        wanted: Wanted
        try:
            numbers = [parse_id(given) for _, given in asked]
        except InvalidIdError:
            wanted = self._sort_out(asked)
        else:
            wanted = dict(zip(numbers, zip(asked), strict=True))  # a tuple of one entry for each
            if len(wanted) < len(asked):
                wanted = self._sort_out(asked)
        if len(wanted) < 2:
            self._alone.extend(entry for entries in wanted.values() for entry in entries)
        else:
            for part in _split(wanted):
                await self._list(part)
        self._start()

    def _sort_out(self, asked: Sequence[Asked]) -> Wanted:
        """The ids to ask for, some of them more than once; those that are none fail here."""
        wanted: Wanted = {}
        for entry in asked:
            try:
                number = parse_id(entry[1])
            except InvalidIdError as error:
                self._fail([entry], error)
            else:
                wanted[number] = (*wanted.get(number, ()), entry)
        return wanted

    async def _list(self, wanted: Wanted) -> None:
        number: int | None = None
        size, asked = len(wanted), frozenset(wanted)
        run_filter = RunFilter(ids=tuple(wanted))
        try:
            while wanted:
                page = await self._perform(
                    endpoints.list_runs(
                        run_filter,
                        page_size=size,
                        page_number=number,
                        wait_for_quota=True,
                    )
                )
                items = page.items
                self._pace.look()
                self._prove()
                if not self._take_page(items, wanted, asked):
                    self._take_pages(paged=self._paged and self._route == "batch")
                    break
                following = page.numbers.next_number
                if following is None or not items or (number is not None and following <= number):
                    break
                number = following
        except _PER_ID as error:
            if self._route == "auto" and _refuses_listing(error):
                self._take_pages(paged=False)
            else:
                self._note_refusal(error)
                self._fail([entry for entries in wanted.values() for entry in entries], error)
                return
        self._alone.extend(entry for entries in wanted.values() for entry in entries)

    def _take_page(self, items: list[Any], wanted: Wanted, asked: frozenset[int]) -> bool:
        """Deliver what a page holds; False where it holds anything that nobody asked for."""
        as_asked = True
        places: list[int] = []
        outcomes: list[Outcome] = []
        for item in items:
            if isinstance(item, Run):
                entries = wanted.pop(item.id, None)
                if entries is None:
                    as_asked &= item.id in asked
                    continue
                for index, given in entries:
                    places.append(index)
                    outcomes.append(Outcome(given, item))
            elif isinstance(item, DecodeError):
                if item.resource_id is not None:
                    self._fail(wanted.pop(item.resource_id, ()), item)
            else:
                as_asked = False  # of a user's hook: only an answer of its own tells whose it is
        self._deliver(places, outcomes)
        return as_asked

    def _note_refusal(self, error: ModelLabError) -> None:
        refused = isinstance(error, AuthenticationError | PermissionDeniedError | ConfigError)
        if refused and not self._proven:
            self._refusal = self._refusal or error

    def _prove(self) -> None:
        """The keys are good: from here on, a refusal is about one id."""
        if not self._proven:
            self._proven = True
            self._start()

    def _fail(self, asked: Sequence[Asked], error: ModelLabError) -> None:
        """Deliver an error as what became of some ids."""
        error.__traceback__ = None  # a million kept errors must not keep a million frames
        self._deliver(
            [index for index, _ in asked], [Outcome(given, error=error) for _, given in asked]
        )

    def _deliver(self, places: Sequence[int], outcomes: Sequence[Outcome]) -> None:
        """Hand outcomes to who waits for them, in the order of their places if that was asked."""
        if self._stopped or not outcomes:
            return
        if not self._ordered:
            self.ready.extend(outcomes)
        else:
            self._early.update(zip(places, outcomes, strict=True))
            while self._sorted in self._early:
                self.ready.append(self._early.pop(self._sorted))
                self._sorted += 1
        if self.ready:
            self._wake()

    def _wake(self) -> None:
        for consumer in self._consumers:
            if not consumer.done():
                consumer.set_result(None)


def _split(wanted: Wanted) -> list[Wanted]:
    """As many parts as it takes for the ids of each to fit into an address."""
    longest = len(wanted) * (len(str(max(wanted))) + 1)
    if longest <= LONGEST_ID_LIST:
        return [wanted]
    parts = -(-longest // LONGEST_ID_LIST)
    entries, size = list(wanted.items()), -(-len(wanted) // parts)
    return [dict(entries[at : at + size]) for at in range(0, len(entries), size)]


def _refuses_listing(error: ModelLabError) -> bool:
    """Whether asking for each run by itself may get around what a listing call ended in."""
    if isinstance(error, StatusError):
        return error.status == 501 or (error.status < 500 and error.status not in _OF_ANY_REQUEST)
    return isinstance(error, DecodeError)
