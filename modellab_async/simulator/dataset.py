"""The current runs and projects, in an SQLite database in memory.

A table holds what runs are filtered and sorted by. The rest of a made-up run is generated when it
is asked for; its params and tags enter the database key by key, as filters ask about them.
"""

# ruff: noqa: S608 - what is not ours in the SQL is bound as a parameter

from __future__ import annotations

import functools
import itertools
import sqlite3
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from modellab_async.simulator.fixtures import (
    FixtureRun,
    Project,
    RunRow,
    project_attributes,
    run_attributes,
    served,
)
from modellab_async.simulator.generator import GeneratedRun, Generator
from modellab_async.simulator.queries import ListQuery, to_number
from modellab_async.simulator.responses import NotFoundError
from modellab_async.simulator.times import to_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from modellab_async.simulator.fixtures import Attributes, Files, Pair, PairsField, Timeline

Run: TypeAlias = GeneratedRun | FixtureRun
Found: TypeAlias = list[tuple[int, int]]
"""What a query selects, in order: ids, and whether each is there only for a descendant's sake."""

_SCHEMA: Final = """
    CREATE TABLE projects (
        id INTEGER PRIMARY KEY, name TEXT, description TEXT, owner_id TEXT, created_at INTEGER,
        updated_at INTEGER, starred INTEGER
    );
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY, number INTEGER, project_id INTEGER, parent_id INTEGER, name TEXT,
        description TEXT, status TEXT, owner_id TEXT, created_at INTEGER,
        updated_at INTEGER, duration REAL, pinned INTEGER, deleted_at INTEGER
    );
    CREATE INDEX children ON runs (parent_id) WHERE parent_id IS NOT NULL;
    CREATE TABLE pairs (
        kind TEXT, resource_id INTEGER, key TEXT, value TEXT, number REAL,
        PRIMARY KEY (kind, resource_id, key, value)
    ) WITHOUT ROWID;
"""
_ROW: Final = ", ".join(RunRow._fields)
_WRITE_RUN: Final = f"""
    INSERT INTO runs ({_ROW}) VALUES ({", ".join("?" * len(RunRow._fields))})
    ON CONFLICT (id) DO UPDATE
    SET {", ".join(f"{name} = excluded.{name}" for name in RunRow._fields[1:])}
"""
_READ_RUN: Final = f"""
    SELECT {_ROW}, pinned, deleted_at,
        EXISTS (SELECT 1 FROM runs AS child WHERE child.parent_id = runs.id)
    FROM runs WHERE id = ?
"""
_WITH_ANCESTORS: Final = """
    WITH RECURSIVE
        hits (id) AS (SELECT id FROM runs WHERE deleted_at IS NULL AND {}),
        above (id) AS (
            SELECT parent_id FROM hits JOIN runs USING (id) WHERE parent_id IS NOT NULL
            UNION
            SELECT parent_id FROM above JOIN runs USING (id) WHERE parent_id IS NOT NULL
        )
"""
_BODY_CACHE_BYTES: Final = 32 * 1024 * 1024
_CACHED_SEARCHES: Final = 4
_LARGEST_TEMPLATE: Final = 100_000


