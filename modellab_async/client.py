"""The client, and the journey of a request: limiter, transport, limiter, errors, decoding."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import os
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from yarl import URL

from modellab_async.budget import RetryBudget
from modellab_async.clock import Clock
from modellab_async.closing import Closing
from modellab_async.codec import Codec, Converter
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
from modellab_async.hooks import Journey, Listeners, Watch
from modellab_async.limiter import LateError, Limiter, QuotaWaitError
from modellab_async.ratelimit import RateLimit
from modellab_async.resources import Artifacts, Projects, Runs
from modellab_async.responses import status_error
from modellab_async.retry import RETRYABLE_STATUSES, TABLE, RetryPolicy, ending_of, repeat
from modellab_async.stats import Counters, Stats
from modellab_async.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from ssl import SSLContext

    import aiohttp

    from modellab_async.endpoints import Call
    from modellab_async.quota import Quota
    from modellab_async.responses import Response
    from modellab_async.transport import Stream

DEFAULT_TIMEOUT: Final = 30.0
"""Seconds for one attempt: connecting, headers and body together."""

DEFAULT_CONCURRENCY: Final = 100
"""Requests in flight at once."""

DEFAULT_MAX_BODY: Final = 64 * 1024 * 1024
"""Bytes of an answer that are read into memory; a page of 100 large runs has about one million."""

_log: Final = logging.getLogger("modellab_async")


class ModelLabClient(Closing):
    """A client of Datadog's Model Lab API, for one event loop.

    Use it as ``async with ModelLabClient() as lab``, or close it by :meth:`aclose`. One client
    serves any number of tasks: they share its connections and its knowledge of the rate limit.

    Args:
        api_key: ``DD_API_KEY`` by default.
        app_key: ``DD_APP_KEY`` by default.
        bearer_token: ``DD_BEARER_TOKEN`` by default; wins over keys. A function, sync or async,
            is asked for a token before each attempt, since tokens expire.
        site: a site, its short name, or a pasted UI or API address; ``DD_SITE`` by default, and
            ``datadoghq.com`` where that is not set either.
        base_url: another address to ask, which overrides ``site``.
        retry: how failed calls are repeated; :class:`RetryPolicy` by default.
        timeout: seconds for one attempt: connecting, headers and body together; 30 by default.
        max_concurrency: requests in flight at once; 100 by default.
        session: your own aiohttp session; it is never closed here, and its headers are kept.
        proxy: an http(s) proxy; by default the environment's (``HTTPS_PROXY``, ``NO_PROXY``),
            looked up once. Pass an empty string for none.
        ssl: as in aiohttp: a context, a fingerprint, or False to check nothing.
        max_body_bytes: the largest answer that is read into memory, after decompression.
        allow_http: allow a plain-HTTP ``base_url`` that is not this machine's own.
        converter: the cattrs converter to use, see :func:`make_converter`.
        clock: where time, sleep and randomness come from, for tests.
        hooks: what is told of calls, attempts, retries and waits: an object with methods of
            :class:`Hooks`, or a sequence of such.

    Attributes:
        runs: the operations on runs.
        projects: the operations on projects.
        artifacts: the content of files.

    Raises:
        ConfigError: where credentials, site or another option cannot work.
    """

    runs: Runs
    projects: Projects
    artifacts: Artifacts

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
        converter: Converter | None = None,
        clock: Clock | None = None,
        hooks: object = None,
    ) -> None:
        # From here on, a traceback that renders local variables shows no key, wherever it was put.
        api_key, app_key, bearer_token = hidden(api_key), hidden(app_key), hidden(bearer_token)
        site, base_url, proxy = hidden(site), hidden(base_url), hidden(proxy)
        credentials = Credentials.resolve(
            os.environ, api_key=api_key, app_key=app_key, bearer_token=bearer_token
        )
        if base_url is not None:
            url = resolve_base_url(base_url, allow_http=allow_http)
        else:
            url = URL(f"https://api.{resolve_site(site or os.environ.get('DD_SITE') or 'us1')}")
        if session is not None and session.auth is not None:
            raise ConfigError("the session given has credentials of its own; take its auth away")
        proxy = hidden(environment_proxy(url) if proxy is None else proxy)
        counters = Counters()
        self._clock = clock or Clock()
        self._counters = counters
        self._credentials = credentials
        self._codec = Codec(converter)
        self._budget = RetryBudget(self._clock.monotonic)
        self._limiter = Limiter(_concurrency(max_concurrency, session), self._clock)
        self._transport = Transport(
            url,
            credentials,
            counters,
            session=session,
            proxy=check_proxy(proxy, url, allow_http=allow_http) if proxy else None,
            ssl=ssl,
            max_body_bytes=positive_int(max_body_bytes, "max_body_bytes"),
        )
        self._pauses: set[asyncio.Future[None]] = set()
        self._owner = True
        self._listeners = Listeners.of(hooks)
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

        It shares connections, limiter, retry budget and counters, and is not closed by itself.

        Raises:
            ConfigError: where an option cannot work.
        """
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._owner = False
        view._listeners = self._listeners if hooks is None else Listeners.of(hooks)
        view._configure(retry, timeout)
        return view

    @property
    def stats(self) -> Stats:
        """A snapshot of what this client has done, all its views included."""
        return self._counters.snapshot(
            rate_limit_wait_s=self._limiter.paused_for, retries_refused=self._budget.refusals
        )

    async def aclose(self) -> None:
        """Close the connections, unless the session is borrowed; calls that wait fail."""
        if self._owner:
            for pause in self._pauses:
                pause.cancel()
            self._limiter.close(ClientClosedError("this client was closed while the call waited"))
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

    def perform(self, call: Call) -> Coroutine[Any, Any, Any]:
        """Send a call, repeating it as the retry policy says, and decode its answer.

        This is the one path of all operations, and the way to an operation that has no method.

        Raises:
            ModelLabError: one of this package's errors.
        """
        journey = Journey(call)
        if self._listeners is None:
            return self._perform(journey)
        redact = self._credentials.redact
        journey.watch = Watch(
            self._listeners, journey, self._shown(call), clock=self._clock, redact=redact
        )
        return journey.watch.over(self._perform(journey))

    async def _perform(self, journey: Journey) -> Any:
        self._counters.calls += 1
        watch = journey.watch
        try:
            if watch is None:
                return await self._attempt(journey)
            return await watch.attempt(self._attempt, journey)
        except ModelLabError as error:
            first_error = error
        attempt = (
            self._attempt if watch is None else functools.partial(watch.attempt, self._attempt)
        )
        try:
            return await repeat(
                first_error,
                functools.partial(attempt, journey),
                policy=self._retry,
                clock=self._clock,
                sleep=self._back_off,
                budget=self._budget,
                idempotency=journey.call.idempotency,
                patient=True,
                give_up_at=journey.give_up_at,
                on_retry=lambda error, pause: self._note_retry(journey, error, pause),
            )
        except (StatusError, TransportError, DecodeError) as error:
            ending = ending_of(error, answer_lost=journey.answer_lost)
            if TABLE[ending][journey.call.idempotency] == "done":
                return None
            error.attempts = journey.attempts
            raise
        finally:
            del first_error  # it holds this frame
            journey.failure = None

    async def _attempt(self, journey: Journey) -> Any:
        """One attempt: wait for admission, send, learn from the answer, decode it."""
        call, transport, limiter = journey.call, self._transport, self._limiter
        transport.check_usable()
        quota = limiter.enter_at_once(call.operation) or await self._queue(journey)
        now = self._clock.monotonic()
        if journey.failure is not None and now >= journey.give_up_at:
            limiter.leave(quota)
            raise journey.failure
        journey.sent_at = self._budget.last_sent = now
        journey.attempts += 1
        if journey.attempts > 1:
            self._counters.retries += 1
        elif self._retry.deadline is not None:
            journey.give_up_at = now + self._retry.deadline
        overloaded: bool | None = None
        stream: Stream | None = None
        try:
            response, stream = await transport.send(
                call, min(self._timeout, journey.give_up_at - now)
            )
            rate_limit = RateLimit.from_headers(response.headers, now=self._clock.time)
            limiter.learn(call.operation, response.status, rate_limit)
            journey.status = response.status
            overloaded = response.status == 503
        except RequestTimeoutError:
            overloaded = True
            raise
        finally:
            if stream is None:
                limiter.leave(quota, overloaded=overloaded)
            else:
                limiter.admit()
                stream.on_close(lambda _: limiter.leave(quota, overloaded=overloaded))
        if response.status == 429:
            self._counters.rate_limited += 1
        if not 200 <= response.status < 300:
            if response.status not in RETRYABLE_STATUSES:
                self._budget.earn(repeated=journey.attempts > 1)  # a missing run is an answer too
            raise status_error(
                call,
                self._shown(call),
                response,
                rate_limit,
                self._credentials.redact,
                now=self._clock.time,
            )
        answer = await self._decode(call, response) if stream is None else stream
        self._budget.earn(repeated=journey.attempts > 1)
        return answer

    async def _back_off(self, seconds: float) -> None:
        """Sleep, unless the client is closed meanwhile.

        Raises:
            ClientClosedError: as soon as it is.
        """
        self._transport.check_usable()
        self._counters.backoff_wait_s += seconds
        pause = asyncio.ensure_future(self._clock.sleep(seconds))
        self._pauses.add(pause)
        try:
            await asyncio.wait([pause])
        finally:
            self._pauses.discard(pause)
            pause.cancel()
        self._transport.check_usable()

    async def _queue(self, journey: Journey) -> Quota:
        """Wait for a place in the limiter."""
        policy, operation, watch = self._retry, journey.call.operation, journey.watch
        give_up_at = journey.give_up_at
        if policy.max_rate_limit_wait is not None:
            give_up_at = min(give_up_at, self._clock.monotonic() + policy.max_rate_limit_wait)
        place = self._limiter.enter(
            operation,
            again=journey.attempts > 0,
            give_up_at=give_up_at,
            longest_pause=math.inf if policy.deadline is None else policy.deadline,
        )
        if watch is not None:
            place = watch.in_line(place, functools.partial(self._limiter.paused_since, operation))
        try:
            return await place
        except QuotaWaitError as wait:
            refusal: ModelLabError | None = self._too_late(journey, wait)
        except LateError:
            refusal = journey.failure
        assert refusal is not None  # only a retry is late, and it has failed before
        raise refusal

    async def _decode(self, call: Call, response: Response) -> Any:
        if call.returns is None:
            return None
        if call.returns is bytes:
            return response.body
        if response.status == 204:  # said on purpose, unlike an empty 200: no repeat would help
            raise DecodeError(
                f"204 No Content for {call.operation}, which has content", resource_id=call.expects
            )
        if call.paged:
            return await self._codec.decode_page(response.body, call.returns, sharing=True)
        return self._codec.decode(response.body, call.returns, expects=call.expects, sharing=True)

    def _shown(self, call: Call) -> str:
        """A call's address, without a key that a user may have put into it."""
        root = self._transport.root
        return root + self._credentials.redact(self._transport.url(call).removeprefix(root))

    def _too_late(self, journey: Journey, wait: QuotaWaitError) -> RateLimitedError:
        """The error of a call that would have to wait for quota longer than it may."""
        limit = wait.rate_limit and wait.rate_limit.redacted(self._credentials.redact)
        name = f" {limit.name!r}" if limit and limit.name else ""
        url = self._shown(journey.call)
        error = RateLimitedError(
            f"429 for {journey.call.method} {url}: the rate limit{name} is used up for another"
            f" {wait.seconds:.1f} s, longer than deadline or max_rate_limit_wait allow",
            status=429,
            method=journey.call.method,
            url=url,
            retry_after=wait.seconds,
        )
        error.rate_limit, error.too_late = limit, True
        return error

    def _note_retry(self, journey: Journey, error: ModelLabError, pause: float) -> None:
        journey.failure = error
        journey.answer_lost |= isinstance(error, TransportError) and error.answer_lost
        said = "%s: attempt %d failed, next in %.2f s: %s"
        _log.info(said, journey.call.operation, journey.attempts, pause, error)
        if journey.watch is not None:
            journey.watch.retry(error, pause)


def _concurrency(asked: int | None, session: aiohttp.ClientSession | None) -> int:
    """The cap on requests in flight; a borrowed session's own limit counts, as it would queue."""
    cap = positive_int(DEFAULT_CONCURRENCY if asked is None else asked, "max_concurrency")
    connector = session.connector if session is not None else None
    if connector is None:
        return cap
    return min(cap, connector.limit or cap, connector.limit_per_host or cap)
