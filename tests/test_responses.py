"""HTTP without I/O: ids, rate-limit headers, and the error that a reply stands for."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from modellab_async import errors
from modellab_async.endpoints import Call, parse_id
from modellab_async.errors import ErrorDetail, ErrorSource, InvalidIdError, StatusError
from modellab_async.ratelimit import RateLimit
from modellab_async.responses import MAX_KEPT_BODY, Response, status_error

NOW = 1_779_000_000.0
CALL = Call("runs.get", "GET", "/runs/7")
URL = "https://api.example.test/runs/7"


class Index:
    """An integer of another library, such as numpy's."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __index__(self) -> int:
        if not isinstance(self.value, int):
            raise TypeError("only integer scalar arrays can be converted to a scalar index")
        return self.value


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (0, 0),
        (70158, 70158),
        ("70158", 70158),
        ("007", 7),
        (2**63 - 1, 2**63 - 1),
        (str(2**63 - 1), 2**63 - 1),
        (Index(7), 7),
    ],
)
def test_ids(value: object, number: int) -> None:
    """An id is an integer, also another library's, or a string of digits."""
    found = parse_id(value)
    assert found == number
    assert type(found) is int


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, -1, 1.0, float("nan"), 2**63, 10**5000, b"7", [7], object()),
        *("", "-1", "+1", "1/../2", "..", "1.0", "1e3", "1_0", " 7", "7\n", "0x7", "7?a=b", "%37"),
        *("٣", "７", "²", str(2**63), "9" * 20, "1" * 100_000),
        *(Index(-1), Index(2**63), Index([1, 2])),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_id(value: object) -> None:
    """Anything else is refused in a short message, also as a ValueError."""
    with pytest.raises(InvalidIdError, match="not a project id: ") as caught:
        parse_id(value, "project id")
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 250


def limits(**headers: str) -> RateLimit | None:
    """What is read from ``X-RateLimit-*`` headers, or ``retry_after``."""
    names = {"retry_after": "Retry-After"}
    found = {names.get(name, f"X-RateLimit-{name}"): text for name, text in headers.items()}
    return RateLimit.from_headers(CIMultiDict(found), now=lambda: NOW)


def test_rate_limit() -> None:
    """All five headers are read; without any of a count or a time there is nothing to know."""
    given = {"name": "lab", "limit": "100", "period": "10", "remaining": "42", "reset": "7"}
    assert limits(**given) == RateLimit("lab", 100, 10.0, 42, 7.0)
    assert limits() is None
    assert limits(name="lab", limit="100", period="10") is None
    assert limits(remaining="0") == RateLimit(remaining=0)


def test_a_day_is_the_longest_reset_believed_and_a_month_the_longest_retry_after():
    """No documented period is longer than a day; a service may well be away for longer."""
    assert limits(reset="86401") == RateLimit(reset=None)
    assert RateLimit.from_headers({"retry-after": "86401"}) == RateLimit(reset=86_401.0)
    assert RateLimit.from_headers({"retry-after": "2592001"}) == RateLimit(reset=None)


SECONDS: dict[str, float | None] = {
    "7": 7.0,
    "7, 7": 7.0,
    "7,9": 9.0,
    "7.5": 7.5,
    " 7 ": 7.0,
    "0": 0.0,
    "-1": 0.0,
    "86400": 86_400.0,
    "1779000007": 7.0,
    "1778999999": 0.0,
    "1e30": None,
    "1e400": None,
    "garbage": None,
    "7, garbage": None,
    "": None,
    ",": None,
    "NaN": None,
    "nan, 7": 7.0,
    "Infinity": None,
    "-Infinity": None,
    "9" * 5_000: None,
    "9" * 5_000 + " x": None,
    "Sun, 17 May 2026 06:40:30 GMT": 30.0,
    "Sunday, 17-May-26 06:40:30 GMT": 30.0,
    "Sun May 17 06:40:30 2026": 30.0,
    "Sun, 17 May 2026 06:40:30 -0000": 30.0,
    "Sun, 17 May 2026 06:39:00 GMT": 0.0,
    "Wed, 17 May 2028 06:39:00 GMT": None,
    "Sun, 06 Nov 0001 08:49:37 GMT": 0.0,
    "Sun, 06 Nov 99999 08:49:37 GMT": None,
    "Sun, 99 Foo 2026 99:99:99 GMT": None,
}


