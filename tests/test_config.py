"""Settings: sites, credentials that are never shown, base URLs and proxies."""

from __future__ import annotations

import copy
import html
import io
import json
import pickle
import pprint
from collections.abc import Callable
from traceback import TracebackException
from typing import Any
from urllib.parse import quote

import aiohttp
import attrs
import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from modellab_async.config import (
    SITES,
    Credentials,
    check_proxy,
    environment_proxy,
    is_loopback,
    resolve_base_url,
    resolve_site,
)
from modellab_async.errors import ConfigError

API_KEY, APP_KEY, TOKEN = "hidden-api-key", "hidden-app-key", "hidden-token"
NINE = {
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
BASE = URL("https://api.datadoghq.com")


def resolve(environ: dict[str, str] | None = None, **given: Any) -> Credentials:
    return Credentials.resolve(
        environ or {}, **{"api_key": None, "app_key": None, "bearer_token": None, **given}
    )


def test_sites() -> None:
    """There are nine sites."""
    assert SITES == NINE


@pytest.mark.parametrize(("short", "site"), NINE.items())
@pytest.mark.parametrize(
    "form",
    [
        "{short}",
        "{site}",
        " {site}\n",
        "app.{site}",
        "api.{site}",
        "https://app.{site}",
        "http://api.{site}/",
        "https://{site}:443",
        "https://app.{site}/model-lab?run=7#top",
    ],
)
@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_a_site_by_any_of_its_names(short: str, site: str, form: str, case: Any) -> None:
    """A site's name, short name and pasted address all mean the site, in any case."""
    assert resolve_site(case(form.format(short=short, site=site))) == site


@pytest.mark.parametrize(
    "text",
    [
        "",
        "us2",
        "us1.datadoghq.com",
        "datadoghq.org",
        "datadoghq.com.example.test",
        "https://app.datadoghq.com.example.test",
        "https://app.datadoghq.com@example.test",
        "example.test/datadoghq.com",
        "app.app.datadoghq.com",
        "ftp://datadoghq.com",
        "datadoghq com",
        "localhost",
    ],
)
def test_wrong_sites(text: str) -> None:
    """What names none of the nine is refused, with all nine and the way out named."""
    with pytest.raises(ConfigError, match="unknown site") as caught:
        resolve_site(text)
    assert all(f"{short} ({site})" in str(caught.value) for short, site in NINE.items())
    assert "base_url" in str(caught.value)


@pytest.mark.parametrize("text", ["hidden", "HIDDEN-1", "x" * 10_000 + "hidden", "hidden.hidden"])
def test_a_wrong_site_is_not_shown(text: str) -> None:
    """It may be a key in the wrong place, of whatever length or form."""
    with pytest.raises(ConfigError) as caught:
        resolve_site(text)
    assert "hidden" not in str(caught.value).lower()
    assert len(str(caught.value)) < 500


ENVIRON = {"DD_API_KEY": "env-api", "DD_APP_KEY": "env-app"}
PAIR = {"DD-API-KEY": API_KEY, "DD-APPLICATION-KEY": APP_KEY}
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    ("environ", "given", "headers"),
    [
        ({}, {"api_key": API_KEY, "app_key": APP_KEY}, PAIR),
        ({}, {"bearer_token": TOKEN}, BEARER),
        ({}, {"api_key": API_KEY, "app_key": APP_KEY, "bearer_token": TOKEN}, BEARER),
        ({"DD_API_KEY": API_KEY, "DD_APP_KEY": APP_KEY}, {}, PAIR),
        ({"DD_BEARER_TOKEN": TOKEN}, {}, BEARER),
        ({**ENVIRON, "DD_BEARER_TOKEN": TOKEN}, {}, BEARER),
        ({"DD_BEARER_TOKEN": "env-token"}, {"api_key": API_KEY, "app_key": APP_KEY}, PAIR),
        ({"DD_BEARER_TOKEN": "env-token"}, {"bearer_token": TOKEN}, BEARER),
        (ENVIRON, {"bearer_token": TOKEN}, BEARER),
        (ENVIRON, {"api_key": API_KEY, "app_key": APP_KEY}, PAIR),
        ({"DD_APP_KEY": APP_KEY, "DD_BEARER_TOKEN": "t"}, {"api_key": API_KEY}, PAIR),
        ({**ENVIRON, "DD_APP_KEY": APP_KEY}, {"api_key": API_KEY}, PAIR),
        ({"DD_BEARER_TOKEN": "", "DD_API_KEY": API_KEY, "DD_APP_KEY": APP_KEY}, {}, PAIR),
        ({}, {"api_key": f" {API_KEY} ", "app_key": APP_KEY}, PAIR),
    ],
)
async def test_precedence(environ: dict[str, str], given: Any, headers: dict[str, str]) -> None:
    """Arguments win over the environment, and a token over a key pair; blanks around are cut."""
    credentials = resolve(environ, **given)
    assert credentials.headers() == headers
    assert await credentials.current_headers() == headers
    assert not credentials.changes


