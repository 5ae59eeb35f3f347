"""Live progress of many requests, on standard error."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs
from rich.console import Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from modellab_async.cli.render import stderr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Task

    from modellab_async import ModelLabClient

    Show = Callable[[int, int | None], None]
    """Shows how much is done, of how much in all where that is known."""


@contextmanager
def live_progress(
    lab: ModelLabClient, total: int | None, *, unit: str, after: float, transient: bool
) -> Iterator[Show]:
    """Show how far many requests have come, as this is told what is done and in all.

    Nothing is shown of what takes less than ``after`` seconds. The unit ``bytes`` is shown in
    multiples.
    """
    progress = Progress(BarColumn(), *_columns(unit))
    task = progress.add_task("", total=total)
    shown = Group(progress, _Effort(lab))
    live = Live(shown, console=stderr(), refresh_per_second=10, transient=transient)
    start = asyncio.get_running_loop().call_later(after, live.start)
    try:
        yield lambda done, total: progress.update(task, completed=done, total=total)
    finally:
        start.cancel()
        live.stop()


def _columns(unit: str) -> list[ProgressColumn]:
    if unit == "bytes":
        return [
            DownloadColumn(),
            TaskProgressColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
        ]
    return [_Done(), TaskProgressColumn(), _Rate(unit), TimeRemainingColumn(compact=True)]


class _Done(ProgressColumn):
    def render(self, task: Task) -> Text:
        total = "" if task.total is None else f"/{task.total:,.0f}"
        return Text(f"{task.completed:,.0f}{total}")


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.completed / task.elapsed if task.elapsed else 0.0
        return Text(f"{speed:,.0f} {self._unit}/s", style="cyan")


@attrs.frozen
class _Effort:
    """What the client has had to do for it so far."""

    _lab: ModelLabClient

    def __rich__(self) -> Text:
        stats = self._lab.stats
        return Text(
            f"{stats.retries:,} retries"
            f" · {stats.rate_limit_wait_s:,.1f} s waited for the rate limit"
            f" · {stats.backoff_wait_s:,.1f} s backed off",
            style="dim",
        )
