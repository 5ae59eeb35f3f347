"""What `raydata` does without ray installed; reads by a cluster are in ``tests/cluster.py``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from conftest import FakeClock, client_for, settled

from modellab_async import ClientClosedError, MissingExtraError, RateLimit, raydata
from modellab_async.limiter import PermitRequest, QuotaExhaustedError
from modellab_async.quota import SLOW_START
from modellab_async.raydata.coordinator import LEASE, QuotaCoordinator, WorkerLimiter, WorkerPermit
from modellab_async.simulator import Simulator

T = TypeVar("T")


@pytest.mark.parametrize("missing", ["ray", "pyarrow"])
def test_without_ray_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """The module can be imported, and says what to install when it is used."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=rf"needs .*{missing}.*\[ray\]"):
        raydata.read_runs([70158])


class Workers:
    """Limiters of several workers, whose coordinator is called in place of an actor's handle."""

    def __init__(self, fake: FakeClock) -> None:
        self.fake = fake
        self.restart()
        self.tasks: list[asyncio.Task[None]] = []
        self.handle = SimpleNamespace(
            acquire=SimpleNamespace(remote=self._acquire),
            release=SimpleNamespace(remote=self._release),
        )

    def restart(self) -> None:
        self.coordinator = QuotaCoordinator(self.fake.clock())

    def _acquire(self, request: PermitRequest) -> Any:
        return self.coordinator.acquire(request)

    def _release(self, *arguments: Any) -> None:
        self.tasks.append(asyncio.ensure_future(self.coordinator.release(*arguments)))

    def limiter(self, max_concurrency: int = 100) -> WorkerLimiter:
        return WorkerLimiter(self.handle, max_concurrency, self.fake.clock())

    async def learn(self, rate_limit: RateLimit, operation: str = "runs.list") -> None:
        """One request is sent and answered."""
        permit = await self.limiter().acquire(PermitRequest(operation))
        permit.update(200, rate_limit)
        permit.release()
        await settled()


@pytest.fixture
def frozen(fake: FakeClock) -> FakeClock:
    """A clock that stands still until the test sets it."""
    fake.busy = lambda: True
    return fake


async def passing(clock: FakeClock, waiting: Awaitable[T]) -> T:
    """Time passes until something is done."""
    clock.busy = lambda: False
    try:
        return await waiting
    finally:
        clock.busy = lambda: True


def said(remaining: int, *, name: str = "runs") -> RateLimit:
    return RateLimit(name, limit=10, period=10.0, remaining=remaining, reset=10.0)


async def granted(
    limiter: WorkerLimiter, count: int, operation: str = "runs.list"
) -> tuple[list[WorkerPermit], list[asyncio.Task[WorkerPermit]]]:
    """The permits that so many requests get at once, and the tasks that wait for theirs."""
    tasks = [asyncio.ensure_future(limiter.acquire(PermitRequest(operation))) for _ in range(count)]
    await settled()
    return [task.result() for task in tasks if task.done()], [t for t in tasks if not t.done()]


