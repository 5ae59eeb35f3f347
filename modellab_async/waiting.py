"""Until runs reach an end state: looks at growing intervals, shared by all who wait on a client.

A look that is due takes along every other one that is at least half-way there, so that any number
of waits costs one listing for each 100 runs, and waits that began together stay in step.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final, Self

import attrs

from modellab_async import bulk, endpoints
from modellab_async.closing import Closing
from modellab_async.endpoints import parse_id
from modellab_async.errors import ModelLabError, WaitTimeoutError
from modellab_async.models import Run, RunFilter
from modellab_async.retry import is_transient

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from datetime import datetime

    from modellab_async.clock import Clock

FIRST_INTERVAL: Final = 1.0
"""Seconds between the first look and the second."""

GROWTH: Final = 1.5
"""Each interval is this many times the one before."""

LONGEST_INTERVAL: Final = 30.0
"""Seconds that no interval exceeds."""

JITTER: Final = 0.25
"""The pause before a look is up to this share shorter than its interval, drawn evenly."""

GRACE: Final = 2.0
"""Seconds that a look may always take, also the last one, which is made at the deadline."""

Answers = dict[int | str, bulk.Outcome]


class Lookout:
    """Looks at runs, on behalf of everyone who waits on one client.

    Nothing goes on behind the back of those who wait: requests are made only while a `look` is
    awaited, and end with the last look that needs them.
    """

    def __init__(self, perform: bulk.Perform, concurrency: int, clock: Clock) -> None:
        self._perform = perform
        self._concurrency = concurrency
        self._clock = clock
        self._idle: dict[_Look, None] = {}

    async def wait(self, run_id: int | str, timeout: float | None) -> Run:
        """See :meth:`modellab_async.resources.Runs.wait`."""
        number = parse_id(run_id)
        limit = _limit(timeout)
        give_up_at = self._clock.monotonic() + limit
        seen: Run | None = None
        failure: ModelLabError | None = None
        for interval in self.pauses():
            left = max(0.0, give_up_at - self._clock.monotonic())
            pause = min(interval, left)
            patience = None if left == math.inf else max(left, pause + GRACE)
            try:
                async with asyncio.timeout(patience):
                    answers = await self.look([number], after=pause)
            except TimeoutError:
                break
            seen, failure = answers[number].run or seen, answers[number].error
            if failure is not None and not is_transient(failure):
                raise failure
            if seen is not None and seen.status.is_terminal:
                return seen
            if pause == left or self._clock.monotonic() >= give_up_at:
                break
        state = f"was still {seen.status}" if seen is not None else "was not seen"
        raise WaitTimeoutError(f"run {number} {state} after {limit:g} s", run=seen) from failure

    def pauses(self) -> Iterator[float]:
        """Seconds before each look, the first one included."""
        yield 0.0
        interval = FIRST_INTERVAL
        while True:
            yield interval * (1.0 - JITTER * self._clock.random())
            interval = min(interval * GROWTH, LONGEST_INTERVAL)

    async def look(self, run_ids: Collection[int], *, after: float) -> Answers:
        """What the server says of each of these runs, at the latest after so many seconds.

        Where another look is due in the second half of that time, this one goes with it.
        """
        begun = asyncio.get_running_loop().create_future()
        look = _Look(run_ids, self._clock.monotonic() + after / 2, begun)
        self._idle[look] = None
        timer = self._clock.call_later(after, self._set_out)
        try:
            await look.begun
            await asyncio.wait([errand.task for errand in look.errands])
            answers: Answers = {}
            for errand in look.errands:
                answers.update(errand.task.result())
            return answers
        finally:
            timer.cancel()
            self._idle.pop(look, None)
            await look.leave()

    def _set_out(self) -> None:
        """Ask for the runs of every look that is ripe."""
        now = self._clock.monotonic()
        looks = [look for look in self._idle if look.ripe_at <= now]
        run_ids = list(dict.fromkeys(run_id for look in looks for run_id in look.run_ids))
        errands: dict[int, _Errand] = {}
        for start in range(0, len(run_ids), endpoints.MAX_PAGE_SIZE):
            chunk = run_ids[start : start + endpoints.MAX_PAGE_SIZE]
            errands.update(dict.fromkeys(chunk, _Errand(asyncio.create_task(self._ask(chunk)))))
        for look in looks:
            del self._idle[look]
            look.begin({errands[run_id] for run_id in look.run_ids})

    async def _ask(self, run_ids: Sequence[int]) -> Answers:
        """One outcome for each of up to 100 runs: by one listing, or one by one."""
        answers: Answers = {}
        if len(run_ids) > 1:
            answers = await self._list(run_ids)
        absent = [run_id for run_id in run_ids if run_id not in answers]
        outcomes = bulk.fetch(
            absent,
            perform=self._perform,
            concurrency=self._concurrency,
            route="single",
            ordered=False,
            on_progress=None,
        )
        try:
            async with outcomes:
                async for outcome in outcomes:
                    answers[outcome.run_id] = outcome
        except ModelLabError as error:  # of the client itself, such as that it was closed
            answers = {run_id: bulk.Outcome(run_id, error=error) for run_id in run_ids}
        return answers

    async def _list(self, run_ids: Sequence[int]) -> Answers:
        """What one listing says: nothing of runs that it does not show, or where it is refused."""
        call = endpoints.list_runs(RunFilter(ids=run_ids), page_size=endpoints.MAX_PAGE_SIZE)
        try:
            items: list[Any] = (await self._perform(call)).items
        except ModelLabError as error:
            if not is_transient(error):
                return {}
            return {run_id: bulk.Outcome(run_id, error=error) for run_id in run_ids}
        return {item.id: bulk.Outcome(item.id, item) for item in items if isinstance(item, Run)}


class Watch(Closing, AsyncIterator[Run]):
    """Each change of several runs, until all have ended.

    Iterate over it, best inside ``async with``. Requests are made only while the next change is
    awaited, so leaving the loop early leaves nothing behind.
    """

    def __init__(self, lookout: Lookout, run_ids: Iterable[int | str]) -> None:
        bulk.refuse_lone_id(run_ids)
        self._lookout = lookout
        self._pauses = lookout.pauses()
        self._last: dict[int, tuple[str, datetime | None] | None] = {
            parse_id(run_id): None for run_id in run_ids
        }
        self._ready: deque[Run | ModelLabError] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Run:
        while not self._ready:
            if not self._last:
                raise StopAsyncIteration
            answers = await self._lookout.look(tuple(self._last), after=next(self._pauses))
            self._sort(answers)
        item = self._ready.popleft()
        if isinstance(item, ModelLabError):
            raise item
        return item

    async def aclose(self) -> None:
        """Watch no longer; another task that awaits a change hears of it after its next look."""
        self._last.clear()
        self._ready.clear()

    def _sort(self, answers: Answers) -> None:
        """Changes come first, then the errors that end the watch of a run."""
        errors: dict[ModelLabError, None] = {}
        for run_id, last in list(self._last.items()):
            run, error = answers[run_id].run, answers[run_id].error
            if run is not None:
                self._last[run_id] = state = (run.status, run.updated_at)
                if state != last:
                    self._ready.append(run)
            elif error is not None and not is_transient(error):
                errors[error] = None
            else:
                continue
            if run is None or run.status.is_terminal:
                del self._last[run_id]
        self._ready.extend(errors)


@attrs.define(eq=False)
class _Errand:
    """A request for up to 100 runs, and the looks that it is made for."""

    task: asyncio.Task[Answers]
    looks: set[_Look] = attrs.field(factory=set)


@attrs.define(eq=False)
class _Look:
    """Some runs that somebody wants to be told of, from a moment on (monotonic)."""

    run_ids: Collection[int]
    ripe_at: float
    begun: asyncio.Future[None]
    errands: Collection[_Errand] = ()

    def begin(self, errands: Collection[_Errand]) -> None:
        self.errands = errands
        for errand in errands:
            errand.looks.add(self)
        if not self.begun.done():
            self.begun.set_result(None)

    async def leave(self) -> None:
        """Cancel the requests that nobody needs any longer, and see them end."""
        for errand in self.errands:
            errand.looks.discard(self)
        orphans = [
            errand.task for errand in self.errands if not errand.looks and errand.task.cancel()
        ]
        if orphans:
            await asyncio.wait(orphans)


def _limit(timeout: Any) -> float:
    if timeout is None:
        return math.inf
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
        raise ValueError(
            f"timeout must be a number of seconds, 0 or more, or None for no limit, not {timeout!r}"
        )
    return timeout
