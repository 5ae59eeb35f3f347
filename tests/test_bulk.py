"""Many ids: one outcome each, bounded memory, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from conftest import PATIENCE, FakeClock, client_for, eventually, settled

from modellab_async import (
    AuthenticationError,
    BulkError,
    ClientClosedError,
    InvalidIdError,
    ModelLabClient,
    NotFoundError,
    PermissionDeniedError,
    RetryPolicy,
    RunStatus,
    ServerError,
)
from modellab_async.bulk import FIRST_REQUESTS
from modellab_async.limiter import AdaptiveLimiter
from modellab_async.simulator import Fault, Faults, Simulator

pytestmark = pytest.mark.usefixtures("task_factory")


def tasks_of_the_client() -> set[asyncio.Task[Any]]:
    """All tasks but those of the simulator, which shares the loop."""
    return {task for task in asyncio.all_tasks() if "aiohttp/web" not in repr(task)}


async def test_every_id_gives_exactly_one_outcome(sim: Simulator, lab: ModelLabClient):
    """Good, missing, invalid and repeated ids, each gets an outcome under the id as given."""
    good = list(sim.run_ids[:50])
    asked: list[Any] = [*good, str(good[0]), good[1], 1, "x", -5, True, None, "1/../2"]
    outcomes = [outcome async for outcome in lab.runs.fetch(asked)]
    assert Counter(repr(outcome.run_id) for outcome in outcomes) == Counter(map(repr, asked))
    for outcome in outcomes:
        assert outcome.ok is (outcome.run is not None) is (outcome.error is None)
    errors = {repr(outcome.run_id): type(outcome.error) for outcome in outcomes if not outcome.ok}
    assert errors == {
        "1": NotFoundError,
        "'x'": InvalidIdError,
        "-5": InvalidIdError,
        "True": InvalidIdError,
        "None": InvalidIdError,
        "'1/../2'": InvalidIdError,
    }


async def test_a_repeated_id_gives_two_outcomes(sim: Simulator, lab: ModelLabClient):
    """Nothing is deduplicated behind the user's back."""
    one = sim.run_ids[0]
    outcomes = [outcome async for outcome in lab.runs.fetch([one, one])]
    assert [outcome.run_id for outcome in outcomes] == [one, one]
    assert all(outcome.ok for outcome in outcomes)


async def test_ordered_outcomes_come_in_the_order_asked(sim: Simulator, lab: ModelLabClient):
    """``ordered=True`` holds early answers back."""
    asked = list(reversed(sim.run_ids[:200]))
    sim.faults.next(*[Fault.status(500)] * 20)
    fast = lab.with_options(retry=RetryPolicy(base=0.001))
    outcomes = [outcome async for outcome in fast.runs.fetch(asked, ordered=True)]
    assert [outcome.run_id for outcome in outcomes] == asked


async def test_get_many_keeps_order_and_repeats(sim: Simulator, lab: ModelLabClient):
    """A list of runs comes back in the order asked, each as often as asked."""
    asked = [*sim.run_ids[5:0:-1], sim.run_ids[3]]
    assert [run.id for run in await lab.runs.get_many(asked)] == asked
    assert await lab.runs.get_many([]) == []


async def test_get_many_throws_nothing_away(sim: Simulator, lab: ModelLabClient):
    """One error carries every run fetched and every failure, by the id as given."""
    good = str(sim.run_ids[0])
    with pytest.raises(BulkError, match="2 of 3 ids failed") as caught:
        await lab.runs.get_many([good, 1, "x"])
    assert caught.value.runs[good].id == int(good)
    assert {key: type(error) for key, error in caught.value.errors.items()} == {
        1: NotFoundError,
        "x": InvalidIdError,
    }


@pytest.mark.parametrize("ids", ["70158", b"70158", bytearray(b"1"), 70158, None])
async def test_what_is_no_collection_of_ids_is_refused(lab: ModelLabClient, ids):
    """A lone string would iterate its digits."""
    with pytest.raises(TypeError, match="iterable of ids"):
        lab.runs.fetch(ids)
    with pytest.raises(TypeError, match="iterable of ids"):
        await lab.runs.get_many(ids)


