from __future__ import annotations

import pytest

from modellab_async import (
    AuthenticationError,
    BadRequestError,
    ConfigError,
    InvalidIdError,
    ModelLabError,
    NotFoundError,
    PermissionDeniedError,
    StatusError,
    TransportError,
)
from modellab_async.cli.common import ExitCode, Tally, each_id


def refused(cls: type[StatusError], status: int) -> StatusError:
    return cls(f"{status} from GET /x", status=status, method="GET", url="/x")


NOT_FOUND = refused(NotFoundError, 404)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("no key"), 2),
        (InvalidIdError("not a run id"), 2),
        (refused(AuthenticationError, 401), 3),
        (refused(PermissionDeniedError, 403), 3),
        (NOT_FOUND, 4),
        (refused(BadRequestError, 400), 1),
        (TransportError("refused"), 1),
        (ModelLabError("anything else"), 1),
    ],
)
def test_each_error_has_its_exit_code(error: ModelLabError, code: int) -> None:
    """The exit code tells configuration, authorisation and absence from other failures."""
    assert ExitCode.of(error) == code


def test_a_tally_of_successes_is_well() -> None:
    """No failure, exit code 0; nothing asked is no failure either."""
    tally = Tally()
    assert tally.exit_code == 0
    tally.ok += 1
    assert tally.exit_code == 0


def test_a_tally_where_all_failed_alike_has_their_code() -> None:
    """When every item was not found, so was the whole: 4."""
    tally = Tally()
    for run_id in (1, 2):
        tally.failed(run_id, NOT_FOUND)
    assert tally.exit_code == 4


def test_a_tally_of_different_failures_is_1() -> None:
    """Mixed failures have no code of their own."""
    tally = Tally()
    tally.failed(1, NOT_FOUND)
    tally.failed(2, TransportError("refused"))
    assert tally.exit_code == 1


def test_a_tally_of_successes_and_failures_is_1() -> None:
    """As soon as one item succeeded, failures mean that some items failed."""
    tally = Tally(ok=1)
    tally.failed(1, NOT_FOUND)
    assert tally.exit_code == 1


def test_refused_keys_end_the_command_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Before any success a 401 is raised, not noted: a million items need no million lines."""
    error = refused(AuthenticationError, 401)
    with pytest.raises(AuthenticationError):
        Tally().failed(1, error)
    assert capsys.readouterr().err == ""

    Tally(ok=1).failed(1, error)
    assert capsys.readouterr().err == "error: 1: 401 from GET /x\n"


def test_a_failure_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A message of several lines, however long, is reported on one line."""
    Tally().failed("run 7", ModelLabError("first\nsecond [red] " + "x" * 200))
    assert capsys.readouterr().err == f"error: run 7: first second [red] {'x' * 200}\n"


async def test_ids_come_from_arguments() -> None:
    """Arguments are passed on as they are; judging them is the client's part."""
    assert [run_id async for run_id in each_id(["1", "x", "2"])] == ["1", "x", "2"]
