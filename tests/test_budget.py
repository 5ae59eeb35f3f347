"""What all calls of a client together may repeat."""

from __future__ import annotations

import asyncio
import pickle

import pytest
from conftest import FakeClock, client_for, eventually
from modellab_async.budget import EARNED, SAVINGS, SILENCE, RetryBudget

from modellab_async import (
    NotFoundError,
    RateLimitedError,
    RequestTimeoutError,
    RetryPolicy,
    ServerError,
)
from modellab_async.simulator import Fault, Simulator

ONCE_MORE = RetryPolicy(attempts=2)


def drained(budget: RetryBudget) -> int:
    """Take out what there is, and count it."""
    count = 0
    while budget.pay():
        count += 1
        assert count < 1_000
    return count


def test_a_new_budget_holds_its_savings_and_never_more(fake: FakeClock):
    """At the most the savings can be repeated at once, however good the times before were."""
    budget = RetryBudget(fake.monotonic, last_sent=fake.now)
    for _ in range(1_000):
        budget.earn(repeated=False)
    assert drained(budget) == SAVINGS
    assert not budget.pay()


@pytest.mark.parametrize("repeated", [False, True])
def test_good_answers_pay_for_repeats(fake: FakeClock, repeated: bool):
    """What is earned after the budget ran empty can be spent; a repeat answered is paid back."""
    budget = RetryBudget(fake.monotonic, last_sent=fake.now)
    drained(budget)
    for _ in range(8):
        budget.earn(repeated=repeated)
    assert drained(budget) == 8 * (EARNED + repeated)


def test_one_repeat_is_free_where_nothing_else_is_sent(fake: FakeClock):
    """After a second of silence one repeat goes out unpaid; a request of any call is no silence."""
    budget = RetryBudget(fake.monotonic, last_sent=fake.now)
    drained(budget)
    fake.now += SILENCE
    assert [budget.pay(), budget.pay()] == [True, False]
    budget.last_sent = fake.now + 0.5
    fake.now += SILENCE
    assert not budget.pay()
    fake.now += SILENCE
    assert budget.pay()


async def drain(lab, sim: Simulator) -> None:
    """Spend the whole budget on failures of one run."""
    sim.faults.always(Fault.status(503), where="*/70158")
    options = lab.with_options(retry=RetryPolicy(base=0.0, deadline=None, attempts=100))
    with pytest.raises(ServerError):
        await options.runs.get(70158)
    sim.faults.clear()


async def test_with_an_empty_budget_a_call_fails_and_says_why(sim: Simulator, fake: FakeClock):
    """One attempt is made; the error, also when pickled, names the budget; the stats count it."""
    async with client_for(sim, clock=fake.clock()) as lab:
        await drain(lab, sim)
        before = lab.stats
        sim.faults.next(Fault.status(500))
        with pytest.raises(ServerError, match="the retry budget is empty") as caught:
            await lab.runs.get(sim.run_ids[0])
        assert caught.value.budget_empty
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        assert lab.stats.attempts - before.attempts == 1
        assert lab.stats.retries_refused - before.retries_refused == 1
        assert before.retries == SAVINGS


async def test_views_share_one_budget(sim: Simulator, fake: FakeClock):
    """What one view has spent, another has not left."""
    async with client_for(sim, clock=fake.clock()) as lab:
        await drain(lab.with_options(timeout=3), sim)
        sim.faults.next(Fault.status(500))
        with pytest.raises(ServerError, match="budget"):
            await lab.with_options(retry=ONCE_MORE).runs.get(sim.run_ids[0])


async def test_a_429_that_names_its_time_costs_no_budget(sim: Simulator, fake: FakeClock):
    """The wait for quota is bounded by the deadline alone."""
    async with client_for(sim, clock=fake.clock()) as lab:
        await drain(lab, sim)
        sim.faults.next(Fault.rate_limited(reset="3"), Fault.rate_limited(reset="3"))
        assert (await lab.runs.get(sim.run_ids[0])).id == sim.run_ids[0]


async def test_a_429_that_names_no_time_is_paid_for(sim: Simulator, fake: FakeClock):
    """Nobody knows how many of them will follow."""
    async with client_for(sim, clock=fake.clock()) as lab:
        await drain(lab, sim)
        sim.faults.next(Fault.rate_limited())
        with pytest.raises(RateLimitedError, match="budget"):
            await lab.runs.get(sim.run_ids[0])


@pytest.mark.parametrize("answer", ["run", "missing run"])
async def test_answers_earn_the_next_repeat(sim: Simulator, fake: FakeClock, answer: str):
    """A run is a good answer, and so is a definite 404."""
    async with client_for(sim, clock=fake.clock()) as lab:
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
    """No id is lost: the fetch waits, asks about once a second, and goes on when answers come."""
    ids = sim.run_ids[:400]
    sim.faults.always(Fault.status(503))
    policy = RetryPolicy(attempts=30)
    async with client_for(sim, clock=fake.clock(), retry=policy) as lab:
        fetching = asyncio.create_task(lab.runs.get_many(ids, route="single"))
        await eventually(lambda: fake.now > 40, seconds=15)
        assert sim.counts.requests <= 16 + SAVINGS + fake.now / SILENCE
        sim.faults.clear()
        assert [run.id for run in await fetching] == list(ids)
        assert lab.stats.retries_refused == 0


async def test_a_fetch_gives_an_id_up_at_its_deadline(sim: Simulator, fake: FakeClock):
    """Where the outage lasts longer than the deadline, the id's outcome is a failure."""
    sim.faults.always(Fault.status(503))
    policy = RetryPolicy(attempts=1_000, deadline=30.0, base=0.1, cap=0.1)
    async with client_for(sim, clock=fake.clock(), retry=policy) as lab:
        async with lab.runs.fetch(sim.run_ids[:8], route="single") as outcomes:
            errors = [outcome.error async for outcome in outcomes]
        assert len(errors) == 8
        assert all(isinstance(error, ServerError | RequestTimeoutError) for error in errors)
        assert 29 < fake.now < 40
