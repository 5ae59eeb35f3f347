"""Everything that this package raises on purpose.

    ModelLabError
    ├── ConfigError                   credentials, site or options that cannot work
    │   └── MissingExtraError         also an ImportError; names the extra to install
    ├── InvalidIdError                also a ValueError; raised before any request
    ├── ClientClosedError             used after closing, or from another event loop
    ├── CallError                     a call that failed; says how, and after how many attempts
    │   ├── TransportError            no response: refused, dropped, cut short
    │   │   └── RequestTimeoutError   also a TimeoutError
    │   ├── DecodeError               a response that is not what the API promises
    │   └── StatusError               a response with a status that is not 2xx
    │       ├── BadRequestError       400
    │       ├── AuthenticationError   401
    │       ├── PermissionDeniedError 403
    │       ├── NotFoundError         404
    │       ├── RateLimitedError      429
    │       └── ServerError           5xx
    ├── WaitTimeoutError              also a TimeoutError; carries the last run seen
    ├── DownloadError                 a file that could not be written to disk safely
    ├── ExportError                   a file of runs that could not be written or resumed
    ├── StoreError                    a database of runs that could not be opened or written
    └── BulkError                     some of many failed; carries all that succeeded

No message, repr or attribute of these holds a key or a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

import attrs

from modellab_async.models import Run
from modellab_async.ratelimit import RateLimit

FailureKind = Literal[
    "not_sent",
    "unresolved",
    "rate_limited",
    "unavailable",
    "lost",
    "unreadable",
    "mismatched",
    "final",
]
"""How an attempt failed, and so whether the server may have acted on it.

- ``not_sent``: there was no connection, or none through the proxy.
- ``unresolved``: the host's name did not resolve; it is looked up three times at most.
- ``rate_limited``: the status was 429.
- ``unavailable``: the status was 408, 500, 502, 503, 504 or 512.
- ``lost``: the connection was lost, the attempt timed out, or the body was cut short.
- ``unreadable``: the body is empty, not JSON, or JSON that looks cut.
- ``mismatched``: the response belongs to another request, by its id or type.
- ``final``: anything else; another attempt would end the same way.
"""

StopReason = Literal["attempts", "deadline", "budget", "quota"]
"""Why a call is not sent again although its failure may pass.

It has made all attempts of its `RetryPolicy`, the next one would begin after its deadline, the
retry budget stayed empty until then, or the quota is used up for longer than the call may wait.
"""

UNAVAILABLE_STATUSES: Final = frozenset({408, 500, 502, 503, 504, 512})
"""408 is RFC 9110's (section 15.5.9); 512 is undocumented, and seen on deep pages."""

ErrorT = TypeVar("ErrorT", bound=BaseException)


def detached(error: ErrorT) -> ErrorT:
    """Remove an error's traceback, and return the error.

    Every error is detached where it leaves the package, by being raised to the caller or by
    becoming an outcome, since a traceback keeps alive each frame that it has passed:

    - Errors are kept: in a million outcomes, by a task that nobody awaits, in a log record. Frames
      would keep connections and bodies with them, and an iterator that was dropped would not end.
    - Frames of aiohttp hold the headers of the request, and so the keys.
    - What remains is the caller's own line and the method called. The message says what failed.
    """
    return error.with_traceback(None)


class ModelLabError(Exception):
    """The root of all errors of this package."""


class CallError(ModelLabError):
    """A call failed: by its response's status, without a response, or by what the response holds.

    Attributes:
        kind: how its last attempt failed.
        attempts: how many times the request was sent.
        stopped_by: why it was not sent again although the failure may pass; None if it may not.
    """

    kind: FailureKind = "final"
    attempts: int = 1
    stopped_by: StopReason | None = None

    def __str__(self) -> str:
        notes = [f"after {self.attempts} attempts"] if self.attempts > 1 else []
        notes += ["the retry budget stayed empty"] if self.stopped_by == "budget" else []
        return f"{super().__str__()} ({'; '.join(notes)})" if notes else super().__str__()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class ConfigError(ModelLabError):
    """The client cannot work as configured; the message says what to pass instead."""


class MissingExtraError(ConfigError, ImportError):
    """A package is missing that one of this package's extras installs."""


class InvalidIdError(ModelLabError, ValueError):
    """An id that is neither a non-negative integer nor a string of digits."""


class ClientClosedError(ModelLabError):
    """The client was closed, or belongs to another event loop than the one running now."""


class TransportError(CallError):
    """The request got no complete response: refused, reset, cut short, no such host.

    Its ``kind`` is ``not_sent`` or ``unresolved`` if the server certainly did not act on it,
    ``lost`` if it may have, and ``final`` if another attempt would end the same way, such as with
    a certificate that is not trusted.
    """

    def __init__(self, message: str, *, kind: FailureKind = "lost") -> None:
        super().__init__(message)
        self.kind: FailureKind = kind


class RequestTimeoutError(TransportError, TimeoutError):
    """An attempt, or all attempts of a call together, took longer than allowed."""