class Dataset:
    """Runs and projects, looked up, searched and changed.

    An id that does not exist, or no longer, raises `NotFoundError`.
    """

    def __init__(
        self, generator: Generator, clock: Callable[[], float], *, soft_delete: bool
    ) -> None:
        if generator.runs > _LARGEST_TEMPLATE:
            self._db, projects = _make_up(generator)
        else:  # tests make many simulators alike
            template, projects = _template(generator)
            self._db = _connect()
            template.backup(self._db)
        self._generator = generator
        self._clock = clock
        self._soft_delete = soft_delete
        self._fixtures: dict[int, FixtureRun] = {}
        self._projects = dict(projects)
        self._next_changes: dict[int, float] = {}  # by run: when its timeline changes it next
        self._pinnings = itertools.count()
        self._indexed: set[tuple[PairsField, str]] = set()
        self._run_ids = [run_id for (run_id,) in self._db.execute("SELECT id FROM runs")]
        self._found: dict[tuple[str, tuple[Any, ...]], Found] = {}
        self._bodies: dict[int, bytes] = {}
        self._bodies_size = 0

    @functools.cached_property
    def run_ids(self) -> Sequence[int]:
        """Every run there ever was, deleted ones included: made-up ones first, by creation."""
        return list(self._run_ids)

    @property
    def projects(self) -> Mapping[int, Project]:
        """Every project, made-up ones first."""
        return self._projects

    def project(self, project_id: int) -> Project:
        """A project."""
        if project_id not in self._projects:
            raise NotFoundError("project")
        return self._projects[project_id]

    def project_resource(self, project_id: int) -> dict[str, Any]:
        """A project as it is served now."""
        attributes = dict(self.project(project_id).attributes)
        starred = "SELECT starred FROM projects WHERE id = ?"
        if self._db.execute(starred, (project_id,)).fetchone()[0]:
            attributes["is_starred"] = True
        return {"attributes": attributes, "id": str(project_id), "type": "projects"}

    def _read(self, run_id: int) -> tuple[RunRow, int | None, int | None, bool]:
        """A run, when it was pinned, when it was deleted, and whether it has children."""
        found = self._db.execute(_READ_RUN, (run_id,)).fetchone()
        if found is None:
            raise NotFoundError("run")
        *row, pinned, deleted, has_children = found
        if deleted is not None and not self._soft_delete:
            raise NotFoundError("run")
        return RunRow(*row), pinned, deleted, has_children

    def _run(self, row: RunRow) -> Run:
        if row.number is None:
            return self._fixtures[row.id]
        return self._generator.run(row.number, row.id, row.project_id, row.name)

    def _attributes(self, row: RunRow) -> Attributes:
        if row.number is None:
            return self._fixtures[row.id].attributes()
        return self._generator.attributes(row)

    def run(self, run_id: int) -> Run:
        """A run."""
        return self._run(self._read(run_id)[0])

    def run_resource(self, run_id: int) -> dict[str, Any]:
        """A run as it is served now."""
        row, pinned, deleted, has_children = self._read(run_id)
        attributes = self._attributes(row)
        if pinned is not None:
            attributes["is_pinned"] = True
        if has_children:
            attributes["has_children"] = True
        if deleted is not None:
            attributes["deleted_at"] = attributes["updated_at"] = to_text(deleted)
        return {"attributes": attributes, "id": str(run_id), "type": "runs"}

    def run_json(self, run_id: int, descendant_match: int = 0) -> bytes:
        """A run as it is served now, encoded."""
        body = None if descendant_match else self._bodies.get(run_id)
        if body is None:
            resource = self.run_resource(run_id)
            if descendant_match:
                resource["attributes"]["descendant_match"] = True
            body = msgspec.json.encode(resource)
            # A declared run may change with the clock.
            if not descendant_match and run_id not in self._fixtures:
                self._keep_body(run_id, body)
        return body

    def _keep_body(self, run_id: int, body: bytes) -> None:
        self._bodies_size += len(body)
        if self._bodies_size > _BODY_CACHE_BYTES:
            self._bodies.clear()
            self._bodies_size = len(body)
        self._bodies[run_id] = body

    def find_projects(self, query: ListQuery) -> Found:
        """The projects that a query selects."""
        matches = query.matches
        sql = f"SELECT id, 0 FROM projects WHERE {matches.sql} ORDER BY {query.order}"
        return self._find(sql, matches.arguments)

    def find_runs(self, query: ListQuery) -> Found:
        """The runs that a query selects; deleted ones never are."""
        self._follow_timelines()
        matches, parent = query.matches, query.parent
        for field in ("params", "tags"):
            self._index(field, [key for kind, key in matches.keys if kind == field])
        before, selected, is_descendant_match = "", matches.sql, "0"
        if query.include_descendant_matches:
            before = _WITH_ANCESTORS.format(matches.sql)
            selected = "(id IN hits OR id IN above)"
            is_descendant_match = "id NOT IN hits AND id IN above"
        pinned = "OR pinned IS NOT NULL" if query.include_pinned else ""
        first = "pinned IS NULL, pinned DESC, " if query.pinned_first else ""
        sql = f"""
            {before} SELECT id, {is_descendant_match} FROM runs
            WHERE deleted_at IS NULL AND ({selected} AND {parent.sql} {pinned})
            ORDER BY {first} {query.order}
        """
        return self._find(sql, matches.arguments + parent.arguments)

    def _find(self, sql: str, arguments: tuple[Any, ...]) -> Found:
        """What a search finds; kept for the pages that follow, until something changes."""
        search = (sql, arguments)
        if search not in self._found:
            if len(self._found) == _CACHED_SEARCHES:
                self._found.clear()
            self._found[search] = self._db.execute(sql, arguments).fetchall()
        return self._found[search]

    def _index(self, field: PairsField, keys: Collection[str]) -> None:
        """Put the values that params or tags have in made-up runs into the database, once."""
        missing = {key for key in keys if (field, key) not in self._indexed}
        if missing:
            sql = "SELECT number, id, project_id, name FROM runs WHERE number IS NOT NULL"
            runs = itertools.starmap(self._generator.run, self._db.execute(sql).fetchall())
            _write_pairs(self._db, field, ((run.id, run.pairs(field, missing)) for run in runs))
            self._indexed.update((field, key) for key in missing)

    def runs_of_project(self, project_id: int) -> list[Run]:
        """The runs of a project; deleted ones left out."""
        self.project(project_id)
        sql = f"SELECT {_ROW} FROM runs WHERE project_id = ? AND deleted_at IS NULL"
        rows = map(RunRow._make, self._db.execute(sql, (project_id,)))
        return [self._run(row) for row in rows]

    def column_values(self, project_id: int, column: str) -> list[Any]:
        """The values of a column that occur in a project's runs, in order; NULL left out."""
        self._follow_timelines()
        sql = f"""
            SELECT DISTINCT {column} FROM runs
            WHERE project_id = ? AND deleted_at IS NULL AND {column} IS NOT NULL ORDER BY {column}
        """
        return [value for (value,) in self._db.execute(sql, (project_id,))]

    def insert_run(
        self,
        run_id: int | None,
        *,
        parent_run_id: int | None,
        timeline: Timeline,
        artifacts: Files,
        attributes: Mapping[str, Any],
    ) -> int:
        """Add a run; see `Simulator.insert_run`."""
        if run_id is None:
            highest: int | None = self._db.execute("SELECT max(id) FROM runs").fetchone()[0]
            run_id = max(9_999, highest or 0) + 1
        elif self._db.execute("SELECT 1 FROM runs WHERE id = ?", (run_id,)).fetchone():
            raise ValueError(f"there is a run {run_id} already")
        project_id = self._project_of(attributes)
        now = self._clock()
        self._write_fixture(
            FixtureRun(
                id=run_id,
                project_id=project_id,
                given=run_attributes(run_id, project_id, now, attributes),
                parent_id=parent_run_id,
                artifacts=artifacts,
                path=f"run-{run_id}/artifacts",
                timeline=timeline,
                inserted=now,
                clock=self._clock,
            )
        )
        self._run_ids.append(run_id)
        vars(self).pop("run_ids", None)
        if parent_run_id is not None:
            self._forget(parent_run_id)
        return run_id

    def update_run(self, run_id: int, changes: Mapping[str, Any]) -> None:
        """Change a run; see `Simulator.update_run`."""
        row, _, deleted, _ = self._read(run_id)
        if deleted is not None:
            raise NotFoundError("run")
        run = self._run(row)
        now = self._clock()
        updated = {"updated_at": to_text(round(now * 1_000_000))}
        self._write_fixture(
            FixtureRun(
                id=run_id,
                project_id=self._project_of({"project_id": run.project_id, **changes}),
                given=served({**self._attributes(row), **updated, **changes}),
                parent_id=row.parent_id,
                artifacts=run.artifacts,
                path=run.path,
                timeline=(),
                inserted=now,
                clock=self._clock,
            )
        )

    def _project_of(self, attributes: Mapping[str, Any]) -> int:
        """The project of a declared run: the one that it names, else the first; added if new."""
        project_id = attributes.get("project_id")
        if not isinstance(project_id, int) or project_id.bit_length() > 63:
            project_id = next(iter(self._projects), None)
        if project_id not in self._projects:
            project_id = self.insert_project(project_id, artifacts={}, attributes={})
        return project_id

    def insert_project(
        self, project_id: int | None, *, artifacts: Files, attributes: Mapping[str, Any]
    ) -> int:
        """Add a project; see `Simulator.insert_project`."""
        if project_id is None:
            project_id = max([999, *self._projects]) + 1
        elif project_id in self._projects:
            raise ValueError(f"there is a project {project_id} already")
        given = project_attributes(project_id, self._clock(), attributes)
        self._projects[project_id] = Project(project_id, given, artifacts)
        _write_projects(self._db, [self._projects[project_id]])
        self._found.clear()
        return project_id

    def delete_run(self, run_id: int) -> None:
        """Delete a run."""
        now = round(self._clock() * 1_000_000)
        sql = "UPDATE runs SET deleted_at = ? WHERE id = ? AND deleted_at IS NULL"
        if not self._db.execute(sql, (now, run_id)).rowcount:
            raise NotFoundError("run")
        self._forget(run_id)

    def pin(self, run_id: int, *, pinned: bool) -> None:
        """Pin or unpin a run; either may be repeated."""
        self._read(run_id)
        number = next(self._pinnings) if pinned else None
        sql = "UPDATE runs SET pinned = ? WHERE id = ? AND (pinned IS NULL) = ?"
        self._db.execute(sql, (number, run_id, pinned))
        self._forget(run_id)

    def star(self, project_id: int, *, starred: bool) -> None:
        """Star or unstar a project; either may be repeated."""
        self.project(project_id)
        self._db.execute("UPDATE projects SET starred = ? WHERE id = ?", (starred, project_id))

    def _write_fixture(self, run: FixtureRun) -> None:
        self._fixtures[run.id] = run
        self._write_row(run)
        for field in ("params", "tags"):
            delete = "DELETE FROM pairs WHERE kind = ? AND resource_id = ?"
            self._db.execute(delete, (field, run.id))
            _write_pairs(self._db, field, [(run.id, getattr(run, field))])

    def _write_row(self, run: FixtureRun) -> None:
        # First the time of the next change: one that happens meanwhile must not be missed.
        change = run.next_change()
        if change is None:
            self._next_changes.pop(run.id, None)
        else:
            self._next_changes[run.id] = change
        self._db.execute(_WRITE_RUN, run.row())
        self._forget(run.id)

    def _follow_timelines(self) -> None:
        now = self._clock()
        for run_id in [run_id for run_id, change in self._next_changes.items() if change <= now]:
            self._write_row(self._fixtures[run_id])

    def _forget(self, run_id: int) -> None:
        """Drop what was cached before a run changed."""
        self._bodies_size -= len(self._bodies.pop(run_id, b""))
        self._found.clear()


