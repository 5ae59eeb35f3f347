"""HTTP as this API speaks it, without any I/O: a call, a reply, and what their headers mean."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Mapping  # noqa: TC003  # the signatures of calls and replies name it
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal, Self, SupportsIndex

import attrs
import msgspec

from modellab_async.errors import (
    AuthenticationError,
    BadRequestError,
    ErrorDetail,
    ErrorSource,
    InvalidIdError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    StatusError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from attrs import frozen as compact
else:
    from modellab_async.compact import compact

BODY_KEPT: Final = 2048
"""How many bytes of a failed answer's body an error carries."""

_LONGEST_ERROR: Final = 65_536
"""A failed answer longer than this is not searched for ``errors``."""

_LONGEST_PERIOD: Final = 86_400.0
"""A reset further away than a day is not believed: no documented period is longer."""

_LONGEST_RETRY_AFTER: Final = 30 * 86_400.0
"""A ``Retry-After`` further away than a month is not believed."""

_EPOCH: Final = 1e9
"""A reset this large is a date (seconds since 1970), not a duration."""

_MAX_ID: Final = 2**63 - 1


Effect = Literal["none", "set", "removal", "other"]
"""What a call changes: nothing, a state that it sets, a thing that it takes away, or else."""


@compact
class Call:
    """One operation of the API, ready to be sent.

    Attributes:
        operation: its name here, such as ``runs.get``; also what its rate limit is learned by.
        method: the HTTP method.
        path: the path below ``/api/v2/model-lab-api``, already percent-encoded.
        query: the query, already percent-encoded, without ``?``.
        returns: the model of the answer (of its items, where ``paged``), or None for no content.
        paged: whether the answer is a page of a listing.
        effect: what it changes, which decides whether it may be repeated: see ``retry.TABLE``.
        expects: the id that the answer must carry.
        headers: further headers, which win over the client's.
        sharing: whether equal params and tags of what it returns become one object: worth its time
            where runs are kept.
        streamed: whether a good answer's body is handed over open rather than read.
        patient: whether it waits where the retry budget is empty, up to its deadline, instead of
            failing: many ids behind it would otherwise be burnt by an outage.
    """

    operation: str
    method: str
    path: str
    query: str = ""
    returns: type[Any] | None = None
    paged: bool = False
    effect: Effect = "none"
    expects: int | None = None
    headers: Mapping[str, str] | None = None
    sharing: bool = False
    streamed: bool = False
    patient: bool = False


@compact
class Reply:
    """An answer: status, headers (case-insensitive) and the decompressed body."""

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)


@compact
class RateLimit:
    """What the server says of a limit, on every answer.

    Attributes:
        name: the limit's name; operations with the same name share it.
        limit: requests allowed in a period.
        period: the period's length in seconds.
        remaining: requests left in this period.
        reset: seconds until the period ends; None where the server named no believable time.
    """

    name: str | None = attrs.field(default=None, repr=False)  # the server may echo a key in it
    limit: int | None = None
    period: float | None = None
    remaining: int | None = None
    reset: float | None = None

    @classmethod
    def from_headers(
        cls, headers: Mapping[str, str], *, now: Callable[[], float] = time.time
    ) -> Self | None:
        """Read ``X-RateLimit-*`` and ``Retry-After``; None where there are none. Never raises.

        Args:
            headers: an answer's headers; names in lower case, or a case-insensitive mapping.
            now: gives the seconds since the epoch, to read a reset that is a date.
        """
        remaining = headers.get("x-ratelimit-remaining")
        reset = headers.get("x-ratelimit-reset")
        retry_after = headers.get("retry-after")
        if remaining is None and reset is None and retry_after is None:
            return None
        left = _number(remaining)
        limit = _number(headers.get("x-ratelimit-limit"))
        period = _number(headers.get("x-ratelimit-period"))
        return cls(
            name=headers.get("x-ratelimit-name"),
            limit=int(limit) if limit is not None and limit >= 0 else None,
            period=period if period is not None and 0 < period <= _LONGEST_PERIOD else None,
            remaining=None if left is None else max(0, int(left)),
            reset=_later(
                _seconds_until(reset, now),
                _seconds_until(retry_after, now, longest=_LONGEST_RETRY_AFTER),
            ),
        )

    def redacted(self, redact: Callable[[str], str]) -> Self:
        """The same, with a name that shows no secret, should a server have echoed one."""
        return attrs.evolve(self, name=self.name and redact(self.name))


