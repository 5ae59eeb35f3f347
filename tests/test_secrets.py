"""Keys and tokens: in nothing that a failing session can print, and for no host but one."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import gc
import logging
import pickle
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
from conftest import THOROUGH, FakeClock, client_for, eventually
from rich.traceback import Traceback

from modellab_async import (
    ConfigError,
    ModelLabClient,
    ModelLabError,
    RateLimitedError,
    RetryPolicy,
    RunFilter,
)
from modellab_async.config import Credentials
from modellab_async.simulator import DEFAULT_FAULTS, Fault, Simulator

KEYS: dict[str, Any] = {"api_key": "SECRET-api/0123", "app_key": 'SECRET-app"4567'}
TOKEN = "SECRET-token-89"
GIVEN: dict[str, dict[str, Any]] = {
    "keys": KEYS,
    "token": {"bearer_token": TOKEN},
    "function": {"bearer_token": lambda: TOKEN},
}
ECHO = '{{"errors": [{{"title": "{0}", "detail": "no {0}"}}, "{0}"], "data": "{0}"}}'


@pytest.fixture
async def own() -> AsyncIterator[Simulator]:
    """A simulator that these keys and this token open."""
    async with Simulator(runs=300, projects=3, bearer_token=TOKEN, **KEYS) as simulator:
        yield simulator


def assert_hidden(*texts: object) -> None:
    """None of these texts holds a key or a token, plainly or as it looks in base64."""
    marks = ["SECRET", base64.b64encode(b"SECRET-").decode()[:8]]
    for text in map(str, texts):
        for mark in marks:
            at = text.find(mark)
            assert at < 0, f"…{text[max(0, at - 300) : at + 60]}…"


def ours(filename: str) -> bool:
    """Whether a frame is not of this file, whose own variables hold the keys."""
    return filename != __file__


def chain(error: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    yield error
    for other in (error.__cause__, error.__context__, *(error.exceptions or ())):
        if other is not None:
            yield from chain(other)


def told(error: BaseException) -> Iterator[str]:
    """All that a program can print of an error, its causes and its frames included."""
    yield from (str(error), repr(error), repr(error.args), repr(error.__dict__))
    yield repr(getattr(error, "__notes__", ()))
    if isinstance(error, ModelLabError):
        yield repr(pickle.dumps(error))
        yield repr(copy.copy(error))
    plain = traceback.TracebackException.from_exception(error, capture_locals=True)
    for part in chain(plain):
        part.stack = traceback.StackSummary.from_list(
            [frame for frame in part.stack if ours(frame.filename)]
        )
    yield "".join(plain.format())
    pretty = Traceback.extract(
        type(error),
        error,
        error.__traceback__,
        show_locals=True,
        locals_max_length=None,  # type: ignore[arg-type]
        locals_max_string=None,  # type: ignore[arg-type]
    )
    for frame in [frame for stack in pretty.stacks for frame in stack.frames]:
        if ours(frame.filename):  # rendering the lines of code, too, would take most of a second
            yield from (node.render() for node in (frame.locals or {}).values())


# What is shown


@pytest.mark.parametrize("kind", GIVEN)
async def test_the_objects_of_a_session_show_no_secret(own: Simulator, kind: str) -> None:
    """Client, rooms, stats, pagers and fetches have nothing to hide in text form, nor in pickle."""
    async with ModelLabClient(base_url=own.base_url, **GIVEN[kind]) as lab:
        await lab.runs.get(own.run_ids[0])
        things = [
            *(lab, lab.stats, lab.runs, lab.projects, lab.artifacts, lab.with_options(timeout=1)),
            *(lab.runs.list(), lab.runs.fetch([1]), lab.runs.watch([1]), await lab.runs.list()),
            *vars(lab).values(),
            *(vars(part) for part in (lab, *vars(lab).values()) if hasattr(part, "__dict__")),
        ]
        for thing in things:
            assert_hidden(repr(thing), str(thing))
        for thing in (lab, *(part for part in things if isinstance(part, Credentials))):
            with pytest.raises(TypeError, match="not pickled") as caught:
                pickle.dumps(thing)
            assert_hidden(*told(caught.value))


def faults(*secrets: str) -> Iterator[Fault]:
    """All that can go wrong with a request, and answers that echo a secret."""
    yield from DEFAULT_FAULTS
    yield Fault.stall()
    for secret in secrets:
        yield from echoes(secret)


def echoes(secret: str) -> Iterator[Fault]:
    echo = ECHO.format(secret.replace('"', '\\"')).encode()
    for status in (400, 403, 500):
        yield Fault.status(status, body=echo)
    yield Fault.status(500, body=echo * 100)
    yield Fault.status(502, headers={"Server": secret, "Content-Type": secret})
    limit = {"X-RateLimit-Name": secret, "X-RateLimit-Reset": "900", "X-RateLimit-Remaining": "0"}
    yield Fault.status(429, headers=limit)


WORK: dict[str, Callable[[ModelLabClient, int, Path], Awaitable[Any]]] = {
    "get": lambda lab, run_id, _: lab.runs.get(run_id),
    "get_many": lambda lab, run_id, _: lab.runs.get_many([run_id, "x"]),
    "list": lambda lab, _, __: lab.runs.list(RunFilter(project_id=1)).load(None, None),
    "wait": lambda lab, run_id, _: lab.runs.wait(run_id, timeout=0),
    "download": lambda lab, run_id, path: lab.artifacts.download(1, f"{run_id}/model", path / "m"),
    "delete": lambda lab, run_id, _: lab.runs.delete(run_id),
}


@pytest.mark.parametrize(
    ("what", "kind"),
    [*((what, "keys") for what in WORK), ("get", "token"), ("get", "function")],
)
async def test_no_failure_shows_a_secret(
    own: Simulator,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    fake: FakeClock,
    what: str,
    kind: str,
) -> None:
    """Not in messages, notes, pickles, frames with their variables, causes, or logs at DEBUG."""
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    secrets = (TOKEN,) if kind != "keys" else tuple(KEYS.values())
    # In the sample, single gets by keys meet every fault, and together all other work does so.
    every = THOROUGH or (what, kind) == ("get", "keys")
    begin, step = (0, 1) if every else (len(what + kind) % 3, 3)
    for fault in [*faults(*secrets)][begin::step]:
        async with ModelLabClient(
            base_url=own.base_url,
            **GIVEN[kind],
            retry=RetryPolicy(attempts=2, max_rate_limit_wait=60),
            timeout=0.03,
            clock=fake.clock(),
        ) as lab:
            own.faults.clear()
            own.faults.always(fault)
            try:
                await WORK[what](lab, own.run_ids[0], tmp_path)
            except ModelLabError as error:
                assert_hidden(*told(error))
            else:
                assert fault.kind in {"idle_close", "lost", "cut"}
    assert_hidden(caplog.text)


async def test_the_name_of_a_limit_shows_no_secret(own: Simulator, fake: FakeClock):
    """A key echoed as the limit's name is in no frame of a call that ends in a 429."""
    limit = {"X-RateLimit-Name": KEYS["api_key"], "X-RateLimit-Reset": "9"}
    own.faults.next(Fault.status(503), Fault.status(429, headers=limit))
    retry = RetryPolicy(attempts=2)
    async with ModelLabClient(
        base_url=own.base_url, **GIVEN["keys"], retry=retry, clock=fake.clock()
    ) as lab:
        with pytest.raises(RateLimitedError) as caught:
            await lab.runs.get(own.run_ids[0])
    assert caught.value.attempts == 2
    assert_hidden(*told(caught.value))


