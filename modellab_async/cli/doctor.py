"""``modellab doctor``: whether keys, site, clock and network are as they must be.

Everything between the environment and a response is checked, in the order in which it matters. No
finding shows a secret.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import socket
import ssl
import time
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs
import typer
from rich.table import Table
from rich.text import Text
from yarl import URL

from modellab_async import (
    AuthenticationError,
    ConfigError,
    DecodeError,
    ModelLabError,
    NotFoundError,
    PermissionDeniedError,
    RateLimit,
    RateLimitedError,
    ServerError,
    StatusError,
    TransportError,
)
from modellab_async.cli.common import BaseUrl, ExitCode, Out, Site, command
from modellab_async.cli.output import show, write_line
from modellab_async.config import (
    SITES,
    Credentials,
    check_proxy,
    environment_proxy,
    resolve_base_url,
    resolve_site,
)
from modellab_async.display import clean, duration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from modellab_async.cli.output import Output

PATIENCE: Final = 10.0
"""Seconds that each step may take."""

MAX_SKEW: Final = 60.0
"""Seconds that the clock may differ from the server's."""

_MISNAMED: Final = {
    "DATADOG_API_KEY": "DD_API_KEY",
    "DATADOG_APP_KEY": "DD_APP_KEY",
    "DD_APPLICATION_KEY": "DD_APP_KEY",
    "DATADOG_APPLICATION_KEY": "DD_APP_KEY",
    "DATADOG_SITE": "DD_SITE",
}
"""Names that other tools read, and what this one reads."""

_API_KEY_LENGTH: Final = 32
_APP_KEY_LENGTH: Final = 40

Result = Literal["ok", "wrong", "skipped"]

_MARKS: Final = {"ok": ("✓", "green"), "wrong": ("✗", "bold red"), "skipped": ("-", "dim")}

app: typer.Typer = typer.Typer()


@attrs.frozen
class Finding:
    """The result of one check.

    Attributes:
        check: what was checked.
        said: what was found.
        result: whether that is well.
        advice: what to do about it, if something is wrong.
        code: what the command exits with because of it.
    """

    check: str
    said: str
    result: Result = "ok"
    advice: str = ""
    code: ExitCode = ExitCode.OK


