"""The client: its options, the environment, its lifetime and its views."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from ssl import SSLContext
from typing import Any, Final, NoReturn, Self, cast

import aiohttp
import attrs
import cattrs
from yarl import URL

from modellab_async.calls import Caller
from modellab_async.clock import Clock
from modellab_async.closing import Closing
from modellab_async.config import (
    Credentials,
    Token,
    check_proxy,
    environment_proxy,
    hidden,
    positive,
    positive_int,
    resolve_base_url,
    resolve_site,
)
from modellab_async.converter import checked_converter, make_converter
from modellab_async.endpoints import Call
from modellab_async.errors import ClientClosedError, ConfigError
from modellab_async.hooks import Listeners, PauseReporter
from modellab_async.limiter import AdaptiveLimiter, Limiter
from modellab_async.resources import Artifacts, Projects, Runs
from modellab_async.retry import RetryBudget, RetryPolicy
from modellab_async.stats import Counters, Stats
from modellab_async.transport import Transport

DEFAULT_TIMEOUT: Final = 30.0
"""Seconds for one attempt: connecting, headers and body together."""

DEFAULT_CONCURRENCY: Final = 100
"""Requests in flight at once."""

MAX_DOWNLOADS: Final = 8
"""Files that a client and its views receive at once."""

DEFAULT_MAX_BODY: Final = 64 * 1024 * 1024
"""Bytes of a response that are read into memory; a page of 100 large runs has about one million."""


class ModelLabClient(Closing):
    """A client of Datadog's Model Lab API, for one event loop.

    Use it as ``async with ModelLabClient() as lab``, or close it by :meth:`aclose`. One client
    serves any number of tasks: they share its connections and its knowledge of the rate limit.

    Args:
        api_key: ``DD_API_KEY`` by default.
        app_key: ``DD_APP_KEY`` by default.
        bearer_token: ``DD_BEARER_TOKEN`` by default; wins over keys. A function, sync or async,
            is called before each attempt, since tokens expire.
        site: a site, its short name, or a pasted UI or API address; ``DD_SITE`` by default, and
            ``datadoghq.com`` if that is not set either.
        base_url: another address, which overrides ``site``; ``MODELLAB_BASE_URL`` by
            default, unless ``site`` is given.
        retry: how failed calls are repeated; :class:`RetryPolicy` by default.
        timeout: seconds for one attempt: connecting, headers and body together; 30 by default.
        max_concurrency: requests in flight at once; 100 by default.
        session: your own aiohttp session; it is never closed here, and its headers are kept.
        proxy: an http(s) proxy; by default the environment's (``HTTPS_PROXY``, ``NO_PROXY``),
            looked up once. Pass an empty string for none.
        ssl: as in aiohttp: a context, a fingerprint, or False to check nothing.
        max_body_bytes: the largest response that is read into memory, after decompression.
        allow_http: allow a plain-HTTP ``base_url`` that is not this machine's own.
        converter: the cattrs converter to use, see :func:`make_converter`.
        limiter: decides when requests may be sent, in place of the default `AdaptiveLimiter`;
            any object that implements :class:`~modellab_async.limiter.Limiter`. It is closed with
            the client, so each client needs its own.
        clock: the source of time, sleep and randomness, for tests.
        hooks: observers of calls, attempts, retries and waits: an object with methods of
            :class:`Hooks`, or a sequence of such.

    Attributes:
        runs: the operations on runs.
        projects: the operations on projects.
        artifacts: the content of files.

    Raises:
        ConfigError: if credentials, site or another option cannot work.
    """

    # Each client has its own. The classes stand in for them on this class, so that
    # `unittest.mock.create_autospec` knows their methods.
    runs: Runs = cast("Runs", Runs)
    projects: Projects = cast("Projects", Projects)
    artifacts: Artifacts = cast("Artifacts", Artifacts)

    def __init__(
        self,
        *,
        api_key: str | None = None,
        app_key: str | None = None,
        bearer_token: Token | None = None,
        site: str | None = None,
        base_url: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        max_concurrency: int | None = None,
        session: aiohttp.ClientSession | None = None,
        proxy: str | URL | None = None,
        ssl: SSLContext | aiohttp.Fingerprint | bool | None = None,
        max_body_bytes: int = DEFAULT_MAX_BODY,
        allow_http: bool = False,
        converter: cattrs.Converter | None = None,
        limiter: Limiter | None = None,
        clock: Clock | None = None,
        hooks: object = None,
    ) -> None:
        # From here on, a traceback that renders local variables shows no key, wherever it was put.
        api_key, app_key, bearer_token = hidden(api_key), hidden(app_key), hidden(bearer_token)
        site, base_url, proxy = hidden(site), hidden(base_url), hidden(proxy)
        credentials = Credentials.resolve(
            os.environ, api_key=api_key, app_key=app_key, bearer_token=bearer_token
        )
        if base_url is None and site is None:
            base_url = hidden(os.environ.get("MODELLAB_BASE_URL") or None)
        if base_url is not None:
            url = resolve_base_url(base_url, allow_http=allow_http)
        else:
            url = URL(f"https://api.{resolve_site(site or os.environ.get('DD_SITE') or 'us1')}")
        if session is not None and session.auth is not None:
            raise ConfigError("the session given has its own credentials; remove its auth")
        if limiter is not None and max_concurrency is not None:
            raise ConfigError("give limiter or max_concurrency: a limiter has its own maximum")
        proxy = hidden(environment_proxy(url) if proxy is None else proxy)
        clock = Clock() if clock is None else clock
        counters = Counters()
        self._pauses = PauseReporter(clock, credentials.redact)
        converter = make_converter() if converter is None else checked_converter(converter)
        if limiter is None:
            limiter = AdaptiveLimiter(
                _max_concurrency(max_concurrency, session), clock, self._pauses.report
            )
        transport = Transport(
            url,
            credentials,
            counters,
            session=session,
            proxy=check_proxy(proxy, url, allow_http=allow_http) if proxy else None,
            ssl=ssl,
            max_body_bytes=positive_int(max_body_bytes, "max_body_bytes"),
        )
        self._caller = Caller(
            transport,
            limiter,
            RetryBudget(clock),
            converter,
            counters,
            clock,
            policy=_checked_policy(RetryPolicy() if retry is None else retry),
            timeout=positive(DEFAULT_TIMEOUT if timeout is None else timeout, "timeout"),
            listeners=Listeners.of(hooks),
        )
        self._pauses.add(self._caller.listeners)
        self._is_view = False
        self.runs = Runs(self._caller)
        self.projects = Projects(self._caller)
        self.artifacts = Artifacts(self._caller, asyncio.Semaphore(MAX_DOWNLOADS))

    def with_options(
        self,
        *,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        hooks: object = None,
    ) -> ModelLabClient:
        """A view of this client with other options: None keeps one, ``hooks=()`` removes hooks.

        It shares connections, limiter, retry budget, counters, the requests of waits and watches,
        and the limit on downloads, and needs no closing.

        Raises:
            ConfigError: if an option cannot work.
        """
        caller = self._caller
        view = object.__new__(type(self))
        view._caller = attrs.evolve(
            caller,
            policy=caller.policy if retry is None else _checked_policy(retry),
            timeout=caller.timeout if timeout is None else positive(timeout, "timeout"),
            listeners=caller.listeners if hooks is None else Listeners.of(hooks),
        )
        view._pauses = self._pauses
        view._pauses.add(view._caller.listeners)
        view._is_view = True
        view.runs = self.runs.with_caller(view._caller)
        view.projects = Projects(view._caller)
        view.artifacts = self.artifacts.with_caller(view._caller)
        return view

    @property
    def stats(self) -> Stats:
        """A snapshot of what this client has done, all its views included."""
        return self._caller.counters.snapshot(
            rate_limit_wait_s=self._caller.limiter.paused_seconds,
            retries_refused=self._caller.budget.refusals,
        )

    def perform(
        self, call: Call, *, on_retry: Callable[[], object] | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Send a call, repeating it as the retry policy says, and decode its response.

        All operations send their calls in this way, and you can send one that has no method.

        Args:
            call: the call; the functions in `modellab_async.endpoints` build those of the API.
            on_retry: called each time before the call waits for its next attempt.

        Returns:
            The model of the response; a `DecodedPage` if the call is ``paged``, and a `LazyPage` if
            it is ``unstructured``, with one item unless ``paged``; ``bytes`` or a `Stream` of
            content; None if there is none, or if a repeated DELETE finds that the first one has
            done its work.

        Raises:
            ModelLabError: one of this package's errors.
        """
        return self._caller.perform(call, on_retry=on_retry)

    async def aclose(self) -> None:
        """Close the connections, unless the session is borrowed; calls that wait fail."""
        if self._is_view:
            return
        caller = self._caller
        for backoff in caller.backoffs:
            backoff.cancel()
        caller.budget.close()
        try:
            caller.limiter.close(ClientClosedError("this client was closed while the call waited"))
        finally:
            await caller.transport.close()

    async def __aenter__(self) -> Self:
        self._caller.transport.check_usable()
        return self

    def __repr__(self) -> str:
        if "_caller" not in vars(self):  # as seen in the traceback of a ConfigError
            return "<ModelLabClient (not set up)>"
        transport = self._caller.transport
        return f"<ModelLabClient {transport.address.base.origin()} ({transport.credentials.kind})>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client is not pickled; make one in the process that uses it")


def _checked_policy(retry: object) -> RetryPolicy:
    if not isinstance(retry, RetryPolicy):
        raise ConfigError(f"retry must be a RetryPolicy, not {type(retry).__name__}")
    return retry


def _max_concurrency(requested: int | None, session: aiohttp.ClientSession | None) -> int:
    """The maximum in flight; a borrowed session's own limit counts, since it would queue."""
    maximum = positive_int(
        DEFAULT_CONCURRENCY if requested is None else requested, "max_concurrency"
    )
    connector = session.connector if session is not None else None
    if connector is None:
        return maximum
    return min(maximum, connector.limit or maximum, connector.limit_per_host or maximum)
