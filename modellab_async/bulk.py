"""Many ids: read lazily, asked for concurrently, in bounded memory, with one outcome each."""

from __future__ import annotations

import asyncio
import operator
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import attrs

from modellab_async import endpoints
from modellab_async.errors import (
    AuthenticationError,
    BulkError,
    DecodeError,
    InvalidIdError,
    ModelLabError,
    NotFoundError,
    PermissionDeniedError,
    StatusError,
    TransportError,
)

if TYPE_CHECKING:
    from types import TracebackType

    from modellab_async.models import Run
    from modellab_async.wire import Call

Perform = Callable[["Call"], Awaitable[Any]]
Progress = Callable[[int, int | None], object]
Route = Literal["auto", "batch", "single"]

OPENING: Final = 16
"""How many requests are made before the first good answer: a wrong key costs no more than that."""

_END: Final = object()

_PER_ID: Final = (StatusError, TransportError, DecodeError, InvalidIdError)
"""What becomes an id's outcome; anything else ends the fetch."""


@attrs.frozen(weakref_slot=False)
class Outcome:
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


class Fetch(AsyncIterator[Outcome]):
    """The outcomes of many ids, one for each, as they arrive or in the order asked.

    Iterate over it, best inside ``async with``. Leaving the loop, closing or dropping it, or
    cancelling the task that iterates stops all its requests at once.
    """

    def __init__(self, work: _Work) -> None:
        self._work = work

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        return await self._work.next_outcome()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

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
    return Fetch(_Work(run_ids, perform, concurrency, ordered=ordered, on_progress=on_progress))


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
        run_ids, perform=perform, concurrency=concurrency, ordered=True, on_progress=None
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


class _Work:
    """What a fetch does behind its back; knows nothing of the object that users hold."""

    def __init__(
        self,
        run_ids: Iterable[int | str] | AsyncIterable[int | str],
        perform: Perform,
        concurrency: int,
        *,
        ordered: bool,
        on_progress: Progress | None,
    ) -> None:
        self._total = operator.length_hint(run_ids, -1)
        self._source: Iterator[Any] | AsyncIterator[Any] = (
            iter(run_ids) if isinstance(run_ids, Iterable) else aiter(run_ids)
        )
        self._perform = perform
        self._concurrency = concurrency
        self._ordered = ordered
        self._on_progress = on_progress
        self._bound = 2 * concurrency
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading = asyncio.Lock()
        self._room = asyncio.Event()
        self._ready: deque[Outcome] = deque()
        self._early: dict[int, Outcome] = {}
        self._consumer: asyncio.Future[None] | None = None
        self._asked = self._given = self._sorted = 0
        self._exhausted = False
        self._failure: BaseException | None = None
        self._proven = False
        self._refusal: ModelLabError | None = None

    async def next_outcome(self) -> Outcome:
        """The next outcome.

        Raises:
            StopAsyncIteration: after the last.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._start(min(OPENING, self._concurrency))
        while not self._ready:
            if not self._tasks:
                failure, self._failure = self._failure, None
                raise failure if failure is not None else StopAsyncIteration
            self._consumer = self._loop.create_future()
            try:
                await self._consumer
            except asyncio.CancelledError:
                self.cancel()
                raise
        outcome = self._ready.popleft()
        self._given += 1
        if self._asked - self._given < self._bound:
            self._room.set()
        if self._on_progress is not None:
            self._on_progress(self._given, self._total if self._total >= 0 else None)
        return outcome

    def cancel(self) -> None:
        """Stop all requests now, from anywhere, also from a finalizer."""
        self._exhausted = True
        self._ready.clear()
        if self._loop is not None and not self._loop.is_closed():
            for task in self._tasks:
                task.cancel()

    async def aclose(self) -> None:
        self.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        close = getattr(self._source, "aclose", None)
        if close is not None:
            await close()

    def _start(self, workers: int) -> None:
        """Bring the number of workers up, though never above the number of ids left."""
        if self._exhausted:
            return
        missing = workers - len(self._tasks)
        if self._total >= 0:
            missing = min(missing, self._total - self._asked)
        for _ in range(missing if self._tasks else max(1, missing)):
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            self._failure = failure
            self.cancel()
        if self._tasks:
            return
        if self._refusal is not None and not self._exhausted:
            # All answers of the first round are in: either the keys are good after all, or one
            # worker hands the refusal to every id that is left.
            if self._proven:
                self._refusal = None
            self._start(self._concurrency if self._proven else 1)
        else:
            self._wake()

    async def _run(self) -> None:
        """One worker: an id at a time, until there are no more or the keys are refused."""
        hopeless = self._refusal
        while self._refusal is hopeless:
            while self._asked - self._given >= self._bound:
                self._room.clear()
                await self._room.wait()
            try:
                index, run_id = await self._read()
            except StopAsyncIteration:
                return
            if hopeless is None:
                outcome = await self._ask(run_id)
            else:
                outcome = Outcome(run_id, error=hopeless)
            self._deliver(index, outcome)

    async def _read(self) -> tuple[int, Any]:
        """The next id and its place in the order asked.

        Raises:
            StopAsyncIteration: where there is none; an error of the iterable's own is kept for
                the end, after the outcomes of the ids read before it.
        """
        source = self._source
        try:
            if isinstance(source, Iterator):
                run_id = next(source, _END) if not self._exhausted else _END
            else:
                async with self._reading:
                    run_id = await anext(source, _END) if not self._exhausted else _END
        except Exception as error:  # noqa: BLE001  # an iterable may raise anything
            self._failure = error
            run_id = _END
        if run_id is _END:
            self._exhausted = True
            raise StopAsyncIteration
        self._asked += 1
        return self._asked - 1, run_id

    async def _ask(self, run_id: Any) -> Outcome:
        try:
            run = await self._perform(endpoints.get_run(run_id))
        except _PER_ID as error:
            error.__traceback__ = None  # a million kept errors must not keep a million frames
            if isinstance(error, NotFoundError):
                self._prove()
            elif not self._proven and isinstance(
                error, AuthenticationError | PermissionDeniedError
            ):
                self._refusal = self._refusal or error
            return Outcome(run_id, error=error)
        self._prove()
        return Outcome(run_id, run)

    def _prove(self) -> None:
        """The keys are good: from here on, a refusal is about one id."""
        if not self._proven:
            self._proven = True
            if self._refusal is None:
                self._start(self._concurrency)

    def _deliver(self, index: int, outcome: Outcome) -> None:
        if not self._ordered:
            self._ready.append(outcome)
        else:
            self._early[index] = outcome
            while self._sorted in self._early:
                self._ready.append(self._early.pop(self._sorted))
                self._sorted += 1
        if self._ready:
            self._wake()

    def _wake(self) -> None:
        if self._consumer is not None and not self._consumer.done():
            self._consumer.set_result(None)
