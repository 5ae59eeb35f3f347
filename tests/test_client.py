"""The client as a user holds it: set-up, sessions, loops, closing, views, counters."""

from __future__ import annotations

import asyncio
import json
import pickle
import ssl
from typing import Any

import aiohttp
import cattrs
import pytest
from aiohttp import web
from conftest import PATIENCE, client_for, eventually

from modellab_async import (
    AuthenticationError,
    ClientClosedError,
    ConfigError,
    DecodeError,
    InvalidIdError,
    ModelLabClient,
    NotFoundError,
    PermissionDeniedError,
    RequestTimeoutError,
    RetryPolicy,
    Run,
    StatusError,
    TransportError,
    make_converter,
    to_dict,
)
from modellab_async.simulator import Fault, Simulator

KEYS: dict[str, Any] = {"api_key": "an-api-key", "app_key": "an-app-key"}
LOCAL = "http://127.0.0.1:9"


async def test_one_run_end_to_end(sim: Simulator, lab: ModelLabClient):
    """A run arrives as a frozen, typed object that holds what the server sent."""
    run_id = sim.run_ids[10]
    run = await lab.runs.get(run_id)
    served = sim.resource(run_id)
    assert isinstance(run, Run)
    assert run.id == run_id == int(served["id"])
    assert run.name == served["attributes"]["name"]
    assert [(p.key, p.value) for p in run.params] == [
        (p["key"], p["value"]) for p in served["attributes"]["params"] or []
    ]
    assert await lab.runs.get(str(run_id)) == run


async def test_credentials_and_site_come_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    """Without arguments the client asks the site and uses the keys that the environment names."""
    monkeypatch.setenv("DD_API_KEY", "k1")
    monkeypatch.setenv("DD_APP_KEY", "k2")
    monkeypatch.setenv("DD_SITE", "https://app.datadoghq.eu")
    async with ModelLabClient() as lab:
        assert repr(lab) == "<ModelLabClient https://api.datadoghq.eu (key pair)>"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"converter": cattrs.Converter(), **KEYS}, "make_converter"),
        ({}, "DD_API_KEY"),
        ({"api_key": "k"}, "no app_key"),
        ({**KEYS, "site": "mars"}, "unknown site"),
        ({**KEYS, "base_url": "http://example.com"}, "allow_http"),
        ({**KEYS, "base_url": "ftp://example.com"}, "absolute address"),
        ({**KEYS, "timeout": 0}, "timeout"),
        ({**KEYS, "timeout": float("nan")}, "timeout"),
        ({**KEYS, "max_concurrency": 0}, "max_concurrency"),
        ({**KEYS, "max_concurrency": 2.5}, "max_concurrency"),
        ({**KEYS, "max_body_bytes": -1}, "max_body_bytes"),
        ({**KEYS, "retry": 5}, "RetryPolicy"),
        ({**KEYS, "proxy": "socks5://h:1"}, "proxy"),
        ({**KEYS, "base_url": LOCAL, "proxy": "http://proxy.example:1"}, "proxy"),
    ],
)
def test_what_cannot_work_is_refused_at_construction(options, says):
    """The error names what to give instead."""
    with pytest.raises(ConfigError, match=says):
        ModelLabClient(**options)


@pytest.mark.parametrize(
    ("options", "environment", "origin"),
    [
        ({}, {}, LOCAL),
        ({}, {"DD_SITE": "eu1"}, LOCAL),
        ({"site": "eu1"}, {}, "https://api.datadoghq.eu"),
        ({"base_url": "https://gateway.example"}, {}, "https://gateway.example"),
        ({"base_url": "https://gateway.example", "site": "eu1"}, {}, "https://gateway.example"),
        ({}, {"MODELLAB_BASE_URL": "", "DD_SITE": "eu1"}, "https://api.datadoghq.eu"),
    ],
)
def test_the_address_of_the_environment(
    options: dict[str, Any],
    environment: dict[str, str],
    origin: str,
    monkeypatch: pytest.MonkeyPatch,
):
    """``MODELLAB_BASE_URL`` precedes ``DD_SITE``; arguments precede both."""
    monkeypatch.setenv("MODELLAB_BASE_URL", LOCAL)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert repr(ModelLabClient(**KEYS, **options)) == f"<ModelLabClient {origin} (key pair)>"


def test_a_wrong_address_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    """An address that cannot work is named by the variable that holds it."""
    monkeypatch.setenv("MODELLAB_BASE_URL", "gateway.example")
    with pytest.raises(ConfigError, match="MODELLAB_BASE_URL"):
        ModelLabClient(**KEYS)


