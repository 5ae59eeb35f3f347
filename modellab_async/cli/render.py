"""How things look on a terminal: consoles, tables, one run in full."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Final, Literal

import attrs
from rich import box, filesize
from rich.cells import cell_len
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from modellab_async.display import (
    NOTHING,
    STATISTICS,
    clean,
    common_metrics,
    duration,
    moment,
    number,
    shares,
)
from modellab_async.frames.columns import Column, parse_columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

    from modellab_async import Comparison, MetricSummary, Param, Project, Run, RunFile, Tag

_STATUS_STYLES: Final = {
    "pending": "dim",
    "running": "cyan",
    "completed": "green",
    "failed": "red",
    "killed": "yellow",
    "unresponsive": "yellow",
    "paused": "dim",
}
_RUN_COLUMNS: Final = ("id", "name", "status", "project_id", "duration", "created_at")
_HEADERS: Final = {"project_id": "project", "created_at": "created"}
_DISPENSABLE: Final = ("created", "duration", "project")
_NUMBERS: Final = (int, float, datetime)

_LONGEST_ID: Final = len(str(2**63))
_LEAST_TEXT: Final = 8
_LEAST_HEADER: Final = 10
_GAP: Final = 3
_LEAST_WIDTH: Final = 40

# Of a comparison
_LABEL: Final = 30
_COLUMN: Final = _LONGEST_ID + _GAP
_BAR: Final = 8
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"
_LONGEST_VALUE: Final = 200


@cache
def stdout() -> Console:
    """The console for results; a terminal narrower than all fits into wraps the lines itself."""
    console = Console(highlight=False, emoji=False)
    console.width = max(console.width, _LEAST_WIDTH)
    return console


@cache
def stderr() -> Console:
    """The console for errors, progress and questions."""
    return Console(stderr=True, highlight=False, emoji=False)


def plain_table(*, show_header: bool = True) -> Table:
    """A table without frames, to which a caller adds columns and rows."""
    return Table(
        box=box.SIMPLE_HEAD,
        header_style="dim",
        border_style="dim",
        pad_edge=False,
        show_edge=False,
        show_header=show_header,
    )


def _text(value: object) -> Text:
    """A value as a person reads it; text from outside cannot steer the terminal."""
    match value:
        case Text():
            return value
        case None:
            return Text(NOTHING)
        case bool():
            return Text("yes" if value else "no")
        case datetime():
            return Text(moment(value))
        case float():
            return Text(number(value))
        case _:
            return Text(clean(str(value)))


def _texts(values: Iterable[object]) -> list[Text]:
    return list(map(_text, values))


@attrs.frozen
class _Column:
    """A column of a table. Text may be shortened; a word, an id, a number or a time never is."""

    header: str = attrs.field(converter=clean)
    cells: list[Text] = attrs.field(converter=_texts)
    kind: Literal["text", "word", "number"] = "number"

    @property
    def widest(self) -> int:
        """How wide it would like to be."""
        return max([cell_len(self.header), *(cell.cell_len for cell in self.cells)])

    @property
    def least(self) -> int:
        """How narrow it may get."""
        if self.kind == "text":
            return min(self.widest, _LEAST_TEXT)
        cells = max((cell.cell_len for cell in self.cells), default=0)
        return max(cells, min(cell_len(self.header), _LEAST_HEADER))


def _table(columns: Sequence[_Column], dispensable: Iterable[str] = ()) -> Table:
    """A table as wide as the terminal at most, unless it could only be wider.

    Columns that are dispensable are left out, in that order, until the others fit; then texts are
    shortened. Rich would shorten, or leave out, whatever column it likes.
    """
    for header in dispensable:
        if sum(column.least + _GAP for column in columns) - _GAP <= stdout().width:
            break
        columns = [column for column in columns if column.header != header]
    table = plain_table()
    widths = [column.widest for column in columns]
    gaps = _GAP * (len(columns) - 1)
    while sum(widths) + gaps > stdout().width:
        spare, at = max((widths[at] - column.least, at) for at, column in enumerate(columns))
        if not spare:
            break
        widths[at] -= 1
    for column, width in zip(columns, widths, strict=True):
        table.add_column(
            Text(column.header),
            justify="right" if column.kind == "number" else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=width,
        )
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*row)
    table.width = sum(widths) + gaps
    return table


def run_table(
    runs: Sequence[Run], metrics: Sequence[str] = (), columns: Sequence[Column] | None = None
) -> Table:
    """A line per run, with these columns, and the latest values of these metrics.

    Without columns: what identifies a run, as far as it fits, and the metric that most runs have.
    """
    shown = parse_columns(_RUN_COLUMNS) if columns is None else list(columns)
    if columns is None:
        metrics = metrics or common_metrics(runs, 1)
    shown += [Column(name, "metrics", name, "latest") for name in metrics]
    cells = [
        _Column(
            _HEADERS.get(column.name, column.name),
            [_value(run, column) for run in runs],
            _kind(column),
        )
        for column in shown
    ]
    return _table(cells, _DISPENSABLE if columns is None else ())


def _kind(column: Column) -> Literal["text", "word", "number"]:
    if column.type in _NUMBERS:
        return "number"
    return "word" if column.name == "status" else "text"


def _value(run: Run, column: Column) -> object:  # noqa: PLR0911 - one for each kind of column
    """What a run has in a column."""
    match column.part, column.key:
        case "run", "status":
            return status_text(run)
        case "run", "duration":
            return duration(run.duration)
        case "run", field:
            return getattr(run, field)
        case "metrics", "" | "*":
            return ", ".join(f"{m.key}:{number(m.latest)}" for m in run.metric_summaries)
        case "metrics", key:
            metric = run.metric(key)
            return getattr(metric, column.statistic) if metric else None
        case part, "" | "*":
            return _pairs(getattr(run, part))
        case part, key:
            return run.param(key) if part == "params" else run.tag(key)


def _pairs(pairs: Iterable[Param | Tag]) -> str:
    return ", ".join(f"{pair.key}:{pair.value}" for pair in pairs)


def run_change(run: Run) -> Text:
    """A line with the present state of a run."""
    return Text.assemble(
        (moment(run.updated_at), "dim"),
        f"  {run.id}  ",
        status_text(run),
        f"  {clean(run.name)}",
        no_wrap=True,
        overflow="ignore",
    )


def run_detail(run: Run) -> RenderableType:
    """All of one run: its facts, metrics and parameters."""
    facts = Table.grid(padding=(0, 3, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold", min_width=_LONGEST_ID)
    for label, value in (
        ("project", run.project_id),
        ("owner", run.owner_id),
        ("created", run.created_at),
        ("started", run.started_at),
        ("completed", run.completed_at),
        ("deleted", run.deleted_at),
        ("duration", duration(run.duration)),
        ("tags", _pairs(run.tags)),
        ("link", run.external_url),
        ("about", run.description),
    ):
        text = _text(value)
        if text and text.plain != NOTHING:
            facts.add_row(label, text)
    title = Text.assemble(
        (f"{run.id}  {clean(run.name)}  ", "bold"),
        status_text(run),
        no_wrap=True,
        overflow="ignore",
    )
    parts: list[RenderableType] = [title, "", facts, ""]
    if run.metric_summaries:
        parts += [_metric_table(run.metric_summaries), ""]
    if run.params:
        params = plain_table()
        params.add_column("param", no_wrap=True, overflow="ellipsis", max_width=40)
        params.add_column("value", no_wrap=True, overflow="ellipsis")
        for param in run.params:
            params.add_row(_text(param.key), _text(param.value))
        parts.append(params)
    return Group(*parts)


def project_table(projects: Sequence[Project]) -> Table:
    """A line per project, as far as it fits."""
    columns = [
        _Column("id", [project.id for project in projects]),
        _Column("name", [project.name for project in projects], "text"),
        _Column("created", [project.created_at for project in projects]),
        _Column("updated", [project.updated_at for project in projects]),
        _Column("tags", [_pairs(project.tags) for project in projects], "text"),
    ]
    return _table(columns, dispensable=("created", "tags", "updated"))


def file_table(files: Sequence[RunFile]) -> Table:
    """A line per file or directory."""
    table = plain_table()
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("path", overflow="fold")
    for file in files:
        size = NOTHING if file.is_dir else byte_size(file.file_size)
        table.add_row(size, Text(clean(file.path), style="bold" if file.is_dir else ""))
    return table


def status_text(run: Run) -> Text:
    """A run's status in its colour."""
    return Text(clean(run.status), style=_STATUS_STYLES.get(run.status, ""))


