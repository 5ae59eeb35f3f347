"""Runs to JSON lines, CSV or Parquet: a sync into a database, and one ``COPY`` out of it.

Needs the extra ``tables``.

Example:
    ```python
    from modellab_async import RunFilter
    from modellab_async.export import export_runs

    exported = await export_runs(lab, filter=RunFilter(project_id=2387), path="runs.parquet")
    ```
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from modellab_async.bulk import refuse_lone_id
from modellab_async.downloads.part import DiskError, on_disk
from modellab_async.errors import ConfigError, ExportError, StoreError
from modellab_async.frames import sql
from modellab_async.frames.columns import table_columns
from modellab_async.localpaths import local_path, missing_directory
from modellab_async.store import Store, open_store
from modellab_async.store.database import refusals
from modellab_async.store.syncing import Syncing, filter_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable, Iterator

    from modellab_async.client import ModelLabClient
    from modellab_async.frames.columns import Column, Shape, Statistic
    from modellab_async.idset import IdSet
    from modellab_async.models import RunFilter

    Phase = Literal["fetch", "write"]
    PhaseProgress = Callable[[Phase, int, int | None], object]

__all__ = ["Exported", "Format", "export_runs", "export_store"]

Format = Literal["jsonl", "csv", "parquet"]
"""JSON lines, comma-separated values, Apache Parquet."""

_SUFFIXES: Final[dict[str, Format]] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip

_TEXT: Final[dict[str, str]] = {
    "jsonl": "FORMAT csv, HEADER false, DELIMITER '\x01', QUOTE '', ESCAPE ''",
    "csv": "FORMAT csv, HEADER false",
}
"""How ``COPY`` writes rows of text; JSON is one cell, which has no quotes around it."""

_FORMATS: Final = (*_TEXT, "parquet")

_ROWS: Final = 10_000
"""Rows in a row group of Parquet."""

_FAILURE: Final = {name: name for name in ("run_id", "error", "status", "message")}
"""What the side file says of a run."""

_LONGEST_LINE: Final = 1 << 20
"""Bytes of a line that may name a failure; an error's message is far shorter."""

_FORMULA: Final = r"^[=+\-@\t\r]"
"""How a cell starts that a spreadsheet takes for a formula."""


@attrs.frozen
class Exported:
    """A complete export.

    Attributes:
        path: the file.
        runs: how many runs it holds.
        fetched: how many of them were fetched for it, none if it was made from a database.
        failed: how many runs could not be fetched; they are named in ``failures``.
        failures: the side file.
        complete: whether the listing showed every run that existed throughout, see `Sync`.
    """

    path: Path
    runs: int
    fetched: int
    failed: int
    failures: Path
    complete: bool | None = None


async def export_runs(
    lab: ModelLabClient,
    run_ids: Iterable[int | str] | AsyncIterable[int | str] | None = None,
    *,
    path: str | os.PathLike[str],
    filter: RunFilter | None = None,  # noqa: A002 - the API's own name
    format: Format | None = None,  # noqa: A002 - what everyone calls it
    shape: Shape = "wide",
    columns: Iterable[str] | None = None,
    statistic: Statistic = "latest",
    resume: bool = False,
    safe_cells: bool = True,
    on_progress: PhaseProgress | None = None,
) -> Exported:
    """Fetch runs and write them to a file, in bounded memory.

    Until the export is complete, what was fetched is in the database ``NAME.part.duckdb`` beside
    the file. The file appears in one step and replaces an earlier one, whose mode it keeps. Runs
    that cannot be fetched are named in ``NAME.failed.jsonl``, one JSON object each: ``run_id``,
    ``error``, ``status``, ``message``. It replaces that of an earlier export; beside any other
    file of this name, it is called ``NAME.failed-2.jsonl``, and so on.

    Args:
        lab: the client.
        run_ids: the runs, each of which is exported once however often it is named. By default
            those that match ``filter``.
        path: the file, on this machine and in a directory that exists; ``~`` is expanded.
        filter: which runs; all by default.
        format: ``"jsonl"``, ``"csv"`` or ``"parquet"``; by default the suffix of ``path``.
        shape: ``"wide"`` or ``"long"``, see `modellab_async.frames.to_table`.
        columns: which columns, see there.
        statistic: of metrics that are named without one.
        resume: resume an interrupted export of the same file, if there is one. What it fetched is
            not fetched again; ``run_ids`` have to be given again.
        safe_cells: in CSV, write an apostrophe before text that a spreadsheet would take for a
            formula: text that starts with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return
            and is no number.
        on_progress: called with ``"fetch"`` or ``"write"``, how many runs are done, and of how
            many, if that is known.

    Raises:
        ConfigError: for a path without a known suffix, a URL, and if the interrupted export has
            another filter.
        MissingExtraError: without DuckDB or pyarrow.
        ExportError: if the disk refuses, the directory does not exist, another export is writing
            the same file, the target is not a regular file, or an export was interrupted and
            ``resume`` is False.
        ModelLabError: if the listing fails, or the keys are refused; ``resume`` continues.
        TypeError: for a single string as ``run_ids`` or ``columns``.
        ValueError: for an unknown format, shape, statistic or column, and for ``run_ids`` together
            with ``filter``.
    """
    refuse_lone_id(run_ids)
    if run_ids is not None and filter is not None:
        raise ValueError("run_ids exclude filter")
    file = _File.of(path, format, shape, columns, statistic, safe_cells=safe_cells)
    show: PhaseProgress = on_progress or (lambda _phase, _done, _total: None)
    key = None if run_ids is not None else filter_key(filter)
    complete = False
    try:
        store = await on_disk(file.open_part, key, resume)
        try:
            syncing = Syncing(lab, store, lambda done, total: show("fetch", done, total))
            await syncing.run(filter, run_ids)
            if run_ids is not None:
                await on_disk(_keep_only, store, syncing.asked)
            total = await on_disk(store.value, _COUNT)
            show("write", 0, total)
            await on_disk(file.write, store)
            failed, failures = await on_disk(file.write_failures, store)
            show("write", total, total)
            complete = True
        finally:
            await on_disk(file.close_part, store, complete)
    except (DiskError, StoreError) as error:
        raise ExportError(str(error)) from error.__cause__
    return Exported(file.target, total, total, failed, failures, syncing.sync.complete)


