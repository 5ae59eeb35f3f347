"""The error tree: what is a kind of what, what each carries, and that it survives pickling."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest

from modellab_async import errors
from modellab_async.errors import (
    AuthenticationError,
    BadRequestError,
    BulkError,
    CallError,
    ClientClosedError,
    ConfigError,
    DecodeError,
    DownloadError,
    ErrorDetail,
    ErrorSource,
    ExportError,
    InvalidIdError,
    MissingExtraError,
    ModelLabError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    RequestTimeoutError,
    ServerError,
    StatusError,
    StoreError,
    TransportError,
    WaitTimeoutError,
    detached,
)
from modellab_async.models import Run, RunStatus
from modellab_async.ratelimit import RateLimit

RUN = Run(
    id=7,
    name="r",
    project_id=1,
    status=RunStatus("new"),
    created_at=datetime(2026, 5, 15, tzinfo=UTC),
)
STATUS: dict[str, Any] = {
    "method": "GET",
    "url": "https://api.example.test/runs/7",
    "errors": [ErrorDetail("Generic Error", "run not found", source=ErrorSource(pointer="/id"))],
    "body": "…",
    "retry_after": 1.5,
}
TREE: dict[type[Exception], tuple[type[BaseException], ...]] = {
    ModelLabError: (Exception,),
    ConfigError: (ModelLabError,),
    MissingExtraError: (ConfigError, ImportError),
    InvalidIdError: (ModelLabError, ValueError),
    ClientClosedError: (ModelLabError,),
    CallError: (ModelLabError,),
    TransportError: (CallError,),
    RequestTimeoutError: (TransportError, TimeoutError),
    DecodeError: (CallError,),
    StatusError: (CallError,),
    BadRequestError: (StatusError,),
    AuthenticationError: (StatusError,),
    PermissionDeniedError: (StatusError,),
    NotFoundError: (StatusError,),
    RateLimitedError: (StatusError,),
    ServerError: (StatusError,),
    WaitTimeoutError: (ModelLabError, TimeoutError),
    DownloadError: (ModelLabError,),
    ExportError: (ModelLabError,),
    StoreError: (ModelLabError,),
    BulkError: (ModelLabError,),
}


def rate_limited() -> RateLimitedError:
    error = RateLimitedError("429 from GET …", status=429, **STATUS)
    error.rate_limit = RateLimit("model_lab", 100, 10.0, 0, 7.0)
    error.stopped_by = "quota"
    return error


def tried(error: Any) -> Any:
    """An error that tells of three attempts."""
    error.attempts = 3
    return error


SAMPLES = [
    ModelLabError("something"),
    ConfigError("no api_key"),
    MissingExtraError("frames needs pyarrow"),
    InvalidIdError("not a run id: -1"),
    ClientClosedError("closed"),
    tried(CallError("failed")),
    tried(TransportError("no connection", kind="final")),
    tried(RequestTimeoutError("too slow")),
    tried(DecodeError("Expected `int`", path="$.data.id", resource_id=7, kind="unreadable")),
    WaitTimeoutError("still running", run=RUN),
    DownloadError("path leaves the directory"),
    ExportError("an interrupted export is in runs.csv.part.duckdb"),
    StoreError("runs.duckdb: another process has it open"),
    BulkError({"7": RUN}, {8: NotFoundError("404", status=404, **STATUS), "x": DecodeError("x")}),
    tried(StatusError("302 from GET …", status=302, **STATUS)),
    *(
        tried(cls("… from GET …", status=status, **STATUS))
        for cls, status in (
            (BadRequestError, 400),
            (AuthenticationError, 401),
            (PermissionDeniedError, 403),
            (NotFoundError, 404),
            (ServerError, 503),
        )
    ),
    rate_limited(),
]


def name(value: object) -> str:
    return value.__name__ if isinstance(value, type) else type(value).__name__


def ancestry(cls: type[BaseException]) -> set[type[BaseException]]:
    """A class of the tree and all that stand above it, as the tree draws them."""
    if cls not in TREE:
        return set()
    return {cls}.union(*map(ancestry, TREE[cls]))


def facts(error: Exception) -> object:
    """All that an error says and carries, in a form that can be compared."""
    carried = dict(vars(error))
    if isinstance(error, BulkError):
        carried["errors"] = {run_id: facts(one) for run_id, one in error.errors.items()}
    return type(error), str(error), carried


@pytest.mark.parametrize(("cls", "bases"), TREE.items(), ids=name)
def test_tree(cls: type[Exception], bases: tuple[type[BaseException], ...]) -> None:
    """Each error is a kind of what the tree says, also of the built-in where one fits."""
    assert all(issubclass(cls, base) for base in bases)
    assert {error for error in TREE if issubclass(cls, error)} == ancestry(cls)


def test_tree_is_whole_and_drawn() -> None:
    """The module defines no public error outside the tree, and its docstring draws each one."""
    defined = {
        cls
        for cls in vars(errors).values()
        if inspect.isclass(cls)
        and issubclass(cls, Exception)
        and cls.__module__ == errors.__name__
        and not cls.__name__.startswith("_")
    }
    assert defined == set(TREE) == {type(sample) for sample in SAMPLES}
    drawn = re.findall(r"^[ │├└─]+(\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    assert drawn == [cls.__name__ for cls in TREE]


@pytest.mark.parametrize("sample", SAMPLES, ids=name)
def test_errors_are_picklable_and_copied(sample: Exception) -> None:
    """Class, message and attributes survive pickling, which process pools rely on, and copying."""
    pickled = [
        pickle.loads(pickle.dumps(sample, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ]
    for twin in (*pickled, copy.copy(sample), copy.deepcopy(sample)):
        assert facts(twin) == facts(sample)
        assert twin.args == sample.args or isinstance(sample, BulkError)


@pytest.mark.parametrize("sample", SAMPLES, ids=name)
def test_attempts_are_told_when_there_were_several(sample: Any) -> None:
    """The message of an error says how often a request was sent, where that was not once."""
    assert ("(after 3 attempts)" in str(sample)) is (getattr(sample, "attempts", 1) == 3)
    if hasattr(sample, "attempts"):
        again = copy.copy(sample)
        again.attempts = 1
        assert "attempts" not in str(again)


def test_builtin_handlers_catch() -> None:
    """Code that expects TimeoutError or ValueError needs to know nothing of this package."""
    with pytest.raises(TimeoutError):
        raise RequestTimeoutError("too slow")
    with pytest.raises(TimeoutError):
        raise WaitTimeoutError("still running")
    with pytest.raises(ValueError, match="not a run id"):
        raise InvalidIdError("not a run id")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_says_why_its_call_ended(protocol: int) -> None:
    """An empty retry budget is part of the message, also after pickling; other reasons are not."""
    error = TransportError("lost")
    error.attempts, error.stopped_by = 3, "budget"
    error = pickle.loads(pickle.dumps(error, protocol))
    assert str(error) == "lost (after 3 attempts; the retry budget stayed empty)"
    error.stopped_by = "deadline"
    assert str(error) == "lost (after 3 attempts)"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "final"), (404, "final"), (408, "unavailable"), (429, "rate_limited"), (501, "final")]
    + [(status, "unavailable") for status in (500, 502, 503, 504, 512)],
)
def test_the_kind_of_a_status(status: int, kind: str) -> None:
    """The status alone says how the call failed."""
    assert StatusError("x", status=status, method="GET", url="u").kind == kind


def test_a_detached_error_has_no_frames() -> None:
    """Only the traceback goes; the error itself, its cause and its context stay."""
    cause, context = KeyError("cause"), ValueError("context")
    try:
        try:
            raise context
        except ValueError:
            raise ModelLabError("x") from cause
    except ModelLabError as error:
        kept, returned = error, detached(error)
    assert returned is kept
    assert kept.__traceback__ is None
    assert (kept.__cause__, kept.__context__) == (cause, context)


def test_defaults() -> None:
    """An error that is told nothing but its message assumes the careful thing."""
    transport = TransportError("lost")
    assert (transport.kind, transport.stopped_by, transport.attempts) == ("lost", None, 1)
    decode = DecodeError("bad")
    assert (decode.path, decode.resource_id, decode.kind) == ("$", None, "final")
    assert WaitTimeoutError("late").run is None
    status = StatusError("302", status=302, method="GET", url="https://h")
    assert (status.errors, status.body, status.retry_after) == ((), "", None)


def test_rate_limited_tells_the_limit() -> None:
    """The limit's name, size and times are attributes, and None where the server was silent."""
    error = rate_limited()
    told = (error.name, error.limit, error.period, error.remaining, error.reset)
    assert told == ("model_lab", 100, 10.0, 0, 7.0)
    silent = RateLimitedError("429", status=429, method="GET", url="https://h")
    told = (silent.name, silent.limit, silent.period, silent.remaining, silent.reset)
    assert set(told) == {None}
    assert (silent.kind, silent.stopped_by) == ("rate_limited", None)