async def test_an_unknown_route_is_refused(lab: ModelLabClient):
    """The error names the routes there are."""
    with pytest.raises(ValueError, match="'single'"):
        lab.runs.fetch([1], route="fast")  # type: ignore[arg-type]


async def test_ids_are_read_no_further_than_needed(sim: Simulator):
    """A lazy iterable of a million ids is read as outcomes are taken, never far ahead."""
    read = 0

    def ids() -> Iterator[int]:
        nonlocal read
        for _ in range(1_000_000):
            read += 1
            yield sim.run_ids[read % 100]

    async with client_for(sim, max_concurrency=10) as lab:
        async with lab.runs.fetch(ids(), route="single") as outcomes:
            for _ in range(30):
                await anext(outcomes)
            await asyncio.sleep(0.1)
            assert 30 <= read <= 60
        read = 0
        async with lab.runs.fetch(ids(), route="batch") as outcomes:
            await anext(outcomes)
            await asyncio.sleep(0.2)
            assert 100 <= read <= (10 + 4) * 100


async def test_an_async_iterable_is_read_too(sim: Simulator, lab: ModelLabClient):
    """Ids may come from an async generator."""

    async def ids() -> AsyncIterator[int]:
        for run_id in sim.run_ids[:40]:
            await asyncio.sleep(0)
            yield run_id

    runs = await lab.runs.get_many(ids())
    assert [run.id for run in runs] == list(sim.run_ids[:40])


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("asynchronous", [True, False])
async def test_an_error_of_the_iterable_comes_last(
    sim: Simulator, lab: ModelLabClient, ordered: bool, asynchronous: bool
):
    """The ids read before it still get their outcomes."""

    def ids() -> Iterator[int]:
        yield from sim.run_ids[:25]
        raise OSError("the list of ids ended early")

    async def same() -> AsyncIterator[int]:
        for run_id in ids():
            yield run_id

    seen: list[int | str] = []
    with pytest.raises(OSError, match="ended early"):
        async for outcome in lab.runs.fetch(same() if asynchronous else ids(), ordered=ordered):
            seen.append(outcome.run_id)
    assert set(seen) == set(sim.run_ids[:25])


@pytest.mark.virtual_time
async def test_breaking_out_leaves_nothing(
    sim: Simulator, lab: ModelLabClient, limiter: AdaptiveLimiter
):
    """After 3 of 100,000 ids: no task, no further request, no busy socket, no permit."""
    before = tasks_of_the_client()
    ids = (sim.run_ids[number % 2_000] for number in range(100_000))
    taken = 0
    async for _ in lab.runs.fetch(ids):
        taken += 1
        if taken == 3:
            break
    await asyncio.sleep(0.1)  # the server works off what had reached it already
    seen = sim.counts.requests
    await asyncio.sleep(0.1)
    assert sim.counts.requests == seen < 300
    assert tasks_of_the_client() == before
    assert limiter.in_flight == 0
    assert (await lab.runs.get(sim.run_ids[0])).id == sim.run_ids[0]
    await lab.aclose()
    await eventually(lambda: sim.counts.connections == 0)


async def test_closing_waits_until_all_is_released(
    sim: Simulator, lab: ModelLabClient, limiter: AdaptiveLimiter
):
    """After ``aclose`` or ``async with`` not even a finished task is left."""
    before = tasks_of_the_client()
    async with lab.runs.fetch(sim.run_ids) as outcomes:
        await anext(outcomes)
    assert tasks_of_the_client() == before
    assert limiter.in_flight == 0
    with pytest.raises(StopAsyncIteration):
        await anext(outcomes)


async def test_dropping_the_iterator_cancels_at_once(
    sim: Simulator, lab: ModelLabClient, limiter: AdaptiveLimiter
):
    """Nothing asynchronous is left to a finalizer."""
    before = tasks_of_the_client()
    outcomes = lab.runs.fetch(sim.run_ids, route="single")
    await anext(outcomes)
    workers = tasks_of_the_client() - before
    assert workers
    del outcomes
    assert all(task.cancelling() for task in workers)
    await asyncio.wait(workers)
    assert limiter.in_flight == 0