def export_store(
    store: Store,
    *,
    path: str | os.PathLike[str],
    format: Format | None = None,  # noqa: A002 - what everyone calls it
    shape: Shape = "wide",
    columns: Iterable[str] | None = None,
    statistic: Statistic = "latest",
    safe_cells: bool = True,
) -> Exported:
    """Write the runs of a store to a file, without any request; those that vanished are left out.

    Arguments and errors are those of `export_runs`. This blocks.
    """
    file = _File.of(path, format, shape, columns, statistic, safe_cells=safe_cells)
    try:
        file.write(store)
        failed, failures = file.write_failures(store)
        runs = store.value(_COUNT)
    except StoreError as error:
        raise ExportError(str(error)) from error.__cause__
    return Exported(file.target, runs, 0, failed, failures)


_SOURCE: Final = "(FROM runs WHERE vanished_at IS NULL)"
_COUNT: Final = f"SELECT count(*) FROM {_SOURCE}"


def _keep_only(store: Store, asked: IdSet) -> None:
    """Remove what an interrupted export fetched for ids that are no longer requested."""
    fetched = store.column(
        "SELECT id FROM runs UNION SELECT try_cast(run_id AS BIGINT) FROM failures"
    )
    others = [run_id for run_id in fetched if run_id is not None and run_id not in asked]
    store.value("DELETE FROM runs WHERE id IN (SELECT unnest(?))", [others])
    store.value("DELETE FROM failures WHERE run_id IN (SELECT unnest(?))", [list(map(str, others))])


