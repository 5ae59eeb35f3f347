"""The client: its options, and the path of a request from limiter to decoded response."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from ssl import SSLContext
from typing import Any, Final, NoReturn, Self, cast

import aiohttp
import attrs
import cattrs
from yarl import URL

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
from modellab_async.documents import decode, decode_page, parse_document, parse_page
from modellab_async.endpoints import Call
from modellab_async.errors import (
    ClientClosedError,
    ConfigError,
    DecodeError,
    ModelLabError,
    RateLimitedError,
    RequestTimeoutError,
    StatusError,
    TransportError,
)
from modellab_async.hooks import CallObserver, Listeners, PauseInfo
from modellab_async.limiter import (
    AdaptiveLimiter,
    Limiter,
    Pause,
    Permit,
    PermitRequest,
    QuotaExhaustedError,
)
from modellab_async.ratelimit import RateLimit
from modellab_async.resources import Artifacts, Projects, Runs
from modellab_async.responses import Response, shorten_ids, status_error
from modellab_async.retry import (
    RETRY_RULES,
    RETRYABLE_STATUSES,
    CallState,
    RetryBudget,
    RetryPolicy,
    classify,
    is_repeatable,
    retrying,
    waits_for_quota,
)
from modellab_async.stats import Counters, Stats
from modellab_async.transport import Transport

DEFAULT_TIMEOUT: Final = 30.0
"""Seconds for one attempt: connecting, headers and body together."""

DEFAULT_CONCURRENCY: Final = 100
"""Requests in flight at once."""

DEFAULT_MAX_BODY: Final = 64 * 1024 * 1024
"""Bytes of a response that are read into memory; a page of 100 large runs has about one million."""

_log: Final = logging.getLogger("modellab_async")


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
        proxy = hidden(environment_proxy(url) if proxy is None else proxy)
        counters = Counters()
        self._clock = Clock() if clock is None else clock
        self._counters = counters
        self._credentials = credentials
        self._converter = make_converter() if converter is None else checked_converter(converter)
        self._budget = RetryBudget(self._clock)
        if limiter is not None and max_concurrency is not None:
            raise ConfigError("give limiter or max_concurrency: a limiter has its own maximum")
        if limiter is None:
            most = _concurrency(max_concurrency, session)
            limiter = AdaptiveLimiter(most, self._clock, self._note_pause)
        self._limiter = limiter
        self._transport = Transport(
            url,
            credentials,
            counters,
            session=session,
            proxy=check_proxy(proxy, url, allow_http=allow_http) if proxy else None,
            ssl=ssl,
            max_body_bytes=positive_int(max_body_bytes, "max_body_bytes"),
        )
        self._backoffs: set[asyncio.Future[None]] = set()
        self._owner = True
        self._listeners = Listeners.of(hooks)
        self._all_listeners = weakref.WeakSet([self._listeners] if self._listeners else [])
        self._retry, self._timeout = RetryPolicy(), DEFAULT_TIMEOUT
        self._configure(retry, timeout)

    def _configure(self, retry: RetryPolicy | None, timeout: float | None) -> None:
        if retry is not None:
            if not isinstance(retry, RetryPolicy):
                raise ConfigError(f"retry must be a RetryPolicy, not {type(retry).__name__}")
            self._retry = retry
        if timeout is not None:
            self._timeout = positive(timeout, "timeout")
        self.runs = Runs(self.perform, self._limiter, self._clock)
        self.projects = Projects(self.perform)
        self.artifacts = Artifacts(self.perform, self._retry, self._clock)

    def with_options(
        self,
        *,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        hooks: object = None,
    ) -> ModelLabClient:
        """A view of this client with other options; what is not given stays (``hooks=()``: none).

        It shares connections, limiter, retry budget and counters, and needs no closing.

        Raises:
            ConfigError: if an option cannot work.
        """
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._owner = False
        view._listeners = self._listeners if hooks is None else Listeners.of(hooks)
        if view._listeners is not None:
            self._all_listeners.add(view._listeners)
        view._configure(retry, timeout)
        return view

    @property
    def stats(self) -> Stats:
        """A snapshot of what this client has done, all its views included."""
        return self._counters.snapshot(
            rate_limit_wait_s=self._limiter.paused_seconds, retries_refused=self._budget.refusals
        )

    async def aclose(self) -> None:
        """Close the connections, unless the session is borrowed; calls that wait fail."""
        if self._owner:
            for pause in self._backoffs:
                pause.cancel()
            self._budget.close()
            closed = ClientClosedError("this client was closed while the call waited")
            try:
                self._limiter.close(closed)
            finally:
                await self._transport.close()

    async def __aenter__(self) -> Self:
        self._transport.check_usable()
        return self

    def __repr__(self) -> str:
        if "_transport" not in vars(self):  # as seen in the traceback of a ConfigError
            return "<ModelLabClient (not set up)>"
        return f"<ModelLabClient {self._transport.origin} ({self._credentials.kind})>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client is not pickled; make one in the process that uses it")

    def perform(
        self, call: Call, *, on_retry: Callable[[], object] | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Send a call, repeating it as the retry policy says, and decode its response.

        This is the one path of all operations, and the way to an operation that has no method.

        Args:
            call: what to ask; the functions in `modellab_async.endpoints` build the known ones.
            on_retry: called each time before the call waits for its next attempt.

        Returns:
            The model of the response; a `DecodedPage` if the call is ``paged``, and a `LazyPage` if
            it is ``unstructured``, with one item unless ``paged``; ``bytes`` or a `Stream` of
            content; None if there is none, or if a repeated DELETE finds that the first one has
            done its work.

        Raises:
            ModelLabError: one of this package's errors.
        """
        state = CallState(call, on_retry=on_retry)
        if self._listeners is None:
            return self._perform(state)  # not awaited here: tracebacks have one frame less
        redact = self._credentials.redact
        state.observer = CallObserver(
            self._listeners, state, self._shown(call), clock=self._clock, redact=redact
        )
        return state.observer.call(self._perform(state))

    async def _perform(self, state: CallState) -> Any:
        __tracebackhide__ = True  # in pytest and IPython
        self._counters.calls += 1
        attempt = self._attempt if state.observer is None else self._observed_attempt
        try:
            try:
                return await attempt(state)
            except ModelLabError as error:
                if not is_repeatable(error, call=state.call):
                    raise
                state.failure = error
            return await self._retry_call(state, attempt)
        except ModelLabError as error:
            if isinstance(error, StatusError | TransportError | DecodeError):
                kind = classify(error, answer_lost=state.answer_lost)
                if RETRY_RULES[kind][state.call.idempotency] == "done":
                    return None
                error.attempts = state.attempts
            # Without the frames below this one: the message says what failed.
            raise error.with_traceback(None)  # noqa: B904  # it is the same error
        finally:
            state.failure = None  # its traceback holds this frame

    async def _retry_call(
        self,
        state: CallState,
        attempt_call: Callable[[CallState], Awaitable[Any]],
    ) -> Any:
        """Resume after the first failure; a call that succeeds at once never enters tenacity."""
        retries = retrying(
            state,
            self._retry,
            self._clock,
            sleep=self._back_off,
            before_sleep=lambda error, pause: self._note_retry(state, error, pause),
        )
        async for attempt in retries:
            with attempt:
                if attempt.retry_state.attempt_number == 1 and state.failure is not None:
                    raise state.failure  # tenacity's first attempt is the one that failed
                return await attempt_call(state)
        return None  # not reached: an attempt returns, or tenacity raises its error

    async def _observed_attempt(self, state: CallState) -> Any:
        assert state.observer is not None
        return await state.observer.attempt(self._attempt(state))

    async def _attempt(self, state: CallState) -> Any:
        """One attempt: wait for admission, send, learn from the response, decode it."""
        call, transport = state.call, self._transport
        transport.check_usable()
        state.in_budget = state.attempts > 0 and not waits_for_quota(state.failure)
        if state.in_budget:
            await self._wait_for_budget(state)
        try:
            permit = await self._admit(state)
        except BaseException:
            if state.in_budget:
                self._budget.refund()
            raise
        now = self._clock.monotonic()
        state.sent_at = self._budget.last_sent = now
        state.attempts += 1
        if state.attempts > 1:
            self._counters.retries += 1
        elif self._retry.deadline is not None:
            state.deadline = now + self._retry.deadline
        overloaded: bool | None = None
        try:
            response, stream = await transport.send(
                call, min(self._timeout, state.deadline - now), self._timeout
            )
            rate_limit = RateLimit.from_headers(response.headers, now=self._clock.time)
            permit.update(response.status, rate_limit)
            state.status = response.status
            overloaded = response.status == 503
        except RequestTimeoutError as error:
            if error.answer_lost:  # else it was the user's function that returned no token
                overloaded = True
            raise
        finally:
            # A stream returns its permit as well: however long it is read, it holds up no call.
            permit.release(overloaded=overloaded)
        result = await self._result(state, response, rate_limit) if stream is None else stream
        self._budget.credit(repeated=state.in_budget)
        return result

    async def _result(
        self, state: CallState, response: Response, rate_limit: RateLimit | None
    ) -> Any:
        """What `perform` returns for a response, or the error that its status stands for."""
        call, status = state.call, response.status
        if not 200 <= status < 300:
            self._counters.rate_limited += status == 429
            if status not in RETRYABLE_STATUSES:
                self._budget.credit(repeated=state.in_budget)  # a missing run is an answer too
            redact = self._credentials.redact
            raise status_error(
                call, self._shown(call), response, rate_limit, redact, now=self._clock.time
            )
        if call.returns is None:
            return None
        if call.returns is bytes:
            if status != 200:
                raise DecodeError(f"{status} for {call.operation}, which is not the whole content")
            return response.body
        if status == 204:  # said on purpose, unlike an empty 200: no repeat would help
            said = f"204 No Content for {call.operation}, which has content"
            raise DecodeError(said, resource_id=call.expects)
        try:
            if call.unstructured:
                if call.paged:
                    return parse_page(response.body, call.returns, self._converter)
                return parse_document(
                    response.body, call.returns, self._converter, expects=call.expects
                )
            if call.paged:
                result: Any = await decode_page(response.body, call.returns, self._converter)
            else:
                result = decode(response.body, call.returns, self._converter, expects=call.expects)
            call.check(result)
        except DecodeError as error:
            if error.mismatched:
                self._transport.drop_connection()
            raise
        return result

    async def _wait_for_budget(self, state: CallState) -> None:
        """Take a repeat from the retry budget, or raise what the last attempt failed with."""
        if await self._budget.acquire(state.deadline):
            return
        self._transport.check_usable()
        assert isinstance(state.failure, StatusError | TransportError | DecodeError)
        state.failure.budget_empty = True
        raise state.failure

    async def _back_off(self, seconds: float) -> None:
        """Sleep, unless the client is closed meanwhile.

        Raises:
            ClientClosedError: as soon as it is.
        """
        self._transport.check_usable()
        self._counters.backoff_wait_s += seconds
        pause = asyncio.ensure_future(self._clock.sleep(seconds))
        self._backoffs.add(pause)
        try:
            await asyncio.wait([pause])
        finally:
            self._backoffs.discard(pause)
            pause.cancel()
        self._transport.check_usable()

    async def _admit(self, state: CallState) -> Permit:
        """Wait for the limiter."""
        policy, call = self._retry, state.call
        longest = math.inf if call.wait_for_quota else policy.deadline
        if policy.max_rate_limit_wait is not None:
            longest = policy.max_rate_limit_wait
        request = PermitRequest(
            call.operation,
            is_retry=state.attempts > 0,
            # Bulk work does not count its pauses for quota, see below.
            deadline=math.inf if call.wait_for_quota else state.deadline,
            max_wait=math.inf if longest is None else longest,
        )
        since = self._clock.monotonic()
        try:
            permit = await self._limiter.acquire(request)
        except QuotaExhaustedError as error:
            refusal: ModelLabError | None = self._too_late(state, error)
        except TimeoutError:
            refusal = state.failure
        else:
            now = self._clock.monotonic()
            if request.paused and call.wait_for_quota:
                state.deadline += now - since
            if state.failure is None or now < state.deadline:
                return permit
            permit.release()
            refusal = state.failure
        finally:
            if request.queued and state.observer is not None:
                state.observer.waited(request, since)
        assert refusal is not None  # only a retry is late, and it has failed before
        raise refusal

    def _shown(self, call: Call) -> str:
        """A call's address for people: without keys and most of its ids."""
        root = self._transport.root
        path = shorten_ids(self._transport.url(call).removeprefix(root))
        return root + self._credentials.redact(path)

    def _too_late(self, state: CallState, wait: QuotaExhaustedError) -> RateLimitedError:
        """The error of a call that would have to wait for quota longer than it may."""
        limit = attrs.evolve(wait.rate_limit or RateLimit(), reset=wait.seconds)
        limit = limit.redacted(self._credentials.redact)
        name = f" {limit.name!r}" if limit.name else ""
        url = self._shown(state.call)
        error = RateLimitedError(
            f"429 for {state.call.method} {url}: the rate limit{name} is used up for another"
            f" {wait.seconds:.1f} s, longer than deadline or max_rate_limit_wait allow",
            status=429,
            method=state.call.method,
            url=url,
            retry_after=wait.seconds,
        )
        error.rate_limit, error.too_late = limit, True
        return error

    def _note_retry(self, state: CallState, error: ModelLabError, pause: float) -> None:
        state.failure = error
        state.answer_lost |= isinstance(error, TransportError) and error.answer_lost
        said = "%s: attempt %d failed, next in %.2f s: %s"
        _log.info(said, state.call.operation, state.attempts, pause, error)
        if state.observer is not None:
            state.observer.retry(error, pause)
        if state.on_retry is not None:
            state.on_retry()

    def _note_pause(self, pause: Pause) -> None:
        until = self._clock.time() + pause.seconds
        limit = pause.rate_limit and pause.rate_limit.redacted(self._credentials.redact)
        _log.info(
            "%s waits for quota until %s, for %.1f s",
            pause.operation,
            f"{datetime.fromtimestamp(until, UTC):%Y-%m-%dT%H:%M:%SZ}",
            pause.seconds,
        )
        info = PauseInfo(
            operation=pause.operation, rate_limit=limit, seconds=pause.seconds, until=until
        )
        for listeners in self._all_listeners:
            listeners.emit("on_pause", info)


def _concurrency(asked: int | None, session: aiohttp.ClientSession | None) -> int:
    """The cap on requests in flight; a borrowed session's own limit counts, as it would queue."""
    cap = positive_int(DEFAULT_CONCURRENCY if asked is None else asked, "max_concurrency")
    connector = session.connector if session is not None else None
    if connector is None:
        return cap
    return min(cap, connector.limit or cap, connector.limit_per_host or cap)
