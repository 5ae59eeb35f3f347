"""Injected faults: each kind as a client meets it, by script and by chance."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
from conftest import PATIENCE
from simulator_client import PREFIX, asking

from modellab_async.simulator import (
    DEFAULT_FAULTS,
    Fault,
    Faults,
    ManualClock,
    RateLimit,
    RequestRecord,
    Simulator,
)


async def meet(
    fault: Fault, *, path: str = "/runs", method: str = "GET", **options: Any
) -> tuple[Any, Sequence[RequestRecord]]:
    """The answer, or the error, that a request meets, and the simulator's record of it."""
    simulator = Simulator(runs=3, **options)
    simulator.faults.next(fault)
    async with asking(simulator) as ask:
        try:
            return await ask(path, method=method), simulator.requests
        except aiohttp.ClientError as error:
            return error, simulator.requests


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 512])
async def test_another_status(status: int) -> None:
    """A status fault answers it with an error in the documented form."""
    reply, (record,) = await meet(Fault.status(status))
    assert reply.status == status
    (error,) = reply.json["errors"]
    assert error == {"title": "Generic Error", "detail": "injected", "status": str(status)}
    assert (record.status, record.fault) == (status, "answer")


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        ("strings", "application/json", b'{"errors":["injected"]}'),
        ("empty", "application/json", b""),
        (b'{"data":[', "application/json", b'{"data":['),
    ],
)
async def test_other_bodies(body: Any, content_type: str, expected: Any) -> None:
    """The body can be a list of strings, nothing, or any bytes."""
    reply, _ = await meet(Fault.status(200, body=body))
    assert (reply.status, reply.body) == (200, expected)
    assert reply.headers["Content-Type"] == content_type


async def test_an_html_page() -> None:
    """The body can be an HTML page, whatever the status."""
    reply, _ = await meet(Fault.status(502, body="html"))
    assert reply.headers["Content-Type"] == "text/html"
    assert reply.body.startswith(b"<!DOCTYPE html>")
    assert b"502" in reply.body


@pytest.mark.parametrize("retry_after", [3, "Wed, 21 Oct 2026 07:28:00 GMT"])
async def test_retry_after(retry_after: str | int) -> None:
    """An answer may ask to retry after seconds or at a date, and carry other headers."""
    fault = Fault.status(503, retry_after=retry_after, headers={"Location": "http://x.example"})
    reply, _ = await meet(fault)
    assert reply.headers["Retry-After"] == str(retry_after)
    assert reply.headers["Location"] == "http://x.example"


async def test_a_rate_limit_that_others_used_up() -> None:
    """A 429 comes without headers, or with those of a limit that is used up."""
    bare, _ = await meet(Fault.rate_limited())
    assert (bare.status, bare.json) == (429, {"errors": ["Too many requests"]})
    assert not any(name.startswith("X-RateLimit") for name in bare.headers)
    told, _ = await meet(Fault.rate_limited(reset=4, retry_after=5))
    assert told.headers["X-RateLimit-Remaining"] == "0"
    assert told.headers["X-RateLimit-Reset"] == "4"
    assert told.headers["Retry-After"] == "5"


async def test_an_injected_answer_knows_nothing_of_the_limit() -> None:
    """An injected answer carries its own headers only."""
    reply, _ = await meet(Fault.status(500), rate_limit=RateLimit(limit=5, period=10))
    assert "X-RateLimit-Limit" not in reply.headers


@pytest.mark.parametrize("after", [None, 0, 10, 10**9])
async def test_a_cut_body(after: int | None) -> None:
    """A cut body is shorter than its Content-Length, and the connection is closed."""
    error, (record,) = await meet(Fault.cut(after))
    assert isinstance(error, aiohttp.ClientPayloadError)
    assert (record.status, record.fault) == (200, "cut")


