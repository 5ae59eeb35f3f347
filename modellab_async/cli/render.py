"""How things look on a terminal: consoles, tables, one run in full."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from rich import box, filesize
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
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

    from modellab_async import MetricSummary, Project, Run, RunFile

_STATUS_STYLES = {
    "pending": "dim",
    "running": "cyan",
    "completed": "green",
    "failed": "red",
    "killed": "yellow",
    "unresponsive": "yellow",
    "paused": "dim",
}
_WIDE = 100


@cache
def stdout() -> Console:
    """The console for results."""
    return Console(highlight=False, emoji=False)


@cache
def stderr() -> Console:
    """The console for errors, progress and questions."""
    return Console(stderr=True, highlight=False, emoji=False)


def plain_table() -> Table:
    """A table without frames, of which a caller adds columns and rows."""
    return Table(
        box=box.SIMPLE_HEAD, header_style="dim", border_style="dim", pad_edge=False, show_edge=False
    )


def run_table(runs: Sequence[Run], metrics: Sequence[str] = ()) -> Table:
    """A line per run, with the latest values of ``metrics``, or of the one most runs have."""
    metrics = metrics or common_metrics(runs, 1)
    wide = stdout().width >= _WIDE
    table = plain_table()
    table.add_column("id", justify="right", no_wrap=True)
    table.add_column("name", no_wrap=True, overflow="ellipsis")
    table.add_column("status", no_wrap=True)
    table.add_column("project", justify="right", no_wrap=True)
    table.add_column("duration", justify="right", no_wrap=True)
    if wide:
        table.add_column("created", no_wrap=True)
    for metric in metrics:
        table.add_column(Text(clean(metric)), justify="right", no_wrap=True, overflow="ellipsis")
    for run in runs:
        table.add_row(
            str(run.id),
            Text(clean(run.name)),
            status_text(run),
            str(run.project_id),
            duration(run.duration),
            *([moment(run.created_at)] if wide else []),
            *(_latest(run.metric(metric)) for metric in metrics),
        )
    return table


def run_change(run: Run) -> Text:
    """A line that says where a run stands now."""
    return Text.assemble(
        (moment(run.updated_at), "dim"), f"  {run.id}  ", status_text(run), f"  {clean(run.name)}"
    )


def run_detail(run: Run) -> RenderableType:
    """All of one run: its facts, metrics and parameters."""
    facts = Table.grid(padding=(0, 3, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for label, value in (
        ("project", str(run.project_id)),
        ("owner", run.owner_id),
        ("created", moment(run.created_at)),
        ("started", moment(run.started_at)),
        ("completed", moment(run.completed_at)),
        ("deleted", moment(run.deleted_at)),
        ("duration", duration(run.duration)),
        ("tags", ", ".join(f"{tag.key}:{tag.value}" for tag in run.tags)),
        ("link", run.external_url),
        ("about", run.description),
    ):
        if value and value != NOTHING:
            facts.add_row(label, Text(clean(value)))
    title = Text.assemble((str(run.id), "bold"), "  ", (clean(run.name), "bold"), "  ")
    parts: list[RenderableType] = [title.append(status_text(run)), Padding(facts, (1, 0))]
    if run.metric_summaries:
        parts.append(Padding(_metric_table(run.metric_summaries), (0, 0, 1, 0)))
    if run.params:
        params = plain_table()
        params.add_column("param", no_wrap=True, overflow="ellipsis", max_width=40)
        params.add_column("value", no_wrap=True, overflow="ellipsis")
        for param in run.params:
            params.add_row(Text(clean(param.key)), Text(clean(param.value)))
        parts.append(params)
    return Group(*parts)


def project_table(projects: Sequence[Project]) -> Table:
    """A line per project."""
    table = plain_table()
    table.add_column("id", justify="right", no_wrap=True)
    table.add_column("name", no_wrap=True, overflow="ellipsis")
    table.add_column("created", no_wrap=True)
    table.add_column("updated", no_wrap=True)
    table.add_column("tags", no_wrap=True, overflow="ellipsis")
    for project in projects:
        tags = ", ".join(f"{tag.key}:{tag.value}" for tag in project.tags)
        table.add_row(
            str(project.id),
            Text(clean(project.name)),
            moment(project.created_at),
            moment(project.updated_at),
            Text(clean(tags)),
        )
    return table


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


def _latest(metric: MetricSummary | None) -> str:
    return number(metric.latest if metric else None)


def _metric_table(metrics: Iterable[MetricSummary]) -> Table:
    table = plain_table()
    table.add_column("metric", no_wrap=True, overflow="ellipsis")
    table.add_column("values", justify="right")
    for statistic in STATISTICS:
        table.add_column(statistic, justify="right", no_wrap=True)
    for metric in metrics:
        table.add_row(
            Text(clean(metric.key)),
            f"{metric.count:,}",
            *(number(getattr(metric, statistic)) for statistic in STATISTICS),
        )
    return table
