"""What a command writes: results on standard output; errors, remarks, progress on standard error.

On a terminal, results are tables. Piped, or with ``--json``, they are JSON lines.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import aclosing, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeVar

import attrs
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from modellab_async import Hooks, RateLimitedError, to_json
from modellab_async.cli.render import stderr, stdout
from modellab_async.display import clean, duration, escape_json

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.progress import Task

    from modellab_async import AttemptInfo, ModelLabClient, Page, Pager, Project, RetryInfo, Run
    from modellab_async.hooks import PauseInfo

    Show = Callable[[int, int | None], None]
    """Called with how much is done, and of how much, if that is known."""

ItemT = TypeVar("ItemT")
ListedT = TypeVar("ListedT", "Run", "Project")

IN_A_TABLE: Final = 50
"""How many items a listing shows in a table, by default."""

_PAGE: Final = 100
_REPORT_AFTER: Final = 2.0
_REPORT_EVERY: Final = 10.0


def complain(message: object) -> None:
    """Write one ``error:`` line to standard error, above a progress bar if there is one."""
    _say("[bold red]error:[/]", escape(clean(str(message))))


def note(message: str) -> None:
    """Write a remark for a person to standard error."""
    _say(message, markup=False)


def _say(*parts: str, markup: bool = True) -> None:
    """Write to standard error: wrapped between words on a terminal, one line anywhere else."""
    console = stderr()
    console.print(*parts, markup=markup, soft_wrap=not console.is_terminal)


def write_line(text: str) -> None:
    """Write one line of results at once, in UTF-8: its reader is a program, at work already.

    On a terminal, what could steer it is escaped as JSON does.
    """
    if sys.stdout.isatty():
        text = escape_json(text)
    sys.stdout.buffer.write(f"{text}\n".encode())
    sys.stdout.buffer.flush()


def show(result: RenderableType) -> None:
    """Draw a result; what is wider than the terminal is left to it to wrap, and never cut."""
    stdout().print(result, crop=False)


def counted(number: int, noun: str) -> str:
    """A number of things, such as ``1 run`` or ``2,000 runs``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


class Activity(Hooks):
    """What keeps a client from getting on: its last failure, and quota that is used up.

    A live display shows it. Without one, it is reported: a failure once nothing has succeeded for
    a while, and a pause that takes a while.
    """

    def __init__(self) -> None:
        self.live = False
        self._failure = ""
        self._failed_at = 0.0
        self._paused_until = 0.0
        self._good_at = time.monotonic()
        self._reported_at = -_REPORT_EVERY

    def on_attempt(self, attempt: AttemptInfo) -> None:
        """Note that a request has succeeded."""
        if attempt.error is None:
            self._good_at = time.monotonic()

    def on_retry(self, retry: RetryInfo) -> None:
        """Note what failed; a used-up quota is reported by `on_pause`."""
        if isinstance(retry.error, RateLimitedError):
            return
        self._failure, self._failed_at = clean(str(retry.error)), time.monotonic()
        silent = self._failed_at - self._good_at
        if silent >= _REPORT_AFTER:
            self._report(f"Still trying after {duration(silent)}: {self._failure}")

    def on_pause(self, pause: PauseInfo) -> None:
        """Note until when the server's quota is used up."""
        self._paused_until = pause.until
        if pause.seconds >= _REPORT_AFTER:
            self._report(_pause_text(pause.until))

    def _report(self, text: str) -> None:
        now = time.monotonic()
        if not self.live and now - self._reported_at >= _REPORT_EVERY:
            self._reported_at = now
            note(text)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self.live:
            return
        if self._paused_until > time.time():
            yield Text(_pause_text(self._paused_until), style="yellow")
        elif self._failure:
            ago = duration(time.monotonic() - self._failed_at)
            yield Text(f"last failure {ago} ago: {self._failure}", style="yellow")


def _pause_text(until: float) -> str:
    """When a pause ends, by this machine's clock and zone."""
    end = datetime.fromtimestamp(until).astimezone()
    today = end.date() == datetime.now().astimezone().date()
    return f"waiting for quota until {end:{'%H:%M:%S' if today else '%Y-%m-%d %H:%M:%S'}}"


