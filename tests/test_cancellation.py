"""Structured concurrency: whatever is cancelled, wherever it is, leaves nothing behind.

Each piece of work starts on a new event loop and is cancelled after some step of that loop; then
it starts again and is cancelled after a later step, until it ends before it can be cancelled. By
default only some steps are tried; `MODELLAB_THOROUGH=1` tries each.
"""

from __future__ import annotations

import asyncio
import gc
import os
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import virtual
from conftest import TASK_FACTORIES, THOROUGH, FakeClock, client_for, eventually, settled

from modellab_async import ModelLabClient, RetryPolicy
from modellab_async.bulk import Route
from modellab_async.limiter import AdaptiveLimiter
from modellab_async.simulator import Fault, RateLimit, Simulator

MOST_STEPS = 2_000
STRIDE = 1 if THOROUGH else 17
# 100,000 take a minute and a half: MODELLAB_COROUTINES=100000 pytest tests/test_cancellation.py
COROUTINES = int(os.environ.get("MODELLAB_COROUTINES", "1000"))
FILES: dict[str, int | bytes] = {"a.txt": b"hello", "model/big": 300_000, "model/empty": b""}
RUN, PROJECT, SLOW, SLOWER = 900_042, 900_005, 900_043, 900_044

Work = Callable[[ModelLabClient, Simulator, Path], Awaitable[Any]]


class Steps(selectors.DefaultSelector):
    """Counts the steps of an event loop, which selects once in each, and cancels after some."""

    task: asyncio.Task[Any] | None = None
    left = times = 0
    cancelled = False

    def cancel_after(self, steps: int, task: asyncio.Task[Any], *, times: int) -> None:
        self.left, self.times, self.task = steps, times, task

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout)
        self.left -= 1
        if -self.times < self.left <= 0 and self.task is not None:
            self.cancelled |= self.task.cancel()
        return ready


def tasks_of_ours() -> set[asyncio.Task[Any]]:
    """All tasks but those of the server, which shares the loop."""
    servers = ("RequestHandler", "_accept_connection2", "async_generator_athrow")
    return {
        task
        for task in asyncio.all_tasks()
        if not any(name in repr(task.get_coro()) for name in servers)
    }


async def begin_and_cancel(
    work: Work, steps: Steps, after: int, times: int, directory: Path
) -> None:
    """Begin, cancel, and look for what is left."""
    fake = FakeClock()
    async with Simulator(runs=120, projects=3, clock=fake.time) as sim:
        sim.insert_run(RUN, project_id=PROJECT, artifacts=FILES)
        for run_id, seconds in ((SLOW, 2), (SLOWER, 4)):
            sim.insert_run(run_id, timeline=[(0, "running"), (seconds, "completed")])
        limiter = AdaptiveLimiter(8, fake.clock())
        async with client_for(sim, clock=fake.clock(), limiter=limiter) as lab:
            before = tasks_of_ours()
            task: asyncio.Task[Any] = asyncio.ensure_future(work(lab, sim, directory))
            steps.cancel_after(after, task, times=times)
            await asyncio.wait([task])
            assert task.cancelled() is steps.cancelled, "a cancellation is never swallowed"
            if not task.cancelled():
                task.result()
            await asyncio.sleep(0)  # an iterator that only a traceback held is dropped just now
            left = tasks_of_ours() - before
            assert [task for task in left if not task.cancelling()] == []
            await settled(5)
            assert tasks_of_ours() == before
            assert limiter.in_flight == 0
            await eventually(lambda: sim.counts.in_flight == 0)
            sim.faults.clear()
            assert (await lab.runs.get(RUN)).id == RUN
            if work is download_run:
                check_files(sim, directory)
                await lab.artifacts.download_run(RUN, directory)
                assert check_files(sim, directory) == len(FILES)
                assert not list(directory.rglob("*.part*"))  # noqa: ASYNC240
        await eventually(lambda: sim.counts.connections == 0)


def check_files(sim: Simulator, directory: Path) -> int:
    """Count the whole files; beside them are only part files that another download takes up."""
    whole = 0
    for path in directory.rglob("*"):
        name = str(path.relative_to(directory)).removesuffix(".part")
        if path.is_file() and path.suffix != ".json":  # which describes a part file
            content = sim.content(PROJECT, f"run-{RUN}/artifacts/{name}").read()
            assert content.startswith(path.read_bytes())
            assert path.suffix == ".part" or path.read_bytes() == content
            whole += path.suffix != ".part"
    return whole