def parse_id(value: object, what: str = "run id") -> int:
    """An id as an int: a non-negative integer, or a string of ASCII digits.

    Raises:
        InvalidIdError: for anything else, such as a bool, a negative number or ``"1/../2"``.
    """
    if type(value) is int:  # first, since asking for SupportsIndex takes ten microseconds
        number = value
    elif isinstance(value, str):
        # The length is checked first: int() of a very long string is slow, then an error.
        number = int(value) if value.isascii() and value.isdigit() and len(value) < 20 else -1
    elif isinstance(value, SupportsIndex) and not isinstance(value, bool):
        try:
            number = operator.index(value)
        except Exception:  # noqa: BLE001  # an array has __index__ too, but only one of size 1 an index
            number = -1
    else:
        number = -1
    if not 0 <= number <= _MAX_ID:
        try:
            shown = _shorten(repr(value), 80)
        except Exception:  # noqa: BLE001  # such as for an integer of thousands of digits
            shown = f"a {type(value).__name__} that cannot be shown"
        raise InvalidIdError(
            f"not a {what}: {shown}; give a non-negative integer or a string of digits"
        )
    return number


def status_error(
    call: Call,
    url: str,
    reply: Reply,
    rate_limit: RateLimit | None,
    redact: Callable[[str], str],
    *,
    now: Callable[[], float] = time.time,
) -> StatusError:
    """The error that a reply's status stands for, which is not 2xx."""
    status = reply.status
    text = redact(reply.body.decode("utf-8", "replace"))
    errors = _parse_errors(text)
    said = "; ".join(str(error) for error in errors) or _phrase(status)
    cls = _STATUS_ERRORS.get(status) or (ServerError if status >= 500 else StatusError)
    error = cls(
        f"{status} from {call.method} {url}: {_shorten(said)}{_hint(status)}",
        status=status,
        method=call.method,
        url=url,
        errors=errors,
        body=text.encode()[:BODY_KEPT].decode("utf-8", "ignore"),
        retry_after=_seconds_until(
            reply.headers.get("retry-after"), now, longest=_LONGEST_RETRY_AFTER
        ),
    )
    if isinstance(error, RateLimitedError):
        error.rate_limit = rate_limit and rate_limit.redacted(redact)
    return error


_STATUS_ERRORS: Final[dict[int, type[StatusError]]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    429: RateLimitedError,
}


def _hint(status: int) -> str:
    if status in {401, 403}:
        return " (a wrong key, a missing scope, or keys of another site)"
    if 300 <= status < 400:
        return " (redirects are not followed, since they could carry the keys to another host)"
    return ""


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "no reason given"


def _shorten(text: str, length: int = 300) -> str:
    return text if len(text) <= length else text[:length] + "…"


def _parse_errors(text: str) -> tuple[ErrorDetail, ...]:
    """The ``errors`` of a body in either wire form; empty for HTML, cut or foreign bodies."""
    if len(text) > _LONGEST_ERROR:
        return ()
    try:
        body = msgspec.json.decode(text)
        entries = body.get("errors") if isinstance(body, dict) else None
        return tuple(map(_parse_error, entries[:100])) if isinstance(entries, list) else ()
    except (msgspec.DecodeError, RecursionError):
        return ()


def _parse_error(entry: Any) -> ErrorDetail:
    if not isinstance(entry, dict):
        return ErrorDetail(title=_text(entry))
    source, meta = entry.get("source"), entry.get("meta")
    return ErrorDetail(
        **{name: _text(entry.get(name)) for name in ("title", "detail", "status")},
        source=(
            ErrorSource(
                **{name: _text(source.get(name)) for name in ("header", "parameter", "pointer")}
            )
            if isinstance(source, dict)
            else None
        ),
        meta=meta if isinstance(meta, dict) else None,
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _later(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)


def _number(text: str | None) -> float | None:
    """A header's number; the largest where proxies folded several into one (``7, 7``)."""
    if text is None:
        return None
    try:
        if len(text) < 16 and text.isdigit():  # as it nearly always is
            return float(text)
        return max(number for number in map(float, text.split(",")) if math.isfinite(number))
    except ValueError:
        return None


def _seconds_until(
    text: str | None, now: Callable[[], float] = time.time, *, longest: float = _LONGEST_PERIOD
) -> float | None:
    """A duration in seconds from a duration, an epoch or an HTTP date; None where not believable.

    Source: RFC 9110, section 10.2.3 (Retry-After); an epoch is seen in the wild.
    """
    if text is None:
        return None
    seconds = _number(text)
    if seconds is None:
        try:
            date = parsedate_to_datetime(text)
            # The old asctime form names no zone; all HTTP dates are in UTC.
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now()
        except (ValueError, OverflowError, TypeError):
            return None
    elif seconds >= _EPOCH:
        seconds -= now()
    return max(0.0, seconds) if seconds <= longest else None
