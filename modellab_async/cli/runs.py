"""``modellab runs``: look at runs, wait for them, change them."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.markup import escape
from rich.prompt import Confirm

from modellab_async import ModelLabError, Outcome, RunStatus, to_json
from modellab_async.cli.common import (
    BaseUrl,
    ExitCode,
    Json,
    RunIds,
    Site,
    Tally,
    choices,
    each_id,
    examples,
    finish_with_client,
    new_group,
    note,
)
from modellab_async.cli.filters import (
    Limit,
    Owner,
    Params,
    Parent,
    Project,
    Roots,
    Status,
    Tags,
    Text,
    refusals,
    run_filter,
)
from modellab_async.cli.listing import page_size, show_listing
from modellab_async.cli.output import Output, is_watched, progress_of, wants_json, write_line
from modellab_async.cli.render import run_change, run_detail, run_table, stderr, stdout
from modellab_async.endpoints import RUN_SORT_FIELDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rich.console import RenderableType

    from modellab_async import ModelLabClient, Run

_AT_ONCE = 100

app: typer.Typer = new_group(
    "runs",
    "Look at runs, wait for them, change them.",
    "modellab runs list --project 2387 --status completed",
    "modellab runs compare 70158 71354",
)

Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric", metavar="NAME", help="A metric to show in the table; may be repeated."
    ),
]


@app.command(
    epilog=examples(
        "modellab runs get 70158",
        "modellab runs get 70158 71354 --metric eval_loss",
        "seq 70000 79999 | modellab runs get - > runs.jsonl",
    )
)
def get(
    ids: RunIds,
    *,
    metric: Metrics = None,
    as_json: Json = False,
    base_url: BaseUrl = None,
    site: Site = None,
) -> NoReturn:
    """Fetch runs by id, many at a time, and show them in the order asked.

    A run that cannot be fetched is named on standard error.
    The exit code is 0 when all are well, 1 when some failed, 4 when none of them exists.
    """
    as_json = wants_json(as_json)
    total = None if "-" in ids else len(ids)

    def render(runs: Sequence[Run]) -> RenderableType:
        return run_detail(runs[0]) if total == 1 and not metric else run_table(runs, metric or ())

    async def work(lab: ModelLabClient) -> ExitCode:
        tally = Tally()
        with (
            Output(as_json, render) as output,
            progress_of(lab, total, as_json=as_json) as show,
        ):
            async with lab.runs.fetch(each_id(ids), ordered=True, on_progress=show) as outcomes:
                async for outcome in outcomes:
                    if (run := tally.run_of(outcome)) is not None:
                        output.add(run)
        return tally.exit_code

    finish_with_client(work, base_url=base_url, site=site)


@app.command(
    "list",
    epilog=examples(
        "modellab runs list --project 2387 --status completed --sort -updated_at",
        "modellab runs list --tag team:ranking --param 'lr:<0.01' --metric eval_loss",
        "modellab runs list --project 2387 --roots --json > runs.jsonl",
    ),
)
def list_runs(
    *,
    project: Project = None,
    status: Status = None,
    owner: Owner = None,
    text: Text = None,
    tag: Tags = None,
    param: Params = None,
    parent: Parent = None,
    roots: Roots = False,
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort",
            help="name, created_at, updated_at or duration; -name and so on descend.",
            autocompletion=choices(*RUN_SORT_FIELDS),
        ),
    ] = None,
    limit: Limit = None,
    metric: Metrics = None,
    as_json: Json = False,
    base_url: BaseUrl = None,
    site: Site = None,
) -> NoReturn:
    """List runs; all that the options ask for must hold."""
    as_json = wants_json(as_json)
    chosen = run_filter(
        project=project,
        status=status,
        owner=owner,
        text=text,
        tag=tag,
        param=param,
        parent=parent,
        roots=roots,
    )

    async def work(lab: ModelLabClient) -> ExitCode:
        with refusals():
            pager = lab.runs.list(chosen, sort=sort, page_size=page_size(limit, as_json=as_json))
        return await show_listing(
            lab,
            pager,
            lambda runs: run_table(runs, metric or ()),
            unit="runs",
            limit=limit,
            as_json=as_json,
        )

    finish_with_client(work, base_url=base_url, site=site)


@app.command(
    epilog=examples("modellab runs wait 70158 71354", "modellab runs wait 70158 --timeout 3600")
)
def wait(
    ids: RunIds,
    *,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", min=0.0, help="By default none."),
    ] = None,
    as_json: Json = False,
    base_url: BaseUrl = None,
    site: Site = None,
) -> NoReturn:
    """Wait until runs are completed, failed or killed, and show each as it ends.

    The exit code is 0 only if all of them completed.
    """
    as_json = wants_json(as_json)

    async def work(lab: ModelLabClient) -> ExitCode:
        async def end_of(run_id: str) -> Outcome:
            try:
                with refusals():
                    return Outcome(run_id, await lab.runs.wait(run_id, timeout=timeout))
            except ModelLabError as error:
                return Outcome(run_id, error=error)

        tally = Tally()
        completed = True
        waits = [asyncio.create_task(end_of(run_id)) async for run_id in each_id(ids)]
        for ended in asyncio.as_completed(waits):
            if (run := tally.run_of(await ended)) is not None:
                completed &= run.status == RunStatus.COMPLETED
                _show_change(run, as_json=as_json)
        return tally.exit_code if completed else ExitCode.FAILED

    finish_with_client(work, base_url=base_url, site=site)


@app.command(epilog=examples("modellab runs watch 70158 71354"))
def watch(
    ids: RunIds, *, as_json: Json = False, base_url: BaseUrl = None, site: Site = None
) -> NoReturn:
    """Show each change of runs, until all are completed, failed or killed."""
    as_json = wants_json(as_json)

    async def work(lab: ModelLabClient) -> ExitCode:
        tally = Tally()
        changes = lab.runs.watch([run_id async for run_id in each_id(ids)])
        async with changes:
            while True:
                try:
                    _show_change(await anext(changes), as_json=as_json)
                    tally.ok += 1
                except StopAsyncIteration:
                    return tally.exit_code
                except ModelLabError as error:
                    tally.failed("watch", error)

    finish_with_client(work, base_url=base_url, site=site)


def _add_change(
    name: str,
    summary: str,
    action: Callable[[ModelLabClient], Callable[[str], Awaitable[None]]],
    *,
    done: str,
) -> None:
    """Add a command that does something to each run, and need not ask."""

    @app.command(
        name,
        help=summary,
        epilog=examples(f"modellab runs {name} 70158 71354", f"modellab runs {name} - < ids.txt"),
    )
    def change(
        ids: RunIds, *, as_json: Json = False, base_url: BaseUrl = None, site: Site = None
    ) -> NoReturn:
        _change(ids, action, done=done, as_json=as_json, base_url=base_url, site=site)


_add_change(
    "pin",
    "Pin runs for yourself; pinning again is no error.",
    lambda lab: lab.runs.pin,
    done="pinned",
)
_add_change("unpin", "Take the pins of runs away.", lambda lab: lab.runs.unpin, done="unpinned")


@app.command(
    epilog=examples(
        "modellab runs delete 70158 71354", "modellab runs delete --yes - < obsolete-ids.txt"
    )
)
def delete(
    ids: RunIds,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
    base_url: BaseUrl = None,
    site: Site = None,
) -> NoReturn:
    """Delete runs, after asking on a terminal; elsewhere only with --yes."""
    if not yes and not _confirmed(ids):
        note("Nothing was deleted.")
        raise typer.Exit(ExitCode.FAILED)
    _change(
        ids,
        lambda lab: lab.runs.delete,
        done="deleted",
        as_json=as_json,
        base_url=base_url,
        site=site,
    )


def _confirmed(ids: list[str]) -> bool:
    """Whether somebody at the terminal agrees to delete these.

    Raises:
        typer.BadParameter: where nobody can be asked.
    """
    if "-" in ids or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise typer.BadParameter("without a terminal to ask on, deleting needs --yes")
    what = f"run {ids[0]}" if len(ids) == 1 else f"{len(ids):,} runs"
    try:
        return Confirm.ask(f"Delete {escape(what)} for good?", console=stderr(), default=False)
    except EOFError:
        return False
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _change(
    ids: list[str],
    action: Callable[[ModelLabClient], Callable[[str], Awaitable[None]]],
    *,
    done: str,
    as_json: bool,
    base_url: str | None,
    site: str | None,
) -> NoReturn:
    """Do something to each run, to many at a time, and say of which it is ``done``."""
    as_json = wants_json(as_json)

    async def work(lab: ModelLabClient) -> ExitCode:
        tally = Tally()
        room = asyncio.Semaphore(_AT_ONCE)
        do = action(lab)

        async def change(run_id: str) -> None:
            try:
                await do(run_id)
            except ModelLabError as error:
                tally.failed(f"run {run_id}", error)
            else:
                tally.ok += 1
                show(tally.ok, None)
                if as_json:
                    write_line(json.dumps({"id": run_id, done: True}))
            finally:
                room.release()

        total = None if "-" in ids else len(ids)
        try:
            with progress_of(lab, total, as_json=as_json) as show:
                async with asyncio.TaskGroup() as group:
                    async for run_id in each_id(ids):
                        await room.acquire()
                        group.create_task(change(run_id))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            if is_watched(as_json=as_json) and tally.ok:
                note(f"{tally.ok:,} {'run' if tally.ok == 1 else 'runs'} {done}.")
        return tally.exit_code

    finish_with_client(work, base_url=base_url, site=site)


def _show_change(run: Run, *, as_json: bool) -> None:
    if as_json:
        write_line(to_json(run))
    else:
        stdout().print(run_change(run))
