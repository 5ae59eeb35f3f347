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
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Literal, NoReturn

import aiohttp
import attrs
import msgspec
import typer
from rich.table import Table
from rich.text import Text
from yarl import URL

from modellab_async import ConfigError, ErrorDetail, RateLimit
from modellab_async.cli.common import BaseUrl, ExitCode, Json, Site, examples, finish
from modellab_async.cli.output import show, wants_json, write_line
from modellab_async.config import (
    API_PREFIX,
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

PATIENCE: Final = 10.0
"""Seconds that each step may take."""

MAX_SKEW: Final = 60.0
"""Seconds that the clock may differ from the server's."""

_MAX_BODY: Final = 1024 * 1024
_PATH: Final = f"{API_PREFIX}/projects"

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

app: typer.Typer = typer.Typer(rich_markup_mode="rich")


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


@attrs.define
class Examination:
    """Checks everything between the environment and a response.

    Args:
        environ: holds the keys and settings.
        base_url: as typed, or None.
        site: as typed, or None; it wins over MODELLAB_BASE_URL.
        clock: seconds since the epoch by this machine.
        patience: seconds that each step may take.
    """

    environ: Mapping[str, str]
    base_url: str | None = None
    site: str | None = None
    clock: Callable[[], float] = time.time
    patience: float = PATIENCE
    _credentials: Credentials | None = attrs.field(default=None, init=False)
    _url: URL = attrs.field(factory=URL, init=False)
    _proxy: URL | None = attrs.field(default=None, init=False)

    async def findings(self) -> AsyncIterator[Finding]:
        """Each finding as it is made; after one that is wrong, what needs it is not tried."""
        yield self._check_keys()
        for check in (self._check_site, self._check_proxy):
            finding = check()
            yield finding
            if finding.result == "wrong":
                return
        for reach in (self._resolve, self._connect, self._shake_hands):
            reached = await reach()
            if reached is not None:
                yield reached
                if reached.result == "wrong":
                    return
        for finding in await self._ask():
            yield finding

    def _check_keys(self) -> Finding:
        try:
            self._credentials = Credentials.resolve(
                self.environ, api_key=None, app_key=None, bearer_token=None
            )
        except ConfigError as error:
            misnamed = [
                f"{name} is set, but {right} is what is read."
                for name, right in _MISNAMED.items()
                if self.environ.get(name) and not self.environ.get(right)
            ]
            return Finding(
                "keys",
                str(error),
                "wrong",
                " ".join(misnamed)
                or "Set DD_API_KEY and DD_APP_KEY, or DD_BEARER_TOKEN, in the environment.",
                ExitCode.USAGE,
            )
        if self._credentials.kind == "key pair":
            return Finding("keys", "DD_API_KEY and DD_APP_KEY are set")
        besides = " and wins over the keys" if self.environ.get("DD_API_KEY") else ""
        return Finding("keys", f"DD_BEARER_TOKEN is set{besides}")

    def _check_site(self) -> Finding:
        base_url, source = self.base_url, "--base-url"
        if base_url is None and self.site is None:
            base_url, source = self.environ.get("MODELLAB_BASE_URL") or None, "MODELLAB_BASE_URL"
        try:
            if base_url is not None:
                self._url = resolve_base_url(base_url, allow_http=False)
            else:
                site, source = self._named_site()
                self._url = URL(f"https://api.{resolve_site(site)}")
        except ConfigError as error:
            advice = f"Correct {source}, or leave it out."
            return Finding("site", str(error), "wrong", advice, ExitCode.USAGE)
        return Finding("site", f"{self._url} ({source})")

    def _named_site(self) -> tuple[str, str]:
        if self.site is not None:
            return self.site, "--site"
        site = self.environ.get("DD_SITE")
        return (site, "DD_SITE") if site else ("us1", "by default")

    def _check_proxy(self) -> Finding:
        named = environment_proxy(self._url)
        if named is None:
            return Finding("proxy", "none")
        try:
            self._proxy = check_proxy(named, self._url, allow_http=False)
        except ConfigError as error:
            advice = f"Correct {self._url.scheme.upper()}_PROXY, or add the host to NO_PROXY."
            return Finding("proxy", str(error), "wrong", advice, ExitCode.USAGE)
        return Finding("proxy", str(self._proxy.origin()))  # without its user and password

    @property
    def _next_hop(self) -> tuple[str, int]:
        hop = self._proxy or self._url
        return hop.host or "", hop.port or 443

    async def _resolve(self) -> Finding | None:
        host, port = self._next_hop
        try:
            ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            return None
        advice = (
            "Check the spelling, the network and its name server;"
            " behind a company's proxy set HTTPS_PROXY."
        )
        try:
            async with asyncio.timeout(self.patience):
                found = await asyncio.get_running_loop().getaddrinfo(
                    host, port, type=socket.SOCK_STREAM
                )
        except TimeoutError:
            said = f"no address for {host} within {self.patience:g} s"
        except (OSError, UnicodeError) as error:
            said = f"no address for {host} ({_reason(error)})"
        else:
            addresses = dict.fromkeys(str(address[0]) for *_, address in found)
            return Finding("dns", f"{host} is {', '.join(addresses)}")
        return Finding("dns", said, "wrong", advice, ExitCode.FAILED)

    async def _connect(self) -> Finding:
        host, port = self._next_hop
        start = time.perf_counter()
        try:
            await self._open(None)
        except TimeoutError:
            said = f"no connection to {host}:{port} within {self.patience:g} s"
            advice = "A firewall may drop it; behind a company's proxy set HTTPS_PROXY."
        except OSError as error:
            said = f"no connection to {host}:{port} ({_reason(error)})"
            advice = "Nothing listens there, or a firewall refuses; is the address right?"
        else:
            took = (time.perf_counter() - start) * 1_000
            return Finding("tcp", f"connected to {host}:{port} in {took:.0f} ms")
        return Finding("tcp", said, "wrong", advice, ExitCode.FAILED)

    async def _shake_hands(self) -> Finding | None:
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
        except TimeoutError:
            said = f"no handshake within {self.patience:g} s"
            advice = "Something on the way holds TLS back, such as a firewall or a proxy."
        except OSError as error:
            said = f"no TLS ({_reason(error)})"
            advice = "What listens there does not speak TLS, or something on the way cuts it."
        else:
            return Finding("tls", f"{version}, the certificate is trusted")
        return Finding("tls", said, "wrong", advice, ExitCode.FAILED)

    async def _open(self, context: ssl.SSLContext | None) -> str | None:
        """Connect and close again; returns the version of TLS."""
        host, port = self._next_hop
        async with asyncio.timeout(self.patience):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
        spoken = writer.get_extra_info("ssl_object")
        version = spoken.version() if spoken else None
        writer.transport.abort()
        return version

    async def _ask(self) -> list[Finding]:
        """Ask for one project, once; what the response says of keys, clock and quota."""
        url = URL(f"{str(self._url).rstrip('/')}{_PATH}?page%5Bsize%5D=1", encoded=True)
        headers = self._credentials.headers() if self._credentials else {}
        sent = self.clock()
        try:
            async with (
                asyncio.timeout(self.patience),
                aiohttp.ClientSession(
                    cookie_jar=aiohttp.DummyCookieJar(), middlewares=(_send_once,)
                ) as session,
                session.get(
                    url, headers=headers, proxy=self._proxy, allow_redirects=False
                ) as response,
            ):
                body = await _start_of(response)
        except TimeoutError:
            said = f"no complete answer within {self.patience:g} s"
        except (aiohttp.ClientError, OSError) as error:
            said = f"the connection was lost ({self._redact(_reason(error))})"
        else:
            findings = [self._judge(response, url, body)]
            findings.append(clock_finding(response.headers, (sent + self.clock()) / 2))
            return findings + quota_findings(response.headers)
        advice = "Something between here and the API cuts requests off; try again, then ask"
        advice += " whoever runs the proxy." if self._proxy else " whoever runs the network."
        return [Finding("answer", said, "wrong", advice, ExitCode.FAILED)]

    def _redact(self, text: str) -> str:
        return text if self._credentials is None else self._credentials.redact(text)

    def _judge(self, response: aiohttp.ClientResponse, url: URL, body: bytes) -> Finding:
        if self._credentials is None:
            return Finding("access", "not tried without keys", "skipped")
        status = response.status
        if status < 300:
            if isinstance(_json(body).get("data"), list):
                return Finding("access", "the keys are accepted")
            said = "what answers is not the Model Lab API"
            advice = "A proxy's login page may answer in its place; is the address right?"
            return Finding("access", said, "wrong", advice, ExitCode.FAILED)
        code = ExitCode.FAILED
        match status:
            case 401 | 403:
                code = ExitCode.NOT_AUTHORISED
                advice = refusal_advice(self.environ, self._credentials.kind, self._url.host or "")
            case 404:
                code = ExitCode.NOT_FOUND
                advice = "Is the address right? It ends before /api/v2."
            case 429:
                advice = "The organization's quota is used up; wait until it comes back."
            case _ if status >= 500:
                advice = "The trouble is on the server's side; try again later."
            case _ if status < 400:
                advice = (
                    "Is the address right? Redirects are not followed: they could lead keys away."
                )
            case _:
                advice = "Is the address right?"
        said = f"{status} from GET {url.path}: {self._redact(_said(status, body))}"
        return Finding("access", said, "wrong", advice, code)


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


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending a request again when it loses the connection."""
    try:
        return await handler(request)
    except aiohttp.ServerConnectionError as error:
        lost = aiohttp.ClientError(_reason(error))
    raise lost


async def _start_of(response: aiohttp.ClientResponse) -> bytes:
    """The body, or as much of it as anybody would read."""
    body = b""
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _MAX_BODY:
            break
    return body


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


def quota_findings(headers: Mapping[str, str]) -> list[Finding]:
    """What a response says of the rate limit, if it does."""
    limit = RateLimit.from_headers(headers)
    if limit is None or limit.remaining is None or limit.limit is None:
        return []
    left = f"{limit.remaining:,} of {limit.limit:,} requests left"
    return [
        Finding("quota", left if limit.reset is None else f"{left} for {duration(limit.reset)}")
    ]


def _said(status: int, body: bytes) -> str:
    """The errors of a response in the API's two forms, or what its status means."""
    if 300 <= status < 400:
        return "redirects are not followed, since they could lead the keys to another host"
    errors = _json(body).get("errors")
    details = [
        ErrorDetail(title=str(error.get("title") or ""), detail=str(error.get("detail") or ""))
        if isinstance(error, dict)
        else ErrorDetail(title=str(error))
        for error in (errors if isinstance(errors, list) else [])
    ]
    if details:
        return "; ".join(map(str, details))[:300]
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else "no reason"


def _json(body: bytes) -> dict[str, object]:
    """A response that is a JSON object; an empty one for anything else."""
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


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


@app.command(
    epilog=examples(
        "modellab doctor",
        "modellab doctor --site eu1",
        "modellab doctor --json | jq -r 'select(.result == \"wrong\").advice'",
    )
)
def doctor(*, as_json: Json = False, base_url: BaseUrl = None, site: Site = None) -> NoReturn:
    """Check keys, site, network and clock; say what is wrong, and what to do about it.

    One request is sent, for a single project. No key or password is ever shown. The exit code is
    0 when all is well, 2 for settings that cannot work, 3 for keys that are refused, 4 if
    there is no such API, else 1.
    """
    as_json = wants_json(as_json)

    async def work() -> ExitCode:
        code = ExitCode.OK
        async for finding in Examination(os.environ, base_url, site).findings():
            _report(finding, as_json=as_json)
            code = code or finding.code
        return code

    finish(work())


def _report(finding: Finding, *, as_json: bool) -> None:
    if as_json:
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
