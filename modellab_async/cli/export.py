"""``modellab runs export``: runs to a file, for whatever analyses them."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Self, get_args

import attrs
import typer

from modellab_async import ConfigError, ExportError, ModelLabError, RunFilter
from modellab_async.cli.common import (
    BaseUrl,
    ExitCode,
    Json,
    Site,
    each_id,
    examples,
    finish,
    finish_with_client,
)
from modellab_async.cli.filters import (
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
from modellab_async.cli.output import complain, note, progress_of, wants_json, write_line
from modellab_async.cli.render import byte_size
from modellab_async.cli.sync import IdsFrom, ids_in
from modellab_async.display import clean
from modellab_async.export import Format, export_runs, export_store
from modellab_async.frames import Statistic
from modellab_async.store import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable

    from modellab_async import ModelLabClient
    from modellab_async.cli.output import Show
    from modellab_async.export import Exported

EXAMPLES = examples(
    "modellab runs export -o runs.parquet",
    "modellab runs export -o runs.parquet --resume",
    "modellab runs export -o runs.parquet --from runs.duckdb",
    "modellab runs export -o best.csv --project 2387 --status completed"
    " --columns name,params.learning_rate,metrics.eval_loss.min",
    "modellab runs export -o some.jsonl --ids-from ids.txt",
)


def export(
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
    output: Annotated[
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
    project: Project = None,
    status: Status = None,
    owner: Owner = None,
    text: Text = None,
    tag: Tags = None,
    param: Params = None,
    parent: Parent = None,
    roots: Roots = False,
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
    as_json: Json = False,
    base_url: BaseUrl = None,
    site: Site = None,
) -> NoReturn:
    """Write runs to a file: JSON lines, CSV or Parquet.

    The file appears when it is complete. Until then FILE.part.duckdb holds what was fetched; after
    an interruption of any kind, the same command with --resume resumes.
    Runs that cannot be fetched are named in FILE.failed.jsonl, and the exit code is 1.
    """
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
    if ids and ids_from is not None:
        raise typer.BadParameter("ids and --ids-from exclude each other")
    run_ids = ids_in(ids_from) if ids_from is not None else _run_ids(ids)
    if run_ids is not None and chosen != RunFilter():
        raise typer.BadParameter("ids and options that choose runs exclude each other")
    if source is not None and (run_ids is not None or chosen != RunFilter() or resume):
        raise typer.BadParameter("--from excludes ids, --resume and options that choose runs")
    form: dict[str, Any] = {
        "path": output,
        "format": file_format,
        "shape": shape,
        "columns": None if columns is None else map(str.strip, columns.split(",")),
        "statistic": statistic,
        "safe_cells": not raw_cells,
    }

    async def copy() -> ExitCode:
        assert source is not None
        with open_store(source, read_only=True) as store, refusals():
            return _sum_up(export_store(store, **form), as_json=as_json)

    async def work(lab: ModelLabClient) -> ExitCode:
        try:
            with _Phases(lab, as_json=as_json) as phases, refusals():
                exported = await export_runs(
                    lab,
                    run_ids,
                    filter=chosen if run_ids is None else None,
                    resume=resume,
                    on_progress=phases.show,
                    **form,
                )
        except (ConfigError, ExportError):
            raise
        except (asyncio.CancelledError, ModelLabError):
            part = output.with_name(f"{output.name}.part.duckdb")
            if part.exists():
                note(f"What was fetched is in {clean(str(part))}; --resume continues.")
            raise
        return _sum_up(exported, as_json=as_json)

    if source is not None:
        finish(copy())
    finish_with_client(work, base_url=base_url, site=site)


def _run_ids(ids: list[str] | None) -> Iterable[str] | AsyncIterable[str] | None:
    if not ids:
        return None
    return each_id(ids) if "-" in ids else ids


@attrs.define
class _Phases:
    """Progress of one thing after the other, as a context manager."""

    _lab: ModelLabClient
    as_json: bool = attrs.field(kw_only=True)
    _phase: str = attrs.field(default="", init=False)
    _shown: ExitStack = attrs.field(factory=ExitStack, init=False)
    _show: Show = attrs.field(init=False)

    def show(self, phase: str, done: int, total: int | None) -> None:
        """Show how far a phase has come."""
        if phase != self._phase:
            self._phase = phase
            self._shown.close()
            unit = "runs" if phase == "fetch" else "runs written"
            bar = progress_of(self._lab, total, as_json=self.as_json, unit=unit)
            self._show = self._shown.enter_context(bar)
        self._show(done, total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.close()


def _sum_up(exported: Exported, *, as_json: bool) -> ExitCode:
    path = exported.path
    if as_json:
        said = attrs.asdict(exported) | {"path": str(path), "failures": str(exported.failures)}
        write_line(json.dumps(said))
    else:
        runs = "1 run" if exported.runs == 1 else f"{exported.runs:,} runs"
        note(f"{runs}, {byte_size(path.stat().st_size)}, in {clean(str(path))}")
    if exported.failed:
        complain(f"{exported.failed:,} could not be fetched, see {exported.failures}")
    if exported.complete is False:
        note("Some runs may be missing: the listing kept changing while it was read.")
    return ExitCode.FAILED if exported.failed else ExitCode.OK
