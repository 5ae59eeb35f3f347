"""A response, and the error for its status; no I/O."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

import attrs
import msgspec

from modellab_async.endpoints import Call
from modellab_async.errors import (
    AuthenticationError,
    BadRequestError,
    ErrorDetail,
    ErrorSource,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    StatusError,
)
from modellab_async.ratelimit import RateLimit, parse_retry_after

MAX_KEPT_BODY: Final = 2048
"""Bytes of a failed response's body that its error carries."""

_LONG_ID_LIST: Final = re.compile(r"(?<=filter%5Bid%5D=)(\d+,\d+)(?:,\d+){2,}")

_MAX_ERROR_BODY: Final = 65_536
"""Bytes of a failed response's body that are parsed; a longer one has no ``errors``."""


@attrs.frozen
class Response:
    """A response: status, headers (case-insensitive) and the decompressed body."""

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)


def shorten_ids(url: str) -> str:
    """A URL whose list of ids, if it is long, shows the first two and how many there are."""
    return _LONG_ID_LIST.sub(lambda ids: f"{ids[1]},…({ids[0].count(',') + 1} ids)", url)


def status_error(
    call: Call,
    url: str,
    response: Response,
    rate_limit: RateLimit | None,
    redact: Callable[[str], str],
    *,
    now: Callable[[], float] = time.time,
) -> StatusError:
    """The error for a response whose status is not 2xx."""
    status = response.status
    text = redact(response.body[:_MAX_ERROR_BODY].decode("utf-8", "replace"))
    is_cut = len(response.body) > _MAX_ERROR_BODY
    if is_cut and len(text) < MAX_KEPT_BODY:
        text = ""  # little but secrets, of which the last may be cut
    errors = () if is_cut else _parse_errors(text)
    reason = "; ".join(str(error) for error in errors) or _phrase(status)
    cls = _STATUS_ERRORS.get(status) or (ServerError if status >= 500 else StatusError)
    error = cls(
        f"{status} from {call.method} {url}: {_shorten(reason)}{_hint(status)}",
        status=status,
        method=call.method,
        url=url,
        errors=errors,
        body=text.encode()[:MAX_KEPT_BODY].decode("utf-8", "ignore"),
        retry_after=parse_retry_after(response.headers, now=now),
    )
    if isinstance(error, RateLimitedError):
        error.rate_limit = rate_limit and rate_limit.redacted(redact)
    return error


def quota_error(
    call: Call,
    url: str,
    rate_limit: RateLimit | None,
    seconds: float,
    redact: Callable[[str], str],
) -> RateLimitedError:
    """The error of a call that is not sent, since it may not wait so many seconds for quota."""
    rate_limit = attrs.evolve(rate_limit or RateLimit(), reset=seconds).redacted(redact)
    name = f" {rate_limit.name!r}" if rate_limit.name else ""
    error = RateLimitedError(
        f"429 for {call.method} {url}: the rate limit{name} is used up for another"
        f" {seconds:.1f} s, longer than deadline or max_rate_limit_wait allow",
        status=429,
        method=call.method,
        url=url,
        retry_after=seconds,
    )
    error.rate_limit, error.stopped_by = rate_limit, "quota"
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
