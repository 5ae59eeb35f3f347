"""``modellab doctor`` against everything that can be wrong on the way to the API."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import format_datetime
from pathlib import Path
from unittest.mock import patch

import pytest
import trustme
from conftest import eventually
from shells import COLOUR, Shell, environment, finish, on_terminal
from test_cli import SECRETS, invoke, settings
from yarl import URL

from modellab_async.cli.doctor import Examination, Finding, refusal_advice
from modellab_async.simulator import Fault, RateLimit, Simulator

FORMER = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def read(output: str) -> dict[str, dict[str, str]]:
    """The findings by what was checked."""
    return {finding["check"]: finding for finding in map(json.loads, output.splitlines())}


def wrong(output: str) -> list[str]:
    """What is wrong; each such finding has advice."""
    found = [finding for finding in read(output).values() if finding["result"] == "wrong"]
    assert all(finding["advice"] for finding in found)
    return [finding["check"] for finding in found]


async def examined(env: dict[str, str], **options: object) -> dict[str, Finding]:
    with patch.dict(os.environ, env):
        examination = Examination(**options)  # type: ignore[arg-type]
        return {finding.check: finding async for finding in examination.findings()}


async def test_all_is_well(sim: Simulator) -> None:
    """With the right settings every check is fine, one request is made, and the exit code is 0."""
    result = await invoke("doctor", env=settings(sim))

    assert (result.exit_code, result.stderr) == (0, "")
    found = read(result.stdout)
    assert list(found) == ["keys", "site", "proxy", "tcp", "access", "clock"]
    assert {finding["result"] for finding in found.values()} == {"ok"}
    assert found["site"]["said"] == f"{sim.base_url} (MODELLAB_BASE_URL)"
    assert sim.counts.requests == 1
    assert not any(secret in result.output for secret in (sim.api_key, sim.app_key))


async def test_the_quota_is_told() -> None:
    """Where the server speaks of a limit, what is left of it is shown."""
    async with Simulator(runs=1, rate_limit=RateLimit(100, 10)) as sim:
        found = read((await invoke("doctor", env=settings(sim))).stdout)
    assert found["quota"]["said"].startswith("99 of 100 requests left for ")


@pytest.mark.parametrize(
    ("env", "said", "advice"),
    [
        ({}, "DD_API_KEY", "Set DD_API_KEY and DD_APP_KEY"),
        ({"DD_API_KEY": "SECRET"}, "DD_APP_KEY", "Set DD_API_KEY and DD_APP_KEY"),
        (
            {"DATADOG_API_KEY": "SECRET", "DD_APPLICATION_KEY": "SECRET"},
            "DD_API_KEY",
            "DD_APPLICATION_KEY is set, but DD_APP_KEY is what is read.",
        ),
        ({"DD_BEARER_TOKEN": "SECRET\n"}, "control", "Set DD_API_KEY"),
    ],
)
async def test_missing_keys_are_2(
    sim: Simulator, env: dict[str, str], said: str, advice: str
) -> None:
    """Keys that are missing, misnamed or broken are named; the rest of the way is still checked."""
    result = await invoke("doctor", "--base-url", sim.base_url, env=env)

    assert result.exit_code == 2
    assert wrong(result.stdout) == ["keys"]
    found = read(result.stdout)
    assert said in found["keys"]["said"]
    assert advice in found["keys"]["advice"]
    assert (found["access"]["result"], found["clock"]["result"]) == ("skipped", "ok")
    assert "SECRET" not in result.output


@pytest.mark.parametrize("name", ["DD_API_KEY", "DD_APP_KEY", "DD_BEARER_TOKEN"])
async def test_refused_keys_are_3(sim: Simulator, name: str) -> None:
    """A wrong key or token is what is wrong, and never shown."""
    result = await invoke("doctor", env=settings(sim) | {name: "SECRET"})

    assert result.exit_code == 3
    assert wrong(result.stdout) == ["access"]
    sent = "the token" if name == "DD_BEARER_TOKEN" else "a key"
    assert f"{sent} is wrong or revoked" in read(result.stdout)["access"]["advice"]
    assert "SECRET" not in result.output


async def test_swapped_keys_are_recognised(sim: Simulator) -> None:
    """A pair of keys whose lengths are the other way round is said to be swapped."""
    keys = {"DD_API_KEY": "a" * 40, "DD_APP_KEY": "b" * 32}
    result = await invoke("doctor", env=settings(sim) | keys)
    assert read(result.stdout)["access"]["advice"].endswith("swap")


async def test_keys_that_were_not_sent_are_not_advised_on(sim: Simulator) -> None:
    """Where a token wins over a pair of keys, that pair has no part in a refusal."""
    env = {"DD_API_KEY": "a" * 40, "DD_APP_KEY": "b" * 32, "DD_BEARER_TOKEN": "SECRET"}
    result = await invoke("doctor", env=settings(sim) | env)
    advice = read(result.stdout)["access"]["advice"]
    assert "the token is wrong or revoked" in advice
    assert "swap" not in advice


def test_keys_of_another_site_are_thought_of() -> None:
    """On one of Datadog's sites, the advice names the others."""
    advice = refusal_advice(SECRETS, "key pair", "api.datadoghq.eu")
    assert "another site than datadoghq.eu" in advice
    assert "us1, us3, us5, ap1" in advice


