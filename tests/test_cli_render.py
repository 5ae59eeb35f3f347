"""How runs and values look on a terminal."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from conftest import make_run
from rich.console import Console, RenderableType

from modellab_async import MetricSummary, Param, RunStatus, Tag
from modellab_async.cli.render import run_detail, run_table
from modellab_async.display import clean, duration, escape_json, moment
from modellab_async.frames.columns import parse_columns


def drawn(renderable: RenderableType, width: int = 80) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (math.inf, "-"),
        (math.nan, "-"),
        (0.0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 m 00 s"),
        (184, "3 m 04 s"),
        (3_599.6, "1 h 00 m"),
        (3_725, "1 h 02 m"),
        (2 * 86_400 + 3 * 3_600, "2 d 03 h"),
    ],
)
def test_durations_read_as_a_person_says_them(seconds: float | None, text: str) -> None:
    """A duration is shown in its two largest units, and rounding never gives 60 of anything."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("when", "text"),
    [
        (None, "-"),
        (datetime(2026, 5, 15, 2, 57, 59, tzinfo=UTC), "2026-05-15 02:57Z"),
        (datetime(2026, 5, 15, 2, 57, tzinfo=timezone(timedelta(hours=9))), "2026-05-14 17:57Z"),
        (datetime(2026, 5, 15, 2, 57), "2026-05-15 02:57Z"),  # noqa: DTZ001
        (datetime.min.replace(tzinfo=UTC), "0001-01-01 00:00Z"),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=1))), "0001-01-01 00:00Z"),
        (datetime.max.replace(tzinfo=UTC), "9999-12-31 23:59Z"),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))), "9999-12-31 23:59Z"),
    ],
)
def test_a_time_is_shown_in_the_zone_it_is_labelled_with(when: datetime | None, text: str) -> None:
    """It is converted to UTC, and held to the first and the last time that there is."""
    assert moment(when) == text


def test_json_for_a_terminal_stays_the_same_json() -> None:
    """Control, bidi and other invisible characters are escaped, also beyond the BMP."""
    text = "é日本 \u202e\x9b2J\x7f\U000e0001\ud83d"
    line = json.dumps({"name": text}, ensure_ascii=False)
    escaped = escape_json(line)
    assert escaped.isprintable()
    assert json.loads(escaped) == {"name": text}
    assert "é日本" in escaped


def test_text_from_the_server_cannot_steer_the_terminal() -> None:
    """Escape sequences and line breaks in a name are gone from what is printed."""
    assert clean("a\x1b[31mb\r\nc\x9b2J\u202ed") == "a [31mb c 2J d"
    assert "\x1b" not in drawn(run_table([make_run(name="\x1b]0;owned\x07")]))


def test_markup_in_a_name_is_shown_as_it_is() -> None:
    """Square brackets in a run's name are text, not styling."""
    assert "[bold]x[/bold]" in drawn(run_table([make_run(name="[bold]x[/bold]")]), 120)


def test_a_table_shows_the_metric_that_most_runs_have() -> None:
    """Without a choice of metrics, the column is the commonest one."""
    other = MetricSummary("rare", count=1, latest=5.0)
    runs = [make_run(), make_run(id=2), make_run(id=3, metric_summaries=(other,))]

    table = drawn(run_table(runs))

    assert "eval_loss" in table
    assert "0.1235" in table
    assert "rare" not in table


def test_a_table_shows_the_metrics_asked_for() -> None:
    """Each chosen metric is a column, empty where a run does not have it."""
    table = drawn(run_table([make_run()], ["eval_loss", "absent"]))

    assert "eval_loss" in table
    assert "absent" in table
    assert "-" in table


def test_a_table_fits_a_narrow_terminal() -> None:
    """Long names give way so that no line is wider than the terminal."""
    table = drawn(run_table([make_run(name="n" * 300)]), 80)

    assert all(len(line) <= 80 for line in table.splitlines())
    assert len(table.splitlines()) == 3


@pytest.mark.parametrize("width", [1, 10, 20, 40, 60, 80, 100, 200])
@pytest.mark.parametrize("columns", [None, "name,params.path,id,created_at,project_id"])
def test_no_id_is_ever_cut(
    monkeypatch: pytest.MonkeyPatch, width: int, columns: str | None
) -> None:
    """Names make way; where that is not enough, the terminal wraps whole lines."""
    ids = [7, 70158, 2**63 - 1]
    runs = [make_run(id=number, name="n" * 50, params=(Param("path", "p" * 50),)) for number in ids]
    console = Console(width=width, color_system=None)
    monkeypatch.setattr("modellab_async.cli.render.stdout", lambda: console)
    wanted = None if columns is None else parse_columns(columns.split(","))
    with console.capture() as capture:
        console.print(run_table(runs, columns=wanted), crop=False)
    lines = capture.get().splitlines()
    assert [number for number in ids for line in lines if str(number) in line.split()] == ids
    if width >= 80 and columns is None:
        assert max(map(len, lines)) <= width


def test_columns_of_ones_choice() -> None:
    """They come in the order asked for, with what each run has."""
    run = make_run(params=(Param("lr", "0.1"),), tags=(Tag("team", "x"), Tag("team", "y")))
    names = "status,id,params.lr,params.none,tags.team,metrics.eval_loss.count,is_pinned"
    table = run_table([run], columns=parse_columns(names.split(",")))
    _, _, row = drawn(table, 120).splitlines()
    assert row.split() == ["completed", "70158", "0.1", "-", "x", "3", "no"]


@pytest.mark.parametrize("name", ["tags", "tags.*"])
def test_a_column_of_all_tags(name: str) -> None:
    """A map of a run is one column of the table."""
    run = make_run(tags=(Tag("team", "x"), Tag("team", "y")))
    _, _, row = drawn(run_table([run], columns=parse_columns([name]))).splitlines()
    assert row.strip() == "team:x, team:y"


def test_a_column_of_all_metrics() -> None:
    """It has their latest values."""
    _, _, row = drawn(run_table([make_run()], columns=parse_columns(["metrics"]))).splitlines()
    assert row.strip() == "eval_loss:0.1235"


def test_one_run_in_full() -> None:
    """The details hold facts, tags, metrics and parameters."""
    run = make_run(
        params=(Param("learning_rate", "3e-05"),), tags=(Tag("team", "ranking"),), owner_id="o-1"
    )

    text = drawn(run_detail(run))

    for expected in ("70158", "completed", "team:ranking", "o-1", "learning_rate", "3e-05"):
        assert expected in text
    assert "2026-05-15 02:57Z" in text


def test_a_status_of_the_future_is_shown() -> None:
    """A status that this version does not know is shown as its own text."""
    assert "hibernating" in drawn(run_table([make_run(status=RunStatus("hibernating"))]))
