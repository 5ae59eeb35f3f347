"""Calls as OpenTelemetry's spans and metrics. Needs the extra ``otel``.

async with ModelLabClient(hooks=OpenTelemetryHooks()) as lab:
    ...

Only OpenTelemetry's API package is used; without an SDK that is set up, nothing is recorded.
Names follow its semantic conventions: https://opentelemetry.io/docs/specs/semconv/http/.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import attrs

from modellab_async._version import __version__
from modellab_async.config import API_PREFIX
from modellab_async.errors import StatusError
from modellab_async.extras import missing_extra
from modellab_async.hooks import Hooks

try:
    from opentelemetry import metrics, trace
except ImportError as _missing:
    raise missing_extra(__name__, "otel", "opentelemetry-api") from _missing

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from modellab_async.hooks import AttemptInfo, CallInfo, DoneInfo, RetryInfo, WaitInfo

SCHEMA: Final = "https://opentelemetry.io/schemas/1.40.0"
"""The version of the semantic conventions that names are taken from."""

REQUEST_SECONDS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0),
)
"""The conventions' bucket boundaries for ``http.client.request.duration``."""

CALL_SECONDS: Final = (*REQUEST_SECONDS, 30.0, 60.0, 120.0, 300.0)
"""The same for what may include waits and back-off."""

_ID: Final = re.compile(r"[^/]*\d[^/]*")


@attrs.define
class _OpenCall:
    """The span of a call that has not ended, and what its last failure was."""

    span: trace.Span
    context: Context
    failure: str | None = None


class OpenTelemetryHooks(Hooks):
    """A span for each call with one for each of its attempts, and metrics.

    A call's span has the operation's name and the caller's current span for its parent. Retries
    and waits are its events. Attempts are spans below it by the conventions for HTTP clients.
    No name of a span and no attribute of a metric holds an id, and nothing a key or token.

    One object may serve several clients.

    Args:
        tracer_provider: where spans go; OpenTelemetry's global one by default.
        meter_provider: where metrics go; OpenTelemetry's global one by default.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(
            "modellab_async", __version__, tracer_provider, schema_url=SCHEMA
        )
        meter = metrics.get_meter("modellab_async", __version__, meter_provider, schema_url=SCHEMA)
        self._requests = meter.create_histogram(
            "http.client.request.duration",
            "s",
            "Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=REQUEST_SECONDS,
        )
        self._calls = meter.create_histogram(
            "modellab.client.call.duration",
            "s",
            "Duration of calls, with all their attempts, back-off and waits.",
            explicit_bucket_boundaries_advisory=CALL_SECONDS,
        )
        self._waits = meter.create_histogram(
            "modellab.client.rate_limit.wait",
            "s",
            "How long calls waited while the server's quota was used up.",
            explicit_bucket_boundaries_advisory=CALL_SECONDS,
        )
        self._retries = meter.create_counter(
            "modellab.client.retries", "{retry}", "Requests beyond the first of their call."
        )
        self._open: dict[CallInfo, _OpenCall] = {}

    def on_call(self, call: CallInfo) -> None:
        """Begin the call's span."""
        host, port = _server(call.url)
        span = self._tracer.start_span(
            call.operation,
            kind=trace.SpanKind.CLIENT,
            attributes={
                "modellab.operation": call.operation,
                "server.address": host,
                "server.port": port,
            },
            start_time=_ns(call.started),
        )
        self._open[call] = _OpenCall(span, trace.set_span_in_context(span))

    def on_attempt(self, attempt: AttemptInfo) -> None:
        """Add a span below the call's, and measure."""
        opened = self._open[attempt.call]
        resent = attempt.number - 1
        host, port = _server(attempt.url)
        template = _template(attempt.url)
        measured: dict[str, Any] = {
            "http.request.method": attempt.method,
            "server.address": host,
            "server.port": port,
            "url.template": template,
        }
        if attempt.status is not None:
            measured["http.response.status_code"] = attempt.status
        measured |= _error(attempt.error)
        span = self._tracer.start_span(
            f"{attempt.method} {template}",
            opened.context,
            kind=trace.SpanKind.CLIENT,
            attributes={
                **measured,
                "url.full": attempt.url,
                **({"http.request.resend_count": resent} if resent else {}),
            },
            start_time=_ns(attempt.started),
        )
        _end(span, attempt.error, attempt.started + attempt.seconds)
        self._requests.record(attempt.seconds, measured, opened.context)
        if resent:
            reason = {"error.type": opened.failure} if opened.failure else {}
            self._retries.add(
                1, {"modellab.operation": attempt.operation, **reason}, opened.context
            )

    def on_retry(self, retry: RetryInfo) -> None:
        """Note the failure and the pause on the call's span."""
        opened = self._open[retry.call]
        failed = _error(retry.error)
        opened.failure = failed["error.type"]
        opened.span.add_event(
            "modellab.retry",
            {**failed, "modellab.attempt": retry.number, "modellab.pause": retry.pause},
            _ns(retry.at),
        )

    def on_wait(self, wait: WaitInfo) -> None:
        """Note the wait on the call's span, and measure it if it was for quota."""
        opened = self._open[wait.call]
        attributes: dict[str, Any] = {"modellab.wait": wait.seconds}
        limit = wait.rate_limit
        if limit is not None:
            description = {"name": limit.name, "limit": limit.limit, "period": limit.period}
            attributes |= {
                f"modellab.rate_limit.{key}": value
                for key, value in description.items()
                if value is not None
            }
        name = "modellab.rate_limit.wait" if wait.for_quota else "modellab.queue.wait"
        opened.span.add_event(name, attributes, _ns(wait.started))
        if wait.for_quota:
            self._waits.record(wait.seconds, {"modellab.operation": wait.operation}, opened.context)

    def on_done(self, done: DoneInfo) -> None:
        """End the call's span, and measure."""
        opened = self._open.pop(done.call)
        failed = _error(done.error)
        opened.span.set_attributes({"modellab.attempts": done.attempts, **failed})
        _end(opened.span, done.error, done.call.started + done.seconds, str(done.error))
        self._calls.record(
            done.seconds, {"modellab.operation": done.operation, **failed}, opened.context
        )


def _error(error: BaseException | None) -> dict[str, str]:
    """The attribute that names an error: a response's status, or the class."""
    if error is None:
        return {}
    if isinstance(error, StatusError):
        return {"error.type": str(error.status)}
    return {"error.type": f"{type(error).__module__}.{type(error).__qualname__}"}


def _end(
    span: trace.Span, error: BaseException | None, at: float, description: str | None = None
) -> None:
    if isinstance(error, Exception):  # a cancellation is no failure
        span.set_status(trace.Status(trace.StatusCode.ERROR, description))
    span.end(_ns(at))


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


def _server(url: str) -> tuple[str, int]:
    return _parts(url[: url.index("/", url.index("://") + 3)])


@functools.lru_cache(maxsize=64)
def _parts(origin: str) -> tuple[str, int]:
    parts = urlsplit(origin)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _template(url: str) -> str:
    """The path of an address, with ids taken out."""
    below, _, path = url.partition("?")[0].partition(API_PREFIX)
    root = below[below.index("://") + 3 :].partition("/")[1:]
    return f"{''.join(root)}{API_PREFIX}{_ID.sub('{id}', path)}"