@pytest.mark.parametrize(
    ("arguments", "env", "said", "advice"),
    [
        ([], {"DD_SITE": "nowhere"}, "unknown site (DD_SITE)", "Correct DD_SITE"),
        (["--site", "nowhere"], {"DD_SITE": "eu1"}, "unknown site", "Correct --site"),
        ([], {"MODELLAB_BASE_URL": "ftp://x"}, "base_url", "Correct MODELLAB_BASE_URL"),
        (["--base-url", "http://example.com"], {}, "unencrypted", "Correct --base-url"),
        (["--base-url", "https://u:SECRET@h"], {}, "user or password", "Correct --base-url"),
    ],
)
async def test_a_wrong_site_is_2(
    arguments: list[str], env: dict[str, str], said: str, advice: str
) -> None:
    """A site or address that cannot work ends the check, and names where it came from."""
    result = await invoke("doctor", *arguments, env=SECRETS | env)

    assert result.exit_code == 2
    assert wrong(result.stdout) == ["site"]
    finding = read(result.stdout)["site"]
    assert said in finding["said"]
    assert finding["advice"].startswith(advice)
    assert "SECRET" not in result.output


@pytest.mark.parametrize(
    ("proxy", "code", "failing"),
    [("socks5://u:SECRET@h:1", 2, "proxy"), ("http://u:SECRET@127.0.0.1:9", 1, "tcp")],
)
async def test_a_wrong_proxy(proxy: str, code: int, failing: str) -> None:
    """A proxy that cannot be used, or reached, is named without its password."""
    env = SECRETS | {"HTTPS_PROXY": proxy}
    result = await invoke("doctor", "--base-url", "https://modellab.invalid", env=env)

    assert (result.exit_code, wrong(result.stdout)) == (code, [failing])
    assert "SECRET" not in result.output


async def test_a_name_without_an_address_is_1() -> None:
    """A host that does not exist is the name server's finding."""
    result = await invoke("doctor", "--base-url", "https://modellab.invalid", env=SECRETS)

    assert (result.exit_code, wrong(result.stdout)) == (1, ["dns"])
    assert "no address for modellab.invalid" in read(result.stdout)["dns"]["said"]


async def test_an_unreachable_host_is_1() -> None:
    """A port where nothing listens is said to refuse."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        result = await invoke("doctor", "--base-url", address, env=SECRETS)

    assert (result.exit_code, wrong(result.stdout)) == (1, ["tcp"])
    assert "refused" in read(result.stdout)["tcp"]["said"].lower()


@pytest.mark.parametrize(
    ("fault", "code", "failing", "said"),
    [
        (Fault.status(404), 4, "access", "404"),
        (Fault.status(503, body="html"), 1, "access", "503"),
        (Fault.rate_limited(reset=7), 1, "access", "429"),
        (Fault.status(302, headers={"Location": "/login"}), 1, "access", "redirects"),
        (Fault.status(200, body=b"<html>Please log in"), 1, "access", "not the Model Lab API"),
        (Fault.status(200, body=b'{"data":null}'), 1, "access", "not the Model Lab API"),
        (Fault.status(400, body=b'{"errors":["\\u001b[2J"]}'), 1, "access", r"\x1b[2J"),
        (Fault.close(), 1, "answer", "lost"),
        (Fault.stall(), 1, "answer", "no complete response"),
    ],
)
@pytest.mark.virtual_time
async def test_what_the_server_does_wrong(
    sim: Simulator, fault: Fault, code: int, failing: str, said: str
) -> None:
    """Each kind of bad answer, or none, is told apart; nothing is asked twice."""
    sim.faults.always(fault)

    found = await examined(settings(sim), patience=0.3)

    assert [f.check for f in found.values() if f.result == "wrong"] == [failing]
    assert (found[failing].code, said in found[failing].said) == (code, True)
    assert found[failing].advice
    await eventually(lambda: sim.counts.requests == 1)


@pytest.mark.parametrize(
    ("hours", "said"), [(1.01, "1 h 00 m behind"), (-26.5, "1 d 02 h ahead of")]
)
async def test_a_skewed_clock_is_1(sim: Simulator, hours: float, said: str) -> None:
    """A clock more than a minute from the server's is wrong, whichever of them is right."""
    date = format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours), usegmt=True)
    sim.faults.always(Fault.status(200, body=b'{"data":[]}', headers={"Date": date}))

    result = await invoke("doctor", env=settings(sim))

    assert (result.exit_code, wrong(result.stdout)) == (1, ["clock"])
    assert read(result.stdout)["clock"]["said"] == f"{said} the server's"


