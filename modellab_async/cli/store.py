"""``modellab sync``, ``sql`` and ``runs export``: runs in databases and files, on DuckDB."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

import attrs
import typer
from rich.markup import escape

from modellab_async import ConfigError, ExportError, InvalidIdError, ModelLabError, RunFilter
from modellab_async.cli import runs
from modellab_async.cli.common import (
    BaseUrl,
    Chosen,
    ExitCode,
    Lab,
    Limit,
    Out,
    Site,
    command,
    each_id,
    refusals,
)
from modellab_async.cli.output import IN_A_TABLE, complain, counted, note, show, write_line
from modellab_async.cli.render import byte_size, plain_table, stdout
from modellab_async.display import clean
from modellab_async.export import Format, export_runs, export_store
from modellab_async.frames import Statistic
from modellab_async.frames.sql import as_json, quoted
from modellab_async.localpaths import local_path
from modellab_async.store import database, open_store
from modellab_async.store import sync as sync_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Iterator

    from modellab_async import ModelLabClient
    from modellab_async.cli.output import Output, Show
    from modellab_async.export import Exported, PhaseProgress
    from modellab_async.store import Sync

_LEAST_COLUMN: Final = 10
_NUMERIC: Final = {"BIGINT", "DOUBLE", "HUGEINT", "INTEGER", "UBIGINT"}

app: typer.Typer = typer.Typer()

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
)
async def sync(
    lab: Lab,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The database; created if new.")],
    *,
    ids_from: IdsFrom = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Read the whole listing, and find runs that it no longer shows."
        ),
    ] = False,
    chosen: Chosen,
    out: Out,
) -> ExitCode:
    """Bring a DuckDB database of runs up to date: everything at first, then what was updated.

    After an interruption of any kind, the same command resumes.
    Runs that cannot be fetched are rows of the table failures, and the exit code is 1; the next
    sync requests them again.
    """
    file = local_path(file)
    run_ids = _ids_in(ids_from)
    if run_ids is not None and (full or chosen != RunFilter()):
        raise typer.BadParameter("--ids-from excludes --full and options that choose runs")
    with open_store(file) as store:
        with _resumable(file, "the same command resumes"), out.progress(lab, None) as advance:
            done = await sync_store(
                lab,
                store,
                filter=chosen if run_ids is None else None,
                run_ids=run_ids,
                full=full,
                on_progress=advance,
            )
        if out.as_json:
            write_line(json.dumps(attrs.asdict(done), default=str))
        else:
            total = store.value("SELECT count(*) FROM runs")
            vanished = f", {done.vanished:,} vanished" if done.vanished else ""
            kind = "new or changed" if done.kind == "update" else "fetched"
            note(f"{total:,} runs in {clean(str(file))}: {done.runs:,} {kind}{vanished}")
    return _exit_code(done, "the table failures", "the listing kept changing. --full finds them.")


@command(
    runs.app,
    "modellab runs export -o runs.parquet",
    "modellab runs export -o runs.parquet --resume",
    "modellab runs export -o runs.parquet --from runs.duckdb",
    "modellab runs export -o best.csv --project 2387 --status completed"
    " --columns name,params.learning_rate,metrics.eval_loss.min",
    "modellab runs export -o some.jsonl --ids-from ids.txt",
)
async def export(
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ID]...",
            help="Run ids; `-` reads them from standard input. By default all runs,"
            " or those that match the options.",
            show_default=False,
        ),
    ] = None,
    *,
    path: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The file: .jsonl, .csv or .parquet."),
    ],
    ids_from: IdsFrom = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Export a database of `modellab sync` instead, without any request.",
        ),
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option("--format", help=f"{', '.join(get_args(Format))}; else by the suffix."),
    ] = None,
    shape: Annotated[
        str, typer.Option("--shape", help="wide: a row for each run; long: run, key, value.")
    ] = "wide",
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            metavar="NAME,NAME",
            help="Such as name,params.learning_rate,tags.team,metrics.eval_loss.min;"
            " params.* is every param. By default all fields, and maps of the rest.",
        ),
    ] = None,
    statistic: Annotated[
        str,
        typer.Option(
            "--statistic",
            help=f"For metrics without one: {', '.join(get_args(Statistic))}.",
        ),
    ] = "latest",
    chosen: Chosen,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume an interrupted export, if there is one.")
    ] = False,
    raw_cells: Annotated[
        bool,
        typer.Option(
            "--raw-cells",
            help="In CSV, write text as it is, even if a spreadsheet would run it as a formula.",
        ),
    ] = False,
    out: Out,
    base_url: BaseUrl = None,
    site: Site = None,
) -> ExitCode:
    """Write runs to a file: JSON lines, CSV or Parquet.

    The file appears when it is complete. Until then FILE.part.duckdb holds what was fetched; after
    an interruption of any kind, the same command with --resume resumes.
    Runs that cannot be fetched are named in FILE.failed.jsonl, and the exit code is 1.
    """
    path = local_path(path)
    if ids and ids_from is not None:
        raise typer.BadParameter("ids and --ids-from exclude each other")
    run_ids = _ids_of(ids) if ids else _ids_in(ids_from)
    if run_ids is not None and chosen != RunFilter():
        raise typer.BadParameter("ids and options that choose runs exclude each other")
    if source is not None and (run_ids is not None or chosen != RunFilter() or resume):
        raise typer.BadParameter("--from excludes ids, --resume and options that choose runs")
    form: dict[str, Any] = {
        "path": path,
        "format": file_format,
        "shape": shape,
        "columns": None if columns is None else map(str.strip, columns.split(",")),
        "statistic": statistic,
        "safe_cells": not raw_cells,
    }
    if source is not None:  # which needs no keys
        with open_store(source, read_only=True) as store, refusals():
            exported = export_store(store, **form)
    else:
        from modellab_async import ModelLabClient  # noqa: PLC0415 - `--help` needs no aiohttp

        part = path.parent / f"{path.name}.part.duckdb"
        async with ModelLabClient(base_url=base_url, site=site, hooks=out.activity) as lab:
            with (
                _resumable(part, "--resume continues"),
                _phases(lab, out) as advance,
                refusals(),
            ):
                exported = await export_runs(
                    lab,
                    run_ids,
                    filter=chosen if run_ids is None else None,
                    resume=resume,
                    on_progress=advance,
                    **form,
                )
    if out.as_json:
        said = {"path": str(path), "failures": str(exported.failures)}
        write_line(json.dumps(attrs.asdict(exported) | said))
    else:
        size = byte_size(path.stat().st_size)
        note(f"{counted(exported.runs, 'run')}, {size}, in {clean(str(path))}")
    return _exit_code(exported, exported.failures, "the listing kept changing while it was read.")


def _ids_of(ids: list[str]) -> Iterable[str] | AsyncIterable[str]:
    return each_id(ids) if "-" in ids else ids


def _ids_in(path: Path | None) -> Iterable[str] | AsyncIterable[str] | None:
    """The ids in a file, or on standard input for ``-``; None without a file.

    Raises:
        typer.BadParameter: if there is no such file.
    """
    if path is None:
        return None
    if str(path) == "-":
        return each_id(["-"])
    path = local_path(path)
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


@contextmanager
def _resumable(part: Path, how: str) -> Iterator[None]:
    """If it breaks off, say where what was fetched is, and how to resume."""
    try:
        yield
    except (ConfigError, ExportError, InvalidIdError):  # before anything was fetched
        raise
    except (asyncio.CancelledError, ModelLabError):
        if part.exists():
            note(f"What was fetched is in {clean(str(part))}; {how}.")
        raise


@contextmanager
def _phases(lab: ModelLabClient, out: Output) -> Iterator[PhaseProgress]:
    """Show the progress of an export: of what it fetches, then of what it writes."""
    bars: dict[str, Show] = {}
    with ExitStack() as shown:

        def advance(phase: str, done: int, total: int | None) -> None:
            if phase not in bars:
                shown.close()
                unit = "runs" if phase == "fetch" else "runs written"
                bars[phase] = shown.enter_context(out.progress(lab, total, unit=unit))
            bars[phase](done, total)

        yield advance


def _exit_code(done: Sync | Exported, failures: object, incomplete: str) -> ExitCode:
    """Say what is missing in a sync or an export, and which exit code that means."""
    if done.failed:
        complain(f"{done.failed:,} could not be fetched, see {failures}")
    if done.complete is False:
        note(f"Some runs may be missing: {incomplete}")
    return ExitCode.FAILED if done.failed else ExitCode.OK


@command(
    app,
    "modellab sql runs.duckdb 'SELECT status, count(*) FROM runs GROUP BY status'",
    "modellab sql runs.duckdb 'FROM syncs' | jq .finished_at",
)
async def sql(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A database of `modellab sync`.")],
    query: Annotated[str, typer.Argument(metavar="QUERY", help="One statement in DuckDB's SQL.")],
    *,
    limit: Limit = None,
    out: Out,
) -> None:
    """Query a database of runs in SQL. The query can read that file only, and writes nothing.

    The tables are runs, failures and syncs; the views are params, tags, metrics and runs_wide.
    """
    with open_store(file, read_only=True) as store:
        with database.refusals(file):
            store.connection.execute("SET enable_external_access = false")
            found: Any = store.connection.sql(query)
        if found is None:  # not a query
            return
        if out.as_json:
            for line in islice(_lines(file, found), limit):
                # NaN and the infinities, which JSON does not have, become null.
                row = json.loads(line, parse_constant=lambda _: None)
                write_line(json.dumps(row, ensure_ascii=False))
        else:
            _show_table(file, found, limit or IN_A_TABLE)


def _lines(file: Path, found: Any) -> Iterator[str]:
    """The rows of a query as JSON, made on demand."""
    names = found.columns
    found = found.project("*")  # names a column that repeats another a_1, whatever their case
    cells: dict[str, str] = {}
    for name, unique in zip(names, found.columns, strict=True):
        cells[unique if name in cells else name] = quoted(unique, '"')
    with database.refusals(file):
        for batch in found.project(f"{as_json(cells)}::VARCHAR").to_arrow_reader(1_000):
            yield from batch.column(0).to_pylist()


def _show_table(file: Path, found: Any, limit: int) -> None:
    """Show rows as a table; if it has too many columns for the terminal, below each other."""
    names = [clean(name) for name in found.columns]
    with database.refusals(file):
        some = found.project("COLUMNS(*)::VARCHAR").limit(limit + 1).fetchall()
    rows = [["" if cell is None else clean(cell) for cell in row] for row in some[:limit]]
    if len(names) * _LEAST_COLUMN <= stdout().width:
        table = plain_table()
        for name, kind in zip(names, found.types, strict=True):
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
    if len(some) > limit:
        note(f"The first {limit:,} rows; --limit shows more.")