@pytest.mark.parametrize("what", ["get", "list", "wait"])
async def test_no_good_status_makes_a_secret_show(
    own: Simulator, tmp_path: Path, what: str
) -> None:
    """Messages of undecodable answers are redacted; frames show what a server sent, as it is."""
    forms = [ECHO, "{0}", '{{"data": {{"id": "{0}", "attributes": {{}}}}}}']
    async with client_for(own, retry=RetryPolicy.none()) as lab:
        for body in [form.format(own.api_key) for form in forms]:
            own.faults.next(Fault.status(200, body=body.encode()))
            with pytest.raises(ModelLabError) as caught:
                await WORK[what](lab, own.run_ids[0], tmp_path)
            error = caught.value
            assert_hidden(str(error), repr(error), vars(error), pickle.dumps(error))


@pytest.mark.parametrize("kind", GIVEN)
@pytest.mark.virtual_time
async def test_no_time_out_of_the_users_shows_a_secret(own: Simulator, kind: str) -> None:
    """Its cause was thrown through all frames that a request has, aiohttp's among them."""
    own.faults.always(Fault.stall())
    async with ModelLabClient(base_url=own.base_url, **GIVEN[kind]) as lab:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.05):
                await lab.runs.get(own.run_ids[0])
    texts = list(told(caught.value))
    assert any("aiohttp" in text for text in texts)
    assert_hidden(*texts)