@pytest.mark.parametrize(("text", "seconds"), SECONDS.items(), ids=lambda text: str(text)[:32])
def test_times(text: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reset or ``Retry-After`` may be seconds, an epoch or a date in UTC; else it is unknown."""
    monkeypatch.setenv("TZ", "XXX-9")
    if sys.platform != "win32":
        time.tzset()
    try:
        assert limits(reset=text) == RateLimit(reset=seconds)
        assert limits(retry_after=text) == RateLimit(reset=seconds)
    finally:
        monkeypatch.undo()
        if sys.platform != "win32":
            time.tzset()


@pytest.mark.parametrize(
    ("text", "limit", "period", "remaining"),
    [
        ("7", 7, 7.0, 7),
        ("7, 7", 7, 7.0, 7),
        ("7.5", 7, 7.5, 7),
        ("0", 0, None, 0),
        ("garbage", None, None, None),
        ("NaN", None, None, None),
        ("9" * 5_000, None, None, None),
        ("1e30", int(1e30), None, int(1e30)),
    ],
)
def test_counts(text: str, limit: int | None, period: float | None, remaining: int | None) -> None:
    """Counts are whole, a period is believable, and both are None where the header is not."""
    found = limits(limit=text, period=text, remaining=text)
    assert found == RateLimit(limit=limit, period=period, remaining=remaining)


def test_below_nothing_is_nothing() -> None:
    """A negative number of requests left means none; a negative limit says nothing."""
    assert limits(remaining="-1", limit="-1") == RateLimit(remaining=0)


def test_the_later_time_counts() -> None:
    """Where both the limit and ``Retry-After`` name a time, the later one is waited for."""
    assert limits(reset="7", retry_after="9") == RateLimit(reset=9.0)
    assert limits(reset="9", retry_after="7") == RateLimit(reset=9.0)
    assert limits(reset="garbage", retry_after="7") == RateLimit(reset=7.0)


HEADER = st.one_of(
    st.none(),
    st.text(max_size=40),
    st.floats().map(str),
    st.integers().map(str),
    st.lists(st.integers().map(str), max_size=3).map(", ".join),
    st.datetimes(timezones=st.just(UTC)).map(lambda date: format_datetime(date, usegmt=True)),
    st.lists(
        st.sampled_from(
            ["Sun,", "Sun", "-", "--", ",", "17", "May", "2026", "06:40:30", "6.4", ":"]
        )
        | st.sampled_from(["GMT", "+9999", "-0000", "17-May-26", "99999999999", "é", "\0"]),
        max_size=7,
    ).map(" ".join),
)


@given(HEADER, HEADER, HEADER, HEADER, HEADER)
def test_no_header_breaks_a_client(
    reset: str | None, after: str | None, left: str | None, limit: str | None, period: str | None
) -> None:
    """Whatever the headers hold, reading them raises nothing and gives believable numbers."""
    given_ = {"reset": reset, "retry_after": after, "remaining": left, "limit": limit}
    given_ |= {"period": period}
    found = limits(**{name: text for name, text in given_.items() if text is not None})
    if found is not None:
        assert found.reset is None or 0 <= found.reset <= 30 * 86_400
        assert found.period is None or 0 < found.period <= 86_400
        assert found.remaining is None or found.remaining >= 0


def failure(
    status: int, body: bytes | object = b"", headers: Any = None, redact: Any = str
) -> StatusError:
    """The error of a reply."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = Response(status, CIMultiDict(headers or {}), content)
    limit = RateLimit("lab", 100, 10.0, 0, 7.0)
    return status_error(CALL, URL, reply, limit, redact)


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (302, errors.StatusError),
        (400, errors.BadRequestError),
        (401, errors.AuthenticationError),
        (403, errors.PermissionDeniedError),
        (404, errors.NotFoundError),
        (408, errors.StatusError),
        (429, errors.RateLimitedError),
        (500, errors.ServerError),
        (503, errors.ServerError),
        (512, errors.ServerError),
        (999, errors.ServerError),
    ],
)
def test_statuses(status: int, cls: type[StatusError]) -> None:
    """Each status has its class, and the error tells what was asked and answered."""
    error = failure(status, {"errors": ["so it is"]}, {"Retry-After": "3"})
    assert type(error) is cls
    assert (error.status, error.method, error.url) == (status, "GET", URL)
    assert str(error).startswith(f"{status} from GET {URL}: so it is")
    assert (error.retry_after, error.attempts) == (3.0, 1)


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500])
@pytest.mark.parametrize(
    ("entries", "parsed"),
    [
        (["Too many requests"], [ErrorDetail("Too many requests")]),
        (
            [{"title": "Generic Error", "detail": "run not found"}],
            [ErrorDetail("Generic Error", "run not found")],
        ),
        (
            [
                {
                    "title": "t",
                    "detail": "d",
                    "status": 400,
                    "meta": {"a": [1]},
                    "source": {"header": "h", "parameter": "p", "pointer": "/x", "new": 1},
                }
            ],
            [ErrorDetail("t", "d", "400", ErrorSource("h", "p", "/x"), {"a": [1]})],
        ),
        ([{}], [ErrorDetail()]),
        ([{"title": None, "meta": None, "source": None}], [ErrorDetail()]),
        ([{"title": 7, "meta": [1], "source": "h"}], [ErrorDetail("7")]),
        ([None, 7, ["x"]], [ErrorDetail(), ErrorDetail("7"), ErrorDetail("['x']")]),
        (["one", {"title": "two"}], [ErrorDetail("one"), ErrorDetail("two")]),
        ([], []),
        ("text", []),
        (None, []),
    ],
)
def test_both_forms_of_errors(status: int, entries: object, parsed: list[ErrorDetail]) -> None:
    """Strings and objects are both read, for any status, with every field optional."""
    error = failure(status, {"errors": entries})
    assert error.errors == tuple(parsed)
    assert all(str(detail) in str(error) for detail in parsed)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><h1>502 Bad Gateway</h1></html>",
        b'{"errors": ["Too ma',
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b"7",
        b"{}",
        b'{"errors":' * 100_000,
        b'{"errors":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"errors":["' + b"x" * 70_000 + b'"]}',
    ],
    ids=lambda body: body[:12].decode("latin-1"),
)
def test_bodies_from_the_edge(body: bytes) -> None:
    """HTML, an empty, cut, deep or foreign body leads to the status's own phrase."""
    error = failure(502, body)
    assert str(error) == f"502 from GET {URL}: Bad Gateway"
    assert error.errors == ()
    assert len(error.body.encode()) <= MAX_KEPT_BODY