class DecodeError(CallError):
    """A response that cannot be decoded, or is larger than allowed.

    Its ``kind`` is ``unreadable`` if the body looks cut or is not from the API at all,
    ``mismatched`` if it belongs to another request, both of which are repeated, and else
    ``final``. After a mismatch the connection is closed, unless the session is borrowed.

    Attributes:
        attempts: how many times the request was sent; of an item of a page, always 1.
        path: where in the response, as a JSON path such as ``$.data.attributes.status``.
        resource_id: the id of the run or project, if known.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str = "$",
        resource_id: int | None = None,
        kind: FailureKind = "final",
    ) -> None:
        super().__init__(message)
        self.path = path
        self.resource_id = resource_id
        self.kind: FailureKind = kind


class WaitTimeoutError(ModelLabError, TimeoutError):
    """A run did not reach an end state within the timeout.

    Attributes:
        run: the last run seen, or None.
    """

    def __init__(self, message: str, *, run: Run | None = None) -> None:
        super().__init__(message)
        self.run = run

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class DownloadError(ModelLabError):
    """A file could not be written to disk whole, or its path would leave the directory."""


class ExportError(ModelLabError):
    """A file of runs could not be written, or an earlier export cannot be resumed."""


class StoreError(ModelLabError):
    """A database of runs could not be opened or written: in use, not one of ours, no space."""


class BulkError(ModelLabError):
    """Some of many items failed; nothing that was fetched is thrown away.

    Attributes:
        runs: every run fetched, by the id as it was passed.
        errors: every failure, by the id as it was passed.
    """

    def __init__(
        self, runs: Mapping[int | str, Run], errors: Mapping[int | str, ModelLabError]
    ) -> None:
        self.runs: dict[int | str, Run] = dict(runs)
        self.errors: dict[int | str, ModelLabError] = dict(errors)
        message = f"the ids could not be read to their end; {len(self.runs)} runs were fetched"
        if self.errors:
            first_id, first = next(iter(self.errors.items()))
            message = f"{len(self.errors)} of {len(self.runs) + len(self.errors)} ids failed"
            message += f"; first {first_id!r}: {first}"
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.runs, self.errors)


@attrs.frozen
class ErrorSource:
    """What in the request an error is about: a header, a query parameter or a JSON pointer."""

    header: str | None = None
    parameter: str | None = None
    pointer: str | None = None


@attrs.frozen
class ErrorDetail:
    """One entry of a response's ``errors``; a plain string on the wire becomes its ``title``."""

    title: str | None = None
    detail: str | None = None
    status: str | None = None
    source: ErrorSource | None = None
    meta: Mapping[str, Any] | None = attrs.field(default=None, hash=False)

    def __str__(self) -> str:
        text = ": ".join(part for part in (self.title, self.detail) if part)
        # Control characters could steer the terminal that a message is printed to.
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text) or "no detail"


class StatusError(CallError):
    """The server answered with a status other than 2xx.

    Attributes:
        status: the HTTP status.
        errors: the parsed ``errors`` of the body; empty if it has none.
        method: the request's method.
        url: the request's address, without secrets; a long list of ids is shortened.
        body: the first 2 KB of the response's body, as text.
        retry_after: seconds to wait before the next attempt, by the server, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        method: str,
        url: str,
        errors: Sequence[ErrorDetail] = (),
        body: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: FailureKind = "final"
        if status == 429:
            self.kind = "rate_limited"
        elif status in UNAVAILABLE_STATUSES:
            self.kind = "unavailable"
        self.status = status
        self.method = method
        self.url = url
        self.errors: tuple[ErrorDetail, ...] = tuple(errors)
        self.body = body
        self.retry_after = retry_after


class BadRequestError(StatusError):
    """400: the server did not accept a parameter."""


class AuthenticationError(StatusError):
    """401: the keys are wrong, lack a scope, or belong to another site."""


class PermissionDeniedError(StatusError):
    """403: the keys are wrong, lack a scope, or belong to another site."""


class NotFoundError(StatusError):
    """404: there is no such run, project or file, or these keys cannot see it."""


class RateLimitedError(StatusError):
    """429: the organization's quota is used up.

    Raised after the last attempt if all were refused, and without another one if the quota is
    used up for longer than the call may wait: its ``stopped_by`` is then ``quota``.

    Attributes:
        rate_limit: the limit as the server described it, or None.
    """

    rate_limit: RateLimit | None = None

    @property
    def name(self) -> str | None:
        """The limit's name."""
        return self.rate_limit.name if self.rate_limit else None

    @property
    def limit(self) -> int | None:
        """Requests allowed in a period."""
        return self.rate_limit.limit if self.rate_limit else None

    @property
    def period(self) -> float | None:
        """The period's length in seconds."""
        return self.rate_limit.period if self.rate_limit else None

    @property
    def remaining(self) -> int | None:
        """Requests left in this period."""
        return self.rate_limit.remaining if self.rate_limit else None

    @property
    def reset(self) -> float | None:
        """Seconds until the period ends, as of the response."""
        return self.rate_limit.reset if self.rate_limit else None


class ServerError(StatusError):
    """5xx: the server, or the edge in front of it, failed."""


def _rebuild(
    cls: type[ModelLabError], args: tuple[Any, ...], state: dict[str, Any]
) -> ModelLabError:
    """Unpickle an error: required keyword arguments live in the state, not in ``args``."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error