@pytest.mark.parametrize(
    "given",
    [
        {"api_key": "SECRET"},
        {"app_key": "SECRET"},
        {"api_key": "SECRET\n", "app_key": "SECRET"},
        {**KEYS, "site": "SECRET0123456789abcdef"},
        {**KEYS, "site": "https://app.SECRET.example"},
        {**KEYS, "base_url": "http://example.com"},
        {**KEYS, "base_url": "SECRET0123456789abcdef"},
        {**KEYS, "base_url": "http://SECRET0123456789abcdef"},
        {**KEYS, "base_url": "http://example.com/SECRET"},
        {**KEYS, "base_url": "https://[SECRET"},
        {**KEYS, "base_url": "https://SECRET:port"},
        {**KEYS, "proxy": "http://u:SECRET@"},
        {**KEYS, "proxy": "http://u:SECRET@example.com:99999"},
        {**KEYS, "base_url": "https://SECRET@example.com"},
        {**KEYS, "base_url": "https://example.com?key=SECRET"},
        {**KEYS, "timeout": -1},
        {**KEYS, "max_body_bytes": 0},
        {**KEYS, "proxy": "socks5://SECRET@example.com"},
        {**KEYS, "proxy": "http://u:SECRET@example.com", "base_url": "http://localhost"},
        {**KEYS, "proxy": "http://u:SECRET@example.com", "max_body_bytes": 0},
        {"bearer_token": "SECRET\u20ac"},
        {"bearer_token": "SECRET", "retry": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("environ", [{}, {"DD_API_KEY": "SECRET-1", "DD_SITE": "SECRET-2"}])
def test_no_configuration_error_shows_a_secret(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], environ: dict[str, str]
) -> None:
    """Nor do the variables of the frames that it passes, such as the whole environment."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SOMEONE_ELSES", "SECRET")
    with pytest.raises(ConfigError) as caught:
        ModelLabClient(**given)
    assert_hidden(*told(caught.value))


@pytest.mark.parametrize("token", ["SECRET\n", "", "SECRET"])
async def test_no_token_function_makes_one_show(own: Simulator, token: str) -> None:
    """Whether what it gives cannot stand in a header, or is refused."""
    async with ModelLabClient(base_url=own.base_url, bearer_token=lambda: token) as lab:
        with pytest.raises(ModelLabError) as caught:
            await lab.runs.get(1)
    assert_hidden(*told(caught.value))


async def test_no_error_shows_a_proxys_password() -> None:
    """Whether the proxy refuses it or cannot be reached; aiohttp's own errors name it."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for proxy in (f"http://u:SECRET@127.0.0.1:{port}", "http://SECRET:p@127.0.0.1:1"):
            async with ModelLabClient(**KEYS, proxy=proxy, retry=RetryPolicy.none()) as lab:
                with pytest.raises(ModelLabError, match=r"127\.0\.0\.1") as caught:
                    await lab.runs.get(1)
            assert_hidden(*told(caught.value))


# To whom they are sent


@attrs.define
class Stranger:
    """A host that listens to whatever is sent to it."""

    port: int = 0
    heard: list[bytes] = attrs.field(factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/v2/model-lab-api/runs"

    async def listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard.append(b"somebody called")
        writer.close()


@pytest.fixture
async def stranger() -> AsyncIterator[Stranger]:
    """Another host than the base URL's."""
    stranger = Stranger()
    server = await asyncio.start_server(stranger.listen, "127.0.0.1", 0)
    stranger.port = server.sockets[0].getsockname()[1]
    async with server:
        yield stranger


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
@pytest.mark.parametrize("borrowed", [True, False])
async def test_no_redirect_is_followed(
    own: Simulator, stranger: Stranger, tmp_path: Path, status: int, borrowed: bool
) -> None:
    """It is an error of its status, and its host never hears of us."""
    own.faults.always(Fault.status(status, headers={"Location": stranger.url}))
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession()) if borrowed else None
        lab = await stack.enter_async_context(client_for(own, session=session))
        for work in WORK.values():
            with pytest.raises(ModelLabError) as caught:
                await work(lab, own.run_ids[0], tmp_path)
            assert str(status) in str(caught.value)
    assert stranger.heard == []


async def test_no_link_of_a_body_is_followed(own: Simulator, stranger: Stranger) -> None:
    """A listing goes on by the number of the next page, whatever host its links name."""

    def page(number: int) -> Fault:
        following = "null" if number else "1"
        return Fault.status(
            200,
            body=f'{{"data": [], "links": {{"next": "{stranger.url}", "self": "{stranger.url}"}},'
            f' "meta": {{"page": {{"number": {number}, "next_number": {following}}}}}}}'.encode(),
            headers={"Link": f'<{stranger.url}>; rel="next"', "Refresh": f"0; {stranger.url}"},
        )

    own.faults.always(page(0), where="*/runs")
    async with client_for(own) as lab:
        assert [run async for run in lab.runs.list()] == []
        assert (await lab.runs.list()).next_number == 1
    assert stranger.heard == []
    await eventually(lambda: own.counts.connections == 0)


async def test_a_stranger_would_have_been_heard(stranger: Stranger) -> None:
    """The tests above can fail."""
    async with ModelLabClient(
        base_url=f"http://127.0.0.1:{stranger.port}", **KEYS, retry=RetryPolicy.none()
    ) as lab:
        with pytest.raises(ModelLabError) as caught:
            await lab.runs.get(1)
    assert stranger.heard
    assert_hidden(*told(caught.value))
    with pytest.raises(AssertionError):
        assert_hidden("a SECRET")


@pytest.mark.parametrize("site", ["http://app.datadoghq.eu", "api.us5.datadoghq.com/", "us1"])
async def test_a_site_is_asked_over_https(site: str) -> None:
    """However its address was pasted."""
    async with ModelLabClient(**KEYS, site=site) as lab:
        assert "https://api." in repr(lab)


async def test_our_session_is_traced_by_nobody(own: Simulator) -> None:
    """It has no aiohttp traces, which would see the headers."""

    def sessions() -> list[aiohttp.ClientSession]:
        # A mock of a session would be an instance, too.
        return [found for found in gc.get_objects() if type(found) is aiohttp.ClientSession]

    before = sessions()
    async with ModelLabClient(base_url=own.base_url, **KEYS) as lab:
        await lab.runs.get(own.run_ids[0])
        ours = [session for session in sessions() if session not in before]
        assert [session.trace_configs for session in ours] == [[]]