@attrs.frozen
class Output:
    """The form of a command's results, and its progress.

    Attributes:
        as_json: whether results are JSON lines, not tables.
        activity: what the command's client does; it belongs to that client's hooks.
    """

    as_json: bool
    activity: Activity = attrs.field(factory=Activity, init=False)

    @property
    def watched(self) -> bool:
        """Whether there is a terminal for progress: not if JSON lines go to the same one."""
        return sys.stderr.isatty() and not (self.as_json and sys.stdout.isatty())

    def remark(self, message: str) -> None:
        """Write a remark for whoever watches the progress, if there is anybody."""
        if self.watched:
            note(message)

    @contextmanager
    def items(
        self,
        render: Callable[[Sequence[ItemT]], RenderableType],
        dump: Callable[[ItemT], str] = to_json,
    ) -> Iterator[Callable[[ItemT], None]]:
        """Show items that are passed to the function that this yields.

        JSON lines go out as items come. A table waits for the end, which may be an error or an
        interruption: what was fetched until then is shown.
        """
        if self.as_json:
            yield lambda item: write_line(dump(item))
            return
        found: list[ItemT] = []
        try:
            yield found.append
        finally:
            if found:
                show(render(found))

    def _most(self, limit: int | None) -> int | None:
        """How many items a listing shows at most."""
        return IN_A_TABLE if limit is None and not self.as_json else limit

    def page_size(self, limit: int | None) -> int:
        """How many items a listing requests per page."""
        return min(self._most(limit) or _PAGE, _PAGE)

    async def show_listing(
        self,
        lab: ModelLabClient,
        pager: Pager[ListedT],
        render: Callable[[Sequence[ListedT]], RenderableType],
        *,
        unit: str,
        limit: int | None,
    ) -> None:
        """Show up to ``limit`` items of a pager that requests `page_size` at once."""
        most = self._most(limit)
        shown, total = 0, None
        with self.items(render) as add, self.progress(lab, most, unit=unit) as advance:
            async with aclosing(_pages(pager, most)) as pages:
                async for page in pages:
                    total = page.total
                    for item in page.items[: None if most is None else most - shown]:
                        add(item)
                        shown += 1
                    known = [count for count in (most, total) if count is not None]
                    advance(shown, min(known, default=None))
                    if shown == most:
                        break
        if not shown:
            self.remark(f"No {unit}.")
        elif limit is None and total is not None and shown < total:
            self.remark(f"{shown:,} of {total:,} {unit}; --limit shows more.")
        if pager.complete is False:
            note(f"Some {unit} may be missing: the listing kept changing while it was read.")

    @contextmanager
    def progress(
        self,
        lab: ModelLabClient,
        total: int | None,
        *,
        unit: str = "runs",
        after: float = 0.3,
        transient: bool = True,
    ) -> Iterator[Show]:
        """Show the progress of many requests, if there is a terminal to show it on.

        Nothing is shown of what takes less than ``after`` seconds. The unit ``bytes`` is shown in
        multiples.
        """
        done: ProgressColumn = DownloadColumn()
        rate: ProgressColumn = TransferSpeedColumn()
        if unit != "bytes":
            done = _Column(_done)
            rate = _Column(lambda task: f"{_rate(task):,.0f} {unit}/s", style="cyan")
        progress = Progress(
            BarColumn(), done, TaskProgressColumn(), rate, TimeRemainingColumn(compact=True)
        )
        task = progress.add_task("", total=total)
        with self._live(lambda: Group(progress, _effort(lab)), after=after, transient=transient):
            yield lambda done, total: progress.update(task, completed=done, total=total)

    @contextmanager
    def waiting_for(
        self, what: Callable[[], str], render: Callable[[ItemT], RenderableType]
    ) -> Iterator[Callable[[ItemT], None]]:
        """Show what is waited for, and for how long already; yields a function to show items."""
        progress = Progress(
            SpinnerColumn(), _Column(lambda _: f"waiting for {what()}"), TimeElapsedColumn()
        )
        progress.add_task("", total=None)
        with self._live(lambda: progress) as live:

            def add(item: ItemT) -> None:
                if self.as_json:
                    write_line(to_json(item))
                elif live is None or not live.is_started:
                    show(render(item))
                else:
                    live.stop()  # it is on standard error, and would not make way
                    show(render(item))
                    live.start(refresh=True)

            yield add

    @contextmanager
    def _live(
        self, draw: Callable[[], RenderableType], *, after: float = 0.3, transient: bool = True
    ) -> Iterator[Live | None]:
        """Keep something on the terminal up to date, with the client's activity below it."""
        if not self.watched:
            yield None
            return
        live = Live(
            console=stderr(),
            get_renderable=lambda: Group(draw(), self.activity),
            refresh_per_second=10,
            transient=transient,
        )

        def start() -> None:
            self.activity.live = True
            live.start()

        timer = asyncio.get_running_loop().call_later(after, start)
        try:
            yield live
        finally:
            timer.cancel()
            self.activity.live = False
            live.stop()


async def _pages(pager: Pager[ListedT], most: int | None) -> AsyncGenerator[Page[ListedT], None]:
    """The pages of a listing; only one is requested if that holds as many items as are shown."""
    if most is not None and most <= _PAGE:
        yield await pager
        return
    async with pager.pages() as pages:
        async for page in pages:
            yield page


class _Column(ProgressColumn):
    """A column of a progress bar with the text that a function makes."""

    def __init__(self, text_of: Callable[[Task], str], style: str = "") -> None:
        super().__init__()
        self._text_of = text_of
        self._style = style

    def render(self, task: Task) -> Text:
        return Text(self._text_of(task), style=self._style)


def _done(task: Task) -> str:
    total = "" if task.total is None else f"/{task.total:,.0f}"
    return f"{task.completed:,.0f}{total}"


def _rate(task: Task) -> float:
    return task.completed / task.elapsed if task.elapsed else 0.0


def _effort(lab: ModelLabClient) -> Text:
    """What the client has had to do so far."""
    stats = lab.stats
    return Text(
        f"{stats.retries:,} retries"
        f" · {stats.rate_limit_wait_s:,.1f} s waited for the rate limit"
        f" · {stats.backoff_wait_s:,.1f} s backed off",
        style="dim",
        no_wrap=True,
        overflow="ellipsis",
    )
