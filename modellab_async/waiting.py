"""Waiting until runs end: they are polled at growing intervals, shared by all waits of a client.

A poll that is due includes the runs of every other one whose pause is at least half over. Any
number of waits thus costs one listing call per 100 runs, and waits that began together stay in
step.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, Self

import attrs

from modellab_async.bulk import BulkFetcher, Fetch, Outcome, refuse_lone_id
from modellab_async.clock import Clock
from modellab_async.closing import Closing
from modellab_async.endpoints import MAX_PAGE_SIZE, Perform, parse_id
from modellab_async.errors import ModelLabError, WaitTimeoutError
from modellab_async.models import Run
from modellab_async.retry import is_transient

FIRST_INTERVAL: Final = 1.0
"""Seconds between the first poll and the second."""

GROWTH: Final = 1.5
"""Each interval is this many times the one before."""

MAX_INTERVAL: Final = 30.0
"""Seconds that no interval exceeds."""

JITTER: Final = 0.25
"""The pause before a poll is up to this share shorter than its interval, drawn evenly."""

GRACE: Final = 2.0
"""Seconds that a poll may always take, also the last one, which is made at the deadline."""

Outcomes = dict[int | str, Outcome]


@attrs.frozen(eq=False)
class Poller:
    """Polls runs on behalf of all waits and watches of one client, or of a view of it.

    There is no background task: requests are made only while a `poll` is awaited, and end with the
    last poll that needs them.

    Attributes:
        perform: sends a call. A request that several polls share is sent by that of the poll which
            is due, so with the options of its view.
        concurrency: the maximum of requests in flight at once.
        clock: the source of time, timers and jitter.
        subscriptions: the polls that wait; shared by the pollers of a client and of its views.
    """

    perform: Perform
    concurrency: int
    clock: Clock
    subscriptions: dict[Subscription, None] = attrs.field(factory=dict)

    async def wait(self, run_id: int | str, timeout: float | None) -> Run:
        """See `Runs.wait`."""
        number = parse_id(run_id)
        seconds = _seconds(timeout)
        deadline = self.clock.monotonic() + seconds
        last_run: Run | None = None
        failure: ModelLabError | None = None
        for interval in self.pauses():
            remaining = max(0.0, deadline - self.clock.monotonic())
            pause = min(interval, remaining)
            limit = None if remaining == math.inf else max(remaining, pause + GRACE)
            try:
                async with asyncio.timeout(limit):
                    outcome = (await self.poll([number], after=pause))[number]
            except TimeoutError:
                break
            last_run, failure = outcome.run or last_run, outcome.error
            if failure is not None and not is_transient(failure):
                raise failure
            if last_run is not None and last_run.status.is_terminal:
                return last_run
            if pause == remaining or self.clock.monotonic() >= deadline:
                break
        state = f"was still {last_run.status}" if last_run is not None else "was not seen"
        raise WaitTimeoutError(
            f"run {number} {state} after {seconds:g} s", run=last_run
        ) from failure

    def pauses(self) -> Iterator[float]:
        """Seconds before each poll, the first one included."""
        yield 0.0
        interval = FIRST_INTERVAL
        while True:
            yield interval * (1.0 - JITTER * self.clock.random())
            interval = min(interval * GROWTH, MAX_INTERVAL)

    async def poll(self, run_ids: Collection[int], *, after: float) -> Outcomes:
        """The outcome of each run, requested at the latest after so many seconds.

        If another poll is due in the second half of that time, this one joins it.
        """
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        subscription = Subscription(run_ids, self.clock.monotonic() + after / 2, sent)
        self.subscriptions[subscription] = None
        timer = self.clock.call_later(after, self._send)
        try:
            await sent
            await asyncio.wait([request.task for request in subscription.requests])
            outcomes: Outcomes = {}
            for request in subscription.requests:
                outcomes.update(request.task.result())
            return outcomes
        finally:
            timer.cancel()
            self.subscriptions.pop(subscription, None)
            await subscription.cancel()

    def _send(self) -> None:
        """Request the runs of all subscriptions that are due or may be."""
        now = self.clock.monotonic()
        due = [
            subscription for subscription in self.subscriptions if subscription.next_check_at <= now
        ]
        run_ids = list(dict.fromkeys(itertools.chain(*(each.run_ids for each in due))))
        requests: dict[int, PollRequest] = {}
        for start in range(0, len(run_ids), MAX_PAGE_SIZE):
            chunk = run_ids[start : start + MAX_PAGE_SIZE]
            task = asyncio.create_task(self._fetch(chunk))
            requests.update(dict.fromkeys(chunk, PollRequest(task)))
        for subscription in due:
            del self.subscriptions[subscription]
            subscription.join({requests[run_id] for run_id in subscription.run_ids})

    async def _fetch(self, run_ids: Sequence[int]) -> Outcomes:
        """One outcome for each of up to 100 runs."""
        outcomes = Fetch(BulkFetcher(run_ids, self.perform, self.concurrency))
        try:
            async with outcomes:
                return {outcome.run_id: outcome async for outcome in outcomes}
        except ModelLabError as error:  # of the client itself, such as that it is closed
            return {run_id: Outcome(run_id, error=error) for run_id in run_ids}


class RunWatcher(Closing, AsyncIterator[Run]):
    """Each change of several runs, until all have ended.

    Iterate over it, best inside ``async with``. Requests are made only while the next change is
    awaited, so leaving the loop early leaves nothing behind.
    """

    def __init__(self, poller: Poller, run_ids: Iterable[int | str]) -> None:
        refuse_lone_id(run_ids)
        self._poller = poller
        self._pauses = poller.pauses()
        self._states: dict[int, tuple[str, datetime | None] | None] = {
            parse_id(run_id): None for run_id in run_ids
        }
        self._ready: deque[Run | ModelLabError] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Run:
        while not self._ready:
            if not self._states:
                raise StopAsyncIteration
            self._queue_changes(
                await self._poller.poll(tuple(self._states), after=next(self._pauses))
            )
        item = self._ready.popleft()
        if isinstance(item, ModelLabError):
            raise item
        return item

    async def aclose(self) -> None:
        """Stop watching; a task that awaits a change stops after its next poll."""
        self._states.clear()
        self._ready.clear()

    def _queue_changes(self, outcomes: Outcomes) -> None:
        """Queue the runs that changed, then the errors that end the watch of a run."""
        errors: dict[ModelLabError, None] = {}
        for run_id, last_state in list(self._states.items()):
            run, error = outcomes[run_id].run, outcomes[run_id].error
            if run is not None:
                self._states[run_id] = state = (run.status, run.updated_at)
                if state != last_state:
                    self._ready.append(run)
            elif error is not None and not is_transient(error):
                errors[error] = None
            else:
                continue
            if run is None or run.status.is_terminal:
                del self._states[run_id]
        self._ready.extend(errors)


@attrs.define(eq=False)
class PollRequest:
    """A request for up to 100 runs, and the subscriptions that need it."""

    task: asyncio.Task[Outcomes]
    subscriptions: set[Subscription] = attrs.field(factory=set)


@attrs.define(eq=False)
class Subscription:
    """Runs that a poll waits for.

    Attributes:
        run_ids: the runs.
        next_check_at: when they may be requested (monotonic).
        sent: done when they are.
        requests: what they are requested by.
    """

    run_ids: Collection[int]
    next_check_at: float
    sent: asyncio.Future[None]
    requests: Collection[PollRequest] = ()

    def join(self, requests: Collection[PollRequest]) -> None:
        """Wait for requests."""
        self.requests = requests
        for request in requests:
            request.subscriptions.add(self)
        if not self.sent.done():
            self.sent.set_result(None)

    async def cancel(self) -> None:
        """Cancel the requests that no subscription needs, and wait until they have ended."""
        for request in self.requests:
            request.subscriptions.discard(self)
        unneeded = [
            request.task
            for request in self.requests
            if not request.subscriptions and request.task.cancel()
        ]
        if unneeded:
            await asyncio.wait(unneeded)


def _seconds(timeout: Any) -> float:
    if timeout is None:
        return math.inf
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
        raise ValueError(
            f"timeout must be a number of seconds, 0 or more, or None for no limit, not {timeout!r}"
        )
    return timeout
