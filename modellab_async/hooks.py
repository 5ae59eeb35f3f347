"""Hooks: observers of what happens to calls, and the events that they receive."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

import attrs

from modellab_async.clock import Clock
from modellab_async.errors import ConfigError, ModelLabError
from modellab_async.ratelimit import RateLimit

if TYPE_CHECKING:
    from modellab_async.endpoints import Call
    from modellab_async.limiter import Pause

_log: Final = logging.getLogger("modellab_async")


@attrs.frozen(kw_only=True, eq=False)
class CallInfo:
    """A call; all its events share this one object, which is equal to itself only.

    Attributes:
        operation: its name, such as ``runs.get``.
        method: the HTTP method.
        url: the address, without secrets; a long list of ids is shortened.
        started: when it began, in seconds since the epoch.
    """

    operation: str
    method: str
    url: str
    started: float


@attrs.frozen(kw_only=True)
class _Event:
    call: CallInfo

    @property
    def operation(self) -> str:
        """The call's operation, such as ``runs.get``."""
        return self.call.operation

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self.call.method

    @property
    def url(self) -> str:
        """The address, see `CallInfo.url`."""
        return self.call.url


@attrs.frozen(kw_only=True)
class AttemptInfo(_Event):
    """One request has ended, well or badly; that of a stream ends when the stream is closed.

    Attributes:
        call: the call that it belongs to.
        number: which of the call's attempts it was, from 1.
        started: when it was admitted, in seconds since the epoch.
        seconds: how long it took from there, its body included.
        status: the response's HTTP status; None without a response.
        error: what it raised, also a cancellation; None after a success.
    """

    number: int
    started: float
    seconds: float
    status: int | None
    error: BaseException | None


@attrs.frozen(kw_only=True)
class RetryInfo(_Event):
    """An attempt failed, and the call will be repeated unless the retry budget is empty.

    Attributes:
        call: the call.
        number: the attempt that failed, from 1.
        at: the moment of this event, in seconds since the epoch.
        pause: seconds of back-off before the next attempt; 0 if it only waits for quota.
        error: what the attempt raised.
    """

    number: int
    at: float
    pause: float
    error: ModelLabError


@attrs.frozen(kw_only=True)
class WaitInfo(_Event):
    """A call has waited in the limiter's queue, until admitted, refused or cancelled.

    Calls that are admitted or refused at once have none.

    Attributes:
        call: the call.
        started: when it entered the queue, in seconds since the epoch.
        seconds: how long it waited.
        for_quota: whether the server's quota was used up meanwhile; else it waited for a slot
            within ``max_concurrency``.
        rate_limit: that quota as the server last described it; None if it did not, or if the wait
            was not for quota.
    """

    started: float
    seconds: float
    for_quota: bool
    rate_limit: RateLimit | None


@attrs.frozen(kw_only=True)
class PauseInfo:
    """A quota is used up, and calls of the client wait for it; reported once per pause.

    Attributes:
        operation: the operation that waits, such as ``runs.list``.
        rate_limit: the limit as the server last described it; None if it did not.
        seconds: how long the pause lasts.
        until: its end, in seconds since the epoch.
    """

    operation: str
    rate_limit: RateLimit | None
    seconds: float
    until: float


@attrs.frozen(kw_only=True)
class DoneInfo(_Event):
    """A call has ended, whichever way; that of a stream ends when the stream is closed.

    Attributes:
        call: the call.
        attempts: how many requests it took.
        seconds: how long it took, waits included.
        error: what it raised, also a cancellation; None after a success.
    """

    attempts: int
    seconds: float
    error: BaseException | None


class Hooks:
    """What can be observed of a client's calls: ``ModelLabClient(hooks=...)``.

    Override what you need; an object that merely has one of these methods will do as well. They
    are plain functions, called on the event loop within the task that makes the call (for streams,
    the one that closes it), and should return fast. One that raises is logged at ERROR, once for
    each hook object, and does no harm to the call.
    """

    def on_call(self, call: CallInfo) -> None:
        """A call begins."""

    def on_attempt(self, attempt: AttemptInfo) -> None:
        """A request has ended."""

    def on_retry(self, retry: RetryInfo) -> None:
        """An attempt failed, and another will follow."""

    def on_wait(self, wait: WaitInfo) -> None:
        """A call has waited for a slot within ``max_concurrency`` or for quota."""

    def on_pause(self, pause: PauseInfo) -> None:
        """Calls begin to wait for the server's quota; only the default limiter reports it."""

    def on_done(self, done: DoneInfo) -> None:
        """A call has ended: well, badly or by cancellation."""


EVENTS: Final = ("on_call", "on_attempt", "on_retry", "on_wait", "on_pause", "on_done")


