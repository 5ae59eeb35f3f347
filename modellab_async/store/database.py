"""One DuckDB file: its schema, who may open it, and how it is written."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import attrs

from modellab_async.errors import StoreError
from modellab_async.frames import sql
from modellab_async.frames.columns import LISTS
from modellab_async.localpaths import local_path, missing_directory
from modellab_async.models import Run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from duckdb import DuckDBPyConnection

SCHEMA_VERSION: Final = 1
"""The version of the schema; it rises with every change that a query could notice."""

IDS_STAY_FRESH: Final = timedelta(days=1)
"""How old an interrupted sync by ids may be to be resumed; what it fetched is not fetched again."""

# What DuckDB 1.x writes by default; 1.x cannot open what 2.0 writes by default. A file keeps the
# version that it was created with, whichever DuckDB writes to it.
_STORAGE_VERSION: Final = "v1.0.0"

_TIME: Final = "TIMESTAMP WITH TIME ZONE"


@attrs.frozen(kw_only=True)
class Failure:
    """A run that could not be fetched: a row of ``failures``, until it is.

    Attributes:
        run_id: as it was given, if it is no id, and an id in digits otherwise.
        error: the name of the error's class.
        status: the HTTP status, if there was a response.
        message: what the error said.
        sync: the sync that failed last.
    """

    run_id: str
    error: str
    status: int | None
    message: str
    sync: int


@attrs.frozen(kw_only=True)
class Sync:
    """One sync: a row of ``syncs``.

    Attributes:
        id: counts from 1; ``runs.sync`` refers to it.
        kind: ``"listing"`` reads a whole listing, ``"update"`` what changed in it since, and
            ``"ids"`` the runs requested by id.
        filter: the listing's filter, as the query that it makes; None for ids.
        started_at: when it began, by this machine's clock.
        finished_at: when it was finished; None for one that was interrupted.
        mark: the newest ``updated_at`` in the listing when it began: how far back the next update
            has to look. None for ids.
        page: where an interrupted listing resumes.
        runs: how many runs it wrote, new and changed ones in an update.
        failed: how many runs could not be fetched when it ended, whichever sync requested them.
        vanished: how many runs it found to be gone.
        complete: whether it saw every run that its listing held throughout: True if one page held
            them all or a full sync proved it, False if runs left the listing to the end, None if
            that cannot be known. None for updates and ids.
    """

    id: int
    kind: str
    filter: str | None
    started_at: datetime
    finished_at: datetime | None = None
    mark: datetime | None = None
    page: int | None = None
    runs: int = 0
    failed: int = 0
    vanished: int = 0
    complete: bool | None = None


class Store:
    """An open database of runs; a context manager that closes it. Made by `open_store`.

    Attributes:
        path: the file.
        connection: a DuckDB connection for SQL of your own, which shows times in UTC.
    """

    def __init__(self, path: Path, connection: DuckDBPyConnection) -> None:
        self.path = path
        self.connection = connection
        self._own = connection.cursor()  # what users do with theirs does not matter here

    def close(self) -> None:
        """Close the file, so that other processes can open it."""
        with refusals(self.path):
            self._own.close()
            self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[dict[str, Any]]:
        """The rows of a query, times in UTC."""
        with refusals(self.path):
            relation: Any = self._own.sql(query, params=list(parameters))
            if relation is None:  # a statement that has no rows to return
                return []
            kinds = dict(zip(relation.columns, map(str, relation.types), strict=True))
            times = [name for name, kind in kinds.items() if kind == _TIME]
            if times:  # older versions of DuckDB need pytz to return times with a zone
                quoted = [sql.quoted(name, '"') for name in times]
                plain = ", ".join(f"{_within_calendar(name)} AS {name}" for name in quoted)
                relation = relation.project(f"* REPLACE ({plain})")
            rows = [dict(zip(kinds, row, strict=True)) for row in relation.fetchall()]
        for row in rows:
            row.update({name: row[name].replace(tzinfo=UTC) for name in times if row[name]})
        return rows

    def column(self, query: str, parameters: Sequence[object] = ()) -> list[Any]:
        """The first value of each row of a query."""
        return [next(iter(row.values())) for row in self.rows(query, parameters)]

    def value(self, query: str, parameters: Sequence[object] = ()) -> Any:
        """The first value of a query's first row; None without a row."""
        return next(iter(self.column(query, parameters)), None)

    def begin(self, kind: str, run_filter: str | None, mark: datetime | None) -> Sync:
        """Resume the interrupted sync of this kind and filter, or begin a new one."""
        now = datetime.now(UTC)
        sync_id = self.value(
            "SELECT id FROM syncs WHERE kind = ? AND filter IS NOT DISTINCT FROM ?"
            " AND finished_at IS NULL AND (kind <> 'ids' OR started_at > ?) ORDER BY id DESC",
            [kind, run_filter, now - IDS_STAY_FRESH],
        )
        if sync_id is None:
            sync_id = self.value("SELECT coalesce(max(id), 0) + 1 FROM syncs")
            begun = Sync(id=sync_id, kind=kind, filter=run_filter, started_at=now, mark=mark)
            self._save(begun)
        return self.syncs("id = ?", [sync_id])[0]

    def syncs(self, condition: str, parameters: Sequence[object]) -> list[Sync]:
        """The syncs that a condition holds for, the last one first."""
        rows = self.rows(f"FROM syncs WHERE {condition} ORDER BY id DESC", parameters)
        return [Sync(**row) for row in rows]

    def write(self, sync: Sync, runs: Sequence[Run], failures: Sequence[Failure] = ()) -> None:
        """Write runs and failures, and the position of the sync, in one transaction.

        A run that cannot be stored, such as one with an integer beyond 64 bits, is a failure. A
        404 of a run that is in the database is no failure: the run has vanished.
        """
        from modellab_async.frames.arrow import to_arrow  # noqa: PLC0415 - needs pyarrow

        latest = {run.id: run for run in runs}
        failing = {failure.run_id: failure for failure in failures}
        try:
            table = to_arrow(list(latest.values()), Run)
        except ValueError:
            for run in list(latest.values()):
                try:
                    to_arrow([run], Run)
                except ValueError as error:
                    del latest[run.id]
                    failing[str(run.id)] = Failure(
                        run_id=str(run.id),
                        error=type(error).__name__,
                        status=None,
                        message=str(error),
                        sync=sync.id,
                    )
            table = to_arrow(list(latest.values()), Run)
        with refusals(self.path), self._transaction() as execute:
            if latest:
                self._own.register("incoming", table)
                execute("DELETE FROM runs WHERE id IN (SELECT id FROM incoming)")
                execute("INSERT INTO runs BY NAME SELECT *, ? AS sync FROM incoming", [sync.id])
                execute("DELETE FROM failures WHERE run_id IN (SELECT id::VARCHAR FROM incoming)")
            if failing:
                self._own.register("failing", to_arrow(list(failing.values()), Failure))
                execute(
                    "UPDATE runs SET vanished_at = ?, sync = ? WHERE vanished_at IS NULL"
                    " AND id::VARCHAR IN (SELECT run_id FROM failing WHERE status = 404)",
                    [datetime.now(UTC), sync.id],
                )
                execute("DELETE FROM failures WHERE run_id IN (SELECT run_id FROM failing)")
                execute(
                    "INSERT INTO failures FROM failing WHERE NOT (status IS NOT DISTINCT FROM 404"
                    " AND run_id IN (SELECT id::VARCHAR FROM runs))"
                )
            execute("UPDATE syncs SET page = ? WHERE id = ?", [sync.page, sync.id])

    def finish(self, sync: Sync) -> Sync:
        """Count what a sync did, and note that it is finished."""
        done = attrs.evolve(
            sync,
            finished_at=datetime.now(UTC),
            page=None,
            runs=self.value(
                "SELECT count(*) FROM runs WHERE sync = ? AND vanished_at IS NULL", [sync.id]
            ),
            vanished=self.value(
                "SELECT count(*) FROM runs WHERE sync = ? AND vanished_at IS NOT NULL", [sync.id]
            ),
            failed=self.value("SELECT count(*) FROM failures"),
        )
        self._save(done)
        return done

    def _save(self, sync: Sync) -> None:
        values = attrs.astuple(sync)
        with refusals(self.path), self._transaction() as execute:
            execute("DELETE FROM syncs WHERE id = ?", [sync.id])
            execute(f"INSERT INTO syncs VALUES ({', '.join('?' * len(values))})", list(values))

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        self._own.execute("BEGIN")
        try:
            yield self._own.execute
            self._own.execute("COMMIT")
        except BaseException:
            with suppress(Exception):  # after a fatal error there is nothing to roll back
                self._own.execute("ROLLBACK")
            raise
        finally:
            for name in ("incoming", "failing"):
                with suppress(Exception):
                    self._own.unregister(name)