async def test_a_clock_a_little_off_is_well(sim: Simulator) -> None:
    """Half a minute is told, but not held to be wrong; a server without a date tells nothing."""
    found = await examined(settings(sim), clock=lambda: time.time() + 30)
    assert found["clock"].result == "ok"
    assert "ahead of the server's" in found["clock"].said

    sim.faults.always(Fault.status(200, body=b'{"data":[]}', headers={"Date": "noon"}))
    assert (await examined(settings(sim)))["clock"].result == "skipped"


@asynccontextmanager
async def in_front_of(
    sim: Simulator, context: ssl.SSLContext | None = None, *, tunnel_to: int | None = None
) -> AsyncIterator[int]:
    """A port in front of the simulator, perhaps with TLS, or a proxy that leads to a port."""
    port = URL(sim.base_url).port if tunnel_to is None else tunnel_to

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if tunnel_to is not None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            onward = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(copy(reader, onward[1]), copy(onward[0], writer))
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


def serving(authority: trustme.CA, *names: str, until: dt.datetime | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names, not_after=until).configure_cert(context)
    return context


async def test_a_trusted_certificate(shell: Shell, sim: Simulator, tmp_path: Path) -> None:
    """TLS with a trusted certificate is fine, straight and through a proxy's tunnel."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    env = environment(sim, SSL_CERT_FILE=str(tmp_path / "authority.pem"))
    context = serving(authority, "localhost", "modellab.invalid")
    async with in_front_of(sim, context) as port, in_front_of(sim, tunnel_to=port) as proxy:
        straight = await shell.modellab(
            "doctor", "--base-url", f"https://localhost:{port}", env=env
        )
        code, output, _ = await finish(straight)
        assert (code, wrong(output)) == (0, [])
        assert read(output)["tls"]["said"].startswith("TLSv1.")

        env |= {"HTTPS_PROXY": f"http://bob:HUSH@127.0.0.1:{proxy}"}
        tunnelled = await shell.modellab(
            "doctor", "--base-url", "https://modellab.invalid", env=env
        )
        code, output, _ = await finish(tunnelled)
    assert (code, wrong(output)) == (0, [])
    assert read(output)["proxy"]["said"] == f"http://127.0.0.1:{proxy}"
    assert "HUSH" not in output


@pytest.mark.parametrize(
    ("trusted", "name", "until", "said"),
    [
        (False, "localhost", None, "unable to get local issuer"),
        (True, "elsewhere.example", None, "Hostname mismatch"),
        (True, "localhost", FORMER, "expired"),
    ],
)
async def test_a_certificate_that_is_not_trusted_is_1(
    sim: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trusted: bool,
    name: str,
    until: dt.datetime | None,
    said: str,
) -> None:
    """What is wrong with a certificate is said; no key is sent to whoever shows it."""
    authority = trustme.CA()
    (authority if trusted else trustme.CA()).cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with in_front_of(sim, serving(authority, name, until=until)) as port:
        found = await examined(SECRETS, base_url=f"https://localhost:{port}")

    assert (found["tls"].result, found["tls"].code) == ("wrong", 1)
    assert said in found["tls"].said
    assert "access" not in found
    assert sim.counts.requests == 0


async def test_a_server_without_tls_is_1(sim: Simulator) -> None:
    """Speaking TLS to a plain server is told apart from a bad certificate."""
    found = await examined(SECRETS, base_url=sim.base_url.replace("http://", "https://"))
    assert found["tls"].result == "wrong"
    assert found["tls"].said.startswith("no TLS")


async def test_silence_is_not_waited_for_long(sim: Simulator) -> None:
    """A server that accepts and then says nothing is given up on in time."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"https://127.0.0.1:{mute.getsockname()[1]}"
        found = await examined(SECRETS, base_url=address, patience=0.2)
    assert found["tls"].said == "no handshake within 0.2 s"


async def test_a_terminal_gets_marks(shell: Shell, sim: Simulator) -> None:
    """On a terminal each check is a line with a mark, advice below it, and no secret."""
    env = environment(sim, DD_APP_KEY="SECRET")
    code, drawn = await on_terminal(shell, "doctor", env=env, width=60)
    lines = COLOUR.sub("", drawn).splitlines()

    assert code == 3
    assert [line[0] for line in lines if line[0] != " "] == ["✓", "✓", "✓", "✓", "✗", "✓"]
    assert all(len(line) <= 60 for line in lines)
    assert any("revoked" in line for line in lines)
    assert "SECRET" not in drawn