async def test_cancelling_the_consumer_stops_the_work(
    sim: Simulator, lab: ModelLabClient, limiter: AdaptiveLimiter
):
    """A cancelled task takes its requests with it."""
    sim.faults.always(Fault.stall())

    async def consume() -> None:
        async for _ in lab.runs.fetch(sim.run_ids):
            pytest.fail("nothing is ever answered")

    consumer = asyncio.create_task(consume())
    await eventually(lambda: sim.counts.in_flight > 0)
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    await settled()
    assert limiter.in_flight == 0
    await eventually(lambda: sim.counts.in_flight == 0)


async def test_a_fetch_that_is_never_iterated_does_nothing(sim: Simulator, lab: ModelLabClient):
    """Making it costs no request and leaves no warning."""
    outcomes = lab.runs.fetch(sim.run_ids)
    await outcomes.aclose()
    del outcomes
    assert lab.runs.fetch([1]) is not None
    gc.collect()
    assert sim.counts.requests == 0


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_wrong_key_costs_one_round_of_requests(sim: Simulator, ordered: bool):
    """A refusal before any success becomes the outcome of all 20,000 ids."""
    ids = (sim.run_ids[number % 2_000] for number in range(20_000))
    async with ModelLabClient(base_url=sim.base_url, api_key="wrong", app_key="wrong") as lab:
        kinds: Counter[type] = Counter()
        async for outcome in lab.runs.fetch(ids, ordered=ordered):
            kinds[type(outcome.error)] += 1
    assert sum(kinds.values()) == 20_000
    assert set(kinds) <= {AuthenticationError, PermissionDeniedError}
    assert sim.counts.requests <= FIRST_REQUESTS


async def test_one_forbidden_run_among_good_ones_is_only_its_own_failure(
    sim: Simulator, lab: ModelLabClient
):
    """A 403 in a round that also brings runs is not a wrong key."""
    sim.faults.for_run(sim.run_ids[0], *[Fault.status(403)] * 3)
    outcomes = [outcome async for outcome in lab.runs.fetch(sim.run_ids[:300], route="single")]
    assert len(outcomes) == 300
    assert [type(o.error) for o in outcomes if not o.ok] == [PermissionDeniedError]


async def test_a_key_that_is_withdrawn_in_the_middle_fails_id_by_id(sim: Simulator):
    """Once something has succeeded, a 401 is the outcome of its own id only."""
    sim.faults.matching("*", *[None] * 30, *[Fault.status(401)] * 5)
    async with client_for(sim) as lab:
        outcomes = [o async for o in lab.runs.fetch(sim.run_ids[:200], route="single")]
    assert Counter(type(o.error) for o in outcomes) == {type(None): 195, AuthenticationError: 5}


async def test_faults_are_overcome_for_all(fake: FakeClock):
    """Under 30 % mixed faults 8 attempts bring back every one of 300 runs."""
    async with (
        Simulator(runs=2_000, faults=Faults(rate=0.3, seed=3), clock=fake.time) as sim,
        client_for(sim, clock=fake.clock(), retry=RetryPolicy(attempts=12)) as lab,
    ):
        runs = await lab.runs.get_many(sim.run_ids[:300], route="single")
        assert [run.id for run in runs] == list(sim.run_ids[:300])
        assert lab.stats.attempts == sim.counts.requests > 380


async def test_failures_are_outcomes_not_the_end(sim: Simulator, fake: FakeClock):
    """A run that cannot be had does not stop the others."""
    sim.faults.always(Fault.status(500), where=f"/api/v2/model-lab-api/runs/{sim.run_ids[7]}")
    async with client_for(sim, clock=fake.clock()) as lab:
        outcomes = [o async for o in lab.runs.fetch(sim.run_ids[:20], route="single")]
    assert [outcome.run_id for outcome in outcomes if not outcome.ok] == [sim.run_ids[7]]
    error = next(outcome.error for outcome in outcomes if not outcome.ok)
    assert isinstance(error, ServerError)
    assert error.attempts == 8


async def test_progress_counts_what_was_given(sim: Simulator, lab: ModelLabClient):
    """The callback hears of each outcome, and of the total where it is known."""
    heard: list[tuple[int, int | None]] = []
    asked = sim.run_ids[:10]
    async for _ in lab.runs.fetch(list(asked), on_progress=lambda *args: heard.append(args)):
        pass
    assert heard == [(number, 10) for number in range(1, 11)]
    heard.clear()
    async for _ in lab.runs.fetch(iter(map(int, asked)), on_progress=lambda *a: heard.append(a)):
        pass
    assert [done for done, _ in heard] == list(range(1, 11))