def test_bulk_error_keeps_everything() -> None:
    """What was fetched and what failed stay available by the ids as given, and are counted."""
    runs: dict[int | str, Run] = {7: RUN, "8": RUN}
    failed: dict[int | str, ModelLabError] = {9: NotFoundError("404 for 9", status=404, **STATUS)}
    error = BulkError(runs, failed)
    assert (error.runs, error.errors) == (runs, failed)
    runs.clear()
    assert len(error.runs) == 2
    assert str(error) == "1 of 3 ids failed; first 9: 404 for 9"
    whole = "the ids could not be read to their end; 0 runs were fetched"
    assert str(BulkError({}, {})) == whole


@pytest.mark.parametrize(
    ("detail", "text"),
    [
        (ErrorDetail("Generic Error", "run not found"), "Generic Error: run not found"),
        (ErrorDetail("Too many requests"), "Too many requests"),
        (ErrorDetail(detail="run not found"), "run not found"),
        (ErrorDetail(), "no detail"),
    ],
)
def test_error_details_read_as_a_sentence(detail: ErrorDetail, text: str) -> None:
    """A detail shows what it has of title and text."""
    assert str(detail) == text


def test_error_details_are_values() -> None:
    """Details compare by content, hash although ``meta`` is a dict, and are frozen."""
    one, other = (ErrorDetail("t", meta={"a": [1]}, source=ErrorSource("h")) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != ErrorDetail("t", meta={"a": [2]}, source=ErrorSource("h"))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        one.title = "u"  # type: ignore[misc]


def test_what_a_server_says_cannot_steer_a_terminal() -> None:
    """Control characters of an answer stand escaped in the text of an error, on one line."""
    detail = ErrorDetail("bad\x1b]0;owned\x07", "two\nlines \u202e\x9b2J")
    assert str(detail) == r"bad\x1b]0;owned\x07: two\nlines \u202e\x9b2J"
    assert str(ErrorDetail("run 7 \u2013 größer")) == "run 7 \u2013 größer"
