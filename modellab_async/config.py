"""Where requests go and who sends them: sites, credentials, proxies."""

from __future__ import annotations

import functools
import html.entities
import inspect
import ipaddress
import math
import re
import urllib.request
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NoReturn, SupportsIndex, TypeGuard, TypeVar, cast

import attrs
from yarl import URL

from modellab_async.errors import ConfigError

T = TypeVar("T")

API_PREFIX: Final = "/api/v2/model-lab-api"

SITES: Final[dict[str, str]] = {
    "us1": "datadoghq.com",
    "us3": "us3.datadoghq.com",
    "us5": "us5.datadoghq.com",
    "eu1": "datadoghq.eu",
    "ap1": "ap1.datadoghq.com",
    "ap2": "ap2.datadoghq.com",
    "uk1": "uk1.datadoghq.com",
    "us1-fed": "ddog-gov.com",
    "us2-fed": "us2.ddog-gov.com",
}
"""Datadog's sites by their short names."""

Token = str | Callable[[], str | Awaitable[str]]
"""A bearer token, or a function (sync or async) that returns a current one for each attempt."""


_ISSUED_KEPT: Final = 256
"""How many of a function's tokens are remembered, to be redacted: more than are in flight."""


_SHORT_SECRET: Final = 8
"""A secret shorter than this is redacted only as a whole word."""


class _Secret(str):
    """Text that goes into a header but never into a repr, such as that of a traceback's locals."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __getitem__(self, key: SupportsIndex | slice[Any, Any, Any]) -> _Secret:
        """A part is as secret as the whole: pretty-printers shorten a text before its repr."""
        return _Secret(super().__getitem__(key))


def hidden(value: T) -> T:
    """The same value; a text among them is shown by no traceback that renders local variables."""
    return cast("T", _Secret(value)) if isinstance(value, str) else value


_SITE_HOST: Final = re.compile(r"^(https?://)?((app|api)\.)?|[/?#:].*$", re.DOTALL)
"""What may surround a site: scheme and service before it; port, path and query after it."""


def resolve_site(text: str) -> str:
    """The site that a name, a short name, or a pasted UI or API address means.

    Raises:
        ConfigError: if it names none of the nine; the message does not show it, since it may be a
            key that was put in the wrong place.
    """
    text = hidden(text)
    host = hidden(_SITE_HOST.sub("", text.strip().lower()))
    site = SITES.get(host, host)
    if site not in SITES.values():
        known = ", ".join(f"{name} ({site})" for name, site in SITES.items())
        raise ConfigError(f"unknown site (DD_SITE): give one of {known}, or an explicit base_url")
    return str(site)


def resolve_base_url(base_url: str, *, allow_http: bool) -> URL:
    """Check an explicit base URL; ``http`` is for loopback, unless ``allow_http``.

    Raises:
        ConfigError: if it is not an absolute http(s) address, or carries user or query.
    """
    try:
        url = URL(str(base_url).strip().rstrip("/"))
        host = url.host
        (host or "").encode("idna")  # as the resolver will
    except ValueError:
        url, host = URL(), None
    if url.scheme not in {"http", "https"} or not host:
        del url, base_url  # here and below, for tracebacks that render local variables
        raise ConfigError(
            "base_url (MODELLAB_BASE_URL) must be an absolute address such as https://host[:port]"
        )
    if url.user is not None or url.password is not None:
        del url, base_url
        raise ConfigError(
            "base_url (MODELLAB_BASE_URL) must not hold a user or password; they could be logged"
        )
    if url.query_string or url.fragment:
        del url, base_url
        raise ConfigError(
            "base_url (MODELLAB_BASE_URL) must end with its path; leave out query and fragment"
        )
    if url.scheme == "http" and not (allow_http or is_loopback(host)):
        del url, base_url, host
        raise ConfigError(
            "base_url (MODELLAB_BASE_URL) would send the keys unencrypted to another machine:"
            " use https://, or pass allow_http=True if you mean it"
        )
    return url


def is_loopback(host: str) -> bool:
    """Whether a host name or address never leaves this machine (RFC 6761, section 6.3)."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@attrs.frozen(repr=False, eq=False)
