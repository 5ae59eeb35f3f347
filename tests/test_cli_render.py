from __future__ import annotations

import pytest
from conftest import make_run
from rich.console import Console, RenderableType

from modellab_async import MetricSummary, Param, RunStatus, Tag
from modellab_async.cli.render import run_detail, run_table
from modellab_async.display import clean, duration


def drawn(renderable: RenderableType, width: int = 80) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
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