class _CheckError(Exception):
    """What a check found wrong, what to do about it, and the exit code."""

    def __init__(self, said: object, advice: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(said)
        self.advice = advice
        self.code = code


@attrs.define
class Examination:
    """Checks everything between the environment and a response.

    Args:
        base_url: as typed, or None.
        site: as typed, or None; it wins over MODELLAB_BASE_URL.
        clock: seconds since the epoch by this machine.
        patience: seconds that each step may take.
    """

    base_url: str | None = None
    site: str | None = None
    clock: Callable[[], float] = time.time
    patience: float = PATIENCE
    _credentials: Credentials | None = attrs.field(default=None, init=False)
    _url: URL = attrs.field(factory=URL, init=False)
    _proxy: URL | None = attrs.field(default=None, init=False)

    async def findings(self) -> AsyncIterator[Finding]:
        """Each finding as it is made; after one that is wrong, what needs it is not tried."""
        checks = {
            "keys": self._check_keys,
            "site": self._check_site,
            "proxy": self._check_proxy,
            "dns": self._resolve,
            "tcp": self._connect,
            "tls": self._shake_hands,
        }
        for name, check in checks.items():
            try:
                said = await check()
            except _CheckError as error:
                yield Finding(name, str(error), "wrong", error.advice, error.code)
                if name != "keys":
                    return
            else:
                if said:
                    yield Finding(name, said)
        async for finding in self._ask():
            yield finding

    async def _check_keys(self) -> str:
        try:
            self._credentials = Credentials.resolve(
                os.environ, api_key=None, app_key=None, bearer_token=None
            )
        except ConfigError as error:
            misnamed = [
                f"{name} is set, but {right} is what is read."
                for name, right in _MISNAMED.items()
                if os.environ.get(name) and not os.environ.get(right)
            ]
            advice = "Set DD_API_KEY and DD_APP_KEY, or DD_BEARER_TOKEN, in the environment."
            raise _CheckError(error, " ".join(misnamed) or advice, ExitCode.USAGE) from error
        if self._credentials.kind == "key pair":
            return "DD_API_KEY and DD_APP_KEY are set"
        besides = " and wins over the keys" if os.environ.get("DD_API_KEY") else ""
        return f"DD_BEARER_TOKEN is set{besides}"

    async def _check_site(self) -> str:
        named = {
            "--base-url": self.base_url,
            "--site": self.site,
            "MODELLAB_BASE_URL": os.environ.get("MODELLAB_BASE_URL") or None,
            "DD_SITE": os.environ.get("DD_SITE") or None,
            "by default": "us1",
        }
        source, text = next((name, text) for name, text in named.items() if text is not None)
        try:
            if source in {"--base-url", "MODELLAB_BASE_URL"}:
                self._url = resolve_base_url(text, allow_http=False)
            else:
                self._url = URL(f"https://api.{resolve_site(text)}")
        except ConfigError as error:
            advice = f"Correct {source}, or leave it out."
            raise _CheckError(error, advice, ExitCode.USAGE) from error
        return f"{self._url} ({source})"

    async def _check_proxy(self) -> str:
        named = environment_proxy(self._url)
        if named is None:
            return "none"
        try:
            self._proxy = check_proxy(named, self._url, allow_http=False)
        except ConfigError as error:
            advice = f"Correct {self._url.scheme.upper()}_PROXY, or add the host to NO_PROXY."
            raise _CheckError(error, advice, ExitCode.USAGE) from error
        return str(self._proxy.origin())  # without its user and password

    @property
    def _next_hop(self) -> tuple[str, int]:
        hop = self._proxy or self._url
        return hop.host or "", hop.port or 443

    async def _resolve(self) -> str | None:
        host, port = self._next_hop
        with suppress(ValueError):
            ipaddress.ip_address(host)
            return None
        try:
            async with asyncio.timeout(self.patience):
                found = await asyncio.get_running_loop().getaddrinfo(
                    host, port, type=socket.SOCK_STREAM
                )
        except (OSError, UnicodeError) as error:
            advice = (
                "Check the spelling, the network and its name server;"
                " behind a company's proxy set HTTPS_PROXY."
            )
            raise _CheckError(f"no address for {host} {self._why(error)}", advice) from error
        addresses = dict.fromkeys(str(address[0]) for *_, address in found)
        return f"{host} is {', '.join(addresses)}"

    async def _connect(self) -> str:
        host, port = self._next_hop
        start = time.perf_counter()
        try:
            await self._open(None)
        except OSError as error:
            advice = (
                "A firewall may drop it; behind a company's proxy set HTTPS_PROXY."
                if isinstance(error, TimeoutError)
                else "Nothing listens there, or a firewall refuses; is the address right?"
            )
            said = f"no connection to {host}:{port} {self._why(error)}"
            raise _CheckError(said, advice) from error
        took = (time.perf_counter() - start) * 1_000
        return f"connected to {host}:{port} in {took:.0f} ms"

    async def _shake_hands(self) -> str | None:
        """TLS, unless a proxy makes the connection; then the request itself shows it."""
        if self._url.scheme != "https" or self._proxy is not None:
            return None
        try:
            version = await self._open(ssl.create_default_context())
        except ssl.SSLCertVerificationError as error:
            said = f"the certificate is not trusted: {error.verify_message}"
            advice = (
                "Check this machine's clock, and that the host is right; if a company's proxy"
                " signs certificates, name its authority's file in SSL_CERT_FILE."
            )
            raise _CheckError(said, advice) from error
        except TimeoutError as error:
            advice = "Something on the way holds TLS back, such as a firewall or a proxy."
            raise _CheckError(f"no handshake {self._why(error)}", advice) from error
        except OSError as error:
            advice = "What listens there does not speak TLS, or something on the way cuts it."
            raise _CheckError(f"no TLS {self._why(error)}", advice) from error
        return f"{version}, the certificate is trusted"

    async def _open(self, context: ssl.SSLContext | None) -> str | None:
        """Connect and close again; returns the version of TLS."""
        host, port = self._next_hop
        async with asyncio.timeout(self.patience):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
        spoken = writer.get_extra_info("ssl_object")
        version = spoken.version() if spoken else None
        writer.transport.abort()
        return version

    def _why(self, error: Exception) -> str:
        timed_out = isinstance(error, TimeoutError)
        return f"within {self.patience:g} s" if timed_out else f"({_reason(error)})"

    async def _ask(self) -> AsyncIterator[Finding]:
        """Ask for one project, once; what the response says of keys, clock and quota."""
        import aiohttp  # noqa: PLC0415 - `--help` does not need it

        from modellab_async import ModelLabClient, RetryPolicy  # noqa: PLC0415

        headers: Mapping[str, str] = {}

        async def keep_headers(_session: object, _context: object, end: Any) -> None:
            nonlocal headers
            headers = end.response.headers

        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(keep_headers)
        sent = self.clock()
        error: ModelLabError | None = None
        try:
            async with (
                aiohttp.ClientSession(trace_configs=[trace]) as session,
                ModelLabClient(
                    base_url=str(self._url),
                    # A response to no keys shows the clock, too.
                    bearer_token=None if self._credentials else "none",
                    retry=RetryPolicy.none(),
                    timeout=self.patience,
                    session=session,
                ) as lab,
            ):
                await lab.projects.list(page_size=1)
        except TransportError as failure:
            advice = "Something between here and the API cuts requests off; try again, then ask"
            advice += " whoever runs the proxy." if self._proxy else " whoever runs the network."
            yield Finding("answer", str(failure), "wrong", advice, ExitCode.FAILED)
            return
        except (StatusError, DecodeError) as failure:
            error = failure
        yield self._access(error)
        yield clock_finding(headers, (sent + self.clock()) / 2)
        limit = RateLimit.from_headers(headers)
        if limit is not None and limit.remaining is not None and limit.limit is not None:
            until = "" if limit.reset is None else f" for {duration(limit.reset)}"
            left = f"{limit.remaining:,} of {limit.limit:,} requests left{until}"
            yield Finding("quota", left)

    def _access(self, error: ModelLabError | None) -> Finding:
        """Whether the keys are accepted, by what the request ended with."""
        if self._credentials is None:
            return Finding("access", "not tried without keys", "skipped")
        if error is None:
            return Finding("access", "the keys are accepted")
        said = str(error)
        match error:
            case AuthenticationError() | PermissionDeniedError():
                advice = refusal_advice(os.environ, self._credentials.kind, self._url.host or "")
            case NotFoundError():
                advice = "Is the address right? It ends before /api/v2."
            case RateLimitedError():
                advice = "The organization's quota is used up; wait until it comes back."
            case ServerError():
                advice = "The trouble is on the server's side; try again later."
            case DecodeError():
                said = f"what answers is not the Model Lab API: {error}"
                advice = "A proxy's login page may answer in its place; is the address right?"
            case _:
                advice = "Is the address right?"
        return Finding("access", said, "wrong", advice, ExitCode.of(error))


def refusal_advice(environ: Mapping[str, str], kind: str, host: str) -> str:
    """What to do about keys that a host refuses.

    Args:
        environ: holds the keys.
        kind: what was sent, by ``Credentials.kind``.
        host: who refused it.
    """
    lengths = [len(environ.get(name, "")) for name in ("DD_API_KEY", "DD_APP_KEY")]
    if kind == "key pair" and lengths == [_APP_KEY_LENGTH, _API_KEY_LENGTH]:
        return "DD_API_KEY is as long as an application key, and DD_APP_KEY as an API key: swap"
    sent = "a key" if kind == "key pair" else "the token"
    site = host.removeprefix("api.")
    if site not in SITES.values():
        return f"Either {sent} is wrong or revoked, or lacks a scope, or it is not for {site}."
    others = ", ".join(name for name, known in SITES.items() if known != site)
    return (
        f"Either {sent} is wrong or revoked, or it lacks a scope, or it belongs to another site"
        f" than {site}: look at the address of Datadog in your browser and set DD_SITE to it"
        f" (others: {others})."
    )


def clock_finding(headers: Mapping[str, str], now: float) -> Finding:
    """How far this machine's clock, at ``now`` as a response was made, is from the server's."""
    try:
        date = parsedate_to_datetime(headers.get("Date", ""))
        server = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError):
        return Finding("clock", "the server names no time", "skipped")
    skew = now - server - 0.5  # whole seconds: on average the server was half a second further
    if abs(skew) <= 1.0:
        return Finding("clock", "as the server's")
    said = f"{duration(abs(skew))} {'ahead of' if skew > 0 else 'behind'} the server's"
    if abs(skew) <= MAX_SKEW:
        return Finding("clock", said)
    advice = (
        "Set it by network time: tokens and certificates look expired, or not valid yet, by a"
        " wrong clock, and times to wait come out wrong."
    )
    return Finding("clock", said, "wrong", advice, ExitCode.FAILED)


