"""The batch route: a hundred runs a request, with outcomes as definite as one by one."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from conftest import PATIENCE, client_for

from modellab_async import (
    BadRequestError,
    DecodeError,
    InvalidIdError,
    ModelLabClient,
    NotFoundError,
    Outcome,
    PermissionDeniedError,
    RetryPolicy,
    ServerError,
)
from modellab_async.bulk import PAGES_IN_FLIGHT
from modellab_async.simulator import Fault, Faults, Simulator

pytestmark = pytest.mark.usefixtures("task_factory")

LISTING = "/api/v2/model-lab-api/runs"


def seen(sim: Simulator) -> Counter[str]:
    """How many requests of each operation the server saw."""
    return Counter(record.operation for record in sim.requests)


def told(outcomes: list[Outcome]) -> list[tuple[str, Any, type | None]]:
    return sorted(
        (repr(o.run_id), o.run.id if o.run else None, type(o.error) if o.error else None)
        for o in outcomes
    )


@pytest.mark.parametrize(("soft_delete", "ordered"), [(True, False), (False, True)])
async def test_both_routes_give_the_same_outcomes(soft_delete: bool, ordered: bool):
    """Good, deleted, missing, repeated and invalid ids: batch and auto tell what single tells."""
    async with Simulator(runs=250, soft_delete=soft_delete) as sim:
        asked: list[Any] = [*sim.run_ids, *sim.run_ids[3:6], str(sim.run_ids[9]), 1, 2, "x"]
        for run_id in sim.run_ids[20:30]:
            sim.delete_run(run_id)
        async with client_for(sim) as lab:
            by_route = {
                route: [o async for o in lab.runs.fetch(asked, route=route, ordered=ordered)]
                for route in ("single", "batch", "auto")
            }
    assert told(by_route["single"]) == told(by_route["batch"]) == told(by_route["auto"])
    runs = {o.run_id: o.run for o in by_route["single"]}
    assert all(o.run == runs[o.run_id] for o in by_route["batch"])
    if ordered:
        assert [o.run_id for o in by_route["batch"]] == asked


@pytest.mark.parametrize("route", ["batch", "auto"])
async def test_a_hundred_ids_are_one_request(sim: Simulator, lab: ModelLabClient, route):
    """1,000 ids cost ten listing calls and nothing else."""
    outcomes = [o async for o in lab.runs.fetch(sim.run_ids[:1_000], route=route)]
    assert len(outcomes) == 1_000
    assert all(o.ok for o in outcomes)
    assert seen(sim) == {"list_runs": 10}


async def test_a_lone_id_is_asked_for_by_itself(sim: Simulator, lab: ModelLabClient):
    """It needs no listing, and does not wait for company."""

    async def slowly() -> AsyncIterator[int]:
        for run_id in sim.run_ids[:3]:
            yield run_id
            while sim.counts.requests < len(given) + 1:
                await asyncio.sleep(0.001)
            given.append(run_id)

    given: list[int] = []
    assert (await lab.runs.get_many([sim.run_ids[0]]))[0].id == sim.run_ids[0]
    assert seen(sim) == {"get_run": 1}
    given.append(0)
    async with asyncio.timeout(PATIENCE):
        outcomes = [o async for o in lab.runs.fetch(slowly())]
    assert all(o.ok for o in outcomes)
    assert seen(sim) == {"get_run": 4}


async def test_absent_ids_are_asked_for_by_themselves(sim: Simulator, lab: ModelLabClient):
    """What a listing leaves out gets its own, definite answer."""
    asked = [*sim.run_ids[:50], *range(1, 51)]
    outcomes = [o async for o in lab.runs.fetch(asked, route="batch")]
    assert Counter(type(o.error) for o in outcomes) == {type(None): 50, NotFoundError: 50}
    assert seen(sim) == {"list_runs": 1, "get_run": 50}


@pytest.mark.parametrize(("status", "count"), [(400, 1_100), (403, 150), (404, 150)])
async def test_auto_goes_on_one_by_one_where_the_listing_is_refused(status: int, count: int):
    """The fallback is remembered: later chunks do not try the listing again."""
    async with Simulator(runs=2_000, size="small", record=50_000) as sim:
        sim.faults.always(
            Fault.status(status), where=lambda _, path: path.startswith(LISTING + "?")
        )
        async with client_for(sim) as lab:
            outcomes = [o async for o in lab.runs.fetch(sim.run_ids[:count])]
            assert len(outcomes) == count
            assert all(o.ok for o in outcomes)
            assert seen(sim)["list_runs"] <= PAGES_IN_FLIGHT
            assert seen(sim)["get_run"] == count


@pytest.mark.parametrize(
    ("status", "error"), [(400, BadRequestError), (403, PermissionDeniedError)]
)
async def test_batch_by_choice_reports_a_refused_listing(sim: Simulator, status, error):
    """Who asks for the batch route alone hears what the listing said, for every id."""
    sim.faults.always(Fault.status(status), where=lambda _, path: path.startswith(LISTING + "?"))
    async with client_for(sim) as lab:
        outcomes = [o async for o in lab.runs.fetch(sim.run_ids[:300], route="batch")]
    assert Counter(type(o.error) for o in outcomes) == {error: 300}


async def test_runs_that_nobody_asked_for_end_the_batch_route(sim: Simulator, lab: ModelLabClient):
    """A listing that ignores its filter is not relied on."""
    strangers = [sim.resource(run_id) for run_id in sim.run_ids[1_500:1_550]]
    body = json.dumps({"data": strangers, "meta": {"page": {"number": 0}}}).encode()
    where = lambda _, path: path.startswith(LISTING + "?")  # noqa: E731
    sim.faults.always(Fault.status(200, body=body), where=where)
    outcomes = [o async for o in lab.runs.fetch(sim.run_ids[:500])]
    assert {o.run_id for o in outcomes if o.ok} == set(sim.run_ids[:500])
    assert seen(sim)["list_runs"] <= PAGES_IN_FLIGHT


async def test_pages_smaller_than_asked_for_are_followed(sim: Simulator, lab: ModelLabClient):
    """A server that gives 25 at a time is asked for the rest."""
    ids = list(sim.run_ids[:100])

    def page(number: int) -> bytes:
        chosen = [sim.resource(run_id) for run_id in ids[number * 25 : number * 25 + 25]]
        numbers = {"number": number, "next_number": number + 1 if number < 3 else None}
        return json.dumps({"data": chosen, "meta": {"page": numbers}}).encode()

    sim.faults.next(*[Fault.status(200, body=page(number)) for number in range(4)])
    outcomes = [o async for o in lab.runs.fetch(ids, route="batch")]
    assert {o.run_id for o in outcomes if o.ok} == set(ids)
    assert seen(sim) == {"list_runs": 4}


async def test_one_bad_run_does_not_spoil_its_page(sim: Simulator, lab: ModelLabClient):
    """It is one DecodeError that names its id and the place; the other 99 are delivered."""
    resources = [sim.resource(run_id) for run_id in sim.run_ids[:100]]
    resources[17]["attributes"]["project_id"] = "not a number"
    sim.faults.next(Fault.status(200, body=json.dumps({"data": resources}).encode()))
    outcomes = [o async for o in lab.runs.fetch(sim.run_ids[:100], route="batch")]
    (bad,) = [o for o in outcomes if not o.ok]
    assert isinstance(bad.error, DecodeError)
    assert bad.run_id == bad.error.resource_id == sim.run_ids[17]
    assert bad.error.path == "$.data[17].attributes.project_id"
    assert len(outcomes) == 100


async def test_long_ids_are_split_over_several_addresses(sim: Simulator, lab: ModelLabClient):
    """No address grows past what proxies take."""
    asked = [10**18 + number for number in range(100)]
    outcomes = [o async for o in lab.runs.fetch(asked, route="batch")]
    assert Counter(type(o.error) for o in outcomes) == {NotFoundError: 100}
    assert all(len(record.query) < 2_000 for record in sim.requests)


async def test_invalid_ids_never_reach_an_address(sim: Simulator, lab: ModelLabClient):
    """They are outcomes of their own, beside the good ones."""
    asked: list[Any] = [sim.run_ids[0], "1,2", sim.run_ids[1], True, sim.run_ids[2]]
    outcomes = [o async for o in lab.runs.fetch(asked, route="batch")]
    kinds = {repr(o.run_id): type(o.error) for o in outcomes if not o.ok}
    assert kinds == {"'1,2'": InvalidIdError, "True": InvalidIdError}
    assert seen(sim) == {"list_runs": 1}


async def test_faults_are_overcome_on_the_batch_route(fake):
    """Under 30 % mixed faults every one of 2,000 runs comes back."""
    async with (
        Simulator(runs=2_000, faults=Faults(rate=0.3, seed=5), clock=fake.time) as sim,
        client_for(sim, clock=fake.clock(), retry=RetryPolicy(attempts=12)) as lab,
    ):
        outcomes = [o async for o in lab.runs.fetch(sim.run_ids)]
        assert len(outcomes) == 2_000
        assert all(o.ok for o in outcomes)
        assert lab.stats.attempts == sim.counts.requests


async def test_a_listing_that_fails_for_good_fails_its_ids_only(sim: Simulator, fake):
    """The other chunks are not touched by it."""
    first = str(sim.run_ids[0])
    sim.faults.always(Fault.status(500), where=lambda _, path: f"={first}," in path)
    async with client_for(sim, clock=fake.clock()) as lab:
        outcomes = [o async for o in lab.runs.fetch(sim.run_ids[:300], route="batch")]
    assert Counter(type(o.error) for o in outcomes) == {ServerError: 100, type(None): 200}
