"""The server: starting, stopping, keys, records and counts, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket

import aiohttp
import pytest
import virtual
from conftest import PATIENCE
from simulator_client import PREFIX, asking
from yarl import URL

from modellab_async.simulator import Fault, ManualClock, Simulator


async def test_a_run_is_served_as_its_resource() -> None:
    """`GET /runs/{id}` answers what `resource` tells, for every kind of run."""
    simulator = Simulator(runs=200)
    async with asking(simulator) as ask:
        for run_id in simulator.run_ids:
            reply = await ask(f"/runs/{run_id}")
            assert reply.status == 200
            assert reply.headers["Content-Type"] == "application/json"
            assert reply.json == {"data": simulator.resource(run_id)}


async def test_an_unknown_run_is_the_recorded_404() -> None:
    """A run that does not exist answers 404 with the recorded body, and `resource` agrees."""
    simulator = Simulator(runs=10)
    missing = simulator.run_ids[0] + 1
    assert missing not in simulator.run_ids
    async with asking(simulator) as ask:
        reply = await ask(f"/runs/{missing}")
    assert reply.status == 404
    assert reply.body == b'{"errors":[{"title":"Generic Error","detail":"run not found"}]}'
    with pytest.raises(LookupError):
        simulator.resource(missing)


@pytest.mark.parametrize("text", ["abc", "-1", "1.5", "9223372036854775808", "1%2F2", "%C2%B2"])
async def test_an_id_that_is_no_integer_is_a_400(text: str) -> None:
    """An id that is no 64-bit integer answers 400 in the documented form."""
    async with (
        asking(Simulator(runs=1)) as ask,
        ask.session.get(
            URL(f"{ask.simulator.base_url}{PREFIX}/runs/{text}", encoded=True),
            headers=ask.simulator.headers,
        ) as response,
    ):
        assert response.status == 400
        (error,) = (await response.json())["errors"]
    assert error["title"] == "Bad Request"
    assert error["status"] == "400"
    assert error["source"] == {"parameter": "run_id"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/runs/"),
        ("POST", "/runs/1"),
        ("GET", "/runs/1/pin"),
        ("PUT", "/runs"),
    ],
)
async def test_what_is_no_operation_is_a_404(method: str, path: str) -> None:
    """Other paths and methods answer 404, and are recorded without an operation."""
    async with asking(Simulator(runs=1)) as ask:
        reply = await ask(path, method=method)
    assert (reply.status, reply.json) == (404, {"errors": ["Not found"]})
    assert [record.operation for record in ask.simulator.requests] == [""]


async def test_unknown_parameters_are_pointed_out() -> None:
    """A query parameter that the operation does not have, or has twice, answers 400."""
    simulator = Simulator(runs=5)
    async with asking(simulator) as ask:
        unknown = await ask("/runs", {"filter[colour]": "red"})
        assert unknown.status == 400
        assert unknown.json["errors"][0]["source"] == {"parameter": "filter[colour]"}
        twice = await ask("/runs?sort=name&sort=name")
        assert twice.status == 400
        run = f"/runs/{simulator.run_ids[0]}"
        assert (await ask(run, {"x": "1"})).status == 400
        assert (await ask(f"{run}/pin", {"x": "1"}, method="POST")).status == 400


@pytest.mark.parametrize(
    ("headers", "status", "message"),
    [
        ({}, 401, "Unauthorized"),
        ({"DD-API-KEY": "sim-api-key"}, 401, "Unauthorized"),
        ({"DD-API-KEY": "sim-api-key", "DD-APPLICATION-KEY": "x"}, 403, "Forbidden"),
        ({"DD-API-KEY": "x", "DD-APPLICATION-KEY": "sim-app-key"}, 403, "Forbidden"),
        ({"Authorization": "Bearer x"}, 401, "Unauthorized"),
        (
            {
                "Authorization": "Bearer x",
                "DD-API-KEY": "sim-api-key",
                "DD-APPLICATION-KEY": "sim-app-key",
            },
            401,
            "Unauthorized",
        ),
    ],
)
async def test_wrong_keys_are_refused(headers: dict[str, str], status: int, message: str) -> None:
    """Missing keys answer 401, wrong ones 403, as a list of strings; a bearer token wins."""
    async with asking(Simulator(runs=1)) as ask:
        reply = await ask("/runs", headers=headers)
    assert (reply.status, reply.json) == (status, {"errors": [message]})


async def test_chosen_keys_and_a_bearer_token_are_accepted() -> None:
    """The keys given at construction open the door, and so does the bearer token."""
    simulator = Simulator(runs=1, api_key="a", app_key="b", bearer_token="c")
    async with asking(simulator) as ask:
        keys = {"DD-API-KEY": "a", "DD-APPLICATION-KEY": "b"}
        assert (await ask("/runs", headers=keys)).status == 200
        assert (await ask("/runs", headers={"Authorization": "Bearer c"})).status == 200
    assert simulator.headers == keys
    assert simulator.bearer_token == "c"


async def test_records_tell_of_requests_but_not_of_secrets() -> None:
    """A record holds method, path, query, operation, headers, status and time; no key, no token."""
    clock = ManualClock(now=1_000.0)
    simulator = Simulator(runs=3, clock=clock)
    async with asking(simulator) as ask:
        await ask("/runs", {"page[size]": "2"}, headers={**simulator.headers, "X-Mine": "yes"})
        clock.advance(1)
        await ask("/runs/1", headers={"Authorization": "Bearer sim-bearer-token", "Cookie": "c=1"})
    listed, single = simulator.requests
    assert (listed.method, listed.path, listed.operation) == ("GET", PREFIX + "/runs", "list_runs")
    assert listed.query == "page%5Bsize%5D=2" or listed.query == "page[size]=2"
    assert (listed.status, listed.fault, listed.time) == (200, None, 1_000.0)
    assert listed.headers["x-mine"] == "yes"
    assert (single.operation, single.status, single.time) == ("get_run", 404, 1_001.0)
    assert "sim-" not in repr(simulator.requests)
    assert "cookie" not in single.headers


async def test_only_the_last_requests_are_recorded() -> None:
    """Records are bounded, counts are not."""
    simulator = Simulator(runs=1, record=2)
    async with asking(simulator) as ask:
        for missing in (1, 2, 3):
            await ask(f"/runs/{missing}")
    assert [record.path[-2:] for record in simulator.requests] == ["/2", "/3"]
    assert simulator.counts.requests == 3


async def test_counts() -> None:
    """Counts tell of statuses, of operations by their templates, and of connections."""
    simulator = Simulator(runs=3)
    async with asking(simulator) as ask:
        for run_id in (*simulator.run_ids, 1):
            await ask(f"/runs/{run_id}")
        await ask("/projects")
        counts = simulator.counts
    assert counts.requests == 5
    assert counts.by_status == {200: 4, 404: 1}
    assert counts.by_operation == {("GET", "/runs/{run_id}"): 4, ("GET", "/projects"): 1}
    assert (counts.connections, counts.connections_made) == (1, 1)
    assert simulator.counts.connections == 0


async def test_peak_concurrency_is_seen() -> None:
    """Requests in flight are counted while they wait, and their peak is kept."""
    waiting = asyncio.Event()
    release = asyncio.Event()

    async def hold(_seconds: float) -> None:
        if simulator.counts.in_flight == 7:
            waiting.set()
        await release.wait()

    simulator = Simulator(runs=7, latency=1.0, sleep=hold)
    async with asking(simulator) as ask:
        asked = [asyncio.create_task(ask(f"/runs/{run_id}")) for run_id in simulator.run_ids]
        await asyncio.wait_for(waiting.wait(), PATIENCE)
        assert simulator.counts.connections == 7
        release.set()
        await asyncio.gather(*asked)
    assert (simulator.counts.in_flight, simulator.counts.peak_in_flight) == (0, 7)


async def test_latency_is_slept_before_every_request() -> None:
    """Latency goes through the injected sleep, once a request."""
    clock = ManualClock(now=0.0)
    async with asking(Simulator(runs=1, latency=0.25, clock=clock, sleep=clock.sleep)) as ask:
        await ask("/runs")
        await ask("/projects")
    assert clock() == 0.5


async def test_a_callback_runs_before_each_request() -> None:
    """The callback sees method and path, and what it does takes effect on that very request."""
    seen: list[tuple[str, str]] = []

    async def insert(method: str, path: str) -> None:
        seen.append((method, path.removeprefix(PREFIX)))
        simulator.insert_run(70_001, name="just in time")

    simulator = Simulator(runs=0, before_request=insert)
    async with asking(simulator) as ask:
        reply = await ask("/runs/70001")
    assert reply.attributes["name"] == "just in time"
    assert seen == [("GET", "/runs/70001")]


async def test_a_callback_may_be_a_plain_function() -> None:
    """A callback that is not a coroutine function runs before each request too."""
    seen: list[str] = []
    simulator = Simulator(runs=1, before_request=lambda method, _: seen.append(method))
    async with asking(simulator) as ask:
        assert (await ask("/runs")).status == 200
    assert seen == ["GET"]


@pytest.mark.virtual_time
async def test_closing_is_quick_whatever_connections_do() -> None:
    """With a stalled request and an idle connection, closing takes no time and leaves nothing."""
    simulator = Simulator(runs=1)
    await simulator.start()
    simulator.faults.next(Fault.stall())
    port = int(simulator.base_url.rpartition(":")[2])
    _, idle = await asyncio.open_connection("127.0.0.1", port)
    async with aiohttp.ClientSession(headers=simulator.headers) as session:
        asked = asyncio.create_task(session.post(f"{simulator.base_url}{PREFIX}/runs/1/pin"))
        async with asyncio.timeout(PATIENCE):
            while simulator.counts.in_flight == 0 or simulator.counts.connections < 2:
                await asyncio.sleep(0.001)
        started = virtual.now()
        await simulator.close()
        assert virtual.now() - started < 0.5
        with pytest.raises(aiohttp.ClientError):
            await asked
    idle.close()
    await simulator.close()
    assert (simulator.counts.in_flight, simulator.counts.connections) == (0, 0)


@pytest.mark.parametrize("steps", range(5))
async def test_closing_drops_connections_that_are_being_accepted(steps: int) -> None:
    """However far the loop is with accepting a connection, closing leaves no transport open."""
    simulator = Simulator(runs=1)
    await simulator.start()
    port = int(simulator.base_url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        for _ in range(steps):
            await asyncio.sleep(0)
        await simulator.close()
        gc.collect()  # an open transport warns when it is collected, and a warning is an error
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""


async def test_closing_that_is_cancelled_still_stops_listening() -> None:
    """Cancelled at its first pause, it has stopped listening all the same."""
    simulator = Simulator(runs=1)
    await simulator.start()
    port = int(simulator.base_url.rpartition(":")[2])
    closing = asyncio.create_task(simulator.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.virtual_time
async def test_a_client_that_gives_up_frees_its_place() -> None:
    """When the client hangs up on a stalled request, it is no longer in flight."""
    simulator = Simulator(runs=1)
    async with asking(simulator) as ask:
        simulator.faults.next(Fault.stall())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask("/runs"), 0.05)
        async with asyncio.timeout(PATIENCE):
            while simulator.counts.in_flight:
                await asyncio.sleep(0.001)
        assert (await ask("/runs")).status == 200
    assert simulator.counts.by_status == {None: 1, 200: 1}


async def test_it_listens_only_between_start_and_close() -> None:
    """There is an address only while it runs; it can be started again, but not twice at once."""
    simulator = Simulator(runs=1)
    with pytest.raises(RuntimeError, match="not running"):
        _ = simulator.base_url
    for _ in range(2):
        await simulator.start()
        assert simulator.base_url.startswith("http://127.0.0.1:")
        with pytest.raises(RuntimeError, match="already"):
            await simulator.start()
        await simulator.close()


async def test_a_port_in_use_is_an_error() -> None:
    """A port that is taken raises OSError, and the simulator can still be closed."""
    async with Simulator(runs=1) as first:
        port = int(first.base_url.rpartition(":")[2])
        second = Simulator(runs=1, port=port)
        with pytest.raises(OSError, match=str(port)):
            await second.start()
        await second.close()
