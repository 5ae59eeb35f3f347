"""Fetches from odd sources, with odd ids, and with hooks of the user's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from conftest import client_for
from faultserver import FaultServer, http, listing, resource, run_body, send

from modellab_async import (
    BulkError,
    InvalidIdError,
    ModelLabClient,
    NotFoundError,
    Run,
    make_converter,
)
from modellab_async.simulator import Simulator

pytestmark = pytest.mark.usefixtures("task_factory")

ROUTES = ["single", "batch", "auto"]


@pytest.mark.parametrize("route", ROUTES)
async def test_a_source_that_is_cancelled_ends_the_fetch(sim: Simulator, route: Any) -> None:
    """The source's own cancellation comes after the outcomes of the ids already read."""

    async def source() -> AsyncIterator[int]:
        yield 1
        yield 2
        other = asyncio.ensure_future(asyncio.sleep(100))
        other.cancel()
        await other

    seen = []
    async with client_for(sim) as lab:
        with pytest.raises(asyncio.CancelledError):
            async for outcome in lab.runs.fetch(source(), route=route):
                seen.append(outcome.run_id)
    assert sorted(seen) == [1, 2]


@pytest.mark.parametrize("route", ROUTES)
async def test_a_hook_for_whole_runs_is_honoured_by_every_route(sim: Simulator, route: Any) -> None:
    """What a user's hook makes of a run is what every route gives."""
    converter = make_converter()
    converter.register_structure_hook(Run, lambda value, _: {"mine": value["id"]})
    ids = list(sim.run_ids[:3])
    async with client_for(sim, converter=converter) as lab:
        found: Any = await lab.runs.get_many(ids, route=route)
    assert [run["mine"] for run in found] == [str(run_id) for run_id in ids]


class Strange:
    """An id that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError

    def __index__(self) -> int:
        raise RuntimeError


async def test_ids_that_are_none_fail_alone(sim: Simulator) -> None:
    """A list, a dict or an object without a repr is the failure of one id, not of the fetch."""
    good = sim.run_ids[0]
    strange: Any = [good, [3], {}, Strange()]
    async with client_for(sim) as lab:
        outcomes = [outcome async for outcome in lab.runs.fetch(strange)]
        with pytest.raises(BulkError) as caught:
            await lab.runs.get_many(strange[:3])
    assert len(outcomes) == 4
    assert [outcome.ok for outcome in outcomes].count(True) == 1
    assert list(caught.value.runs) == [good]
    assert {key: type(error) for key, error in caught.value.errors.items()} == {
        "[3]": InvalidIdError,
        "{}": InvalidIdError,
    }


async def test_a_source_that_fails_does_not_throw_runs_away(sim: Simulator) -> None:
    """``get_many`` of ids that cannot be read to their end carries the runs fetched until then."""
    ids = list(sim.run_ids[:3])

    def source() -> Iterator[int]:
        yield from ids
        raise OSError("no more")

    async with client_for(sim) as lab:
        with pytest.raises(BulkError) as caught:
            await lab.runs.get_many(source())
    assert sorted(caught.value.runs) == sorted(ids)
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_copy_that_failed_is_made_good_by_one_that_did_not() -> None:
    """A run asked for twice is not both fetched and failed."""
    missing = send(http('{"errors":[]}', 404), "keep")
    async with (
        FaultServer(missing) as server,
        ModelLabClient(base_url=server.base_url, api_key="a" * 32, app_key="b" * 40) as lab,
    ):
        server.default = send(http(run_body(7)), "keep")
        runs = await lab.runs.get_many([7, 7, 7], route="single")
        assert [run.id for run in runs] == [7, 7, 7]
        server.default = missing
        with pytest.raises(BulkError) as caught:
            await lab.runs.get_many([7, 7], route="single")
    assert isinstance(caught.value.errors[7], NotFoundError)


async def test_a_run_that_comes_twice_is_no_reason_to_ask_one_by_one() -> None:
    """``auto`` stays with the listing where a page repeats a run that was asked for."""
    async with (
        FaultServer() as server,
        ModelLabClient(base_url=server.base_url, api_key="a" * 32, app_key="b" * 40) as lab,
    ):
        server.default = send(http(listing(*map(resource, (1, 2, 2, 3)))), "keep")
        await lab.runs.get_many([1, 2, 3])
        server.default = send(http(listing(*map(resource, (4, 5, 6)))), "keep")
        await lab.runs.get_many([4, 5, 6])
    assert len(server.seen) == 2