@pytest.mark.parametrize(
    ("environ", "given", "named"),
    [
        ({}, {}, ["api_key (DD_API_KEY)", "app_key (DD_APP_KEY)", "DD_BEARER_TOKEN"]),
        ({}, {"api_key": API_KEY}, ["no app_key (DD_APP_KEY):"]),
        ({"DD_APP_KEY": APP_KEY}, {}, ["no api_key (DD_API_KEY):"]),
        ({"DD_API_KEY": "", "DD_APP_KEY": APP_KEY}, {}, ["no api_key (DD_API_KEY):"]),
        (ENVIRON, {"api_key": ""}, ["no api_key (DD_API_KEY):"]),
        (ENVIRON, {"bearer_token": ""}, ["bearer_token (DD_BEARER_TOKEN) is empty"]),
        ({}, {"bearer_token": "  "}, ["bearer_token (DD_BEARER_TOKEN) is empty"]),
    ],
)
def test_what_is_missing_is_named(environ: dict[str, str], given: Any, named: list[str]) -> None:
    """Incomplete credentials are refused by the names of what to give, never by a value."""
    with pytest.raises(ConfigError) as caught:
        resolve(environ, **given)
    assert all(name in str(caught.value) for name in named)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("flaw", ["\n", "\r\n", "\0", "\x7f", "\t", "é", "\u2028", "\ud800"])
@pytest.mark.parametrize("name", ["api_key", "app_key", "bearer_token"])
@pytest.mark.parametrize("template", ["hidden{}", "{}hidden", "hid{}den"])
def test_what_cannot_stand_in_a_header_is_refused_unseen(
    flaw: str, name: str, template: str
) -> None:
    """A control or non-ASCII character anywhere is an error that names the key, not its text."""
    given: Any = {"api_key": API_KEY, "app_key": APP_KEY, name: template.format(flaw)}
    with pytest.raises(ConfigError) as caught:
        resolve(**given)
    assert str(caught.value).startswith(name)
    assert "hid" not in repr(caught.value)


@pytest.mark.parametrize("value", [b"hidden", 7, ["hidden"]])
def test_keys_are_text(value: Any) -> None:
    """A key of another type is refused, by its type."""
    with pytest.raises(ConfigError, match=f"must be a string, not {type(value).__name__}") as error:
        resolve(api_key=value, app_key=APP_KEY)
    assert "hidden" not in str(error.value)


def both() -> list[Credentials]:
    return [resolve(api_key=API_KEY, app_key=APP_KEY), resolve(bearer_token=TOKEN)]


@pytest.mark.parametrize("credentials", both(), ids=lambda credentials: credentials.kind)
def test_credentials_do_not_show(credentials: Credentials) -> None:
    """Neither text form, nor pickling, nor the headers' own reprs let a secret out."""
    headers = credentials.headers()
    shown = [repr(credentials), str(credentials), f"{credentials}", credentials.kind]
    shown += [repr(headers), str(headers), pprint.pformat(headers), f"{headers!r}"]
    shown += [ascii(headers), pprint.pformat(headers, width=4), repr(list(headers.values()))]
    shown += [repr(CIMultiDict(headers)), str(CIMultiDict(headers)), repr(headers.items())]
    shown += [repr(value[:9]) for value in headers.values()]
    shown += [repr(attrs.asdict(credentials)), repr(request_info(headers))]
    assert not [text for text in shown if "hidden" in text]
    for action in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled") as caught:
            action(credentials)
        assert "hidden" not in str(caught.value)


