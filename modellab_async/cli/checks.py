"""What `modellab doctor` looks at, from the keys to an answer; no finding shows a secret."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, Literal

import attrs
import msgspec
from yarl import URL

from modellab_async import endpoints
from modellab_async.cli.common import ExitCode
from modellab_async.config import (
    SITES,
    Credentials,
    check_proxy,
    environment_proxy,
    resolve_base_url,
    resolve_site,
)
from modellab_async.display import duration
from modellab_async.errors import ConfigError, ModelLabError
from modellab_async.ratelimit import RateLimit
from modellab_async.responses import Response, status_error
from modellab_async.stats import Counters
from modellab_async.transport import Transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

PATIENCE: Final = 10.0
"""Seconds that each step may take."""

MAX_SKEW: Final = 60.0
"""Seconds that the clock may differ from the server's."""

_MAX_BODY: Final = 1024 * 1024

_MISNAMED: Final = {
    "DATADOG_API_KEY": "DD_API_KEY",
    "DATADOG_APP_KEY": "DD_APP_KEY",
    "DD_APPLICATION_KEY": "DD_APP_KEY",
    "DATADOG_APPLICATION_KEY": "DD_APP_KEY",
    "DATADOG_SITE": "DD_SITE",
}
"""Names that other tools read, and what is read here."""

_API_KEY_LENGTH: Final = 32
_APP_KEY_LENGTH: Final = 40

Result = Literal["ok", "wrong", "skipped"]


@attrs.frozen
class Finding:
    """What one check came to.

    Attributes:
        check: what was looked at.
        said: what is so.
        result: whether that is well.
        advice: what to do about it, where something is wrong.
        code: what the command exits with because of it.
    """

    check: str
    said: str
    result: Result = "ok"
    advice: str = ""
    code: ExitCode = ExitCode.OK


@attrs.define
class Examination:
    """Looks at everything between the environment and an answer, in the order in which it matters.

    Args:
        environ: where keys and settings are.
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
        """Each finding as it is made; what is wrong on the way ends the way."""
        yield self._look_at_keys()
        for look in (self._look_at_site, self._look_at_proxy):
            finding = look()
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

    def _look_at_keys(self) -> Finding:
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

    def _look_at_site(self) -> Finding:
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

    def _look_at_proxy(self) -> Finding:
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
        """TLS, where it is spoken from here on; through a proxy the request itself will tell."""
        if self._url.scheme != "https" or self._proxy is not None:
            return None
        try:
            version = await self._open(ssl.create_default_context())
        except ssl.SSLCertVerificationError as error:
            said = f"the certificate is not trusted: {error.verify_message}"
            advice = (
                "Check this machine's clock, and that the host is right; where a company's proxy"
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
        """Connect and part again; gives the version of TLS."""
        host, port = self._next_hop
        async with asyncio.timeout(self.patience):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
        spoken = writer.get_extra_info("ssl_object")
        version = spoken.version() if spoken else None
        writer.transport.abort()
        return version

    async def _ask(self) -> list[Finding]:
        """Ask for one project, once; what the answer says of keys, clock and quota."""
        credentials = self._credentials or Credentials()
        transport = Transport(
            self._url,
            credentials,
            Counters(),
            session=None,
            proxy=self._proxy,
            ssl=None,
            max_body_bytes=_MAX_BODY,
        )
        call = endpoints.list_projects(page_size=1)
        sent = self.clock()
        try:
            reply, _ = await transport.send(call, self.patience)
        except ModelLabError as error:
            advice = "Something between here and the API cuts requests off; try again, then ask"
            advice += " whoever runs the proxy." if self._proxy else " whoever runs the network."
            return [Finding("answer", str(error), "wrong", advice, ExitCode.FAILED)]
        finally:
            await transport.close()
        skew = clock_finding(reply, (sent + self.clock()) / 2)
        findings = [self._judge(reply, transport.url(call), credentials), skew]
        limit = RateLimit.from_headers(reply.headers, now=self.clock)
        if limit is not None and limit.remaining is not None and limit.limit is not None:
            left = f"{limit.remaining:,} of {limit.limit:,} requests left"
            until = "" if limit.reset is None else f" for {duration(limit.reset)}"
            findings.append(Finding("quota", left + until))
        return findings

    def _judge(self, reply: Response, url: str, credentials: Credentials) -> Finding:
        if self._credentials is None:
            return Finding("access", "not tried without keys", "skipped")
        if reply.status < 300:
            if _is_listing(reply.body):
                return Finding("access", "the keys are accepted")
            said = "what answers is not the Model Lab API"
            advice = "A proxy's login page may answer in its place; is the address right?"
            return Finding("access", said, "wrong", advice, ExitCode.FAILED)
        call = endpoints.list_projects(page_size=1)
        error = status_error(call, url, reply, None, credentials.redact)
        code = ExitCode.of(error)
        match code:
            case ExitCode.NOT_AUTHORISED:
                advice = self._about_refusal()
            case ExitCode.NOT_FOUND:
                advice = "Is the address right? It ends before /api/v2."
            case _ if reply.status == 429:
                advice = "The organization's quota is used up; wait until it comes back."
            case _ if reply.status >= 500:
                advice = "The trouble is on the server's side; try again later."
            case _:
                advice = "Is the address right?"
        return Finding("access", str(error), "wrong", advice, code)

    def _about_refusal(self) -> str:
        lengths = [len(self.environ.get(name, "")) for name in ("DD_API_KEY", "DD_APP_KEY")]
        sent = "a key"
        if self._credentials is not None and self._credentials.kind != "key pair":
            sent = "the token"
        elif lengths == [_APP_KEY_LENGTH, _API_KEY_LENGTH]:
            return "DD_API_KEY is as long as an application key, and DD_APP_KEY as an API key: swap"
        site = (self._url.host or "").removeprefix("api.")
        if site not in SITES.values():
            return f"Either {sent} is wrong or revoked, or lacks a scope, or it is not for {site}."
        others = ", ".join(name for name, known in SITES.items() if known != site)
        return (
            f"Either {sent} is wrong or revoked, or it lacks a scope, or it belongs to another site"
            f" than {site}: look at the address of Datadog in your browser and set DD_SITE to it"
            f" (others: {others})."
        )


def clock_finding(reply: Response, now: float) -> Finding:
    """How far this machine's clock, at ``now`` as the reply was made, is from the server's."""
    try:
        told = parsedate_to_datetime(reply.headers.get("Date", ""))
    except ValueError:
        return Finding("clock", "the server names no time", "skipped")
    # The header has whole seconds: on average the server was half a second further.
    skew = now - (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp() - 0.5
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


def _is_listing(body: bytes) -> bool:
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(answer, dict) and isinstance(answer.get("data"), list)


def _reason(error: Exception) -> str:
    """What the system says, in words."""
    match error:
        case ssl.SSLError(reason=str(reason)):
            return reason
        case socket.gaierror(strerror=str(said)):
            return said
        case OSError(errno=int(number)):  # asyncio puts words of its own beside the number
            return os.strerror(number)
        case _:
            return str(error) or type(error).__name__