def open_store(path: str | os.PathLike[str], *, read_only: bool = False) -> Store:
    """Open a database of runs, or create it.

    While one process has it open, no other can open it, unless all of them only read.

    Args:
        path: the file, on this machine and in a directory that exists; ``~`` is expanded.
        read_only: open an existing file, and refuse to write.

    Raises:
        ConfigError: for a URL.
        StoreError: if the directory does not exist, another process has the file open, it is not
            such a database, it is of a newer version of this package, or the disk refuses; nothing
            is changed then.
        MissingExtraError: without DuckDB or pyarrow.
    """
    path = local_path(path)
    with refusals(path):
        if not path.exists():
            if read_only:
                raise StoreError(f"{path} does not exist; `modellab sync` creates it")
            if problem := missing_directory(path):
                raise StoreError(problem)
            _create(path)
        connection = _connect(path, read_only=True)
        try:
            _check(path, connection)
        except BaseException:
            connection.close()
            raise
        if not read_only:
            connection.close()
            connection = _connect(path, read_only=False)
    return Store(path, connection)


def _connect(path: Path, *, read_only: bool, **settings: Any) -> DuckDBPyConnection:
    if not read_only:  # with more threads, writing takes hundreds of megabytes
        settings |= {"threads": 1, "memory_limit": "256MB"}
    connection: DuckDBPyConnection = sql.connect(__name__, path, read_only=read_only, **settings)
    return connection