def _reason(error: Exception) -> str:
    """What the system says, in words."""
    match error:
        case ssl.SSLError(reason=str(reason)):
            return reason
        case socket.gaierror(strerror=str(said)):
            return said
        case OSError(errno=int(number)):  # asyncio adds its own words to the number
            return os.strerror(number)
        case _:
            return str(error) or type(error).__name__


@command(
    app,
    "modellab doctor",
    "modellab doctor --site eu1",
    "modellab doctor --json | jq -r 'select(.result == \"wrong\").advice'",
)
async def doctor(*, out: Out, base_url: BaseUrl = None, site: Site = None) -> ExitCode:
    """Check keys, site, network and clock; say what is wrong, and what to do about it.

    One request is sent, for a single project. No key or password is ever shown. The exit code is
    0 when all is well, 2 for settings that cannot work, 3 for keys that are refused, 4 if
    there is no such API, else 1.
    """
    code = ExitCode.OK
    async for finding in Examination(base_url, site).findings():
        _report(finding, out)
        code = code or finding.code
    return code


def _report(finding: Finding, out: Output) -> None:
    if out.as_json:
        parts = {name: getattr(finding, name) for name in ("check", "result", "said", "advice")}
        write_line(json.dumps(parts))
        return
    mark, style = _MARKS[finding.result]
    row = Table.grid(padding=(0, 1))
    row.add_column(width=1, style=style)
    row.add_column(width=6, style="bold" if finding.result == "wrong" else "dim")
    row.add_column(overflow="fold")
    row.add_row(mark, finding.check, Text(clean(finding.said)))
    if finding.advice:
        row.add_row("", "", Text(finding.advice, style="yellow"))
    show(row)
