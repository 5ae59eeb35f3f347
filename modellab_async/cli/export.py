"""``modellab runs export``: runs to a file, for whatever analyses them."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from pathlib import Path  # noqa: TC003 - typer reads the hints
from typing import TYPE_CHECKING, Annotated, NoReturn, Self, cast, get_args

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
from modellab_async.display import clean
from modellab_async.export import Format, export_runs
from modellab_async.frames import Shape, Statistic

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Iterator

    from modellab_async import ModelLabClient
    from modellab_async.cli.output import Show
    from modellab_async.export import Exported

EXAMPLES = examples(
    "modellab runs export -o runs.parquet",
    "modellab runs export -o runs.parquet --resume",
    "modellab runs export -o runs.parquet --since-last",
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
            " or those that the options ask for.",
            show_default=False,
        ),
    ] = None,
    *,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The file; .jsonl, .csv and .parquet name it."
        ),
    ],
    ids_from: Annotated[
        Path | None,
        typer.Option(
            "--ids-from",
            metavar="FILE",
            help="Run ids from a file, with any space between.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option("--format", help=f"{', '.join(get_args(Format))}; by default by the name."),
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
            "--statistic", help=f"Of metrics that name none: {', '.join(get_args(Statistic))}."
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
        bool, typer.Option("--resume", help="Go on with an export that broke off, if there is one.")
    ] = False,
    since_last: Annotated[
        bool,
        typer.Option(
            "--since-last", help="Only what was updated since the last export of this file."
        ),
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Only what could not be fetched last time.")
    ] = False,
    as_json: Json = False,
    base_url: BaseUrl = None,
    site: Site = None,
) -> NoReturn:
    """Write runs to a file: JSON lines, CSV or Parquet.

    The file appears when it is complete. Until then FILE.part holds what was fetched; an export
    that broke off, or was interrupted, is gone on with by the same command and --resume.
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
    run_ids = _run_ids(ids, ids_from)
    if run_ids is not None and chosen != RunFilter():
        raise typer.BadParameter("ids and options that choose runs exclude each other")

    async def work(lab: ModelLabClient) -> ExitCode:
        try:
            with _Phases(lab, as_json=as_json) as phases, refusals():
                exported = await export_runs(
                    lab,
                    run_ids,
                    path=output,
                    filter=chosen if run_ids is None else None,
                    format=cast("Format | None", file_format),
                    shape=cast("Shape", shape),
                    columns=None if columns is None else map(str.strip, columns.split(",")),
                    statistic=cast("Statistic", statistic),
                    resume=resume,
                    since_last=since_last,
                    retry_failed=retry_failed,
                    on_progress=phases.show,
                )
        except (ConfigError, ExportError):
            raise
        except (asyncio.CancelledError, ModelLabError):
            part = output.with_name(f"{output.name}.part")
            if part.exists():
                note(f"What was fetched is in {clean(str(part))}; --resume goes on with it.")
            raise
        _sum_up(exported, as_json=as_json)
        return ExitCode.FAILED if exported.failed else ExitCode.OK

    finish_with_client(work, base_url=base_url, site=site)


def _run_ids(
    ids: list[str] | None, ids_from: Path | None
) -> Iterable[str] | AsyncIterable[str] | None:
    if ids_from is not None:
        return _IdFile(ids_from)
    if not ids:
        return None
    return each_id(ids) if "-" in ids else ids


class _IdFile:
    """The ids in a file, counted first so that the time that remains can be told."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = sum(1 for _ in self)

    def __length_hint__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        with self._path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                yield from line.split()


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


def _sum_up(exported: Exported, *, as_json: bool) -> None:
    path = exported.path
    if as_json:
        said = attrs.asdict(exported) | {"path": str(path), "failures": str(exported.failures)}
        write_line(json.dumps(said))
    else:
        runs = "1 run" if exported.runs == 1 else f"{exported.runs:,} runs"
        size = byte_size(path.stat().st_size)
        note(f"{runs}, {exported.fetched:,} of them fetched, {size}, in {clean(str(path))}")
    if exported.failed:
        complain(
            f"{exported.failed:,} could not be fetched, see {exported.failures};"
            " --retry-failed tries them again"
        )
    if exported.unlisted:
        note(
            f"Rows of runs that are no longer listed: {exported.unlisted:,};"
            " an export without --since-last drops them."
        )
    if exported.complete is False:
        note("Some runs may be missing: the listing kept changing while it was read.")
