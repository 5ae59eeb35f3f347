"""How a call is sent: admission, one attempt, the response, and the decision on a failure."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import attrs
import cattrs

from modellab_async.clock import Clock
from modellab_async.documents import decode, decode_page, parse_document, parse_page
from modellab_async.endpoints import Call
from modellab_async.errors import (
    CallError,
    DecodeError,
    ModelLabError,
    NotFoundError,
    RequestTimeoutError,
    StatusError,
    detached,
)
from modellab_async.hooks import CallObserver, Listeners
from modellab_async.limiter import Limiter, Permit, PermitRequest, QuotaExhaustedError
from modellab_async.ratelimit import RateLimit
from modellab_async.responses import Response, quota_error, status_error
from modellab_async.retry import CallState, RetryBudget, RetryPolicy, retrying, waits_for_quota
from modellab_async.stats import Counters
from modellab_async.transport import Stream, Transport

_log: Final = logging.getLogger("modellab_async")


@attrs.frozen(eq=False, repr=False)
class Caller:
    """Sends calls with one set of options; a client has one, and each of its views another.

    Attributes:
        transport: makes one request.
        limiter: decides when it may be made.
        budget: bounds the repeats of all calls together.
        converter: structures responses.
        counters: what the client has done so far.
        clock: the source of time and jitter.
        policy: how failed calls are repeated.
        timeout: seconds for one attempt.
        listeners: the hooks, if there are any.
        backoffs: the pauses that calls are in; canceling them all ends these calls.
    """

    transport: Transport
    limiter: Limiter
    budget: RetryBudget
    converter: cattrs.Converter
    counters: Counters
    clock: Clock
    policy: RetryPolicy
    timeout: float
    listeners: Listeners | None
    backoffs: set[asyncio.Future[None]] = attrs.field(factory=set)

    def perform(
        self, call: Call, /, *, on_retry: Callable[[], object] | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Send a call; see `ModelLabClient.perform`."""
        state = CallState(call, on_retry)
        if self.listeners is None:
            return self._send(state)  # not awaited here: tracebacks have one frame less
        transport = self.transport
        state.observer = CallObserver(
            self.listeners,
            call,
            transport.shown_url(call),
            clock=self.clock,
            redact=transport.credentials.redact,
        )
        return self._send_observed(state, state.observer)

    async def _send(self, state: CallState) -> Any:
        """Make attempts until one succeeds or its failure is final.

        The first attempt is made outside tenacity, inside which a call costs a third more CPU
        (benchmarks/first_attempt.py). If it fails, that is tenacity's first outcome.
        """
        __tracebackhide__ = True  # in pytest and IPython
        self.counters.calls += 1
        attempt = self._attempt if state.observer is None else self._attempt_observed
        try:
            try:
                return await attempt(state)
            except CallError as error:
                if error.kind == "final":  # such as a 404, whose CPU tenacity would double
                    raise
                state.failure = error
            return await self._repeat(state, attempt)
        except ModelLabError as error:
            if isinstance(error, CallError):
                error.attempts = state.attempts
            raise detached(error)  # noqa: B904  # it is the same error
        finally:
            state.failure = None  # its traceback holds this frame

    async def _repeat(
        self, state: CallState, make_attempt: Callable[[CallState], Awaitable[Any]]
    ) -> Any:
        """Resume after the failure of the first attempt."""
        retries = retrying(
            state,
            self.policy,
            self.clock,
            sleep=self._back_off,
            before_sleep=functools.partial(self._note_retry, state),
        )
        async for attempt in retries:
            with attempt:
                if attempt.retry_state.attempt_number == 1:
                    assert state.failure is not None
                    raise state.failure  # tenacity's first attempt is the one that failed
                try:
                    return await make_attempt(state)
                except NotFoundError:
                    if state.call.deletes and state.response_lost:
                        return None  # an earlier attempt has removed it
                    raise
        return None  # not reached: an attempt returns, or tenacity raises its error

    async def _attempt(self, state: CallState) -> Any:
        """Make one attempt.

        What costs nothing is refused first. A repeat is taken from the budget before it queues for
        a permit, since one that may not be sent must not hold up others. An attempt counts, and its
        timeout runs, from its admission. The limiter learns from a response before its status or
        body can fail, and the permit is returned before the body is decoded. Only an attempt whose
        response has been decoded, or says something definite, adds to the budget.
        """
        call, transport, clock = state.call, self.transport, self.clock
        transport.check_usable()
        takes_budget = state.failure is not None and not waits_for_quota(state.failure)
        if takes_budget:
            await self._take_from_budget(state)
        try:
            permit = await self._admit(state)
        except BaseException:
            if takes_budget:
                self.budget.refund()
            raise
        now = self.budget.last_sent = state.sent_at = clock.monotonic()
        state.attempts += 1
        if state.attempts > 1:
            self.counters.retries += 1
        elif self.policy.deadline is not None:
            state.deadline = now + self.policy.deadline
        is_overloaded: bool | None = None
        try:
            response, stream = await transport.send(
                call, min(self.timeout, state.deadline - now), self.timeout
            )
            rate_limit = RateLimit.from_headers(response.headers, now=clock.time)
            permit.update(response.status, rate_limit)
            state.status = response.status
            is_overloaded = response.status == 503
        except RequestTimeoutError as error:
            if error.kind == "lost":  # else the function given as bearer_token was too slow
                is_overloaded = True
            raise
        finally:
            # A stream returns its permit as well: however long it is read, it holds up no call.
            permit.release(overloaded=is_overloaded)
        if not 200 <= response.status < 300:
            raise self._status_error(call, response, rate_limit, is_repeat=takes_budget)
        result = stream or await self._decode(call, response)
        self.budget.credit(repeated=takes_budget)
        return result

    async def _take_from_budget(self, state: CallState) -> None:
        """Take a repeat from the retry budget, or raise the last attempt's failure."""
        if await self.budget.acquire(state.deadline):
            return
        self.transport.check_usable()
        assert state.failure is not None  # only a repeat needs budget
        state.failure.stopped_by = "budget"
        raise state.failure

    async def _admit(self, state: CallState) -> Permit:
        """Wait for the limiter; raise the last attempt's failure if that takes too long."""
        policy, call, failure = self.policy, state.call, state.failure
        max_wait = math.inf if call.wait_for_quota else policy.deadline
        if policy.max_rate_limit_wait is not None:
            max_wait = policy.max_rate_limit_wait
        request = PermitRequest(
            call.operation,
            is_retry=failure is not None,
            # Bulk work does not count its pauses for quota, see below.
            deadline=math.inf if call.wait_for_quota else state.deadline,
            max_wait=math.inf if max_wait is None else max_wait,
        )
        since = self.clock.monotonic()
        try:
            permit = await self.limiter.acquire(request)
        except QuotaExhaustedError as error:
            transport = self.transport
            refusal: CallError = quota_error(
                call,
                transport.shown_url(call),
                error.rate_limit,
                error.seconds,
                transport.credentials.redact,
            )
        except TimeoutError:
            assert failure is not None  # only a retry can be late
            refusal = failure
            refusal.stopped_by = "deadline"
        else:
            if failure is None:
                return permit
            now = self.clock.monotonic()
            if request.paused and call.wait_for_quota:
                state.deadline += now - since
            if now < state.deadline:
                return permit
            permit.release()
            refusal = failure
            refusal.stopped_by = "deadline"
        finally:
            if request.queued and state.observer is not None:
                state.observer.report_wait(
                    since, for_quota=request.paused, rate_limit=request.paused_by
                )
        raise refusal

    def _status_error(
        self, call: Call, response: Response, rate_limit: RateLimit | None, *, is_repeat: bool
    ) -> StatusError:
        """Count a response whose status is not 2xx, and return its error."""
        transport = self.transport
        error = status_error(
            call,
            transport.shown_url(call),
            response,
            rate_limit,
            transport.credentials.redact,
            now=self.clock.time,
        )
        self.counters.rate_limited += error.kind == "rate_limited"
        if error.kind == "final":
            self.budget.credit(repeated=is_repeat)  # a missing run is a definite response too
        return error

    async def _decode(self, call: Call, response: Response) -> Any:
        """What `perform` returns for a response with a status of 2xx."""
        status, returns = response.status, call.returns
        if returns is None:
            return None
        if returns is bytes:
            if status != 200:
                raise DecodeError(f"{status} for {call.operation}, which is not the whole content")
            return response.body
        if status == 204:  # on purpose, unlike an empty 200: no repeat would help
            message = f"204 No Content for {call.operation}, which has content"
            raise DecodeError(message, resource_id=call.expects)
        try:
            if call.unstructured and call.paged:
                return parse_page(response.body, returns, self.converter)
            if call.unstructured:
                return parse_document(response.body, returns, self.converter, expects=call.expects)
            if call.paged:
                result: Any = await decode_page(response.body, returns, self.converter)
            else:
                result = decode(response.body, returns, self.converter, expects=call.expects)
            call.check(result)
        except DecodeError as error:
            if error.kind == "mismatched":
                self.transport.drop_connection()
            raise
        return result

    async def _back_off(self, seconds: float) -> None:
        """Sleep, unless the client is closed meanwhile.

        Raises:
            ClientClosedError: as soon as it is.
        """
        self.transport.check_usable()
        self.counters.backoff_wait_s += seconds
        pause = asyncio.ensure_future(self.clock.sleep(seconds))
        self.backoffs.add(pause)
        try:
            await asyncio.wait([pause])
        finally:
            self.backoffs.discard(pause)
            pause.cancel()
        self.transport.check_usable()

    def _note_retry(self, state: CallState, error: CallError, pause: float) -> None:
        state.failure = error
        state.response_lost |= error.kind == "lost"
        _log.info(
            "%s: attempt %d failed, next in %.2f s: %s",
            state.call.operation,
            state.attempts,
            pause,
            error,
        )
        if state.observer is not None:
            state.observer.report_retry(state.attempts, pause, error)
        if state.on_retry is not None:
            state.on_retry()

    async def _send_observed(self, state: CallState, observer: CallObserver) -> Any:
        """Send a call, and report its beginning and its end."""
        observer.report_call()
        try:
            result = await self._send(state)
        except BaseException as error:
            observer.report_end(state.attempts, error)
            raise
        _report_at_end(result, functools.partial(observer.report_end, state.attempts))
        return result

    async def _attempt_observed(self, state: CallState) -> Any:
        """Make one attempt, and report it if it was sent."""
        assert state.observer is not None
        attempts_before, state.status = state.attempts, None
        try:
            result = await self._attempt(state)
        except BaseException as error:
            if state.attempts > attempts_before:
                state.observer.report_attempt(state.attempts, state.sent_at, state.status, error)
            raise
        report = functools.partial(
            state.observer.report_attempt, state.attempts, state.sent_at, state.status
        )
        _report_at_end(result, report)
        return result


def _report_at_end(result: Any, report: Callable[[BaseException | None], None]) -> None:
    """Report a success, that of a stream when it is closed, with what it broke off with."""
    if isinstance(result, Stream):
        result.on_close(report)
    else:
        report(None)