def _check(path: Path, connection: DuckDBPyConnection) -> None:
    try:
        query = "SELECT value::INTEGER FROM meta WHERE key = 'schema_version'"
        version = next((value for (value,) in connection.execute(query).fetchall()), 0)
    except sql.needed_by(__name__).CatalogException:
        version = 0
    if not version:
        raise StoreError(f"{path} is a DuckDB database, but not one that `modellab sync` made")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema version {version}, and this modellab_async knows only version"
            f" {SCHEMA_VERSION}: upgrade modellab_async"
        )


def _create(path: Path) -> None:
    """Create an empty database, which has its name only when it is whole."""
    from modellab_async.frames.arrow import schema_of  # noqa: PLC0415 - needs pyarrow

    directory = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}-", dir=path.parent))
    try:
        new = directory / "new"
        with _connect(
            new, read_only=False, storage_compatibility_version=_STORAGE_VERSION
        ) as connection:
            for name, model in (("runs", Run), ("failures", Failure), ("syncs", Sync)):
                connection.register("empty", schema_of(model).empty_table())
                connection.execute(f"CREATE TABLE {name} AS FROM empty")
                connection.unregister("empty")
            for statement in _MORE:
                connection.execute(statement)
        with suppress(FileExistsError):  # another process was faster
            try:
                os.link(new, path)
            except FileExistsError:
                raise
            except OSError:  # not every file system has links
                new.rename(path)
    finally:
        shutil.rmtree(directory)


def _rows_of(part: str) -> str:
    field = LISTS[part]
    return (
        f"CREATE VIEW {part} AS SELECT id AS run_id, generate_subscripts({field}, 1) AS position,"
        f" unnest({field}, max_depth := 2) FROM runs"
    )


_MAPS: Final = ", ".join(f"{sql.as_map(part)} AS {part}" for part in LISTS)
_MORE: Final = (
    "ALTER TABLE runs ADD COLUMN sync BIGINT",
    "ALTER TABLE runs ADD COLUMN vanished_at TIMESTAMPTZ",
    *map(_rows_of, LISTS),
    f"CREATE VIEW runs_wide AS SELECT * EXCLUDE ({', '.join(LISTS.values())}), {_MAPS} FROM runs",
    "CREATE TABLE meta (key VARCHAR, value VARCHAR)",
    f"INSERT INTO meta VALUES ('schema_version', '{SCHEMA_VERSION}')",
)


def _within_calendar(time: str) -> str:
    """A time without its zone, or the nearest that a datetime can hold."""
    first, last = (f"TIMESTAMP '{end}'" for end in (datetime.min, datetime.max))  # noqa: DTZ901
    time = f"{time}::TIMESTAMP"
    return f"CASE WHEN {time} IS NOT NULL THEN least(greatest({time}, {first}), {last}) END"


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Turn what DuckDB or the disk refuses into one clear line.

    Raises:
        StoreError: for an error of DuckDB or of the operating system.
    """
    duckdb = sql.needed_by("modellab_async.store")
    try:
        yield
    except duckdb.Error as error:
        said = " ".join(str(error).partition("\n\nLINE")[0].split())
        if ("lock" in said and "PID" in said) or "used by another process" in said:
            said = "another process has it open"
        raise StoreError(f"{path}: {said}") from error
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from error
