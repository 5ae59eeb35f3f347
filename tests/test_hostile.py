"""Answers that mean harm: each ends in its documented error, in bounded memory and time."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from faultserver import (
    CONTENT,
    Act,
    Exchange,
    FaultServer,
    bomb,
    endless,
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
    Run,
    ServerError,
    StatusError,
    TransportError,
)
from modellab_async.limiter import AdaptiveLimiter

MEGABYTE = 1_000_000
CHUNKED = "Transfer-Encoding: chunked"
HOSTILE_VALUES: list[Any] = [
    None, True, -1, 10**400, 1.5, "", "x" * 100_000, [], [[]], {}, {"a": {}}, [None], ["\ud800"],
]  # fmt: skip


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with FaultServer() as server:
        yield server


@pytest.fixture
async def lab(server: FaultServer) -> AsyncIterator[ModelLabClient]:
    """A client that reads a megabyte at the most; idle and right in its counts at the end."""
    limiter = AdaptiveLimiter(100, Clock())
    async with ModelLabClient(
        base_url=server.base_url,
        api_key="an-api-key",
        app_key="an-app-key",
        limiter=limiter,
        timeout=60.0,
        max_body_bytes=MEGABYTE,
        retry=RetryPolicy(attempts=2, base=0),
    ) as lab:
        yield lab
        server.forget()
        assert (await lab.runs.get(8)).id == 8
        assert limiter.in_flight == 0
        assert lab.stats.attempts == len(server.seen)


@contextmanager
def bounded(*, megabytes: float, seconds: float = 3.0) -> Iterator[None]:
    """Holds a block to so much memory beyond what there was, and to so much time of the CPU."""
    tracemalloc.start()
    began = time.process_time()
    try:
        yield
        took, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < megabytes * MEGABYTE
    assert took < seconds


async def failure(call: Awaitable[Any]) -> ModelLabError:
    with pytest.raises(ModelLabError) as caught:
        await call
    return caught.value


ENDLESS: dict[str, tuple[Act, type[ModelLabError]]] = {
    "headers": (endless(b"HTTP/1.1 200 X\r\n", b"X-Pad: aaaaaaaa\r\n" * 99), TransportError),
    "a header": (endless(b"HTTP/1.1 200 X\r\nX-Pad: ", b"a" * 9_999), TransportError),
    "a status line": (endless(b"HTTP/1.1 200 ", b"a" * 9_999), TransportError),
    "trailers": (
        endless(http(b"0\r\n", 200, CHUNKED, length=-1), b"X: a\r\n" * 99),
        TransportError,
    ),
    "early hints": (endless(b"", b"HTTP/1.1 103 X\r\nLink: a\r\n\r\n" * 99), RequestTimeoutError),
    "a chunk's extension": (
        endless(http(b"3;", 200, CHUNKED, length=-1), b"x" * 9_999),
        RequestTimeoutError,
    ),
    "a body": (endless(http(length=-1), b" " * 65_536), DecodeError),
    "chunks": (
        endless(http(b"", 200, CHUNKED, length=-1), b"ff\r\n%255d\r\n" % 0 * 64),
        DecodeError,
    ),
    "a body of one number": (endless(http(b'{"data":', length=-1), b"1" * 65_536), DecodeError),
}


@pytest.mark.parametrize(("act", "error"), ENDLESS.values(), ids=ENDLESS)
async def test_what_never_ends(
    server: FaultServer, lab: ModelLabClient, act: Act, error: type[ModelLabError]
):
    """Whatever part of an answer has no end, little of it is read."""
    server.script(act)
    patience = 1.0 if error is RequestTimeoutError else None
    with bounded(megabytes=4):
        view = lab.with_options(retry=RetryPolicy.none(), timeout=patience)
        caught = await failure(view.runs.get(7))
    assert type(caught) is error


@pytest.mark.parametrize("kind", ["gzip", "deflate"])
@pytest.mark.parametrize("call", ["get", "list", "read"])
async def test_a_compressed_bomb(server: FaultServer, lab: ModelLabClient, kind: Any, call: str):
    """20 MB in 20 KB are not unpacked beyond the cap, and not requested again."""
    packed = bomb(kind, 20, b'{"data":')
    server.script(send(http(packed, 200, f"Content-Encoding: {kind}")))
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "get": lambda: lab.runs.get(7),
        "list": lab.runs.list,
        "read": lambda: lab.artifacts.read(1, "f"),
    }
    with bounded(megabytes=6):
        caught = await failure(calls[call]())
    assert type(caught) is DecodeError
    assert "max_body_bytes" in str(caught)
    assert len(server.seen) == 1


async def test_a_compressed_bomb_behind_an_error(server: FaultServer, lab: ModelLabClient):
    """The status speaks; of the body, no more is kept than the documented 2 KB."""
    packed = bomb("gzip", 20, b'{"errors":["')
    server.default = send(http(packed, 500, "Content-Encoding: gzip"))
    with bounded(megabytes=10):
        caught = await failure(lab.runs.get(7))
    assert isinstance(caught, ServerError)
    assert len(caught.body) <= 2_048
    server.default = FaultServer().default


async def test_a_bomb_in_a_stream_is_read_bit_by_bit(server: FaultServer, lab: ModelLabClient):
    """A streamed file may be large: it takes the memory of a chunk."""
    packed = bomb("gzip", 20)
    server.script(send(http(packed, 200, "Content-Encoding: gzip")))
    size = 0
    with bounded(megabytes=4, seconds=5):
        async with lab.artifacts.stream(1, "f") as body:
            async for chunk in body:
                size += len(chunk)
    assert size == 20 * MEGABYTE


@pytest.mark.parametrize("piece", ["\\", "a", "&amp;", "%25", "\\u0026amp;"])
async def test_an_error_that_is_slow_to_search_for_keys(
    server: FaultServer, lab: ModelLabClient, piece: str
):
    """Whatever an error's body repeats, looking for echoed keys in it takes a moment."""
    server.script(send(http(piece * (900_000 // len(piece)), 400)))
    with bounded(megabytes=20, seconds=3):
        caught = await failure(lab.runs.get(7))
    assert isinstance(caught, StatusError)
    assert caught.errors == ()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_another_host(server: FaultServer, lab: ModelLabClient, status: int):
    """It is an error, and the other host is never contacted: no key could reach it."""
    async with FaultServer() as other:
        redirect = send(http("", status, f"Location: {other.base_url}/runs/7"))
        server.script(redirect, redirect, redirect)
        calls: tuple[Awaitable[Any], ...] = (
            lab.runs.get(7),
            lab.runs.pin(7),
            lab.artifacts.read(1, "f"),
        )
        for call in calls:
            caught = await failure(call)
            assert isinstance(caught, StatusError)
            assert "redirects are not followed" in str(caught)
        assert (other.connections, other.seen) == (0, [])


async def test_links_to_another_host_are_not_followed(server: FaultServer, lab: ModelLabClient):
    """The next page is asked of the host that was asked before, whatever the links say."""
    async with FaultServer() as other:
        link = f"{other.base_url}/api/v2/model-lab-api/runs?page%5Bnumber%5D=1".encode()
        first = listing(resource(1), number=0, next_number=1, total=2)
        last = listing(resource(2), number=1, total=2)
        linked = first[:-1] + b',"links":{"next":"%s"}}' % link
        server.script(send(http(linked)), send(http(last)))
        assert [run.id async for run in lab.runs.list()] == [1, 2]
        assert other.connections == 0


def endless_pages(advance: int, *, total: int | None, empty: bool = False) -> Act:
    """Pages that always name a next one."""
    number = 0

    async def act(exchange: Exchange) -> None:
        nonlocal number
        number += 1
        items = [] if empty else [resource(number)]
        following = number * advance if advance else 1
        await exchange.write(
            http(listing(*items, number=number - 1, next_number=following, total=total))
        )

    return act


@pytest.mark.parametrize("total", [None, 2])
async def test_a_next_page_that_never_advances(
    server: FaultServer, lab: ModelLabClient, total: int | None
):
    """A page that names itself or an earlier one as the next is an error, and no loop."""
    act = endless_pages(0, total=total)
    server.script(*[act] * 9)
    with pytest.raises(DecodeError, match="does not advance") as caught:
        async for _run in lab.runs.list():
            pass
    assert caught.value.path == "$.meta.page.next_number"
    assert len(server.seen) == 2


async def test_pages_without_end(server: FaultServer, lab: ModelLabClient):
    """A listing longer than its own total allows is an error, after some hundred pages."""
    well_behaved, server.default = server.default, endless_pages(1, total=2)
    with bounded(megabytes=8, seconds=10), pytest.raises(DecodeError, match="still a next one"):
        async for _run in lab.runs.list():
            pass
    assert len(server.seen) < 250
    server.default = well_behaved


async def test_empty_pages_without_end(server: FaultServer, lab: ModelLabClient):
    """A page without items is the last, whatever it says."""
    server.script(*[endless_pages(1, total=10**9, empty=True)] * 3)
    assert [run async for run in lab.runs.list()] == []
    assert len(server.seen) == 1


@pytest.mark.parametrize("route", ["batch", "auto"])
async def test_a_fetch_from_pages_that_are_not_what_was_asked(
    server: FaultServer, lab: ModelLabClient, route: Any
):
    """Foreign runs, repeats and endless next pages cost no id its one outcome."""

    async def act(exchange: Exchange) -> None:
        if "filter" not in exchange.seen.target:
            await FaultServer().default(exchange)
            return
        items = [resource(2), resource(2), resource(999), b"null", b'{"id":"3"}']
        await exchange.write(http(listing(*items, number=0, next_number=1, total=10**9)))

    well_behaved, server.default = server.default, act
    outcomes = [outcome async for outcome in lab.runs.fetch(range(1, 6), route=route)]
    assert sorted(outcome.run_id for outcome in outcomes) == [1, 2, 3, 4, 5]
    assert all(
        isinstance(outcome.run, Run) and outcome.run.id == outcome.run_id
        for outcome in outcomes
        if outcome.run_id != 3
    )
    (third,) = (outcome for outcome in outcomes if outcome.run_id == 3)
    assert isinstance(third.error, DecodeError)
    assert len(server.seen) <= 6
    server.default = well_behaved


@pytest.mark.parametrize("run_id", [9, "09"])
async def test_another_runs_id(server: FaultServer, lab: ModelLabClient, run_id: Any):
    """A response about another run is refused, and requested again on another connection."""
    wrong = send(http(run_body(run_id)))
    server.script(wrong, wrong)
    caught = await failure(lab.runs.get(7))
    assert isinstance(caught, DecodeError)
    assert caught.resource_id == 7
    assert len({seen.connection for seen in server.seen}) == len(server.seen) == 2


@pytest.mark.parametrize("run_id", ["-7", "seven"])
async def test_an_id_that_is_none(server: FaultServer, lab: ModelLabClient, run_id: str):
    """A response with an invalid id is refused and not requested again."""
    server.script(send(http(run_body(run_id))))
    caught = await failure(lab.runs.get(7))
    assert isinstance(caught, DecodeError)
    assert caught.resource_id == 7
    assert len(server.seen) == 1


DEEP = b"[" * 100_000 + b"]" * 100_000
BODIES = {
    "deep": DEEP,
    "deep objects": b'{"data":' * 100_000 + b"1" + b"}" * 100_000,
    "deep in a new field": run_body(7, new="_").replace(b'"_"', DEEP),
    "deep beside a NaN": run_body(7, new="_").replace(b'"_"', b"[NaN," + DEEP + b"]"),
    "invalid UTF-8": run_body(7, name="_").replace(b'"_"', b'"\xff\xfe"'),
    "overlong UTF-8": run_body(7, name="_").replace(b'"_"', b'"\xc0\xaf"'),
    "half a surrogate pair": run_body(7, name="\ud800"),
    "UTF-16": run_body(7).decode().encode("utf-16"),
    "a NUL": run_body(7, name="_").replace(b"_", b"\0"),
    "a number of 100,000 digits": run_body(7, project_id=0).replace(b": 0", b": " + b"9" * 100_000),
    "a date far away": run_body(7, created_at="99999-01-01T00:00:00Z"),
    "a date without a zone": run_body(7, created_at="2026-01-01T00:00:00"),
    "two documents": run_body(7) + run_body(7),
    "a list": json.dumps({"data": [resource(7)]}).encode(),
    "a scalar": b"7 ",
    "an error in a good status": b'{"errors":["no such run"]}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("packed", [False, True])
async def test_a_body_that_is_not_the_apis(
    server: FaultServer, lab: ModelLabClient, body: bytes, packed: bool
):
    """It is a DecodeError, told in few words, whether compressed or not."""
    answer = http(gzip.compress(body), 200, "Content-Encoding: gzip") if packed else http(body)
    server.script(send(answer), send(answer))
    with bounded(megabytes=20):
        caught = await failure(lab.runs.get(7))
    assert type(caught) is DecodeError
    assert len(str(caught)) < 400


@pytest.mark.parametrize("field", ["id", "attributes", "name", "params", "tags", "created_at"])
async def test_wrong_types_everywhere(server: FaultServer, lab: ModelLabClient, field: str):
    """Whatever stands in a field's place, a call gives a sound run or a DecodeError, never else."""
    for value in HOSTILE_VALUES:
        data = resource(7)
        place = data if field in data else data["attributes"]
        place[field] = value
        body = http(json.dumps({"data": data}))
        server.script(send(body))
        try:
            run = await lab.runs.get(7)
        except DecodeError:
            continue
        assert isinstance(run, Run)
        assert run.id == 7
        assert isinstance(run.name, str)
        assert isinstance(run.params, tuple)
        hash(run)


async def test_headers_of_a_megabyte(server: FaultServer, lab: ModelLabClient):
    """As many headers as HTTP clients take, each as long as they take, change nothing."""
    large = [f"X-{number}: {'a' * 8_000}" for number in range(100)]
    server.script(send(http(run_body(7), 200, *large)))
    with bounded(megabytes=8):
        assert (await lab.runs.get(7)).id == 7


@pytest.mark.parametrize("text", ["1e308", "-1", "NaN", "9" * 5_000, "7, 7", "\xe9", "", "inf"])
async def test_hostile_rate_limits(server: FaultServer, lab: ModelLabClient, text: str):
    """Whatever the limit's headers say of the future, a good answer is given at once."""
    names = ("Limit", "Period", "Reset", "Name")
    headers = [f"X-RateLimit-{name}: {text}" for name in names] + [f"Retry-After: {text}"]
    server.script(*[send(http(run_body(7), 200, *headers, "X-RateLimit-Remaining: 5"))] * 3)
    with bounded(megabytes=4):
        for _ in range(3):
            assert (await lab.runs.get(7)).id == 7


async def test_an_artifact_is_bytes_whatever_they_are(server: FaultServer, lab: ModelLabClient):
    """Content is not looked into: deep JSON or broken text are as good as any."""
    server.script(send(http(DEEP)), send(http(b"\xff\xfe\0")))
    assert await lab.artifacts.read(1, "f") == DEEP
    assert await lab.artifacts.read(1, "f") == b"\xff\xfe\0"
    assert await lab.artifacts.read(1, "f") == CONTENT