async def test_a_client_closed_underneath_ends_the_fetch(sim: Simulator, lab: ModelLabClient):
    """The consumer hears of it as an error, not as a million outcomes."""
    with pytest.raises(ClientClosedError):
        async for _ in lab.runs.fetch(sim.run_ids[n % 2_000] for n in range(1_000_000)):
            await lab.aclose()


async def test_streaming_holds_a_bounded_number_of_runs():
    """Memory does not grow with the number of ids."""
    async with Simulator(runs=20, size="large") as sim, client_for(sim) as lab:

        async def peak(count: int) -> int:
            ids = (sim.run_ids[number % 20] for number in range(count))
            gc.collect()
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            async for outcome in lab.runs.fetch(ids, route="single"):
                assert outcome.ok
            return tracemalloc.get_traced_memory()[1] - before

        tracemalloc.start()
        try:
            await peak(300)
            few, many = await peak(120), await peak(300)
        finally:
            tracemalloc.stop()
    assert many < few + 600_000  # keeping the other 180 would take 1 MB


async def test_unknown_statuses_survive(sim: Simulator, lab: ModelLabClient):
    """A status that this version does not know arrives as itself."""
    sim.insert_run(run_id=424_242, status="hibernating")
    run = await lab.runs.get(424_242)
    assert run.status == "hibernating"
    assert run.status == RunStatus("hibernating")
    assert not run.status.is_terminal


async def test_two_tasks_may_share_one_fetch(sim: Simulator, lab: ModelLabClient):
    """Each outcome goes to one of them, and both come to an end."""
    outcomes = lab.runs.fetch(sim.run_ids[:50], route="single")

    async def consume() -> int:
        return len([o async for o in outcomes])

    async with asyncio.timeout(PATIENCE):
        assert sum(await asyncio.gather(consume(), consume())) == 50


async def test_a_callback_that_raises_loses_no_outcome(sim: Simulator, lab: ModelLabClient):
    """The error reaches the consumer, and the outcome is still there to be taken."""
    angry = [True]

    def progress(done: int, total: int | None) -> None:
        if angry.pop() if angry else False:
            raise RuntimeError("not now")

    outcomes = lab.runs.fetch(list(sim.run_ids[:5]), on_progress=progress)
    with pytest.raises(RuntimeError, match="not now"):
        await anext(outcomes)
    assert len([o async for o in outcomes]) == 5


async def test_an_outcome_unwraps_to_its_run_or_raises_its_error(
    sim: Simulator, lab: ModelLabClient
):
    """Whoever wants runs only writes one call."""
    outcomes = {o.run_id: o async for o in lab.runs.fetch([sim.run_ids[0], 1])}
    assert outcomes[sim.run_ids[0]].unwrap().id == sim.run_ids[0]
    with pytest.raises(NotFoundError):
        outcomes[1].unwrap()


async def test_what_is_equal_to_an_id_is_not_that_id(sim: Simulator, lab: ModelLabClient):
    """``5.0`` and ``True`` are refused beside ``5`` and ``1``, not taken for repeats."""
    one = sim.run_ids[0]
    sim.insert_run(run_id=1)
    for pair in ([one, float(one)], [1, True], [float(one), one]):
        with pytest.raises(BulkError, match="1 of 2 ids failed") as caught:
            await lab.runs.get_many(pair)  # type: ignore[arg-type]
        assert [run.id for run in caught.value.runs.values()] == [int(pair[0])]
        assert [type(error) for error in caught.value.errors.values()] == [InvalidIdError]


# Consumers that are cancelled


@pytest.mark.parametrize("route", ["single", "batch"])
async def test_a_timeout_of_anext_loses_nothing(route: Any):
    """Iterating by ``wait_for`` ends with one outcome for each id, however often it times out."""
    async with Simulator(runs=150, latency=0.01) as sim, client_for(sim, max_concurrency=4) as lab:
        asked: list[int | str] = [*sim.run_ids, 1, 2, "x"]
        outcomes = lab.runs.fetch(asked, route=route)
        seen: list[Any] = []
        timeouts = 0
        while True:
            try:
                seen.append((await asyncio.wait_for(anext(outcomes), 0.002)).run_id)
            except TimeoutError:
                timeouts += 1
            except StopAsyncIteration:
                break
    assert Counter(seen) == Counter(asked)
    assert timeouts