def byte_size(count: int | None) -> str:
    """A number of bytes in decimal multiples, as the progress bar counts: ``1.2 MB``."""
    return NOTHING if count is None else filesize.decimal(count)


def _metric_table(metrics: Sequence[MetricSummary]) -> Table:
    return _table(
        [
            _Column("metric", [metric.key for metric in metrics], "text"),
            _Column("values", [f"{metric.count:,}" for metric in metrics]),
            *(_Column(name, [getattr(metric, name) for metric in metrics]) for name in STATISTICS),
        ]
    )


def comparison_table(comparison: Comparison, width: int) -> RenderableType:
    """Runs as columns, as many side by side as fit; the others follow below."""
    beside = max(1, (width - _LABEL) // _COLUMN)
    count = len(comparison.runs)
    parts = (range(count)[at : at + beside] for at in range(0, count, beside))
    blocks = [_block(comparison, part) for part in parts]
    return Group(*(Padding(block, (1 if at else 0, 0, 0, 0)) for at, block in enumerate(blocks)))


def _block(comparison: Comparison, shown: Sequence[int]) -> Table:
    runs = [comparison.runs[position] for position in shown]
    table = plain_table()
    table.add_column("run", no_wrap=True, overflow="ellipsis", max_width=_LABEL)
    for run in runs:
        table.add_column(str(run.id), overflow="fold", min_width=_LONGEST_ID)
    table.add_row("name", *(_short(run.name) for run in runs))
    table.add_row("status", *map(status_text, runs))
    table.add_row("duration", *(duration(run.duration) for run in runs), end_section=True)
    for metric in comparison.metrics:
        bars = shares(metric.values)
        cells = (_measured(metric.values[at], bars[at]) for at in shown)
        table.add_row(_text(metric.key), *cells)
    table.add_section()
    for param in comparison.params:
        table.add_row(_text(param.key), *(_short(param.values[at]) for at in shown))
    return table


def _measured(value: float | None, share: float | None) -> Text:
    """A number and a bar for its magnitude."""
    full, eighths = divmod(round((share or 0.0) * _BAR * 8), 8)
    bar = "█" * full + _EIGHTHS[eighths].strip()
    style = "yellow" if value is not None and value < 0 else "cyan"
    return Text.assemble(f"{number(value):>9} ", (bar, style))


def _short(value: str | None) -> Text:
    text = _text(value)
    text.truncate(_LONGEST_VALUE, overflow="ellipsis")
    return text