async def cancelled(tasks: list[asyncio.Task[WorkerPermit]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_workers_share_a_quota(frozen: FakeClock):
    """All of them together have a sixteenth of what remains in flight, as one process would."""
    workers = Workers(frozen)
    await workers.learn(said(48))
    (permits, waiting), (others, others_waiting) = [
        await granted(workers.limiter(), 2) for _ in range(2)
    ]
    assert [len(permits), len(others)] == [2, 1]
    assert [len(waiting), len(others_waiting)] == [0, 1]
    permits[0].release()
    await settled()
    assert others_waiting[0].done()


async def test_operations_share_a_limit_of_one_name(frozen: FakeClock):
    """What one of them uses up is used up for the other, and the request says so."""
    workers = Workers(frozen)
    limiter = workers.limiter()
    for operation in ("runs.list", "runs.get"):
        await workers.learn(said(1), operation)
    await limiter.acquire(PermitRequest("runs.list"))
    request = PermitRequest("runs.get", max_wait=1.0)
    with pytest.raises(QuotaExhaustedError) as caught:
        await limiter.acquire(request)
    assert caught.value.seconds == 10
    assert caught.value.rate_limit == said(1)


async def test_permits_of_a_dead_worker_lapse(frozen: FakeClock):
    """A worker that died keeps its part of the quota for a minute."""
    workers = Workers(frozen)
    await workers.limiter().acquire(PermitRequest("runs.list"))
    await workers.learn(said(1))
    request = PermitRequest("runs.list")
    await passing(frozen, workers.limiter().acquire(request))
    assert request.queued
    assert frozen.now == pytest.approx(10, abs=0.1)  # the next period's probe
    limit = RateLimit("runs", limit=10, period=1000.0, remaining=1, reset=1000.0)
    await passing(frozen, workers.learn(limit))
    await passing(frozen, workers.limiter().acquire(request))
    assert LEASE <= frozen.now < 2 * LEASE


async def test_a_wait_is_noted_in_the_request(frozen: FakeClock):
    """A request that waited for quota tells of it; the limiter counts the seconds."""
    workers = Workers(frozen)
    await workers.learn(said(0))
    limiter, request = workers.limiter(), PermitRequest("runs.list")
    await passing(frozen, limiter.acquire(request))
    assert (request.queued, request.paused, request.paused_by) == (True, True, said(0))
    assert limiter.paused_seconds == pytest.approx(10, abs=0.1)


async def test_a_retry_waits_until_its_deadline(fake: FakeClock):
    """The deadline holds although the coordinator's clock shows another time."""
    ahead = FakeClock()
    ahead.now = 1_000_000.0
    ahead.busy = lambda: True
    workers = Workers(ahead)
    workers.fake = fake
    await granted(workers.limiter(), SLOW_START)
    request = PermitRequest("runs.list", is_retry=True, deadline=30.0)
    with pytest.raises(TimeoutError):
        await passing(ahead, workers.limiter().acquire(request))
    assert ahead.now == pytest.approx(1_000_030, abs=0.1)


async def test_a_refused_request_holds_no_place(frozen: FakeClock):
    """The worker's own concurrency is free again for other operations."""
    workers = Workers(frozen)
    await workers.learn(said(0))
    limiter = workers.limiter(max_concurrency=1)
    with pytest.raises(QuotaExhaustedError):
        await limiter.acquire(PermitRequest("runs.list", deadline=5.0))
    _, waiting = await granted(limiter, 1)
    await cancelled(waiting)
    permits, _ = await granted(limiter, 1, "runs.get")
    assert len(permits) == 1


async def test_a_worker_bounds_its_own_concurrency(frozen: FakeClock):
    """Whatever the quota allows; the first successes widen the slow start as usual."""
    workers = Workers(frozen)
    await workers.learn(said(1_000_000))
    limiter = workers.limiter(max_concurrency=20)
    permits, waiting = await granted(limiter, 30)
    assert len(permits) == SLOW_START
    permits[0].update(200, said(999_999))
    permits[0].release()
    await settled()
    assert sum(task.done() for task in waiting) == 20 - (SLOW_START - 1)
    await cancelled([task for task in waiting if not task.done()])


async def test_closing_ends_every_wait(frozen: FakeClock):
    """A task that waits for the coordinator gets the error, as does one that comes later."""
    workers = Workers(frozen)
    await workers.learn(said(0))
    limiter = workers.limiter()
    _, waiting = await granted(limiter, 2)
    limiter.close(ClientClosedError("closed"))
    for task in waiting:
        with pytest.raises(ClientClosedError):
            await task
    with pytest.raises(ClientClosedError):
        await limiter.acquire(PermitRequest("runs.list"))


async def test_a_restarted_coordinator_learns_anew(frozen: FakeClock):
    """Permits of the one before are returned without effect."""
    workers = Workers(frozen)
    old, _ = await granted(workers.limiter(), 3)
    workers.restart()
    await workers.learn(said(1))
    for permit in old:
        permit.update(200, said(9))
        permit.release()
    await settled()
    permits, waiting = await granted(workers.limiter(), 2)
    assert (len(permits), len(waiting)) == (1, 1)
    await cancelled(waiting)


async def test_a_client_with_a_worker_limiter(sim: Simulator, fake: FakeClock):
    """It takes the limiter as it takes any other, and fetches what was asked for."""
    workers = Workers(fake)
    fake.busy = lambda: True
    async with client_for(sim, limiter=workers.limiter()) as lab:
        runs = await lab.runs.get_many(sim.run_ids)
    assert [run.id for run in runs] == list(sim.run_ids)
    assert lab.stats.rate_limit_wait_s == 0
