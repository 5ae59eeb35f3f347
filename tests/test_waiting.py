"""Waits and watches: when they look, what they survive, and that they look together."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import accumulate, pairwise
from typing import Any

import attrs
import pytest
from conftest import FakeClock, client_for, eventually, settled
from payloads import body

from modellab_async import (
    AuthenticationError,
    ClientClosedError,
    DecodeError,
    InvalidIdError,
    ModelLabClient,
    NotFoundError,
    PermissionDeniedError,
    RetryPolicy,
    Run,
    RunStatus,
    ServerError,
    WaitTimeoutError,
    make_converter,
    waiting,
)
from modellab_async.documents import LazyPage, parse_document
from modellab_async.endpoints import Call
from modellab_async.limiter import AdaptiveLimiter
from modellab_async.simulator import ABSENT, Fault, Simulator
from modellab_async.waiting import Poller

pytestmark = [pytest.mark.usefixtures("task_factory"), pytest.mark.virtual_time]

GET = ("GET", "/runs/{run_id}")
LIST = ("GET", "/runs")


@attrs.define
class Stage:
    """A simulator and a client on the same fake clock, and when the one asked the other."""

    sim: Simulator
    lab: ModelLabClient
    limiter: AdaptiveLimiter
    asked: list[float]

    def runs(self, number: int, *timeline: tuple[float, str]) -> list[int]:
        return [self.sim.insert_run(timeline=timeline) for _ in range(number)]

    @property
    def operations(self) -> dict[tuple[str, str], int]:
        return dict(self.sim.counts.by_operation)


@asynccontextmanager
async def staged(fake: FakeClock, **options: Any) -> AsyncIterator[Stage]:
    """Without jitter, unless a test brings chance back; failed requests are not repeated."""
    fake.chance = lambda: 0.0
    asked: list[float] = []
    limiter = AdaptiveLimiter(100, fake.clock())
    async with (
        Simulator(
            runs=20, clock=fake.time, before_request=lambda *_: asked.append(fake.now)
        ) as sim,
        client_for(
            sim, clock=fake.clock(), retry=RetryPolicy.none(), limiter=limiter, **options
        ) as lab,
    ):
        yield Stage(sim, lab, limiter, asked)


def working() -> list[str]:
    """The tasks that waits, watches and fetches have made and not finished."""
    names = (getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks())
    return [name for name in names if name.startswith(("Poller", "BulkFetcher"))]


@pytest.fixture
async def stage(fake: FakeClock) -> AsyncIterator[Stage]:
    async with staged(fake) as stage:
        yield stage


async def test_a_wait_gives_the_run_in_its_end_state(stage: Stage):
    """Pending and running are waited out; what comes back is the whole run."""
    (run_id,) = stage.runs(1, (0, "pending"), (2, "running"), (9, "completed"))
    run = await stage.lab.runs.wait(str(run_id))
    assert (run.id, run.status, run.duration) == (run_id, RunStatus.COMPLETED, 7.0)


@pytest.mark.parametrize("status", ["completed", "failed", "killed"])
async def test_a_run_that_has_ended_is_given_at_once(stage: Stage, status: str):
    """One request; a failed run is a result, not an error."""
    run = await stage.lab.runs.wait(stage.sim.insert_run(status=status), timeout=0)
    assert run.status == status
    assert stage.asked == [0.0]


@pytest.mark.parametrize("status", ["unresponsive", "paused", "hibernating"])
async def test_other_statuses_are_no_end(stage: Stage, status: str):
    """A run may come back from them, and from those that this version does not know."""
    (run_id,) = stage.runs(1, (0, status), (3, "completed"))
    assert (await stage.lab.runs.wait(run_id)).status is RunStatus.COMPLETED


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
async def test_pauses_grow_to_a_cap_and_are_jittered(fake: FakeClock, stage: Stage, chance: float):
    """1 s, half as much again each time, 30 s at the most; up to a quarter is taken off."""
    fake.chance = lambda: chance
    (run_id,) = stage.runs(1, (0, "running"), (200, "completed"))
    await stage.lab.runs.wait(run_id)
    intervals = [min(1.5**step, 30.0) for step in range(len(stage.asked) - 1)]
    expected = accumulate((pause * (1 - 0.25 * chance) for pause in intervals), initial=0.0)
    assert stage.asked == pytest.approx(list(expected))
    assert intervals[-1] == 30.0


async def test_the_deadline_is_met_exactly_with_a_last_look(fake: FakeClock, stage: Stage):
    """The last pause is cut short; the error carries the run and says what was waited for."""
    (run_id,) = stage.runs(1, (0, "pending"), (9, "running"))
    with pytest.raises(WaitTimeoutError, match=f"run {run_id} was still running after 10 s") as e:
        await stage.lab.runs.wait(run_id, timeout=10)
    assert stage.asked == [0.0, 1.0, 2.5, 4.75, 8.125, 10.0]
    assert fake.now == 10.0
    assert isinstance(e.value, TimeoutError)
    assert e.value.run is not None
    assert (e.value.run.id, e.value.run.status) == (run_id, "running")


async def test_a_run_that_ends_just_before_the_deadline_is_not_missed(stage: Stage):
    """The last look is at the deadline itself."""
    (run_id,) = stage.runs(1, (0, "running"), (9.9, "killed"))
    assert (await stage.lab.runs.wait(run_id, timeout=10)).status is RunStatus.KILLED


async def test_no_time_at_all_is_one_look(stage: Stage):
    """``timeout=0`` asks how things stand."""
    (run_id,) = stage.runs(1, (0, "running"))
    with pytest.raises(WaitTimeoutError, match="after 0 s") as caught:
        await stage.lab.runs.wait(run_id, timeout=0)
    assert caught.value.run is not None
    assert stage.asked == [0.0]


async def test_a_request_without_answer_is_abandoned(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    """A deadline holds against a server that says nothing, and leaves no task and no place."""
    monkeypatch.setattr(waiting, "GRACE", 0.05)
    stage.sim.faults.always(Fault.stall())
    with pytest.raises(WaitTimeoutError, match=r"run 7 was not seen after 0\.05 s") as caught:
        await stage.lab.runs.wait(7, timeout=0.05)
    assert caught.value.run is None
    assert working() == []
    assert stage.limiter.in_flight == 0


@pytest.mark.parametrize("timeout", [-1, -0.001, math.nan, "10", True, [1]])
async def test_what_is_no_time_is_refused(stage: Stage, timeout):
    """The error says what to give, before any request."""
    with pytest.raises(ValueError, match="timeout must be a number of seconds, 0 or more"):
        await stage.lab.runs.wait(7, timeout=timeout)
    assert stage.asked == []


async def test_failures_that_may_pass_are_survived(fake: FakeClock, stage: Stage):
    """Every kind of bad weather, a time-out included, costs a look and not the wait."""
    (run_id,) = stage.runs(1, (0, "running"), (1, "completed"))
    faults = [
        Fault.status(500),
        Fault.status(501),
        Fault.status(503, body="html"),
        Fault.rate_limited(),
        Fault.reset(),
        Fault.lost(),
        Fault.cut(),
        Fault.stall(),
    ]
    stage.sim.faults.next(*faults)
    impatient = stage.lab.with_options(timeout=0.2)
    assert (await impatient.runs.wait(run_id)).status is RunStatus.COMPLETED
    assert len(stage.asked) == len(faults) + 1


async def test_a_deadline_amid_failures_names_the_last_one(stage: Stage):
    """What was seen before the failures is not forgotten."""
    (run_id,) = stage.runs(1, (0, "running"))
    stage.sim.faults.next(None, *[Fault.status(502)] * 20)
    with pytest.raises(WaitTimeoutError, match="was still running after 5 s") as caught:
        await stage.lab.runs.wait(run_id, timeout=5)
    assert caught.value.run is not None
    assert isinstance(caught.value.__cause__, ServerError)


async def test_a_missing_run_ends_a_wait_at_once(stage: Stage):
    """A 404 does not pass."""
    with pytest.raises(NotFoundError):
        await stage.lab.runs.wait(7, timeout=100)
    assert stage.asked == [0.0]


async def test_a_run_deleted_meanwhile_ends_a_wait(stage: Stage):
    """It is missing at the next look."""
    (run_id,) = stage.runs(1, (0, "running"))
    wait = asyncio.create_task(stage.lab.runs.wait(run_id))
    await eventually(lambda: len(stage.asked) >= 2)
    stage.sim.delete_run(run_id)
    with pytest.raises(NotFoundError):
        await wait


async def test_wrong_keys_end_a_wait_at_once(stage: Stage):
    """Neither a 401 nor a 403 passes."""
    sim = stage.sim
    async with ModelLabClient(base_url=sim.base_url, api_key="wrong", app_key="wrong") as lab:
        with pytest.raises((AuthenticationError, PermissionDeniedError)):
            await lab.runs.wait(sim.run_ids[0])
    assert len(stage.asked) == 1


async def test_bad_ids_are_refused_before_any_request(stage: Stage):
    """By both methods."""
    with pytest.raises(InvalidIdError):
        await stage.lab.runs.wait("1/../2")
    with pytest.raises(InvalidIdError):
        stage.lab.runs.watch([1, -1])
    assert stage.asked == []


@pytest.mark.parametrize("ids", ["70158", b"70158", bytearray(b"1"), 70158, None])
async def test_what_is_no_collection_of_ids_is_refused(stage: Stage, ids):
    """A lone string would iterate its digits."""
    with pytest.raises(TypeError, match=r"iterable of ids|not iterable"):
        stage.lab.runs.watch(ids)


async def test_a_closed_client_ends_waits_and_watches(stage: Stage):
    """The next look hears of it."""
    run_ids = stage.runs(3, (0, "running"))
    waits = [asyncio.create_task(stage.lab.runs.wait(run_id)) for run_id in run_ids]
    await eventually(lambda: len(stage.asked) >= 2)
    await stage.lab.aclose()
    ends = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(end) for end in ends] == [ClientClosedError] * 3
    with pytest.raises(ClientClosedError):
        await anext(stage.lab.runs.watch(run_ids))


async def test_waits_of_a_client_and_its_views_share_their_requests(stage: Stage):
    """Each request is sent with the options of the wait that is due, here those of the client."""
    run_ids = stage.runs(4, (0, "running"), (20, "completed"))
    views = [stage.lab, *(stage.lab.with_options(timeout=seconds) for seconds in (5, 6, 7))]
    runs = await asyncio.gather(
        *(view.runs.wait(run_id) for view, run_id in zip(views, run_ids, strict=True))
    )
    assert [run.id for run in runs] == run_ids
    looks = 7  # at 0, 1, 2.5, 4.75, 8.125, 13.2 and 20.8 s
    assert stage.operations == {LIST: looks}


async def test_many_waits_share_their_requests(stage: Stage):
    """250 waits that begin together make three requests a look."""
    run_ids = stage.runs(250, (0, "running"), (20, "completed"))
    runs = await asyncio.gather(*map(stage.lab.runs.wait, run_ids))
    assert [run.id for run in runs] == run_ids
    assert {run.status for run in runs} == {RunStatus.COMPLETED}
    looks = 7  # at 0, 1, 2.5, 4.75, 8.125, 13.2 and 20.8 s
    assert stage.operations == {LIST: 3 * looks}


async def test_jittered_waits_stay_together(fake: FakeClock, stage: Stage):
    """Each has its own pauses; whoever is due first takes the others along."""
    run_ids = stage.runs(100, (0, "running"), (60, "completed"))
    fake.chance = FakeClock().chance
    await asyncio.gather(*map(stage.lab.runs.wait, run_ids))
    assert set(stage.operations) == {LIST}
    assert stage.operations[LIST] <= 15


async def test_a_new_wait_does_not_hurry_an_old_one(stage: Stage):
    """A run is never looked at before half of its own pause is over."""
    old, young = stage.runs(2, (0, "running"), (250, "completed"))
    first = asyncio.create_task(stage.lab.runs.wait(old))
    await eventually(lambda: len(stage.asked) >= 12)  # 30 s pauses from here on
    begun = len(stage.sim.requests)
    await asyncio.gather(first, stage.lab.runs.wait(young))
    seen = [
        record.time
        for record in stage.sim.requests[begun - 1 :]
        if str(old) in record.path + record.query
    ]
    assert len(seen) > 3
    assert all(later - earlier >= 15.0 - 1e-3 for earlier, later in pairwise(seen))


async def test_the_same_run_is_asked_for_once(stage: Stage):
    """Ten waits for one run are one request a look."""
    (run_id,) = stage.runs(1, (0, "running"), (1, "completed"))
    runs = await asyncio.gather(*(stage.lab.runs.wait(run_id) for _ in range(10)))
    assert [run.id for run in runs] == [run_id] * 10
    assert stage.operations == {GET: 2}


@pytest.mark.parametrize("status", [400, 403, 404])
async def test_a_refused_listing_falls_back_to_single_requests(stage: Stage, status: int):
    """Waits do not depend on the list operation."""
    run_ids = stage.runs(5, (0, "running"), (1, "completed"))
    stage.sim.faults.always(Fault.status(status), where="*/runs")
    runs = await asyncio.gather(*map(stage.lab.runs.wait, run_ids))
    assert [run.id for run in runs] == run_ids
    assert stage.operations == {LIST: 2, GET: 10}


async def test_a_listing_that_fails_for_now_is_not_replaced(stage: Stage):
    """A server in trouble gets no hundred requests instead of one."""
    run_ids = stage.runs(5, (0, "completed"))
    stage.sim.faults.matching("*/runs", Fault.status(500), Fault.reset())
    await asyncio.gather(*map(stage.lab.runs.wait, run_ids))
    assert stage.operations == {LIST: 3}


async def test_what_the_listing_lacks_is_asked_for_by_itself(stage: Stage):
    """Each wait has its own definite outcome: a run, a 404, or what cannot be read."""
    (good,) = stage.runs(1, (0, "completed"))
    broken = stage.sim.insert_run(created_at=ABSENT)
    outcomes = await asyncio.gather(
        *map(stage.lab.runs.wait, [good, 7, broken]), return_exceptions=True
    )
    assert [type(outcome).__name__ for outcome in outcomes] == [
        "Run",
        "NotFoundError",
        "DecodeError",
    ]
    assert isinstance(outcomes[2], DecodeError)
    assert outcomes[2].resource_id == broken
    assert stage.operations == {LIST: 1, GET: 1}


async def test_wrong_keys_do_not_cost_a_request_per_run(stage: Stage):
    """The fall-back stops where a fetch would."""
    sim = stage.sim
    async with ModelLabClient(base_url=sim.base_url, api_key="wrong", app_key="wrong") as lab:
        with pytest.raises((AuthenticationError, PermissionDeniedError)):
            await anext(lab.runs.watch(range(100)))
    assert len(stage.asked) <= 1 + 16


class Gate:
    """A ``perform`` that answers nothing, and counts who still asks."""

    def __init__(self) -> None:
        self.open: list[str] = []

    async def __call__(self, call: Call, /, **_: Any) -> Any:
        self.open.append(call.operation)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.open.remove(call.operation)


async def test_a_shared_request_ends_with_the_last_who_needs_it(fake: FakeClock):
    """One wait's end does not take the response from the others; the last one's leaves nothing."""
    gate = Gate()
    lookout = Poller(gate, 10, fake.clock())
    one, other = (asyncio.create_task(lookout.wait(run_id, None)) for run_id in (1, 2))
    await eventually(lambda: gate.open == ["runs.list"])
    assert working() != []
    one.cancel()
    await asyncio.wait([one])
    await settled()
    assert gate.open == ["runs.list"]
    other.cancel()
    await asyncio.wait([other])
    assert gate.open == []
    assert working() == []


async def test_a_slow_answer_after_the_deadline_is_the_last(fake: FakeClock):
    """There is no further look once time is up."""
    page = parse_document(body("1", status="running"), Run, make_converter(), expects=1)
    asked: list[Call] = []

    async def perform(call: Call, **_: Any) -> LazyPage[Run]:
        asked.append(call)
        fake.now += 5.0
        return page

    with pytest.raises(WaitTimeoutError) as caught:
        await Poller(perform, 10, fake.clock()).wait(1, 3.0)
    assert caught.value.run == page.structure(0)
    assert len(asked) == 1


async def test_a_cancelled_wait_leaves_no_timer(fake: FakeClock, stage: Stage):
    """Cancelled in a pause, it will not look again."""
    fake.settle = 0.02
    (run_id,) = stage.runs(1, (0, "running"))
    wait = asyncio.create_task(stage.lab.runs.wait(run_id))
    await eventually(lambda: stage.sim.counts.requests >= 1 and fake.timers > 0)
    wait.cancel()
    await asyncio.wait([wait])
    assert fake.timers == 0
    assert working() == []


async def changes(watch: AsyncIterator[Any]) -> list[tuple[int, str]]:
    return [(run.id, run.status) async for run in watch]


async def test_a_watch_gives_each_change_once_and_ends(stage: Stage):
    """The first sight counts as a change, and so does a new ``updated_at``."""
    steady, quick, ended = (
        *stage.runs(1, (0, "running"), (10, "running"), (60, "failed")),
        *stage.runs(1, (0, "pending"), (10, "running"), (14, "completed")),
        *stage.runs(1, (0, "killed")),
    )
    seen = await changes(stage.lab.runs.watch([steady, quick, ended]))
    assert seen == [
        (steady, "running"),
        (quick, "pending"),
        (ended, "killed"),
        (steady, "running"),
        (quick, "running"),
        (quick, "completed"),
        (steady, "failed"),
    ]


async def test_a_watch_looks_a_hundred_at_a_time(stage: Stage):
    """Runs that have ended are asked for no more."""
    long, short = (stage.runs(150, (0, "running"), (end, "completed")) for end in (2, 1))
    seen = await changes(stage.lab.runs.watch([*long, *short]))
    assert len(seen) == len(set(seen)) == 600
    assert stage.operations == {LIST: 3 + 3 + 2}
    assert stage.asked == [0.0] * 3 + [1.0] * 3 + [2.5] * 2


async def test_a_repeated_id_is_watched_once(stage: Stage):
    """However it is written; no ids at all are no changes."""
    run_id = stage.sim.insert_run(status="completed")
    watch = stage.lab.runs.watch([run_id, str(run_id), f"0{run_id}"])
    assert await changes(watch) == [(run_id, "completed")]
    assert await changes(stage.lab.runs.watch(iter(()))) == []
    assert stage.operations == {GET: 1}


async def test_a_missing_run_is_raised_after_what_is_known(stage: Stage):
    """The error names it, and iterating again goes on with the others."""
    one, other = stage.runs(2, (0, "running"), (3, "completed"))
    watch = stage.lab.runs.watch([one, 7, other])
    seen: list[tuple[int, str]] = []

    async def look() -> Sequence[tuple[int, str]]:
        async for run in watch:
            seen.append((run.id, run.status))
        return seen

    with pytest.raises(NotFoundError, match="/runs/7"):
        await look()
    assert seen == [(one, "running"), (other, "running")]
    assert (await look())[2:] == [(one, "completed"), (other, "completed")]


async def test_a_watch_survives_failures_that_may_pass(stage: Stage):
    """They show as nothing but a later answer."""
    run_ids = stage.runs(2, (0, "completed"))
    stage.sim.faults.next(Fault.status(503), Fault.reset(), Fault.rate_limited(), Fault.cut())
    seen = await changes(stage.lab.runs.watch(run_ids))
    assert [run_id for run_id, _ in seen] == run_ids


async def test_leaving_a_watch_early_leaves_nothing(stage: Stage):
    """Neither a task nor a request, with or without ``async with``."""
    run_ids = stage.runs(120, (0, "running"))
    async for _ in stage.lab.runs.watch(run_ids):
        break
    async with stage.lab.runs.watch(run_ids) as watch:
        await anext(watch)
    with pytest.raises(StopAsyncIteration):
        await anext(watch)
    assert working() == []
    assert stage.operations == {LIST: 4}


async def test_cancelling_a_watch_stops_its_requests(stage: Stage):
    """All chunks are let go of before the cancellation is through."""
    stage.sim.faults.always(Fault.stall())
    watcher = asyncio.create_task(changes(stage.lab.runs.watch(range(250))))
    await eventually(lambda: stage.sim.counts.in_flight == 3)
    watcher.cancel()
    await asyncio.wait([watcher])
    assert watcher.cancelled()
    assert working() == []
    assert stage.limiter.in_flight == 0
    await eventually(lambda: stage.sim.counts.in_flight == 0)


async def test_waits_and_watches_look_together(stage: Stage):
    """A run that both want is asked for once."""
    run_ids = stage.runs(10, (0, "running"), (1, "completed"))
    seen, run = await asyncio.gather(
        changes(stage.lab.runs.watch(run_ids)), stage.lab.runs.wait(run_ids[0])
    )
    assert len(seen) == 20
    assert run.status is RunStatus.COMPLETED
    assert stage.operations == {LIST: 2}