async def later(ids: Iterable[int]) -> AsyncIterator[int]:
    for number, run_id in enumerate(ids):
        if not number % 30:
            await asyncio.sleep(0)
        yield run_id


async def get(lab: ModelLabClient, sim: Simulator, _: Path) -> None:
    await lab.runs.get(RUN)


async def get_through_faults(lab: ModelLabClient, sim: Simulator, _: Path) -> None:
    sim.faults.next(Fault.status(503), Fault.reset(), Fault.cut(), Fault.rate_limited(reset=3))
    await lab.runs.get(RUN)


async def get_by_a_client_of_its_own(lab: ModelLabClient, sim: Simulator, _: Path) -> None:
    async def token() -> str:
        await asyncio.sleep(0)
        return sim.bearer_token

    async with ModelLabClient(base_url=sim.base_url, bearer_token=token) as own:
        await own.runs.get(RUN)


def fetching(route: Route, *, inside: bool, ordered: bool = False) -> Work:
    async def fetch(lab: ModelLabClient, sim: Simulator, _: Path) -> None:
        ids = [*sim.run_ids[: 20 if route == "single" else 110], 1, RUN]
        source = later(ids) if ordered else ids
        sim.faults.next(None, Fault.status(503))
        outcomes = lab.runs.fetch(source, route=route, ordered=ordered)
        if inside:
            async with outcomes:
                got = [outcome async for outcome in outcomes]
        else:
            got = [outcome async for outcome in outcomes]
        assert len(got) == len(ids)

    return fetch


async def get_many(lab: ModelLabClient, sim: Simulator, _: Path) -> None:
    assert len(await lab.runs.get_many(sim.run_ids[:120])) == 120


async def wait_for_quota(lab: ModelLabClient, sim: Simulator, _: Path) -> None:
    sim.limits.replace(RateLimit(limit=5, period=10))
    patient = lab.with_options(retry=RetryPolicy(attempts=99, deadline=None))
    await asyncio.gather(*(patient.runs.get(RUN) for _ in range(12)))


async def list_items(lab: ModelLabClient, sim: Simulator, _: Path) -> None:
    assert len([run async for run in lab.runs.list(page_size=20)]) == 123


async def list_pages(lab: ModelLabClient, sim: Simulator, _: Path) -> None:
    sim.faults.next(None, Fault.status(503))
    async with lab.runs.list(page_size=20).pages() as pages:
        assert len([page async for page in pages]) == 7  # 123 runs


async def wait(lab: ModelLabClient, sim: Simulator, _: Path) -> None:
    assert (await lab.runs.wait(SLOW)).status == "completed"


async def watch(lab: ModelLabClient, sim: Simulator, _: Path) -> None:
    async with lab.runs.watch([SLOW, SLOWER]) as changes:
        assert len([run async for run in changes]) == 4


async def stream(lab: ModelLabClient, sim: Simulator, _: Path) -> None:
    async with lab.artifacts.stream(PROJECT, f"run-{RUN}/artifacts/model/big") as body:
        assert sum([len(chunk) async for chunk in body]) == 300_000


async def download_run(lab: ModelLabClient, sim: Simulator, directory: Path) -> None:
    sim.faults.matching("*/artifacts/content", None, Fault.cut(after=100_000))
    assert len(await lab.artifacts.download_run(RUN, directory)) == 3


WORK: dict[str, Work] = {
    "get": get,
    "get through faults": get_through_faults,
    "get by a client of its own": get_by_a_client_of_its_own,
    "gets that wait for quota": wait_for_quota,
    "get_many": get_many,
    "fetch single": fetching("single", inside=True),
    "fetch single, plain loop": fetching("single", inside=False),
    "fetch single, ordered": fetching("single", inside=True, ordered=True),
    "fetch batch": fetching("batch", inside=True),
    "fetch batch, plain loop": fetching("batch", inside=False, ordered=True),
    "fetch auto": fetching("auto", inside=True),
    "list": list_items,
    "list pages": list_pages,
    "wait": wait,
    "watch": watch,
    "stream": stream,
    "download_run": download_run,
}


TWICE = ("get through faults", "get_many", "list pages", "watch", "download_run")
EAGER = ("get_many", "fetch single, plain loop", "fetch batch", "list", "wait", "watch")


