"""A server or proxy that cannot be reached: a clear error within the deadline, with host and cause.

Whatever fails, no key reaches a proxy that only has to open a tunnel.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
import trustme
from conftest import FakeClock
from faultserver import Act, FaultServer, http, run_body, send

from modellab_async import ModelLabClient, RequestTimeoutError, RetryPolicy, TransportError

pytestmark = pytest.mark.virtual_time

KEYS: dict[str, Any] = {"api_key": "an-api-key", "app_key": "an-app-key"}
API = "https://api.modellab.invalid"
TUNNEL = b"HTTP/1.1 200 Connection established\r\n\r\n"


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address of this machine that refuses connections."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def certified(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def failure(base_url: str, attempts: int = 2, **options: Any) -> TransportError:
    """How a call to an address fails, without back-off."""
    options.setdefault("retry", RetryPolicy(attempts=2, base=0))
    options.setdefault("timeout", 5.0)
    async with ModelLabClient(base_url=base_url, **KEYS, **options) as lab:
        with pytest.raises(TransportError) as caught:
            await lab.runs.get(7)
        assert lab.stats.attempts == caught.value.attempts == attempts
    assert "an-a" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_refused_connection(nobody: str, scheme: str):
    """Host and cause are named; the server certainly did not act."""
    error = await failure(f"{scheme}://{nobody}")
    assert f"no connection to {nobody} " in str(error)
    assert "Connect call failed" in str(error)
    assert error.kind in {"not_sent", "unresolved"}


async def test_a_refused_connection_ends_by_the_deadline(nobody: str, fake: FakeClock):
    """Back-off between attempts never goes beyond the call's deadline."""
    policy = RetryPolicy(attempts=1_000, base=1, cap=4, deadline=30)
    async with ModelLabClient(
        base_url=f"http://{nobody}", **KEYS, retry=policy, clock=fake.clock()
    ) as lab:
        with pytest.raises(TransportError, match=f"no connection to {nobody}"):
            await lab.runs.get(7)
    assert 10 < fake.now <= 30


async def test_a_name_that_does_not_exist():
    """Host and cause are named."""
    error = await failure(API)
    assert "no connection to api.modellab.invalid (ClientConnectorDNSError" in str(error)


async def test_a_name_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch):
    """Looking a name up is a part of the attempt, and as bounded."""

    async def never(*_args: Any, **_options: Any) -> None:
        await asyncio.sleep(3_600)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    error = await failure(API, timeout=0.05)
    assert isinstance(error, RequestTimeoutError)
    assert str(error).startswith("no complete response from api.modellab.invalid within 0.05 s (")


async def test_a_certificate_that_is_trusted(authority: trustme.CA):
    """The witness of what follows: with the right authority and name, a run arrives."""
    async with (
        FaultServer(tls=certified(authority, "127.0.0.1")) as server,
        ModelLabClient(base_url=server.base_url, **KEYS, ssl=trusting(authority)) as lab,
    ):
        assert (await lab.runs.get(7)).id == 7


@pytest.mark.parametrize(
    ("name", "trusted", "cause"),
    [
        ("127.0.0.1", False, "unable to get local issuer certificate"),
        ("elsewhere.test", True, "not valid for '127.0.0.1'"),
    ],
)
async def test_a_certificate_that_is_not_trusted(
    authority: trustme.CA, name: str, trusted: bool, cause: str
):
    """It is named and not tried again, since no repeat could help; no request is sent."""
    async with FaultServer(tls=certified(authority, name)) as server:
        context = trusting(authority) if trusted else None
        error = await failure(server.base_url, attempts=1, ssl=context)
        assert server.seen == []
    assert f"no trusted connection to {server.address} " in str(error)
    assert cause in str(error)
    assert error.kind == "final"


@pytest.mark.parametrize(
    ("greeting", "attempts", "says"),
    [
        (send(b"", "reset"), 2, "Connection reset"),
        (send(b"", "close"), 2, "no connection to"),
        (send(b"", "stall"), 2, "no complete response from"),
        (send(http(run_body(7)), "stall"), 1, "no trusted connection to"),
    ],
    ids=["reset", "close", "stall", "plain"],
)
async def test_a_handshake_that_fails(greeting: Act, attempts: int, says: str):
    """Whatever becomes of the handshake, host and cause are named, and no request is sent."""
    async with FaultServer(greeting=greeting) as server:
        address = server.address
        error = await failure(f"https://{address}", attempts, timeout=0.1)
        assert (server.seen, server.connections) == ([], attempts)
    assert says in str(error)
    assert address in str(error)


@pytest.mark.parametrize("base_url", [API, "http://127.0.0.1:9"])
async def test_a_proxy_that_refuses_connections(nobody: str, base_url: str):
    """Both the host and the proxy are named."""
    error = await failure(base_url, proxy=f"http://{nobody}")
    assert f"through the proxy {nobody} (ClientProxyConnectionError" in str(error)
    assert base_url.partition("://")[2] in str(error)
    assert error.kind in {"not_sent", "unresolved"}


async def test_a_proxy_whose_name_does_not_exist():
    """Both names are in the error."""
    error = await failure(API, proxy="http://proxy.invalid:3128")
    assert "api.modellab.invalid through the proxy proxy.invalid:3128" in str(error)


@pytest.mark.parametrize(
    ("act", "attempts", "says"),
    [
        (send(http("", 407)), 1, "407"),
        (send(http("", 403)), 1, "403"),
        (send(http("", 502)), 2, "502"),
        (send(b"", "reset"), 2, "was lost"),
        (send(b"", "close"), 2, "was lost"),
        (send(b"", "stall"), 2, "no complete response"),
        (send(b"SSH-2.0\r\n\r\n", "close"), 2, "is not HTTP"),
        (send(TUNNEL, "close"), 2, "no connection to"),
        (send(TUNNEL, "reset"), 2, "no connection to"),
        (send(TUNNEL, "stall"), 2, "no complete response"),
        (send(TUNNEL + http("no TLS"), "stall"), 2, "no complete response"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_a_proxy_that_opens_no_tunnel(act: Act, attempts: int, says: str):
    """Both the host and the proxy are named, its password never is, and no key reached it."""
    async with FaultServer(act, act) as proxy:
        address = proxy.address
        error = await failure(API, attempts, proxy=f"http://user:swordfish@{address}", timeout=0.1)
        assert len(proxy.seen) == attempts
        for seen in proxy.seen:
            assert (seen.method, seen.target) == ("CONNECT", "api.modellab.invalid:443")
            assert "proxy-authorization" in seen.headers
            assert not {"dd-api-key", "dd-application-key", "authorization"} & set(seen.headers)
            assert not any("an-a" in value for value in seen.headers.values())
    assert says in str(error)
    assert f"api.modellab.invalid through the proxy {address}" in str(error)
    assert "swordfish" not in repr(error)