class Listeners:
    """The hooks of a client, as one."""

    def __init__(self, hooks: Iterable[object]) -> None:
        self._methods: dict[str, list[tuple[object, Callable[[Any], object]]]] = {
            event: [] for event in EVENTS
        }
        self._failed: set[int] = set()
        for hook in hooks:
            for event, method in _methods_of(hook):
                self._methods[event].append((hook, method))

    @classmethod
    def of(cls, hooks: object) -> Listeners | None:
        """Those passed by a user: None, one object, or a sequence of them.

        Raises:
            ConfigError: for what has no method of a hook, or an async one.
        """
        if hooks is None:
            return None
        sequence: Sequence[object] = hooks if isinstance(hooks, Sequence) else [hooks]
        return cls(sequence) if sequence else None

    def emit(self, event: str, info: object) -> None:
        """Call that method of every hook; their errors are logged and go no further."""
        for hook, method in self._methods[event]:
            try:
                method(info)
            except Exception:  # noqa: BLE001 - whatever it is, it must not fail the call
                if id(hook) not in self._failed:
                    self._failed.add(id(hook))
                    _log.exception(
                        "%s.%s raised; no more errors of this hook are logged",
                        type(hook).__name__,
                        event,
                    )


def _methods_of(hook: object) -> list[tuple[str, Callable[[Any], object]]]:
    """What a hook listens to: methods of ``Hooks`` that are not overridden are left out."""
    name = getattr(hook, "__name__", type(hook).__name__)
    methods = [(event, getattr(hook, event)) for event in EVENTS if hasattr(hook, event)]
    if not methods or isinstance(hook, type):
        raise ConfigError(
            f"hooks must be objects with one of the methods {', '.join(EVENTS)}, not {name}"
        )
    for event, method in methods:
        if inspect.iscoroutinefunction(method):
            raise ConfigError(f"{name}.{event} must be a plain function, not an async one")
    return [
        (event, method)
        for event, method in methods
        if getattr(method, "__func__", method) is not getattr(Hooks, event)
    ]


class PauseReporter:
    """Reports the limiter's pauses to the log, and to the hooks of a client and of its views.

    Args:
        clock: the source of time.
        redact: removes secrets from a text.
    """

    def __init__(self, clock: Clock, redact: Callable[[str], str]) -> None:
        self._clock = clock
        self._redact = redact
        self._listeners: WeakSet[Listeners] = WeakSet()

    def add(self, listeners: Listeners | None) -> None:
        """Report to these hooks as well, as long as a client has them."""
        if listeners is not None:
            self._listeners.add(listeners)

    def report(self, pause: Pause) -> None:
        """Report that calls wait for quota."""
        until = self._clock.time() + pause.seconds
        _log.info(
            "%s waits for quota until %s, for %.1f s",
            pause.operation,
            f"{datetime.fromtimestamp(until, UTC):%Y-%m-%dT%H:%M:%SZ}",
            pause.seconds,
        )
        info = PauseInfo(
            operation=pause.operation,
            rate_limit=pause.rate_limit and pause.rate_limit.redacted(self._redact),
            seconds=pause.seconds,
            until=until,
        )
        for listeners in self._listeners:
            listeners.emit("on_pause", info)


class CallObserver:
    """Reports one call to hooks. Times are monotonic; hooks get seconds since the epoch.

    Args:
        listeners: the hooks.
        call: the call.
        url: its URL, without secrets.
        clock: the source of time.
        redact: removes secrets from a text.
    """

    def __init__(
        self,
        listeners: Listeners,
        call: Call,
        url: str,
        *,
        clock: Clock,
        redact: Callable[[str], str],
    ) -> None:
        self._emit = listeners.emit
        self._clock = clock
        self._redact = redact
        self._began_at = clock.monotonic()
        self._info = CallInfo(
            operation=call.operation, method=call.method, url=url, started=clock.time()
        )

    def report_call(self) -> None:
        """Report that the call begins."""
        self._emit("on_call", self._info)

    def report_attempt(
        self, number: int, sent_at: float, status: int | None, error: BaseException | None
    ) -> None:
        """Report that a request has ended."""
        self._emit(
            "on_attempt",
            AttemptInfo(
                call=self._info,
                number=number,
                started=self._epoch(sent_at),
                seconds=self._clock.monotonic() - sent_at,
                status=status,
                error=error,
            ),
        )

    def report_retry(self, number: int, pause: float, error: ModelLabError) -> None:
        """Report that an attempt failed, and that the call is repeated after a pause."""
        at = self._epoch(self._clock.monotonic())
        self._emit(
            "on_retry", RetryInfo(call=self._info, number=number, at=at, pause=pause, error=error)
        )

    def report_wait(self, since: float, *, for_quota: bool, rate_limit: RateLimit | None) -> None:
        """Report that the call has waited for admission."""
        self._emit(
            "on_wait",
            WaitInfo(
                call=self._info,
                started=self._epoch(since),
                seconds=self._clock.monotonic() - since,
                for_quota=for_quota,
                rate_limit=rate_limit and rate_limit.redacted(self._redact),
            ),
        )

    def report_end(self, attempts: int, error: BaseException | None) -> None:
        """Report that the call has ended."""
        seconds = self._clock.monotonic() - self._began_at
        self._emit(
            "on_done", DoneInfo(call=self._info, attempts=attempts, seconds=seconds, error=error)
        )

    def _epoch(self, moment: float) -> float:
        """A monotonic time in seconds since the epoch, as the call's beginning ties them."""
        return self._info.started + (moment - self._began_at)