class Credentials:
    """Either a key pair or a bearer token; neither is shown by anything but :meth:`headers`."""

    _api_key: _Secret | None = attrs.field(default=None, alias="api_key")
    _app_key: _Secret | None = attrs.field(default=None, alias="app_key")
    _bearer_token: _Secret | Callable[[], str | Awaitable[str]] | None = attrs.field(
        default=None, alias="bearer_token"
    )
    _issued: deque[_Secret] = attrs.field(init=False, factory=lambda: deque(maxlen=_ISSUED_KEPT))

    @classmethod
    def resolve(
        cls,
        environ: Mapping[str, str],
        *,
        api_key: str | None,
        app_key: str | None,
        bearer_token: Token | None,
    ) -> Credentials:
        """Credentials from arguments, if given, or from the environment.

        A token wins over a key pair, and arguments win over the environment.

        Raises:
            ConfigError: if neither is complete, or one cannot be sent in a header.
        """
        if bearer_token is None and api_key is None and app_key is None:
            bearer_token = environ.get("DD_BEARER_TOKEN") or None
        api_key = hidden(api_key if api_key is not None else environ.get("DD_API_KEY", ""))
        app_key = hidden(app_key if app_key is not None else environ.get("DD_APP_KEY", ""))
        bearer_token = hidden(bearer_token)
        del environ  # a traceback that renders local variables would show all of it
        if bearer_token is not None:
            if callable(bearer_token):
                return cls(bearer_token=bearer_token)
            return cls(bearer_token=_secret("bearer_token (DD_BEARER_TOKEN)", bearer_token))
        missing = [
            name
            for name, value in (
                ("api_key (DD_API_KEY)", api_key),
                ("app_key (DD_APP_KEY)", app_key),
            )
            if not value
        ]
        if missing:
            raise ConfigError(
                f"no {' and no '.join(missing)}: give both keys,"
                " or a bearer_token (DD_BEARER_TOKEN) instead"
            )
        return cls(
            api_key=_secret("api_key (DD_API_KEY)", api_key),
            app_key=_secret("app_key (DD_APP_KEY)", app_key),
        )

    @property
    def changes(self) -> bool:
        """Whether :meth:`current_headers` must be called for every attempt."""
        return callable(self._bearer_token)

    def headers(self) -> dict[str, str]:
        """The authentication headers, if they never change."""
        if self._api_key is not None and self._app_key is not None:
            return {"DD-API-KEY": self._api_key, "DD-APPLICATION-KEY": self._app_key}
        if isinstance(self._bearer_token, _Secret):
            return _bearer(self._bearer_token)
        return {}

    async def current_headers(self) -> dict[str, str]:
        """The authentication headers of this moment: asks a token function for its token.

        Raises:
            ConfigError: if the function returns nothing that can be sent in a header.
        """
        if isinstance(self._bearer_token, str) or self._bearer_token is None:
            return self.headers()
        token = self._bearer_token()
        if inspect.isawaitable(token):
            token = await token
        token = hidden(token)
        secret = _secret("bearer_token from its function", token)
        if secret not in self._issued:
            self._issued.append(secret)
        return _bearer(secret)

    def redact(self, text: str) -> str:
        """``text`` without any key or token, should a server have echoed one."""
        secrets = (self._api_key, self._app_key, self._bearer_token, *self._issued)
        # Longest first, since one may begin with another.
        for secret in sorted(filter(_is_text, secrets), key=len, reverse=True):
            text = _pattern_of(secret).sub("***", text)
        return text

    @property
    def kind(self) -> str:
        """What they are, in words."""
        return "key pair" if self._api_key is not None else "bearer token"

    def __repr__(self) -> str:
        return f"<Credentials: {self.kind}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("credentials are not pickled; build a client where it is used")


def _bearer(token: _Secret) -> dict[str, str]:
    return {"Authorization": _Secret(f"Bearer {token}")}


def _secret(name: str, value: object) -> _Secret:
    """Check that a value can be sent in a header (RFC 9110, section 5.5) without showing it."""
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be a string, not {type(value).__name__}")
    text = _Secret(value.strip(" "))
    if not text:
        raise ConfigError(f"{name} is empty")
    if not (text.isascii() and text.isprintable()):
        raise ConfigError(
            f"{name} holds a control or non-ASCII character, perhaps a trailing newline; remove it"
        )
    return text


def _is_text(secret: object) -> TypeGuard[_Secret]:
    return isinstance(secret, str)


def _pattern_of_character(char: str) -> str:
    code = ord(char)
    named = html.entities.codepoint2name.get(code)
    entity = rf"(?:#0{{0,8}}{code}|#x0{{0,8}}{code:x}{f'|{named}' if named else ''})"
    escaped = (
        # Bounded: a long run of backslashes must not take quadratic time.
        rf"\\{{1,8}}(?:u{code:04x}|x{code:02x})",
        rf"%(?:25){{0,8}}{code:02x}",
        rf"(?:&|\\{{1,8}}u0026)(?:amp;){{0,8}}{entity};",
    )
    return rf"(?:(?i:{'|'.join(escaped)})|\\{{0,8}}{re.escape(char)})"


@functools.lru_cache(maxsize=2 * _ISSUED_KEPT)
def _pattern_of(secret: _Secret) -> re.Pattern[str]:
    """Finds a secret, however its characters are escaped: in JSON, a URL or HTML, even twice."""
    pattern = "".join(map(_pattern_of_character, str(secret)))
    if len(secret) < _SHORT_SECRET:  # it could be part of any word
        pattern = rf"(?<![A-Za-z0-9]){pattern}(?![A-Za-z0-9])"
    return re.compile(pattern)


def environment_proxy(url: URL) -> str | None:
    """The proxy that the environment names for ``url``, or None; loopback is never proxied.

    Read once per client: aiohttp's ``trust_env`` would look it up in a thread on every request.
    """
    if is_loopback(url.host or ""):
        return None
    proxies = urllib.request.getproxies_environment()
    if urllib.request.proxy_bypass_environment(url.host or "", proxies):  # type: ignore[attr-defined]
        return None
    return proxies.get(url.scheme) or proxies.get("all")


def check_proxy(proxy: Any, base_url: URL, *, allow_http: bool) -> URL:
    """Check a proxy's address.

    Raises:
        ConfigError: if it is not an http(s) address, or would see the keys in the clear.
    """
    try:
        url = URL(str(proxy) if "://" in str(proxy) else f"http://{proxy}")
        host = url.host
    except ValueError:
        url, host = URL(), None
    if url.scheme not in {"http", "https"} or not host:
        del url, proxy
        raise ConfigError("proxy must be an address such as http://host:port")
    if base_url.scheme == "http" and not (allow_http or is_loopback(host)):
        del url, proxy
        raise ConfigError(
            f"a plain-HTTP base_url through the proxy {host} would show it the keys:"
            " use https://, or pass allow_http=True if you mean it"
        )
    return url


def positive(value: Any, name: str) -> float:
    """An option that must be a positive number.

    Raises:
        ConfigError: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"{name} must be a positive number, not {value!r}")
    return value


def positive_int(value: Any, name: str) -> int:
    """An option that must be a positive integer.

    Raises:
        ConfigError: if it is not.
    """
    if not isinstance(value, int):
        raise ConfigError(f"{name} must be a positive integer, not {value!r}")
    return int(positive(value, name))
