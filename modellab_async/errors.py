"""Everything that this package raises on purpose.

    ModelLabError
    ├── ConfigError                 credentials, site or options that cannot work
    │   └── MissingExtraError       also an ImportError; names the extra to install
    ├── InvalidIdError              also a ValueError; raised before any request
    ├── ClientClosedError           used after closing, or from another event loop
    ├── TransportError              no response: refused, dropped, cut short
    │   └── RequestTimeoutError     also a TimeoutError
    ├── DecodeError                 a response that is not what the API promises
    ├── WaitTimeoutError            also a TimeoutError; carries the last run seen
    ├── DownloadError               a file that could not be written to disk safely
    ├── ExportError                 a file of runs that could not be written or resumed
    ├── StoreError                  a database of runs that could not be opened or written
    ├── BulkError                   some of many failed; carries all that succeeded
    └── StatusError                 a response with a status that is not 2xx
        ├── BadRequestError         400
        ├── AuthenticationError     401
        ├── PermissionDeniedError   403
        ├── NotFoundError           404
        ├── RateLimitedError        429
        └── ServerError             5xx

No message, repr or attribute of these holds a key or a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from modellab_async.models import Run
from modellab_async.ratelimit import RateLimit


class ModelLabError(Exception):
    """The root of all errors of this package."""


class _CallError(ModelLabError):
    """A call that was sent and failed; says how often it was sent, and why not more often."""

    attempts = 1
    budget_empty = False

    def __str__(self) -> str:
        notes = [f"after {self.attempts} attempts"] if self.attempts > 1 else []
        notes += ["the retry budget stayed empty"] if self.budget_empty else []
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


class TransportError(_CallError):
    """The request got no complete response: refused, reset, cut short, no such host.

    Attributes:
        answer_lost: whether the server may have acted on a request whose response never came.
        permanent: whether another attempt would end the same way, such as with a bad certificate.
        unresolved: whether the host's name did not resolve; it is looked up three times at most.
        attempts: how many times the request was sent.
        budget_empty: whether it was not repeated only because the retry budget was empty.
    """

    def __init__(
        self,
        message: str,
        *,
        answer_lost: bool = True,
        permanent: bool = False,
        unresolved: bool = False,
    ) -> None:
        super().__init__(message)
        self.answer_lost = answer_lost
        self.permanent = permanent
        self.unresolved = unresolved


class RequestTimeoutError(TransportError, TimeoutError):
    """An attempt, or all attempts of a call together, took longer than allowed."""


class DecodeError(_CallError):
    """A response that cannot be decoded, or is larger than allowed.

    Attributes:
        path: where in the response, as a JSON path such as ``$.data.attributes.status``.
        resource_id: the id of the run or project, if known.
        cut_short: whether it looks cut, or is not from the API at all; another attempt may help.
        mismatched: whether it belongs to another request: it has another id or type than asked
            for. The call is repeated, over another connection unless the session is borrowed.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str = "$",
        resource_id: int | None = None,
        cut_short: bool = False,
        mismatched: bool = False,
    ) -> None:
        super().__init__(message)
        self.path = path
        self.resource_id = resource_id
        self.cut_short = cut_short
        self.mismatched = mismatched


class WaitTimeoutError(ModelLabError, TimeoutError):
    """A run did not reach an end state in the time given.

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
        runs: every run fetched, by the id as it was given.
        errors: every failure, by the id as it was given.
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


class StatusError(_CallError):
    """The server answered with a status other than 2xx.

    Attributes:
        status: the HTTP status.
        errors: the parsed ``errors`` of the body; empty if it has none.
        method: the request's method.
        url: the request's address, without secrets; a long list of ids is shortened.
        attempts: how many times the request was sent.
        budget_empty: whether it was not repeated only because the retry budget was empty.
        body: the first 2 KB of the response's body, as text.
        retry_after: seconds that the server asked to wait before the next attempt, or None.
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
    """429: the organization's quota is used up, for longer than this call may wait.

    Attributes:
        rate_limit: what the server said about the limit, or None.
        too_late: whether the client did not wait, because the quota is restored too late.
    """

    rate_limit: RateLimit | None = None
    too_late: bool = False

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