async def raw_answer(fault: Fault) -> tuple[str, bytes]:
    """Head and body as they come off the wire until the server closes the connection."""
    simulator = Simulator(runs=1)
    simulator.faults.next(fault)
    lines = [f"GET {PREFIX}/runs HTTP/1.1", "Host: x", "Authorization: Bearer sim-bearer-token"]
    async with simulator, asyncio.timeout(PATIENCE):
        port = int(simulator.base_url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write("\r\n".join([*lines, "", ""]).encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
    return head.decode(), body


async def test_a_cut_sends_what_it_says() -> None:
    """Exactly the bytes before the cut arrive."""
    head, body = await raw_answer(Fault.cut(after=7))
    assert "Content-Length: " in head
    assert body == b'{"data"'


async def test_an_idle_connection_is_closed() -> None:
    """The answer arrives whole and says nothing of closing, and then the connection is closed."""
    head, body = await raw_answer(Fault.idle_close())
    assert f"Content-Length: {len(body)}" in head
    assert "Connection:" not in head


@pytest.mark.parametrize("fault", [Fault.reset(), Fault.close(), Fault.lost()])
async def test_no_answer_at_all(fault: Fault) -> None:
    """A connection that is reset or closed before the answer is a disconnect to the client."""
    error, (record,) = await meet(fault)
    assert isinstance(error, aiohttp.ClientConnectionError)
    assert getattr(error, "errno", None) == (errno.ECONNRESET if fault.kind == "reset" else None)
    assert (record.status, record.fault) == (None, fault.kind)


@pytest.mark.parametrize(
    ("fault", "done"),
    [
        (Fault.reset(), False),
        (Fault.close(), False),
        (Fault.status(500), False),
        (Fault.lost(), True),
        (Fault.cut(), True),
    ],
)
async def test_what_was_done_nevertheless(fault: Fault, done: bool) -> None:
    """A lost or cut answer leaves the deed done; every other fault leaves it undone."""
    simulator = Simulator(runs=1)
    run = f"/runs/{simulator.run_ids[0]}"
    simulator.faults.next(fault)
    async with asking(simulator) as ask:
        with suppress(aiohttp.ClientError):
            await ask(run, method="DELETE")
        assert (await ask(run)).status == (404 if done else 200)


async def test_a_close_can_meet_a_kept_alive_connection() -> None:
    """On a connection that served before, a request can find it closed under its hands."""
    simulator = Simulator(runs=1)
    simulator.faults.next(None, Fault.close())
    async with asking(simulator) as ask:
        assert (await ask("/runs")).status == 200
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await ask("/runs")
    assert simulator.counts.connections_made == 1


async def test_a_stall_is_bounded() -> None:
    """A stalled request is given up after its time, without an answer."""
    clock = ManualClock(now=0.0)
    error, (record,) = await meet(Fault.stall(seconds=120), clock=clock, sleep=clock.sleep)
    assert isinstance(error, aiohttp.ServerDisconnectedError)
    assert clock() == 120.0
    assert (record.status, record.fault) == (None, "stall")


async def test_a_drip() -> None:
    """A dripping answer arrives whole, a byte at a time."""
    clock = ManualClock(now=0.0)
    reply, (record,) = await meet(Fault.drip(0.5), path="/runs/1", clock=clock, sleep=clock.sleep)
    assert (reply.status, record.fault) == (404, "drip")
    assert clock() == 0.5 * len(reply.body)


@pytest.mark.parametrize("fault", [Fault.drip(0), Fault.idle_close()])
async def test_answers_without_a_body_can_be_spoilt_too(fault: Fault) -> None:
    """A 204 stays one under faults that concern the body or come after it."""
    simulator = Simulator(runs=1)
    reply, _ = await meet(fault, path=f"/projects/{simulator.project_ids[0]}/star", method="POST")
    assert (reply.status, reply.body) == (204, b"")


async def test_a_script_is_followed_in_order() -> None:
    """The next requests meet the faults in order; None lets one through; then all is well."""
    simulator = Simulator(runs=1)
    simulator.faults.next(Fault.status(503), None, Fault.status(500))
    simulator.faults.next(Fault.status(504))
    async with asking(simulator) as ask:
        statuses = [(await ask("/runs")).status for _ in range(5)]
    assert statuses == [503, 200, 500, 504, 200]
    assert simulator.counts.faults == {"answer": 3}


async def test_a_script_for_one_run() -> None:
    """Faults for a run meet the requests for that run alone."""
    simulator = Simulator(runs=2)
    first, second = simulator.run_ids
    simulator.faults.for_run(first, Fault.status(500), Fault.status(503))
    async with asking(simulator) as ask:
        assert (await ask(f"/runs/{second}")).status == 200
        assert (await ask("/runs", {"filter[id]": first})).status == 200
        assert (await ask(f"/runs/{first}/pin", method="POST")).status == 204
        statuses = [(await ask(f"/runs/{first}")).status for _ in range(3)]
    assert statuses == [500, 503, 200]


async def test_a_script_for_paths() -> None:
    """Faults can be confined by a glob of the path or by any test, and be lifted."""
    simulator = Simulator(runs=1)
    simulator.faults.matching("*/projects", Fault.status(500))
    simulator.faults.always(Fault.status(512), where=lambda _, path: "number" in path)
    async with asking(simulator) as ask:
        assert (await ask("/runs")).status == 200
        assert (await ask("/projects", {"sort": "name"})).status == 500
        assert (await ask("/projects")).status == 200
        deep = {"page[number]": 9}
        assert [(await ask("/runs", deep)).status for _ in range(3)] == [512, 512, 512]
        simulator.faults.clear()
        assert (await ask("/runs", deep)).status == 200


def drawn(faults: Faults, paths: Sequence[str], attempts: int = 6) -> dict[str, list[Fault | None]]:
    return {path: [faults.choose("GET", path) for _ in range(attempts)] for path in paths}


PATHS = [f"/runs/{number}" for number in range(500)]


def test_chance_does_not_depend_on_the_order_of_arrival() -> None:
    """Each request meets the same faults in the same order, however requests interleave."""
    one, two = Faults(0.3, seed=4), Faults(0.3, seed=4)
    by_path = drawn(one, PATHS)
    interleaved = [{path: two.choose("GET", path) for path in reversed(PATHS)} for _ in range(6)]
    assert by_path == {path: [turn[path] for turn in interleaved] for path in PATHS}


def test_chance_follows_the_seed_and_the_rate() -> None:
    """Another seed, other faults; about the share asked for, and every kind of them."""
    found = [fault for faults in drawn(Faults(0.3, seed=1), PATHS).values() for fault in faults]
    other = [fault for faults in drawn(Faults(0.3, seed=2), PATHS).values() for fault in faults]
    assert found != other
    struck = [fault for fault in found if fault is not None]
    assert 0.27 < len(struck) / len(found) < 0.33
    assert set(struck) == set(DEFAULT_FAULTS)


def test_chance_can_be_bounded_in_a_row() -> None:
    """With a bound, no request is disturbed more often in a row; without, it may be for ever."""
    bounded = drawn(Faults(1.0, max_in_a_row=2), PATHS[:20], attempts=9)
    assert all(
        [fault is None for fault in faults] == [False, False, True] * 3
        for faults in bounded.values()
    )
    assert None not in drawn(Faults(1.0), ["/runs/1"], attempts=50)["/runs/1"]


def test_chance_can_be_confined() -> None:
    """Only the kinds given occur, only where they may, and none at a rate of nothing."""
    faults = Faults(1.0, kinds=[Fault.reset()], where="*/runs/*")
    assert faults.choose("GET", "/runs/1?x=y") == Fault.reset()
    assert faults.choose("GET", "/projects") is None
    assert set(drawn(Faults(), PATHS[:5])["/runs/1"]) == {None}
    with pytest.raises(ValueError, match="between 0 and 1"):
        Faults(30)


async def test_chance_over_a_socket_can_be_repeated() -> None:
    """Two simulators with the same seed disturb the same requests in the same way."""

    async def outcomes() -> tuple[list[object], Mapping[str, int]]:
        simulator = Simulator(runs=40, faults=Faults(0.5, seed=3, max_in_a_row=3))
        async with asking(simulator) as ask:

            async def outcome(run_id: int) -> object:
                try:
                    return (await ask(f"/runs/{run_id}")).status
                except aiohttp.ClientError as error:
                    return type(error)

            return await asyncio.gather(*map(outcome, simulator.run_ids)), simulator.counts.faults

    first, kinds = await outcomes()
    assert (first, kinds) == await outcomes()
    assert len(kinds) >= 4