async def test_one_of_two_consumers_may_be_cancelled(sim: Simulator, lab: ModelLabClient):
    """The other one gets all outcomes that the first has not got."""
    outcomes = lab.runs.fetch(sim.run_ids[:300], route="single")
    seen: list[Any] = []

    async def consume() -> None:
        async for outcome in outcomes:
            seen.append(outcome.run_id)

    one, other = asyncio.create_task(consume()), asyncio.create_task(consume())
    await eventually(lambda: len(seen) > 20)
    one.cancel()
    await asyncio.wait([one, other])
    assert one.cancelled()
    assert Counter(seen) == Counter(sim.run_ids[:300])


async def test_every_consumer_is_told_of_an_error(sim: Simulator, lab: ModelLabClient):
    """No iteration ends as if it were complete after the ids could not be read to their end."""

    def ids() -> Iterator[int]:
        yield from sim.run_ids[:5]
        raise OSError("no more")

    outcomes = lab.runs.fetch(ids())

    async def consume() -> None:
        async for _ in outcomes:
            pass

    ends = await asyncio.gather(consume(), consume(), return_exceptions=True)
    assert [type(end) for end in ends] == [OSError, OSError]
    with pytest.raises(OSError, match="no more"):
        await anext(outcomes)


async def consume_inline(lab: ModelLabClient, ids: Any) -> None:
    async for _ in lab.runs.fetch(ids, route="single"):
        pass


async def consume_a_variable(lab: ModelLabClient, ids: Any) -> None:
    outcomes = lab.runs.fetch(ids, route="single")
    async for _ in outcomes:
        pass


async def consume_into_a_list(lab: ModelLabClient, ids: Any) -> None:
    outcomes = lab.runs.fetch(ids, route="single")
    assert not [outcome async for outcome in outcomes]


async def consume_in_time(lab: ModelLabClient, ids: Any) -> None:
    outcomes = lab.runs.fetch(ids, route="single")
    async with asyncio.timeout(PATIENCE):
        async for _ in outcomes:
            pass


@pytest.mark.parametrize(
    "consume", [consume_inline, consume_a_variable, consume_into_a_list, consume_in_time]
)
async def test_a_cancelled_task_takes_its_fetch_with_it(
    sim: Simulator, lab: ModelLabClient, limiter: AdaptiveLimiter, consume: Any
):
    """Without ``async with``, a garbage collection, or anybody who awaits the cancelled task."""
    sim.faults.always(Fault.stall())
    before = tasks_of_the_client()
    gc.disable()
    try:
        task = asyncio.create_task(consume(lab, sim.run_ids))
        await eventually(lambda: sim.counts.in_flight > 0)
        task.cancel()
        await asyncio.wait([task])
        left = tasks_of_the_client() - before - {task}
        assert all(other.cancelling() for other in left)
        await settled()
        assert tasks_of_the_client() == before
        assert limiter.in_flight == 0
    finally:
        gc.enable()


async def test_an_anext_of_a_fetch_that_nobody_else_holds_is_answered(
    sim: Simulator, lab: ModelLabClient
):
    """The iteration itself keeps the fetch alive."""
    assert (await anext(lab.runs.fetch([sim.run_ids[0]]))).ok


@pytest.mark.parametrize("route", ["single", "batch", "auto"])
@pytest.mark.parametrize("status", [401, 403])
async def test_refused_keys_cost_few_requests_on_every_route(
    sim: Simulator, route: Any, status: int
):
    """Also if the listing is refused before the single requests are."""
    sim.faults.always(Fault.status(status))
    async with client_for(sim) as lab:
        kinds = Counter([type(o.error) async for o in lab.runs.fetch(range(5_000), route=route)])
    assert kinds in ({AuthenticationError: 5_000}, {PermissionDeniedError: 5_000})
    assert sim.counts.requests <= FIRST_REQUESTS