class _Database(sqlite3.Connection):
    """A database in memory, which ends with the last dataset that refers to it."""

    def __del__(self) -> None:
        self.close()  # Python 3.13 warns of one that is dropped open


def _connect() -> sqlite3.Connection:
    database = sqlite3.connect(
        ":memory:",
        isolation_level=None,
        check_same_thread=False,  # the thread that makes a simulator need not be the one it runs in
        factory=_Database,
    )
    database.execute("PRAGMA journal_mode = OFF")  # nothing is rolled back
    database.create_function("casefold", 1, str.casefold, deterministic=True)
    return database


def _make_up(generator: Generator) -> tuple[sqlite3.Connection, Mapping[int, Project]]:
    """A database of what a generator makes up, and the projects."""
    database = _connect()
    database.executescript(_SCHEMA)
    projects = {project.id: project for project in generator.make_projects()}
    _write_projects(database, projects.values())
    database.executemany(_WRITE_RUN, generator.make_rows(tuple(projects)))
    return database, projects


_template: Final = functools.lru_cache(maxsize=16)(_make_up)


def _write_projects(database: sqlite3.Connection, projects: Collection[Project]) -> None:
    sql = "INSERT INTO projects VALUES (?, ?, ?, ?, ?, ?, FALSE)"
    database.executemany(sql, [project.row() for project in projects])
    _write_pairs(database, "project tags", ((project.id, project.tags) for project in projects))


def _write_pairs(
    database: sqlite3.Connection, kind: str, pairs: Iterable[tuple[int, Iterable[Pair]]]
) -> None:
    rows = (
        (kind, resource_id, key, value, to_number(value))
        for resource_id, its_pairs in pairs
        for key, value in its_pairs
    )
    database.executemany("INSERT OR IGNORE INTO pairs VALUES (?, ?, ?, ?, ?)", rows)