async def test_a_bearer_token_goes_out_instead_of_keys():
    """The simulator accepts the token alone."""
    async with Simulator(runs=10, bearer_token="ddpat_token") as sim:
        async with ModelLabClient(base_url=sim.base_url, bearer_token="ddpat_token") as lab:
            assert (await lab.runs.get(sim.run_ids[0])).id == sim.run_ids[0]
        async with ModelLabClient(base_url=sim.base_url, bearer_token="stale") as lab:
            with pytest.raises(AuthenticationError, match=r"wrong key.*scope.*site"):
                await lab.runs.get(sim.run_ids[0])


async def test_a_token_function_is_asked_for_each_attempt():
    """An expired token is replaced by the function's next one, sync or async."""
    given: list[str] = []

    def token() -> str:
        given.append("current" if given else "expiring")
        return given[-1]

    async def async_token() -> str:
        return token()

    for function in (token, async_token):
        given.clear()
        async with Simulator(runs=10, bearer_token="expiring") as sim:
            async with ModelLabClient(base_url=sim.base_url, bearer_token=function) as lab:
                await lab.runs.get(sim.run_ids[0])
                with pytest.raises((AuthenticationError, PermissionDeniedError)):
                    await lab.runs.get(sim.run_ids[0])
        assert given == ["expiring", "current"]


async def test_an_empty_token_is_a_clear_error(sim: Simulator):
    """A function that gives nothing usable is named; nothing is sent."""
    async with ModelLabClient(base_url=sim.base_url, bearer_token=lambda: "") as lab:
        with pytest.raises(ConfigError, match="bearer_token"):
            await lab.runs.get(1)
    assert sim.counts.requests == 0


async def test_a_borrowed_session_stays_open_and_keeps_its_headers(sim: Simulator):
    """Its own headers and middlewares still apply, and closing the client does not close it."""
    seen = []

    async def middleware(request, handler):
        seen.append(request.url.path)
        return await handler(request)

    async with aiohttp.ClientSession(
        headers={"X-Team": "ranking"}, middlewares=(middleware,)
    ) as session:
        async with client_for(sim, session=session) as lab:
            await lab.runs.get(sim.run_ids[0])
            assert lab.stats.attempts == 1
        assert not session.closed
        assert sim.requests[-1].headers["x-team"] == "ranking"
        assert seen == [f"/api/v2/model-lab-api/runs/{sim.run_ids[0]}"]
        assert "DD-API-KEY" not in session.headers