@attrs.frozen
class _File:
    """The file to write, and what lies beside it. Everything here blocks."""

    target: Path
    format: Format
    shape: Shape
    columns: list[Column]
    safe_cells: bool

    @classmethod
    def of(
        cls,
        path: str | os.PathLike[str],
        format: Format | None,  # noqa: A002
        shape: Shape,
        columns: Iterable[str] | None,
        statistic: Statistic,
        *,
        safe_cells: bool,
    ) -> _File:
        target = local_path(path)
        chosen = format or _SUFFIXES.get(target.suffix.lower())
        if chosen is None:
            raise ConfigError(
                f"{target.name!r} does not name a format:"
                f" end it in {', '.join(_SUFFIXES)}, or choose a format"
            )
        if chosen not in _FORMATS:
            raise ValueError(f"format must be one of {', '.join(_FORMATS)}, not {chosen!r}")
        parsed = table_columns(columns, statistic, shape)
        sql.needed_by(__name__)
        if problem := missing_directory(target):
            raise ExportError(problem)
        if os.path.lexists(target) and not _is_regular(target):
            raise ExportError(f"{target} is not a regular file: name another one")
        return cls(target, chosen, shape, parsed, safe_cells)

    def _beside(self, suffix: str) -> Path:
        return self.target.with_name(self.target.name + suffix)

    @property
    def part(self) -> Path:
        return self._beside(".part.duckdb")

    def open_part(self, key: str | None, resume: bool) -> Store:  # noqa: FBT001
        """The database of an interrupted export, or a new one."""
        store = open_store(self.part)
        others = store.syncs("filter IS DISTINCT FROM ?", [key])
        problem: ExportError | ConfigError | None = None
        if not resume and not _is_empty(store):
            problem = ExportError(
                f"an interrupted export is in {self.part}: resume it, or remove it to start over"
            )
        elif others:
            theirs, ours = map(_said, (others[0].filter, key))
            problem = ConfigError(
                f"the export in {self.part} has another filter: {theirs}, not {ours}"
            )
        if problem:
            store.close()
            raise problem
        return store

    def close_part(self, store: Store, complete: bool) -> None:  # noqa: FBT001
        """Close the database, and remove it if there is nothing to resume."""
        with suppress(StoreError):  # of a database that is broken, such as by a full disk
            complete = complete or _is_empty(store)
            store.close()
        if complete:
            for path in (self.part, self._beside(".part.duckdb.wal")):
                path.unlink(missing_ok=True)

    def write(self, store: Store) -> None:
        """Write the file, and replace an earlier one by it."""
        with refusals(self.target), store.connection.cursor() as cursor:
            cursor.execute("SET threads = 1")  # more take three times the memory
            columns, types = sql.resolve(self.columns, self.shape, _SOURCE, cursor)
            if self.format == "parquet":
                query = sql.query(columns, self.shape, _SOURCE, types)
                with _replacing(self.target) as growing:
                    _write_parquet(cursor.sql(query), growing)
            else:
                rows = self._text(columns, types, cursor)
                _copy(cursor, rows, _TEXT[self.format], self.target)

    def write_failures(self, store: Store) -> tuple[int, Path]:
        """Write the side file, or remove an earlier one if there is nothing to name.

        Returns:
            How many runs it names, and where it is.
        """
        failed: int = store.value("SELECT count(*) FROM failures")
        with refusals(self.target), store.connection.cursor() as cursor:
            path, number = self._beside(".failed.jsonl"), 1
            while _is_of_others(path):
                number += 1
                path = self._beside(f".failed-{number}.jsonl")
            if failed:
                rows = f"SELECT {sql.as_json(_FAILURE)} FROM failures"
                _copy(cursor, rows, _TEXT["jsonl"], path)
            else:
                path.unlink(missing_ok=True)
        return failed, path

    def _text(self, columns: list[Column], types: dict[str, str], cursor: Any) -> str:
        """The query for the rows of a text format.

        Identifiers of DuckDB ignore case, and keys do not. So columns have numbers as names here,
        and their own names are values: keys of JSON, or the first row of CSV.
        """
        names = ["run", "key", "value"]
        if self.shape == "wide":
            names = [column.name for column in columns]
            columns = [attrs.evolve(c, name=f"c{index}") for index, c in enumerate(columns)]
        query = sql.query(columns, self.shape, _SOURCE, types, only_finite=True)
        described = cursor.execute(f"DESCRIBE {query}").fetchall()
        cells = [self._cell(column, kind) for column, kind, *_ in described]
        if self.format == "jsonl":
            return f"SELECT {sql.as_json(dict(zip(names, cells, strict=True)))} FROM ({query})"
        header = ", ".join(map(sql.quoted, names))
        texts = ", ".join(f"{cell}::VARCHAR" for cell in cells)
        return f"SELECT {header} UNION ALL SELECT {texts} FROM ({query})"

    def _cell(self, column: str, kind: str) -> str:
        """How a text format writes a column."""
        if kind.startswith("TIMESTAMP"):
            return sql.time_text(column)
        if kind == "DOUBLE" and self.format == "jsonl":
            return sql.finite(column)
        if kind.startswith("MAP") and self.format == "csv":
            return f"to_json({column})"
        if kind == "VARCHAR" and self.format == "csv" and self.safe_cells:
            unsafe = (
                f"regexp_matches({column}, '{_FORMULA}') AND try_cast({column} AS DOUBLE) IS NULL"
            )
            return f"(CASE WHEN {unsafe} THEN '''' || {column} ELSE {column} END)"
        return column


def _copy(cursor: Any, query: str, options: str, target: Path) -> None:
    with _replacing(target) as growing:
        cursor.execute(f"COPY ({query}) TO {sql.quoted(str(growing))} ({options})")


def _write_parquet(relation: Any, path: Path) -> None:
    """By pyarrow: DuckDB's ``COPY`` renames columns whose names differ only in case."""
    pq: Any = import_module("pyarrow.parquet")
    batches = relation.to_arrow_reader(_ROWS)
    with pq.ParquetWriter(path, batches.schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)


def _is_regular(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _is_of_others(path: Path) -> bool:
    """Whether a file is there that, by its first line, no export wrote to name failures."""
    if not os.path.lexists(path):
        return False
    if not _is_regular(path):
        return True
    with path.open("rb") as file:
        line = file.readline(_LONGEST_LINE)
    try:
        return list(json.loads(line)) != list(_FAILURE)
    except (TypeError, ValueError, RecursionError):
        return True


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A new file to write, which then replaces the target in one step, and has its mode."""
    directory = Path(tempfile.mkdtemp(prefix=f".{target.name[:100]}-", dir=target.parent))
    try:
        growing = directory / "new"
        yield growing
        with growing.open("r+b") as file:  # Windows flushes only what is open for writing
            os.fsync(file.fileno())
        if target.exists():
            growing.chmod(stat.S_IMODE(target.stat().st_mode))
        growing.replace(target)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    with suppress(OSError):  # Windows opens no directories
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _said(key: str | None) -> str:
    return "ids" if key is None else key or "all runs"


def _is_empty(store: Store) -> bool:
    return not store.value("SELECT 1 FROM runs UNION ALL SELECT 1 FROM failures LIMIT 1")
