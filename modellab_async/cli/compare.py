"""``modellab runs compare``: what runs differ in, and their metrics side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NoReturn

import attrs
import msgspec
import typer
from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from modellab_async.cli.common import (
    BaseUrl,
    ExitCode,
    Json,
    RunIds,
    Site,
    Tally,
    each_id,
    examples,
    finish_with_client,
    note,
)
from modellab_async.cli.output import is_watched, progress_of, wants_json, write_line
from modellab_async.cli.render import plain_table, status_text, stdout
from modellab_async.comparison import Comparison, Statistic
from modellab_async.comparison import compare as compare_runs
from modellab_async.display import NOTHING, clean, duration, number, shares

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType
    from rich.table import Table

    from modellab_async import ModelLabClient

_LABEL = 30
_COLUMN = 20
_BAR = 8
_EIGHTHS = " ▏▎▍▌▋▊▉"
_LONGEST = 200

app: typer.Typer = typer.Typer(rich_markup_mode="rich")


@app.command(
    epilog=examples(
        "modellab runs compare 70158 71354",
        "modellab runs compare 70158 71354 --metric eval_loss --statistic min",
        "modellab runs compare 70158 71354 --json | jq .params",
    )
)
def compare(
    ids: RunIds,
    *,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME", help="Only this metric; may be repeated."),
    ] = None,
    statistic: Annotated[
        Statistic, typer.Option("--statistic", help="Which statistic of the metrics.")
    ] = "latest",
    as_json: Json = False,
    base_url: BaseUrl = None,
    site: Site = None,
) -> NoReturn:
    """Compare runs: the params in which they differ, and their metrics side by side.

    As JSON it is one object; its lists are in the order of the runs.
    """
    if len(ids) < 2 and "-" not in ids:
        raise typer.BadParameter("give two runs or more", param_hint="'ID'")
    as_json = wants_json(as_json)

    async def work(lab: ModelLabClient) -> ExitCode:
        tally = Tally()
        total = None if "-" in ids else len(ids)
        with progress_of(lab, total, as_json=as_json) as show:
            async with lab.runs.fetch(each_id(ids), ordered=True, on_progress=show) as outcomes:
                runs = [run async for outcome in outcomes if (run := tally.run_of(outcome))]
        if runs:
            _show(_only(metric, compare_runs(runs, statistic=statistic)), as_json=as_json)
        return tally.exit_code

    finish_with_client(work, base_url=base_url, site=site)


def _only(metrics: Sequence[str] | None, comparison: Comparison) -> Comparison:
    """The comparison with the metrics asked for, in the order asked for."""
    if metrics is None:
        return comparison
    rows = {row.key: row for row in comparison.metrics}
    return attrs.evolve(comparison, metrics=tuple(rows[key] for key in metrics if key in rows))


def _show(comparison: Comparison, *, as_json: bool) -> None:
    if as_json:
        write_line(msgspec.json.encode(comparison.to_dict()).decode())
        return
    stdout().print(comparison_table(comparison, stdout().width))
    if comparison.same_params and is_watched(as_json=as_json):
        note(f"Params the same in all: {len(comparison.same_params):,}.")


def comparison_table(comparison: Comparison, width: int) -> RenderableType:
    """Runs as columns, as many side by side as fit; the others follow below."""
    beside = max(1, (width - _LABEL) // _COLUMN)
    count = len(comparison.runs)
    blocks = [_block(comparison, range(count)[at : at + beside]) for at in range(0, count, beside)]
    return Group(*(Padding(block, (1 if at else 0, 0, 0, 0)) for at, block in enumerate(blocks)))


def _block(comparison: Comparison, shown: Sequence[int]) -> Table:
    runs = [comparison.runs[position] for position in shown]
    table = plain_table()
    table.add_column("run", no_wrap=True, overflow="ellipsis", max_width=_LABEL)
    for run in runs:
        table.add_column(str(run.id), overflow="fold", min_width=_COLUMN - 2)
    table.add_row("name", *(Text(_short(run.name)) for run in runs))
    table.add_row("status", *map(status_text, runs))
    table.add_row("duration", *(duration(run.duration) for run in runs), end_section=True)
    for metric in comparison.metrics:
        bars = shares(metric.values)
        cells = (_measured(metric.values[at], bars[at]) for at in shown)
        table.add_row(Text(clean(metric.key)), *cells)
    table.add_section()
    for param in comparison.params:
        texts = (NOTHING if (value := param.values[at]) is None else value for at in shown)
        table.add_row(Text(clean(param.key)), *(Text(_short(text)) for text in texts))
    return table


def _measured(value: float | None, share: float | None) -> Text:
    """A number and a bar for its magnitude."""
    full, eighths = divmod(round((share or 0.0) * _BAR * 8), 8)
    bar = "█" * full + _EIGHTHS[eighths].strip()
    style = "yellow" if value is not None and value < 0 else "cyan"
    return Text.assemble(f"{number(value):>9} ", (bar, style))


def _short(text: str) -> str:
    text = clean(text)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
