"""``modellab runs``: list, compare, wait for and change runs."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import attrs
import msgspec
import typer
from rich.markup import escape
from rich.prompt import Confirm

from modellab_async import ModelLabError, Outcome, RunStatus
from modellab_async.cli.common import (
    Chosen,
    ExitCode,
    Lab,
    Limit,
    Out,
    RunIds,
    Tally,
    command,
    count_of,
    each_id,
    new_group,
    refusals,
    sort_choices,
)
from modellab_async.cli.output import counted, note, show, write_line
from modellab_async.cli.render import (
    comparison_table,
    run_change,
    run_detail,
    run_table,
    stderr,
    stdout,
)
from modellab_async.comparison import Statistic
from modellab_async.comparison import compare as compare_runs
from modellab_async.endpoints import RUN_SORT_FIELDS
from modellab_async.frames.columns import FIELDS, parse_columns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from rich.console import RenderableType

    from modellab_async import ModelLabClient, Run
    from modellab_async.cli.output import Output

_AT_ONCE = 100
_NAMED = 3

app: typer.Typer = new_group(
    "runs",
    "List, compare, wait for and change runs.",
    "modellab runs list --project 2387 --status completed",
    "modellab runs compare 70158 71354",
)

Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric", metavar="NAME", help="A metric to show in the table; may be repeated."
    ),
]


def _complete_columns(incomplete: str) -> list[str]:
    """Completes the last of several columns."""
    before, comma, last = incomplete.rpartition(",")
    known = [*FIELDS, "params.", "tags.", "metrics."]
    return [f"{before}{comma}{name}" for name in known if name.startswith(last)]


@command(
    app,
    "modellab runs get 70158",
    "modellab runs get 70158 71354 --metric eval_loss",
    "seq 70000 79999 | modellab runs get - > runs.jsonl",
)
async def get(lab: Lab, ids: RunIds, *, metric: Metrics = None, out: Out) -> ExitCode:
    """Fetch runs by id, many at a time, and show them in the order asked.

    A run that cannot be fetched is named on standard error.
    The exit code is 0 if all were fetched, 1 if some failed, 4 if none of them exists.
    """

    def render(runs: Sequence[Run]) -> RenderableType:
        alone = count_of(ids) == 1 and not metric
        return run_detail(runs[0]) if alone else run_table(runs, metric or ())

    tally = Tally()
    with out.items(render) as add:
        async with aclosing(_fetched(lab, ids, tally, out)) as runs:
            async for run in runs:
                add(run)
    return tally.exit_code


async def _fetched(
    lab: ModelLabClient, ids: list[str], tally: Tally, out: Output
) -> AsyncGenerator[Run, None]:
    """The runs with these ids, in the order asked, with progress; failures go to the tally."""
    with out.progress(lab, count_of(ids)) as advance:
        async with lab.runs.fetch(each_id(ids), ordered=True, on_progress=advance) as outcomes:
            async for outcome in outcomes:
                if (run := tally.run_of(outcome)) is not None:
                    yield run


@command(
    app,
    "modellab runs list --project 2387 --status completed --sort -updated_at",
    "modellab runs list --tag team:ranking --param 'lr:<0.01' --metric eval_loss",
    "modellab runs list --columns id,name,params.learning_rate,metrics.eval_loss.min",
    "modellab runs list --project 2387 --roots --json > runs.jsonl",
    name="list",
)
async def list_runs(
    lab: Lab,
    *,
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort",
            help="name, created_at, updated_at or duration; with a leading -, descending.",
            autocompletion=sort_choices(*RUN_SORT_FIELDS),
        ),
    ] = None,
    limit: Limit = None,
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            metavar="NAME,NAME",
            help="Columns of the table, such as id,name,params.lr,tags.team,metrics.loss.min."
            " JSON lines hold whole runs.",
            autocompletion=_complete_columns,
        ),
    ] = None,
    metric: Metrics = None,
    chosen: Chosen,
    out: Out,
) -> None:
    """List the runs that match all options."""
    with refusals():
        wanted = None if columns is None else parse_columns(map(str.strip, columns.split(",")))
        pager = lab.runs.list(chosen, sort=sort, page_size=out.page_size(limit))

    def render(runs: Sequence[Run]) -> RenderableType:
        return run_table(runs, metric or (), wanted)

    await out.show_listing(lab, pager, render, unit="runs", limit=limit)


@command(
    app,
    "modellab runs compare 70158 71354",
    "modellab runs compare 70158 71354 --metric eval_loss --statistic min",
    "modellab runs compare 70158 71354 --json | jq .params",
)
async def compare(
    lab: Lab,
    ids: RunIds,
    *,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME", help="Only this metric; may be repeated."),
    ] = None,
    statistic: Annotated[
        Statistic, typer.Option("--statistic", help="Statistic of the metrics to compare.")
    ] = "latest",
    out: Out,
) -> ExitCode:
    """Compare runs: the params in which they differ, and their metrics side by side.

    As JSON it is one object; its lists are in the order of the runs.
    """
    if len(ids) < 2 and "-" not in ids:
        raise typer.BadParameter("name two runs or more", param_hint="'ID'")
    tally = Tally()
    runs = [run async for run in _fetched(lab, ids, tally, out)]
    if not runs:
        return tally.exit_code
    comparison = compare_runs(runs, statistic=statistic)
    if metric is not None:
        rows = {row.key: row for row in comparison.metrics}
        asked = tuple(rows[key] for key in metric if key in rows)
        comparison = attrs.evolve(comparison, metrics=asked)
    if out.as_json:
        write_line(msgspec.json.encode(comparison.to_dict()).decode())
    else:
        show(comparison_table(comparison, stdout().width))
        if comparison.same_params:
            out.remark(f"Params the same in all: {len(comparison.same_params):,}.")
    return tally.exit_code


@command(app, "modellab runs wait 70158 71354", "modellab runs wait 70158 --timeout 3600")
async def wait(
    lab: Lab,
    ids: RunIds,
    *,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", min=0.0, help="No limit by default."),
    ] = None,
    out: Out,
) -> ExitCode:
    """Wait until runs are completed, failed or killed, and show each as it ends.

    The exit code is 0 only if all of them completed.
    """

    async def end_of(run_id: str) -> Outcome:
        try:
            with refusals():
                return Outcome(run_id, await lab.runs.wait(run_id, timeout=timeout))
        except ModelLabError as error:
            return Outcome(run_id, error=error)

    tally = Tally()
    completed = True
    left = [run_id async for run_id in each_id(ids)]
    waits = [asyncio.create_task(end_of(run_id)) for run_id in left]
    with out.waiting_for(lambda: _named(left), run_change) as add:
        for ended in asyncio.as_completed(waits):
            outcome = await ended
            left.remove(str(outcome.run_id))
            if (run := tally.run_of(outcome)) is not None:
                completed &= run.status == RunStatus.COMPLETED
                add(run)
    return tally.exit_code if completed else ExitCode.FAILED


@command(app, "modellab runs watch 70158 71354")
async def watch(lab: Lab, ids: RunIds, *, out: Out) -> ExitCode:
    """Show each change of runs, until all are completed, failed or killed."""
    tally = Tally()
    watched = [run_id async for run_id in each_id(ids)]
    what = f"changes of {_named(watched)}"
    async with lab.runs.watch(watched) as changes:
        with out.waiting_for(lambda: what, run_change) as add:
            while True:
                try:
                    add(await anext(changes))
                    tally.ok += 1
                except StopAsyncIteration:
                    return tally.exit_code
                except ModelLabError as error:
                    tally.failed("watch", error)


def _named(ids: Sequence[str]) -> str:
    """The first few of some ids, and how many more there are."""
    more = len(ids) - _NAMED
    return ", ".join(ids[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")


@command(app, "modellab runs pin 70158 71354", "modellab runs pin - < ids.txt")
async def pin(lab: Lab, ids: RunIds, *, out: Out) -> ExitCode:
    """Pin runs for yourself; pinning again is no error."""
    return await _change_each(lab, ids, lab.runs.pin, "pinned", out)


@command(app, "modellab runs unpin 70158 71354", "modellab runs unpin - < ids.txt")
async def unpin(lab: Lab, ids: RunIds, *, out: Out) -> ExitCode:
    """Remove the pins of runs."""
    return await _change_each(lab, ids, lab.runs.unpin, "unpinned", out)


def _confirmed(
    ids: RunIds,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> list[str]:
    """The ids, if somebody at the terminal agrees to delete these runs.

    Raises:
        typer.BadParameter: if nobody can be asked.
        typer.Exit: if they do not agree.
    """
    if yes:
        return ids
    if "-" in ids or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise typer.BadParameter("without a terminal to ask on, deleting needs --yes")
    what = f"run {ids[0]}" if len(ids) == 1 else f"{len(ids):,} runs"
    try:
        if Confirm.ask(f"Delete {escape(what)} for good?", console=stderr(), default=False):
            return ids
    except EOFError:
        pass
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    note("Nothing was deleted.")
    raise typer.Exit(ExitCode.FAILED)


@command(app, "modellab runs delete 70158 71354", "modellab runs delete --yes - < obsolete-ids.txt")
async def delete(lab: Lab, ids: Annotated[list[str], _confirmed], *, out: Out) -> ExitCode:
    """Delete runs, after asking on a terminal; elsewhere only with --yes."""
    return await _change_each(lab, ids, lab.runs.delete, "deleted", out)


async def _change_each(
    lab: ModelLabClient,
    ids: list[str],
    change: Callable[[str], Awaitable[None]],
    done: str,
    out: Output,
) -> ExitCode:
    """Change each run, many at a time, and say which are ``done``."""
    tally = Tally()
    places = asyncio.Semaphore(_AT_ONCE)

    async def change_one(run_id: str) -> None:
        try:
            with tally.counting(f"run {run_id}"):
                await change(run_id)
                if out.as_json:
                    write_line(json.dumps({"id": run_id, done: True}))
            advance(tally.ok, None)
        finally:
            places.release()

    try:
        with out.progress(lab, count_of(ids)) as advance:
            async with asyncio.TaskGroup() as group:
                async for run_id in each_id(ids):
                    await places.acquire()
                    group.create_task(change_one(run_id))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    finally:
        if tally.ok:
            out.remark(f"{counted(tally.ok, 'run')} {done}.")
    return tally.exit_code