def request_info(headers: dict[str, str]) -> aiohttp.RequestInfo:
    """What aiohttp's errors carry of a request."""
    return aiohttp.RequestInfo(BASE, "GET", CIMultiDictProxy(CIMultiDict(headers)), BASE)


def fail_with(headers: dict[str, str]) -> None:
    sent = request_info(headers)
    raise ValueError(f"not sent to {sent.url}")


@pytest.mark.parametrize("length", [12, 2_000])
def test_tracebacks_with_locals_do_not_show_secrets(length: int) -> None:
    """A traceback that renders local variables hides keys of any length, also where it cuts."""
    secret = "hidden" * (length // 6)
    for credentials in (resolve(api_key=secret, app_key=secret), resolve(bearer_token=secret)):
        with pytest.raises(ValueError, match="not sent") as caught:
            fail_with(credentials.headers())
        error = caught.value
        innermost = error.__traceback__.tb_next if error.__traceback__ else None
        assert innermost is not None
        plain = TracebackException(type(error), error, innermost, capture_locals=True)
        text = "".join(plain.format())
        rich_traceback = pytest.importorskip("rich.traceback")
        console = pytest.importorskip("rich.console").Console(file=io.StringIO(), width=200)
        console.print(
            rich_traceback.Traceback.from_exception(type(error), error, innermost, show_locals=True)
        )
        text += console.file.getvalue()
        assert text.count("RequestInfo") >= 2
        assert "hidden" not in text


def test_redaction() -> None:
    """Text that echoes a key, plainly or within JSON, loses it and nothing else."""
    credentials = resolve(api_key='a"b\\c/d', app_key="a")
    echo = {"errors": ['no such key: a"b\\c/d']}
    for text in (json.dumps(echo), json.dumps(echo).replace("/", "\\/")):
        assert json.loads(credentials.redact(text)) == {"errors": ["no such key: ***"]}
    assert resolve(bearer_token=TOKEN).redact(f"<{TOKEN}> {TOKEN}!") == "<***> ***!"
    assert resolve(bearer_token=TOKEN).redact("plain") == "plain"


@pytest.mark.parametrize("kinds", ["sync", "async"])
async def test_a_function_gives_tokens(kinds: str) -> None:
    """A token function is asked each time, and each token that it gave is redacted."""
    tokens = iter(["hidden", "hidden-2"])

    def give() -> str:
        return next(tokens)

    async def give_later() -> str:
        return next(tokens)

    credentials = resolve(ENVIRON, bearer_token=give if kinds == "sync" else give_later)
    assert credentials.changes
    assert credentials.headers() == {}
    assert await credentials.current_headers() == {"Authorization": "Bearer hidden"}
    headers = await credentials.current_headers()
    assert headers == {"Authorization": "Bearer hidden-2"}
    assert "hidden" not in repr(headers) + repr(credentials)
    assert credentials.redact("hidden-2, hidden") == "***, ***"


@pytest.mark.parametrize("token", ["", "hidden\n", None, 7, b"hidden"])
async def test_a_function_gives_a_usable_token_or_an_error(token: Any) -> None:
    """What a token function gives is checked as a fixed token is."""
    with pytest.raises(ConfigError, match="bearer_token from its function") as caught:
        await resolve(bearer_token=lambda: token).current_headers()
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://h", "https://h"),
        (" https://h:8443/ ", "https://h:8443"),
        ("https://h/edge/", "https://h/edge"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://x.localhost", "http://x.localhost"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("http://127.9.9.9", "http://127.9.9.9"),
        ("http://[::1]:9", "http://[::1]:9"),
    ],
)
def test_base_url(text: str, url: str) -> None:
    """Any https address is taken, http for loopback, and a slash at the end is cut."""
    assert resolve_base_url(text, allow_http=False) == URL(url)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "absolute"),
        ("h", "absolute"),
        ("/path", "absolute"),
        ("https://", "absolute"),
        ("ftp://h", "absolute"),
        ("https://h:99999", "absolute"),
        ("https://h:x", "absolute"),
        ("https://[", "absolute"),
        ("https://hidden@h", "user or password"),
        ("https://u:hidden@h", "user or password"),
        ("https://h?key=hidden", "query and fragment"),
        ("https://h#hidden", "query and fragment"),
        ("http://h", "unencrypted"),
        ("http://0.0.0.0", "unencrypted"),
        ("http://127.0.0.1.example.test", "unencrypted"),
        ("http://localhost.example.test", "unencrypted"),
    ],
)
def test_wrong_base_urls(text: str, said: str) -> None:
    """What is no address, could be logged with a secret or sends keys in the clear is refused."""
    with pytest.raises(ConfigError, match=said) as caught:
        resolve_base_url(text, allow_http=False)
    assert "hidden" not in str(caught.value)


