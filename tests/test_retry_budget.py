"""The retry budget: what all calls of a client together may repeat."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest
import virtual
from conftest import FakeClock, client_for, eventually, settled

from modellab_async import (
    ModelLabClient,
    NotFoundError,
    RequestTimeoutError,
    RetryPolicy,
    ServerError,
)
from modellab_async.retry import BUDGET_CAPACITY, CREDIT, SILENCE, RetryBudget
from modellab_async.simulator import Fault, Simulator


def drained(budget: RetryBudget) -> int:
    """Take out what there is, and count it."""
    count = 0
    while budget.try_acquire():
        count += 1
        assert count < 1_000
    return count


def test_a_new_budget_is_full_and_never_more_than_that(fake: FakeClock):
    """At most its capacity can be repeated at once, however many successes came before."""
    budget = RetryBudget(fake.clock())
    for _ in range(1_000):
        budget.credit(repeated=False)
    assert drained(budget) == BUDGET_CAPACITY
    assert not budget.try_acquire()


@pytest.mark.parametrize("repeated", [False, True])
def test_successes_pay_for_repeats(fake: FakeClock, repeated: bool):
    """A success adds its credit after the budget ran empty; a repeat's success is refunded."""
    budget = RetryBudget(fake.clock())
    drained(budget)
    for _ in range(8):
        budget.credit(repeated=repeated)
    assert drained(budget) == 8 * (CREDIT + repeated)


async def test_a_repeat_that_waits_gets_what_comes_in_first(fake: FakeClock):
    """Repeats wait in order, and nobody who comes later overtakes them."""
    budget = RetryBudget(fake.clock())
    drained(budget)
    budget.last_sent = 1e9  # nothing is silent
    order: list[int] = []

    async def wait(number: int) -> None:
        assert await budget.acquire(1e9)
        order.append(number)

    tasks = [asyncio.create_task(wait(number)) for number in range(3)]
    await settled(2)
    for _ in range(6):
        budget.credit(repeated=False)
        assert not budget.try_acquire() or len(order) == 3
        await settled(2)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]


async def test_one_repeat_is_free_if_nothing_else_is_sent(fake: FakeClock):
    """After a second without any request one repeat goes out unpaid, then one more a second."""
    budget = RetryBudget(fake.clock())
    drained(budget)
    moments: list[float] = []

    async def wait() -> None:
        assert await budget.acquire(1e9)
        moments.append(fake.now)

    budget.last_sent = fake.now
    await asyncio.gather(*(wait() for _ in range(3)))
    assert moments == [SILENCE, 2 * SILENCE, 3 * SILENCE]


async def test_a_repeat_is_refused_at_its_deadline(fake: FakeClock):
    """What waits in vain until its deadline is counted as refused, and waits no longer."""
    budget = RetryBudget(fake.clock())
    drained(budget)
    budget.last_sent = 1e9
    assert not await budget.acquire(5.0)
    assert fake.now == 5.0
    assert budget.refusals == 1


async def test_a_cancelled_repeat_costs_nothing(fake: FakeClock):
    """The credit that a cancelled call waited for goes to the next."""
    budget = RetryBudget(fake.clock())
    drained(budget)
    task = asyncio.create_task(budget.acquire(1e9))
    await settled(2)
    task.cancel()
    await settled(2)
    budget.credit(repeated=True)
    assert budget.try_acquire()


async def test_a_repeat_granted_at_the_moment_of_cancellation_is_returned(fake: FakeClock):
    """A call that is cancelled in the tick in which its repeat was granted leaves it to others."""
    budget = RetryBudget(fake.clock())
    drained(budget)
    task = asyncio.create_task(budget.acquire(1e9))
    await settled(2)
    budget.credit(repeated=True)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert drained(budget) == 1


async def drain(lab, sim: Simulator) -> None:
    """Spend the whole budget on failures of one run."""
    sim.faults.always(Fault.status(503), where="*/70158")
    options = lab.with_options(retry=RetryPolicy(base=0.0, attempts=1 + int(BUDGET_CAPACITY)))
    with pytest.raises(ServerError):
        await options.runs.get(70158)
    sim.faults.clear()


async def test_with_an_empty_budget_a_call_waits_until_its_deadline(
    sim: Simulator, fake: FakeClock
):
    """It fails then, with its last error, which names the budget, also when pickled."""
    async with client_for(sim, fake=fake, retry=RetryPolicy(deadline=20)) as lab:
        await drain(lab, sim)
        sim.faults.always(Fault.status(500))
        tasks = [lab.runs.get(run_id) for run_id in sim.run_ids[:40]]
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(error) for error in errors} == {ServerError}
        failures = [error for error in errors if isinstance(error, ServerError)]
        late = [error for error in failures if error.stopped_by == "budget"]
        assert late
        assert "the retry budget stayed empty" in str(late[0])
        assert str(pickle.loads(pickle.dumps(late[0]))) == str(late[0])
        assert lab.stats.retries_refused == len(late)
        assert 19 <= fake.now <= 45