def test_a_status_without_a_phrase() -> None:
    """A status that HTTP does not know, and no body, still make a sentence."""
    assert "no reason given" in str(failure(512))


def test_what_is_kept_of_a_body_is_bounded() -> None:
    """An error keeps 2 KB of whole characters, and its message far less."""
    entries = ["é" * 50] * 200
    error = failure(500, json.dumps({"errors": entries}, ensure_ascii=False).encode())
    assert MAX_KEPT_BODY - 2 <= len(error.body.encode()) <= MAX_KEPT_BODY
    assert "\ufffd" not in error.body
    assert len(error.errors) == 100
    assert len(str(error)) < 400


def test_a_cut_body_loses_no_redaction() -> None:
    """A key is taken out before the body is cut, so that no part of it stays."""
    body = b"x" * (MAX_KEPT_BODY - 5) + b"hidden-key"
    error = failure(500, body, redact=lambda text: text.replace("hidden-key", "***"))
    assert "hid" not in error.body


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
@pytest.mark.parametrize(
    "entry",
    ["no: hidden", {"title": "hidden", "detail": "hidden", "meta": {"hidden": ["hidden"]}}],
)
def test_an_echoed_key_is_redacted(status: int, entry: object) -> None:
    """No part of an error holds a key that the server echoed."""
    error = failure(status, {"errors": [entry]}, redact=lambda text: text.replace("hidden", "***"))
    assert "hidden" not in f"{error} {error!r} {vars(error)}"
    assert "***" in str(error)


@pytest.mark.parametrize("status", [401, 403])
def test_refusals_name_all_three_causes(status: int) -> None:
    """A wrong key, a missing scope and the wrong site look alike, so that all are named."""
    assert all(cause in str(failure(status)) for cause in ("key", "scope", "site"))


def test_redirects_say_why_they_are_not_followed() -> None:
    """A redirect is an error that explains itself."""
    assert "not followed" in str(failure(307, b"", {"Location": "https://elsewhere.test"}))


def test_rate_limited_carries_the_limit() -> None:
    """A 429 tells what the server said of its limit; other errors do not."""
    error = failure(429)
    assert isinstance(error, errors.RateLimitedError)
    assert (error.name, error.limit, error.remaining, error.reset) == ("lab", 100, 0, 7.0)
    assert not hasattr(failure(500), "rate_limit")


def test_replies_do_not_show_their_body() -> None:
    """The repr of a reply holds neither headers nor body."""
    assert repr(Response(200, {"a": "hidden"}, b"hidden")) == "Response(status=200)"
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        CALL.path = "/runs/8"  # type: ignore[misc]


@pytest.mark.parametrize("text", ["Thu, 01 Jan 1970 00:00:00 GMT", "garbage"])
def test_retry_after_of_an_error(text: str) -> None:
    """A date that has passed means now, and garbage means that nothing was said."""
    assert failure(503, b"", {"retry-after": text}).retry_after == (
        None if text == "garbage" else 0.0
    )


def test_a_date_is_read_by_the_clock_given() -> None:
    """An error's ``Retry-After`` is counted from the same clock as everything else."""
    reply = Response(503, {"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, b"")
    error = status_error(CALL, URL, reply, None, str, now=lambda: 60.0)
    assert error.retry_after == 40.0


def test_default_clock() -> None:
    """A date is read by the machine's own clock, where no other is given."""
    soon = format_datetime(datetime.fromtimestamp(time.time() + 3_600, UTC), usegmt=True)
    found = RateLimit.from_headers({"retry-after": soon})
    assert found is not None
    assert found.reset == pytest.approx(3_600, abs=60)
