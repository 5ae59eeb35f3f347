"""``modellab sync`` and ``modellab sql``: runs in a database, and queries of it."""

from __future__ import annotations

import asyncio
import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import attrs
import typer
from rich.markup import escape

from modellab_async import ModelLabClient, ModelLabError, RunFilter
from modellab_async.cli.common import ExitCode, Json, Limit, command, each_id, examples, finish
from modellab_async.cli.filters import run_filter
from modellab_async.cli.output import (
    IN_A_TABLE,
    complain,
    note,
    progress_of,
    show,
    wants_json,
    write_line,
)
from modellab_async.cli.render import plain_table, stdout
from modellab_async.display import clean
from modellab_async.frames.sql import quoted
from modellab_async.store import open_store
from modellab_async.store import sync as sync_store
from modellab_async.store.database import refusals

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Iterator

    from modellab_async.store import Store, Sync

_LEAST_COLUMN: Final = 10
_NUMERIC: Final = {"BIGINT", "DOUBLE", "HUGEINT", "INTEGER", "UBIGINT"}

app: typer.Typer = typer.Typer(rich_markup_mode="rich")

IdsFrom = Annotated[
    Path | None,
    typer.Option(
        "--ids-from",
        metavar="FILE",
        help="Run ids from a file, separated by white space; `-` reads standard input.",
    ),
]


@command(
    app,
    "modellab sync runs.duckdb",
    "modellab sync runs.duckdb --project 2387",
    "modellab sync runs.duckdb --full",
    "modellab sync some.duckdb --ids-from ids.txt",
    choosing=run_filter,
)
async def sync(
    lab: ModelLabClient,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The database; created if new.")],
    *,
    ids_from: IdsFrom = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Read the whole listing, and find runs that it no longer shows."
        ),
    ] = False,
    chosen: RunFilter,
    as_json: bool,
) -> ExitCode:
    """Bring a DuckDB database of runs up to date: everything at first, then what was updated.

    After an interruption of any kind, the same command resumes.
    Runs that cannot be fetched are rows of the table failures, and the exit code is 1; the next
    sync requests them again.
    """
    run_ids = None if ids_from is None else ids_in(ids_from)
    if run_ids is not None and (full or chosen != RunFilter()):
        raise typer.BadParameter("--ids-from excludes --full and options that choose runs")
    with open_store(file) as store:
        try:
            with progress_of(lab, None, as_json=as_json) as advance:
                done = await sync_store(
                    lab,
                    store,
                    filter=chosen if run_ids is None else None,
                    run_ids=run_ids,
                    full=full,
                    on_progress=advance,
                )
        except (asyncio.CancelledError, ModelLabError):
            note(f"What was fetched is in {clean(str(file))}; the same command resumes.")
            raise
        _sum_up(store, done, as_json=as_json)
    return ExitCode.FAILED if done.failed else ExitCode.OK


def _sum_up(store: Store, done: Sync, *, as_json: bool) -> None:
    if as_json:
        write_line(json.dumps(attrs.asdict(done), default=str))
    else:
        total = store.value("SELECT count(*) FROM runs")
        took = f", {done.vanished:,} vanished" if done.vanished else ""
        kind = "new or changed" if done.kind == "update" else "fetched"
        note(f"{total:,} runs in {clean(str(store.path))}: {done.runs:,} {kind}{took}")
    if done.failed:
        complain(f"{done.failed:,} could not be fetched, see the table failures")
    if done.complete is False:
        note("Some runs may be missing: the listing kept changing. --full finds them.")


def ids_in(path: Path) -> Iterable[str] | AsyncIterable[str]:
    """The ids in a file, or on standard input for ``-``.

    Raises:
        typer.BadParameter: if there is no such file.
    """
    if str(path) == "-":
        return each_id(["-"])
    if not path.is_file():
        raise typer.BadParameter(f"there is no file {path}", param_hint="'--ids-from'")
    return _IdFile(path)


class _IdFile:
    """The ids in a file, counted first so that the remaining time can be shown."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = sum(1 for _ in self)

    def __length_hint__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        with self._path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                yield from line.split()


@app.command(
    epilog=examples(
        "modellab sql runs.duckdb 'SELECT status, count(*) FROM runs GROUP BY status'",
        "modellab sql runs.duckdb 'FROM syncs' | jq .finished_at",
    )
)
def sql(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A database of `modellab sync`.")],
    query: Annotated[str, typer.Argument(metavar="QUERY", help="One statement in DuckDB's SQL.")],
    *,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Query a database of runs in SQL. The query can read that file only, and writes nothing.

    The tables are runs, failures and syncs; the views are params, tags, metrics and runs_wide.
    """

    async def answer() -> ExitCode:
        with open_store(file, read_only=True) as store:
            with refusals(file):
                store.connection.execute("SET enable_external_access = false")
                result: Any = store.connection.sql(query)
            if result is None:  # not a query
                return ExitCode.OK
            if wants_json(as_json):
                for line in islice(_lines(file, result), limit):
                    # NaN and the infinities, which JSON does not have, become null.
                    row = json.loads(line, parse_constant=lambda _: None)
                    write_line(json.dumps(row, ensure_ascii=False))
            else:
                _show_table(file, result, limit or IN_A_TABLE)
        return ExitCode.OK

    finish(answer())


def _lines(file: Path, result: Any) -> Iterator[str]:
    """The rows of a query as JSON, made on demand."""
    names = [quoted(name, '"') for name in result.columns]
    row = f"to_json(struct_pack({', '.join(f'{name} := {name}' for name in names)}))"
    with refusals(file):
        for batch in result.project(f"{row}::VARCHAR").to_arrow_reader(1_000):
            yield from batch.column(0).to_pylist()


def _show_table(file: Path, result: Any, limit: int) -> None:
    """Show rows as a table; if it has too many columns for the terminal, below each other."""
    names = [clean(name) for name in result.columns]
    with refusals(file):
        found = result.project("COLUMNS(*)::VARCHAR").limit(limit + 1).fetchall()
    rows = [["" if cell is None else clean(cell) for cell in row] for row in found[:limit]]
    if len(names) * _LEAST_COLUMN <= stdout().width:
        table = plain_table()
        for name, kind in zip(names, result.types, strict=True):
            numeric = str(kind) in _NUMERIC
            table.add_column(name, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(escape, row))
        show(table)
    else:
        for row in rows:
            table = plain_table(show_header=False)
            for name, cell in zip(names, row, strict=True):
                table.add_row(escape(name), escape(cell))
            show(table)
    if len(found) > limit:
        note(f"The first {limit:,} rows; --limit shows more.")