async def test_a_borrowed_sessions_connection_limit_counts(sim: Simulator):
    """More requests than its connector takes would only queue inside aiohttp."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=3)) as session:
        async with client_for(sim, session=session) as lab:
            await lab.runs.get_many(sim.run_ids[:50])
        assert sim.counts.peak_in_flight <= 3


async def test_a_borrowed_session_that_was_closed_is_named(sim: Simulator):
    """The error says that it is the session that is closed."""
    session = aiohttp.ClientSession()
    await session.close()
    async with client_for(sim, session=session) as lab:
        with pytest.raises(ClientClosedError, match="session"):
            await lab.runs.get(1)


async def test_after_closing_every_use_is_a_clear_error(sim: Simulator):
    """Closing twice is fine; using afterwards is not, and no socket is left."""
    lab = client_for(sim)
    await lab.runs.get(sim.run_ids[0])
    await lab.aclose()
    await lab.aclose()
    with pytest.raises(ClientClosedError, match="closed"):
        await lab.runs.get(sim.run_ids[0])
    with pytest.raises(ClientClosedError, match="closed"):
        async with lab:
            pytest.fail("a closed client must not open again")
    await eventually(lambda: sim.counts.connections == 0)


def test_another_event_loop_is_a_clear_error():
    """A client that was used in one asyncio.run() says so in the next."""
    lab = ModelLabClient(base_url=LOCAL, **KEYS, retry=RetryPolicy.none())

    async def use_first() -> None:
        with pytest.raises(TransportError):
            await lab.runs.get(1)

    async def use_again() -> None:
        with pytest.raises(ClientClosedError, match="another event loop"):
            await lab.runs.get(1)
        await lab.aclose()

    asyncio.run(use_first())
    asyncio.run(use_again())


async def test_a_view_of_a_view_keeps_the_options_of_both(sim: Simulator, lab: ModelLabClient):
    """Each view changes only what it names; its client keeps its own options."""
    sim.faults.always(Fault.stall())
    view = lab.with_options(retry=RetryPolicy.none()).with_options(timeout=0.05)
    with pytest.raises(RequestTimeoutError, match=r"within 0\.05 s") as caught:
        await view.runs.get(sim.run_ids[0])
    assert caught.value.attempts == lab.stats.attempts == 1
    sim.faults.clear()
    sim.faults.next(Fault.status(500))
    assert (await lab.runs.get(sim.run_ids[0])).id == sim.run_ids[0]


async def test_views_share_session_limiter_and_counters(sim: Simulator, lab: ModelLabClient):
    """A view differs in its options only, and closing it closes nothing."""
    view = lab.with_options(retry=RetryPolicy.none(), timeout=5)
    async with view:
        await view.runs.get(sim.run_ids[0])
    await lab.runs.get(sim.run_ids[1])
    assert lab.stats == view.stats
    assert lab.stats.calls == 2
    assert sim.counts.connections_made == 1
    sim.faults.always(Fault.status(500))
    with pytest.raises(StatusError) as caught:
        await view.with_options(timeout=6).runs.get(sim.run_ids[0])
    assert caught.value.attempts == 1
    with pytest.raises(ConfigError, match="timeout"):
        lab.with_options(timeout=-1)


async def test_the_counters_are_a_frozen_snapshot(sim: Simulator, lab: ModelLabClient):
    """Numbers of one moment, which later calls do not change."""
    before = lab.stats
    await lab.runs.get(sim.run_ids[0])
    assert (before.calls, lab.stats.calls) == (0, 1)
    assert lab.stats.bytes_received > 500
    with pytest.raises(AttributeError):
        before.calls = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    "run_id", [True, -1, "1/../2", "", "7 ", "٧", 1.5, None, 2**63, "9" * 5000]
)
async def test_bad_ids_are_refused_before_any_request(
    sim: Simulator, lab: ModelLabClient, run_id: object
):
    """What is not an id never reaches a path."""
    with pytest.raises(InvalidIdError, match="run id"):
        await lab.runs.get(run_id)  # type: ignore[arg-type]
    assert sim.counts.requests == 0


async def test_a_redirect_is_never_followed(sim: Simulator, lab: ModelLabClient):
    """It could carry the keys to another host; the error says so."""
    async with Simulator(runs=10) as other:
        elsewhere = f"{other.base_url}/api/v2/model-lab-api/runs/{other.run_ids[0]}"
        sim.faults.next(Fault.status(307, headers={"Location": elsewhere}))
        with pytest.raises(StatusError, match="redirects are not followed"):
            await lab.runs.get(sim.run_ids[0])
        assert other.counts.requests == 0


async def test_a_response_about_another_run_is_refused(sim: Simulator, lab: ModelLabClient):
    """A response must be about the requested id; otherwise the request is repeated."""
    body = json.dumps({"data": sim.resource(sim.run_ids[1])}).encode()
    sim.faults.next(Fault.status(200, body=body))
    assert (await lab.runs.get(sim.run_ids[0])).id == sim.run_ids[0]
    sim.faults.next(Fault.status(200, body=body))
    once = lab.with_options(retry=RetryPolicy.none())
    with pytest.raises(DecodeError, match=rf"id {sim.run_ids[0]}.*got {sim.run_ids[1]}"):
        await once.runs.get(sim.run_ids[0])


async def test_a_body_over_the_cap_is_not_read_to_its_end(sim: Simulator):
    """The error names the option, and the answer is not asked for again."""
    async with client_for(sim, max_body_bytes=500) as lab:
        with pytest.raises(DecodeError, match="max_body_bytes"):
            await lab.runs.get(sim.run_ids[0])
        assert sim.counts.requests == 1
        with pytest.raises(NotFoundError):
            await lab.runs.get(1)


async def test_nobody_there_is_a_clear_error():
    """A refused connection names host and cause, after the attempts allowed."""
    async with ModelLabClient(
        base_url=LOCAL, **KEYS, retry=RetryPolicy(attempts=2, base=0.001)
    ) as lab:
        with pytest.raises(TransportError, match=r"no connection to 127\.0\.0\.1:9 .*after 2") as e:
            await lab.runs.get(1)
        assert e.value.kind == "not_sent"


async def test_a_name_that_does_not_resolve_is_a_clear_error():
    """A host that does not exist is named."""
    async with ModelLabClient(
        base_url="https://modellab.invalid", **KEYS, retry=RetryPolicy.none()
    ) as lab:
        with pytest.raises(TransportError, match=r"modellab\.invalid"):
            await lab.runs.get(1)


async def test_a_server_without_tls_is_a_clear_error(sim: Simulator):
    """Speaking TLS to a plain server fails at once, since no repeat could help."""
    address = sim.base_url.replace("http://", "https://")
    async with ModelLabClient(base_url=address, **KEYS, ssl=ssl.create_default_context()) as lab:
        with pytest.raises(TransportError, match="no trusted connection"):
            await lab.runs.get(1)
        assert lab.stats.attempts == 1


async def test_a_proxy_is_used_as_given(sim: Simulator):
    """An explicit proxy gets the request; the environment's is not asked for loopback."""
    asked: list[str] = []

    async def proxy(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(str(request.url))
        return web.json_response({"data": sim.resource(sim.run_ids[0])})

    server = web.Server(proxy)
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with client_for(sim, proxy=address) as lab:
            assert (await lab.runs.get(sim.run_ids[0])).id == sim.run_ids[0]
        assert asked == [f"{sim.base_url}/api/v2/model-lab-api/runs/{sim.run_ids[0]}"]
    finally:
        await runner.cleanup()


async def test_a_proxys_password_is_not_shown():
    """A proxy that refuses is named in the error without the password that its address holds."""

    async def refuse(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=407)

    runner = web.ServerRunner(web.Server(refuse))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        async with ModelLabClient(
            base_url="https://modellab.invalid", proxy=f"http://bob:HUSH@{host}:{port}", **KEYS
        ) as lab:
            with pytest.raises(TransportError, match=r"proxy did not connect.*407") as caught:
                await lab.runs.get(1)
    finally:
        await runner.cleanup()
    assert "HUSH" not in str(caught.value)
    assert lab.stats.attempts == 1


async def test_the_environments_proxy_is_resolved_once(monkeypatch: pytest.MonkeyPatch):
    """It applies to Datadog's sites, unless NO_PROXY exempts them."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    once = RetryPolicy.none()
    async with ModelLabClient(**KEYS, retry=once) as lab:
        with pytest.raises(TransportError, match=r"127\.0\.0\.1"):
            await lab.runs.get(1)
    async with Simulator(runs=10) as sim, client_for(sim) as lab:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        assert (await lab.runs.get(sim.run_ids[0])).id == sim.run_ids[0]


async def test_a_converter_with_hooks_is_honoured(sim: Simulator):
    """A user's hook decides what a field becomes."""
    converter = make_converter()
    converter.register_structure_hook(str, lambda value, _: str(value).upper())
    async with client_for(sim, converter=converter) as lab:
        run = await lab.runs.get(sim.run_ids[0])
        assert run.name == sim.resource(sim.run_ids[0])["attributes"]["name"].upper()


@pytest.mark.virtual_time
async def test_a_time_out_is_also_the_builtin_one(sim: Simulator):
    """``except TimeoutError`` catches it."""
    sim.faults.always(Fault.stall())
    async with client_for(sim, timeout=0.05, retry=RetryPolicy.none()) as lab:
        with pytest.raises(TimeoutError) as caught:
            await lab.runs.get(sim.run_ids[0])
        assert isinstance(caught.value, RequestTimeoutError)


async def test_runs_survive_a_round_trip(sim: Simulator, lab: ModelLabClient):
    """What to_dict gives, and a server sends back, is an equal run; so is a pickled one."""
    for run_id in sim.run_ids[:50]:
        run = await lab.runs.get(run_id)
        assert pickle.loads(pickle.dumps(run)) == run
        sim.insert_run(run_id=900_000 + run_id, **to_dict(run)["attributes"])
        copy = await lab.runs.get(900_000 + run_id)
        assert to_dict(copy)["attributes"] == to_dict(run)["attributes"]


async def test_closing_ends_a_call_that_backs_off(sim: Simulator):
    """A pause does not outlive the client."""
    sim.faults.always(Fault.status(503, retry_after=60))
    lab = client_for(sim)
    call = asyncio.create_task(lab.runs.get(sim.run_ids[0]))
    await eventually(lambda: lab.stats.backoff_wait_s > 0)
    await lab.aclose()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ClientClosedError):
            await call


@pytest.mark.parametrize("error", [KeyError("x"), aiohttp.ClientConnectionError("oauth is down")])
async def test_a_token_function_that_fails_is_named(sim: Simulator, error: Exception):
    """Its own errors are not taken for the API's, and nothing is sent."""

    def token() -> str:
        raise error

    async with ModelLabClient(base_url=sim.base_url, bearer_token=token) as lab:
        with pytest.raises(ConfigError, match="function given as bearer_token") as caught:
            await lab.runs.get(sim.run_ids[0])
        assert caught.value.__cause__ is error
        assert lab.stats.attempts == 0 == sim.counts.requests


async def test_a_borrowed_session_that_raises_for_status_changes_nothing(sim: Simulator):
    """The errors stay this package's, and are not asked for twice."""
    async with aiohttp.ClientSession(raise_for_status=True, auto_decompress=False) as session:
        async with client_for(sim, session=session) as lab:
            assert (await lab.runs.get(sim.run_ids[0])).id == sim.run_ids[0]
            with pytest.raises(NotFoundError):
                await lab.runs.get(1)
        assert sim.counts.requests == 2