async def test_views_share_one_budget(sim: Simulator, fake: FakeClock):
    """What one view has spent, another waits for."""
    async with client_for(sim, fake=fake) as lab:
        await drain(lab.with_options(timeout=3), sim)
        before = fake.now
        sim.faults.next(Fault.status(500))
        policy = RetryPolicy(base=0.0)
        await lab.with_options(retry=policy).runs.get(sim.run_ids[0])
        assert fake.now - before >= SILENCE


async def test_a_429_that_names_its_time_costs_no_budget(sim: Simulator, fake: FakeClock):
    """The wait for quota is bounded by the deadline alone."""
    async with client_for(sim, fake=fake) as lab:
        await drain(lab, sim)
        before = fake.now
        sim.faults.next(Fault.rate_limited(reset="3"))
        assert (await lab.runs.get(sim.run_ids[0])).id == sim.run_ids[0]
        assert 3 <= fake.now - before < 3.1


@pytest.mark.parametrize("answer", ["run", "missing run"])
async def test_successes_pay_for_the_next_repeat(sim: Simulator, fake: FakeClock, answer: str):
    """A run is a success, and so is a definite 404."""
    async with client_for(sim, fake=fake) as lab:
        await drain(lab, sim)
        for _ in range(2):
            if answer == "run":
                await lab.runs.get(sim.run_ids[0])
            else:
                with pytest.raises(NotFoundError):
                    await lab.runs.get(1)
        sim.faults.next(Fault.status(500))
        assert (await lab.runs.get(sim.run_ids[1])).id == sim.run_ids[1]


async def test_a_fetch_outwaits_an_outage_that_empties_the_budget(sim: Simulator, fake: FakeClock):
    """No id is lost: the fetch waits, asks about once a second, and resumes when it can."""
    ids = sim.run_ids[:400]
    sim.faults.always(Fault.status(503))
    policy = RetryPolicy(attempts=30)
    async with client_for(sim, fake=fake, retry=policy) as lab:
        fetching = asyncio.create_task(lab.runs.get_many(ids, route="single"))
        await eventually(lambda: fake.now > 40)
        assert sim.counts.requests <= 16 + BUDGET_CAPACITY + fake.now / SILENCE
        sim.faults.clear()
        assert [run.id for run in await fetching] == list(ids)
        assert lab.stats.retries_refused == 0


async def test_a_fetch_gives_an_id_up_at_its_deadline(sim: Simulator, fake: FakeClock):
    """If the outage lasts longer than the deadline, the id's outcome is a failure."""
    sim.faults.always(Fault.status(503))
    policy = RetryPolicy(attempts=1_000, deadline=30.0, base=0.1, cap=0.1)
    async with client_for(sim, fake=fake, retry=policy) as lab:
        async with lab.runs.fetch(sim.run_ids[:8], route="single") as outcomes:
            errors = [outcome.error async for outcome in outcomes]
        assert len(errors) == 8
        assert all(isinstance(error, ServerError | RequestTimeoutError) for error in errors)
        assert 29 < fake.now < 40


@pytest.mark.parametrize("seconds", [1, 3])
def test_no_call_fails_in_a_short_outage(seconds: float):
    """2,000 concurrent calls all outlast a blip of 503s, with at most 500 requests more."""
    began: list[float] = []

    def rule(now: float) -> tuple[int, dict[str, str]]:
        began.append(now)
        return (503 if 0.02 <= now - began[0] < 0.02 + seconds else 200), {}

    server = virtual.Server(latency=0.02, jitter=0.005, rule=rule)

    async def main() -> list[Any]:
        lab: ModelLabClient = server.client()
        return await asyncio.gather(
            *(lab.runs.get(1) for _ in range(2_000)), return_exceptions=True
        )

    ends = virtual.run(main())
    assert [end for end in ends if isinstance(end, Exception)] == []
    assert len(server.log) <= 2_000 + 500


@pytest.mark.parametrize("seconds", [1, 10])
def test_calls_in_loops_outlast_an_outage(seconds: float):
    """50 tasks that call again and again lose no call, and are at full speed after two seconds."""
    began: list[float] = []

    def rule(now: float) -> tuple[int, dict[str, str]]:
        began.append(now)
        return (503 if 1 <= now - began[0] < 1 + seconds else 200), {}

    server = virtual.Server(latency=0.05, jitter=0.005, rule=rule)

    async def main() -> None:
        lab: ModelLabClient = server.client()

        async def loop() -> None:
            while virtual.now() < seconds + 4:
                await lab.runs.get(1)

        await asyncio.gather(*(loop() for _ in range(50)))

    virtual.run(main())
    outage = [status for at, status in server.log if status == 503]
    assert len(outage) <= 50 + BUDGET_CAPACITY + seconds
    first = server.log[0][0]
    after = sum(seconds + 2 <= at - first < seconds + 3 for at, _ in server.log)
    assert after >= 0.9 * sum(at - first < 1 for at, _ in server.log)