@pytest.mark.parametrize(
    ("name", "times", "factory"),
    [
        *((name, 1, "lazy") for name in WORK),
        *((name, 2, "lazy") for name in TWICE),
        *((name, 1, "eager") for name in EAGER if TASK_FACTORIES["eager"]),
    ],
)
def test_cancelling_after_any_step_leaves_nothing(
    name: str, times: int, factory: str, tmp_path: Path
) -> None:
    """No task, no place in the limiter, no busy connection, no unheard error, no torn file."""
    complaints: list[dict[str, Any]] = []
    first = 1 + sum(map(ord, name)) % min(STRIDE, 5)  # so that the works differ in their phases
    for after in range(first, MOST_STEPS, STRIDE):
        steps = Steps()
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(steps)) as runner:  # noqa: B023
            runner.get_loop().set_exception_handler(lambda _, told: complaints.append(told))
            runner.get_loop().set_task_factory(TASK_FACTORIES[factory])
            directory = tmp_path / str(after)
            runner.run(begin_and_cancel(WORK[name], steps, after, times, directory))
        if not steps.cancelled:
            break
    else:
        pytest.fail("the work never came to its end")
    gc.collect()
    assert complaints == []
    assert after > first, "the work takes several steps"


@pytest.mark.parametrize(
    "factory", [name for name, made in TASK_FACTORIES.items() if name == "lazy" or made]
)
def test_random_cancellations_leave_nothing(factory: str) -> None:
    """Many pieces of work on one client, each cancelled after a random time."""
    from cancellations import cancel_at_random  # noqa: PLC0415  # it imports from here

    ends = cancel_at_random(60, 7, factory)
    assert ends.total() == 60
    assert ends["cancelled"] > 30


ITERATORS: dict[str, Callable[[ModelLabClient, Simulator], AsyncIterator[Any]]] = {
    "fetch": lambda lab, sim: lab.runs.fetch(sim.run_ids, route="single"),
    "items": lambda lab, _: aiter(lab.runs.list(page_size=10)),
    "pages": lambda lab, _: lab.runs.list(page_size=10).pages(),
}


@pytest.mark.usefixtures("task_factory")
@pytest.mark.parametrize("kind", ITERATORS)
async def test_dropping_an_iterator_cancels_synchronously(
    sim: Simulator, lab: ModelLabClient, limiter: AdaptiveLimiter, kind: str
) -> None:
    """In the finalizer itself, without a task to do it; then nothing is left."""
    before = tasks_of_ours()
    iterator = ITERATORS[kind](lab, sim)
    await anext(iterator)
    working = tasks_of_ours() - before
    assert working
    del iterator
    assert tasks_of_ours() - before == working
    assert all(task.cancelling() for task in working)
    await settled(5)
    assert tasks_of_ours() == before
    assert limiter.in_flight == 0
    await eventually(lambda: sim.counts.in_flight == 0)


@pytest.mark.parametrize("kind", ITERATORS)
def test_an_iterator_that_outlives_its_loop_is_dropped_in_silence(kind: str) -> None:
    """Without a warning that a loop is closed, or that something was never awaited."""
    complaints: list[dict[str, Any]] = []
    kept: list[AsyncIterator[Any]] = []

    async def leave_early() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
        async with Simulator(runs=120, projects=3) as sim, client_for(sim) as lab:
            kept.append(ITERATORS[kind](lab, sim))
            await anext(kept[0])

    asyncio.run(leave_early())
    kept.clear()
    gc.collect()
    assert complaints == []


# Many at once


@pytest.mark.virtual_time
async def test_waiting_in_the_clients_own_line_is_no_time_out() -> None:
    """Many more calls than places: none fails though the line outlasts time-out and deadline."""
    patience = COROUTINES / 2_000
    policy = RetryPolicy(attempts=1, deadline=patience)
    # Each of the 20 places serves a 20th of the calls, which takes 1.2 times as long.
    async with Simulator(runs=2_000, latency=0.012, size="small") as sim:
        async with client_for(
            sim, retry=policy, timeout=patience, max_concurrency=20, clock=virtual.clock()
        ) as lab:
            ids = [sim.run_ids[number % 2_000] for number in range(COROUTINES)]
            runs = await asyncio.gather(*(lab.runs.get(run_id) for run_id in ids))
            assert [run.id for run in runs] == ids
            assert lab.stats.attempts == sim.counts.requests == COROUTINES
            assert sim.counts.connections_made <= 20
