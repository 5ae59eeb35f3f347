"""Answers that break at the byte level, against a server that counts what really arrived."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from conftest import eventually, settled
from faultserver import (
    CONTENT,
    Act,
    Ending,
    Exchange,
    FaultServer,
    http,
    listing,
    resource,
    run_body,
    send,
)

from modellab_async import (
    Clock,
    DecodeError,
    ModelLabClient,
    ModelLabError,
    RequestTimeoutError,
    RetryPolicy,
    RunFilter,
    StatusError,
    TransportError,
)
from modellab_async.limiter import AdaptiveLimiter

pytestmark = pytest.mark.virtual_time

GOOD = http(run_body(7))
PACKED = gzip.compress(run_body(7))
CHUNKED = "Transfer-Encoding: chunked"
GZIP = "Content-Encoding: gzip"


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with FaultServer() as server:
        yield server


def client_for(server: FaultServer, **options: Any) -> ModelLabClient:
    options.setdefault("timeout", 5.0)
    options.setdefault("retry", RetryPolicy(attempts=3, base=0))
    return ModelLabClient(base_url=server.base_url, api_key="ak", app_key="pk", **options)


async def failure(server: FaultServer, act: Act, **options: Any) -> tuple[ModelLabError, int]:
    """The error of a call whose every attempt meets an act, and how many the server saw.

    The client is idle and usable afterwards, and counted right.
    """
    limiter = AdaptiveLimiter(100, Clock())
    async with client_for(server, limiter=limiter, **options) as lab:
        server.default, well_behaved = act, server.default
        with pytest.raises(ModelLabError) as caught:
            await lab.runs.get(7)
        seen = len(server.seen)
        assert lab.stats.attempts == seen == caught.value.attempts  # type: ignore[attr-defined]
        assert limiter.in_flight == 0
        server.default = well_behaved
        assert (await lab.runs.get(8)).id == 8
        assert lab.stats.attempts == len(server.seen)
    await eventually(lambda: server.open == 0)
    return caught.value, seen


@pytest.mark.parametrize("after", [0, 5, 13, 40, len(GOOD) - 40, len(GOOD) - 1])
@pytest.mark.parametrize("then", ["reset", "close", "half_close"])
async def test_an_answer_that_breaks_off(server: FaultServer, after: int, then: Ending):
    """Wherever and however the connection ends, it is asked again, then told."""
    error, seen = await failure(server, send(GOOD[:after], then))
    assert type(error) is TransportError
    assert error.kind == "lost"
    assert server.address in str(error)
    assert seen == 3


@pytest.mark.parametrize("after", [0, 5, 40, len(GOOD) - 1])
async def test_an_answer_that_stalls(server: FaultServer, after: int):
    """Silence is a time-out, at whatever byte it begins."""
    error, seen = await failure(server, send(GOOD[:after], "stall"), timeout=0.05)
    assert isinstance(error, RequestTimeoutError)
    assert seen == 3


async def test_a_drip_is_no_progress(server: FaultServer):
    """A byte now and then does not put the time-out off."""
    once = RetryPolicy.none()
    async with asyncio.timeout(1):
        error, _ = await failure(server, send(GOOD, every=0.01), timeout=0.1, retry=once)
    assert isinstance(error, RequestTimeoutError)


async def test_a_drip_that_is_fast_enough(server: FaultServer):
    """An answer in as many packets as it has bytes is an answer."""
    server.script(send(GOOD, every=0))
    async with client_for(server) as lab:
        assert (await lab.runs.get(7)).name == "resnet"
        assert lab.stats.attempts == len(server.seen) == 1


@pytest.mark.parametrize("then", ["half_close", "reset"])
async def test_a_server_that_closes_after_each_answer(server: FaultServer, then: Ending):
    """Every call succeeds; requests that crossed the closing are counted, and asked again."""

    async def act(exchange: Exchange) -> None:
        run_id = exchange.seen.target.rpartition("/")[2]
        await send(http(run_body(run_id)), then)(exchange)

    server.default = act
    async with client_for(server, retry=RetryPolicy(base=0.001)) as lab:
        runs = await asyncio.gather(*(lab.runs.get(run_id) for run_id in range(60)))
        for run_id in range(20):
            runs.append(await lab.runs.get(run_id))
        assert [run.id for run in runs] == [*range(60), *range(20)]
        assert lab.stats.attempts == 80 + lab.stats.retries
        if then == "half_close":  # after a reset nobody is there to see a request
            assert lab.stats.attempts == len(server.seen)


NOT_HTTP = {
    "other words": b"what is this\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.9\r\n",
    "HTTP/2": bytes.fromhex("000012040000000000") * 5,
    "HTTP/0.9": run_body(7),
    "HTTP/3.7": GOOD.replace(b"HTTP/1.1", b"HTTP/3.7"),
    "no number": http(run_body(7), "OK 200"),
    "a negative status": http(run_body(7), "-1 X"),
    "a long status": http(run_body(7), "20000 X"),
    "a length that is none": http(run_body(7), 200, "Content-Length: many", length=-1),
    "a negative length": http(run_body(7), 200, "Content-Length: -5", length=-1),
    "a huge length": http(run_body(7), 200, "Content-Length: 99999999999999999999999", length=-1),
    "two lengths": http(run_body(7), 200, "Content-Length: 5"),
    "a length and chunks": http(b"3\r\nabc\r\n0\r\n\r\n", 200, CHUNKED),
    "a bad chunk size": http(b"zz\r\nabc\r\n", 200, CHUNKED, length=-1),
    "a huge chunk size": http(b"f" * 30 + b"\r\nabc\r\n", 200, CHUNKED, length=-1),
    "a chunk too long": http(b"3\r\nabcdef\r\n0\r\n\r\n", 200, CHUNKED, length=-1),
    "a header without a colon": http(run_body(7), 200, "just text"),
    "a NUL in a header": http(run_body(7), 200, "X-A: a\0b"),
    "thousands of headers": http(run_body(7), 200, *(f"X-{n}: a" for n in range(5_000))),
    "a huge header": http(run_body(7), 200, f"X-A: {'a' * 1_000_000}"),
    "too short a length": http(run_body(7), length=20),
}


@pytest.mark.parametrize("raw", NOT_HTTP.values(), ids=NOT_HTTP)
async def test_an_answer_that_is_not_http(server: FaultServer, raw: bytes):
    """It says so, with what was wrong, and is asked for again."""
    error, seen = await failure(server, send(raw, "close"))
    assert type(error) is TransportError
    assert f"the response from {server.address} is not HTTP" in str(error)
    assert len(str(error)) < 500
    assert seen == 3


CUT = {
    "too long a length": http(run_body(7), length=9_999),
    "a chunk cut": http(b"10\r\nabc", 200, CHUNKED, length=-1),
    "no last chunk": http(b"3\r\nabc\r\n", 200, CHUNKED, length=-1),
    "no gzip at all": http(run_body(7), 200, GZIP),
    "a wrong checksum": http(PACKED[:-8] + b"wrongsum", 200, GZIP),
    "garbage in gzip": http(PACKED[:30] + b"garbage!!!" + PACKED[40:], 200, GZIP),
    "garbage after gzip": http(PACKED + b"garbage", 200, GZIP),
}


@pytest.mark.parametrize("raw", CUT.values(), ids=CUT)
async def test_a_body_that_is_not_as_announced(server: FaultServer, raw: bytes):
    """A body in another length or encoding than announced was cut short, and asked for again."""
    error, seen = await failure(server, send(raw, "close"))
    assert type(error) is TransportError
    assert f"the response from {server.address} was cut short" in str(error)
    assert seen == 3


@pytest.mark.parametrize("raw", [http(PACKED[:-30], 200, GZIP), http(b"", 200, GZIP)])
async def test_gzip_that_breaks_off(server: FaultServer, raw: bytes):
    """Compressed JSON that ends early is cut JSON, and asked for again."""
    error, seen = await failure(server, send(raw))
    assert isinstance(error, DecodeError)
    assert error.kind == "unreadable"
    assert seen == 3


async def test_compressed_data_of_several_members_is_read_whole(server: FaultServer):
    """Every member of gzip data counts, and what follows them is no content."""
    whole = gzip.compress(b"one") + gzip.compress(b"two")
    answers = [http(whole, 200, GZIP), http(whole, 200, GZIP), http(whole + b"junk", 200, GZIP)]
    server.script(*map(send, answers))
    async with client_for(server, retry=RetryPolicy.none()) as lab:
        assert await lab.artifacts.read(1, "f") == b"onetwo"
        async with lab.artifacts.stream(1, "f") as body:
            assert b"".join([chunk async for chunk in body]) == b"onetwo"
        with pytest.raises(TransportError, match="damaged"):
            await lab.artifacts.read(1, "f")


@pytest.mark.parametrize("status", [101, 304, 600, 999])
async def test_a_status_out_of_place(server: FaultServer, status: int):
    """A status that no call provokes is an error of that status, and is not asked again."""
    body = b"" if status == 304 else run_body(7)
    error, seen = await failure(server, send(http(body, status), "half_close"))
    assert isinstance(error, StatusError)
    assert (error.status, seen) == (status, 1)


async def test_what_follows_an_answer_answers_nothing(server: FaultServer):
    """A second answer smuggled behind the first is never taken for that of the next request."""
    server.script(send(GOOD + http(run_body(8, name="smuggled"))))
    async with client_for(server) as lab:
        assert (await lab.runs.get(7)).id == 7
        assert (await lab.runs.get(8)).name == "resnet"
        assert lab.stats.attempts == len(server.seen) == 2


async def test_what_comes_unasked_is_held_against_what_was_asked(server: FaultServer):
    """A response that arrives on an idle connection is not taken for the next one."""

    async def act(exchange: Exchange) -> None:
        await exchange.write(GOOD)
        await asyncio.sleep(0.01)  # in a packet of its own
        await exchange.write(http(run_body(9)))
        written.set()

    written = asyncio.Event()
    server.script(act)
    async with client_for(server) as lab:
        assert (await lab.runs.get(7)).id == 7
        await written.wait()
        await settled()
        assert (await lab.runs.get(8)).id == 8
        assert lab.stats.retries == 0


def project_body(project_id: int) -> bytes:
    attributes = {"name": "p", "created_at": "2026-05-15T02:57:03Z"}
    return json.dumps(
        {"data": {"id": str(project_id), "type": "projects", "attributes": attributes}}
    ).encode()


def facet_body(facet_type: str, facet_name: str) -> bytes:
    attributes = {"facet_name": facet_name, "facet_type": facet_type, "values": ["a"]}
    return json.dumps(
        {"data": {"id": "x", "type": "facet_values", "attributes": attributes}}
    ).encode()


OTHERS: dict[str, tuple[Callable[[ModelLabClient], Awaitable[Any]], bytes, bytes]] = {
    "runs.get": (lambda lab: lab.runs.get(7), run_body(9), run_body(7)),
    "projects.get": (
        lambda lab: lab.projects.get(7),
        project_body(9),
        project_body(7),
    ),
    "runs.get, a project": (lambda lab: lab.runs.get(7), project_body(7), run_body(7)),
    "projects.get, a run": (lambda lab: lab.projects.get(7), run_body(7), project_body(7)),
    "runs.list by project": (
        lambda lab: lab.runs.list(RunFilter(project_id=5)),
        listing(resource(9)),
        listing(resource(9, project_id=5)),
    ),
    "runs.list by status": (
        lambda lab: lab.runs.list(RunFilter(status="failed")),
        listing(resource(9)),
        listing(resource(9, status="failed")),
    ),
    "runs.list by ids": (
        lambda lab: lab.runs.list(RunFilter(ids=("7", 8))),
        listing(resource(9)),
        listing(resource(8)),
    ),
    "runs.list, projects": (
        lambda lab: lab.runs.list(),
        listing(json.loads(project_body(9))["data"]),
        listing(resource(8)),
    ),
    "runs.facet_values": (
        lambda lab: lab.runs.facet_values(1, "tag", "team"),
        facet_body("tag", "stage"),
        facet_body("tag", "team"),
    ),
    "runs.facet_values of a type": (
        lambda lab: lab.runs.facet_values(1, "metric", "team"),
        facet_body("tag", "team"),
        facet_body("metric", "team"),
    ),
}


@pytest.mark.parametrize("borrowed", [False, True])
@pytest.mark.parametrize(("call", "other", "right"), OTHERS.values(), ids=OTHERS)
async def test_the_response_to_another_request_is_detected(
    server: FaultServer,
    call: Callable[[ModelLabClient], Awaitable[Any]],
    other: bytes,
    right: bytes,
    borrowed: bool,
):
    """Ids, types and filters tell that a response belongs elsewhere; the call is repeated."""
    server.script(send(http(other)), send(http(right)))
    session = aiohttp.ClientSession() if borrowed else None
    try:
        async with client_for(server, session=session) as lab:
            await call(lab)
    finally:
        if session is not None:
            await session.close()
    assert len(server.seen) == 2
    assert borrowed or [seen.connection for seen in server.seen] == [1, 2]


def later(head: bytes, rest: bytes, then: Ending) -> Act:
    """Writes the beginning of an answer, and what breaks it in a packet of its own."""

    async def act(exchange: Exchange) -> None:
        await exchange.write(head)
        await asyncio.sleep(0.01)
        await send(rest, then)(exchange)

    return act


BROKEN_STREAMS = {
    "garbage in gzip": later(http(PACKED, 200, GZIP)[:-8], b"wrongsum", "close"),
    "too long a length": later(http(CONTENT, length=len(CONTENT) + 9), b"", "close"),
    "broken chunks": later(http(b"5\r\nabcde", 200, CHUNKED, length=-1), b"XX\r\n", "stall"),
    "reset": later(http(CONTENT)[:-1], b"", "reset"),
    "silence": later(http(CONTENT)[:-1], b"", "stall"),
}


@pytest.mark.parametrize("act", BROKEN_STREAMS.values(), ids=BROKEN_STREAMS)
async def test_a_broken_stream_is_an_error_of_ours(server: FaultServer, act: Act):
    """A streamed file whose encoding or connection breaks raises while it is read."""
    server.script(act)
    limiter = AdaptiveLimiter(100, Clock())
    async with client_for(server, limiter=limiter) as lab:
        with pytest.raises(TransportError, match=server.address):
            async with lab.with_options(timeout=0.3).artifacts.stream(1, "f") as body:
                async for _chunk in body:
                    pass
        assert limiter.in_flight == 0
        assert await lab.artifacts.read(1, "f") == CONTENT
        assert len(server.seen) == 2