def test_http_where_it_is_meant() -> None:
    """``allow_http`` takes http for any host, and relaxes nothing else."""
    assert resolve_base_url("http://h", allow_http=True) == URL("http://h")
    with pytest.raises(ConfigError):
        resolve_base_url("http://u@h", allow_http=True)


@pytest.mark.parametrize(
    ("environ", "url", "proxy"),
    [
        ({}, "https://h", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://h", "http://p:1"),
        ({"https_proxy": "http://p:1", "HTTPS_PROXY": "http://q"}, "https://h", "http://p:1"),
        ({"ALL_PROXY": "http://p:1"}, "https://h", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, "https://h", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://h", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "h"}, "https://h", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".test"}, "https://h.test", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, "https://h", None),
        ({"ALL_PROXY": "http://p:1"}, "http://127.0.0.1:9", None),
        ({"ALL_PROXY": "http://p:1"}, "http://localhost", None),
    ],
)
def test_proxy_of_the_environment(
    environ: dict[str, str], url: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual variables name the proxy of a scheme; loopback and ``NO_PROXY`` go without."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert environment_proxy(URL(url)) == proxy


@pytest.mark.parametrize(
    ("proxy", "url"),
    [
        ("http://p:1", "http://p:1"),
        ("p:1", "http://p:1"),
        ("https://u:w@p", "https://u:w@p"),
        (URL("http://p"), "http://p"),
    ],
)
def test_proxy(proxy: Any, url: str) -> None:
    """A proxy is an http(s) address; http is meant where no scheme is named."""
    assert check_proxy(proxy, BASE, allow_http=False) == URL(url)


@pytest.mark.parametrize("proxy", ["", "socks5://hidden@p", "http://", "http://u:hidden@p:99999"])
def test_wrong_proxies(proxy: str) -> None:
    """Another kind of proxy is refused, without showing what its address may hold."""
    with pytest.raises(ConfigError, match="proxy must be") as caught:
        check_proxy(proxy, BASE, allow_http=False)
    assert "hidden" not in str(caught.value)


def test_a_proxy_must_not_see_the_keys() -> None:
    """Plain http to loopback through a proxy elsewhere is refused, unless it is meant."""
    base = URL("http://localhost:9")
    with pytest.raises(ConfigError, match="show it the keys"):
        check_proxy("http://u:hidden@p", base, allow_http=False)
    assert check_proxy("http://p", base, allow_http=True) == URL("http://p")
    assert check_proxy("http://127.0.0.1:3128", base, allow_http=False).port == 3128


@pytest.mark.parametrize("host", ["", "h", "10.0.0.1", "::", "localhost.test", "notlocalhost"])
def test_what_is_not_loopback(host: str) -> None:
    """Only loopback names and addresses stay on the machine."""
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "escape",
    [
        lambda key: json.dumps(key)[1:-1],
        lambda key: json.dumps(json.dumps(key)[1:-1])[1:-1],
        lambda key: "".join(f"\\u{ord(char):04x}" for char in key),
        lambda key: "".join(f"\\u{ord(char):04X}" for char in key),
        lambda key: "".join(f"\\x{ord(char):02x}" for char in key),
        lambda key: key.replace("/", "\\/"),
        lambda key: quote(key, safe=""),
        lambda key: quote(quote(key, safe=""), safe=""),
        html.escape,
        lambda key: html.escape(html.escape(key)),
        lambda key: html.escape(key).replace("&", "\\u0026"),
        lambda key: "".join(f"&#{ord(char)};" for char in key),
        lambda key: "".join(f"&#x{ord(char):04X};" for char in key),
    ],
)
def test_an_escaped_key_is_redacted(escape: Callable[[str], str]) -> None:
    """A key is found as it is written in JSON, URLs and HTML, and in these within each other."""
    key = "p+/q=9<Z&\"x'~0123456789"
    credentials = resolve(bearer_token=key)
    assert credentials.redact(f"no such key: {escape(key)}!") == "no such key: ***!"
