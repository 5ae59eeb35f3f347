"""The current runs and projects.

An SQLite database in memory holds what they are filtered and sorted by. The rest of a made-up run
is generated when it is asked for.
"""

# ruff: noqa: S608 - what is not ours in the SQL is bound as a parameter

from __future__ import annotations

import bisect
import functools
import itertools
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import attrs
import msgspec

from modellab_async.simulator.artifacts import Content
from modellab_async.simulator.fixtures import (
    PROJECT_DEFAULTS,
    RUN_DEFAULTS,
    Attributes,
    Files,
    FixtureRun,
    PairsField,
    Project,
    RunRow,
    Timeline,
    follow_timeline,
    pairs_of,
    project_attributes,
    read_run,
    refuse_unknown,
    run_attributes,
    served,
)
from modellab_async.simulator.generator import GeneratedRun, Generator
from modellab_async.simulator.queries import read_pairs, read_tests
from modellab_async.simulator.responses import NotFoundError
from modellab_async.simulator.times import seconds_to_text, to_text

Run: TypeAlias = GeneratedRun | FixtureRun
Found: TypeAlias = list[tuple[int, int]]
"""What a query selects, in order: ids, and whether each is there only for a descendant's sake."""

_COLUMNS: Final = RunRow._fields[1:]
_SCHEMA: Final = f"""
    CREATE TABLE projects (id INTEGER PRIMARY KEY, {", ".join(_COLUMNS[:5])});
    CREATE TABLE runs (id INTEGER PRIMARY KEY, {", ".join(_COLUMNS)}, pinned, deleted_at);
    CREATE INDEX children ON runs (parent_id) WHERE parent_id IS NOT NULL;
"""
_WRITE_PROJECT: Final = "INSERT INTO projects VALUES (?, ?, ?, ?, ?, ?)"
_WRITE_RUN: Final = f"""
    INSERT INTO runs (id, {", ".join(_COLUMNS)}) VALUES (?{", ?" * len(_COLUMNS)})
    ON CONFLICT (id) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _COLUMNS)}
"""
_READ_STATE: Final = """
    SELECT number, pinned, deleted_at, EXISTS (SELECT 1 FROM runs WHERE parent_id = ?)
    FROM runs WHERE id = ?
"""
_FREE_ID: Final = "SELECT max(9999, ifnull(max(id), 0)) + 1 FROM runs"

_PROJECT_FILTERS: Final = {
    "filter[owner_id]": "owner_id = ?",
    "filter": "has_text(name, description, ?)",
    "filter[tags]": "project_has_tags(id, ?)",
}
_RUN_FILTERS: Final = {
    "filter[id]": "id IN (SELECT value FROM json_each(?))",
    "filter[status]": "status = ?",
    "filter[project_id]": "project_id = ?",
    "filter[owner_id]": "owner_id = ?",
    "filter": "has_text(name, description, ?)",
    "filter[tags]": "run_has_tags(id, number, ?)",
    "filter[params]": "run_has_params(id, number, ?)",
}
_PARENT_FILTER: Final = {"filter[parent_run_id]": "parent_id IS ?"}
_NEWEST_FIRST: Final = "created_at DESC, id DESC"
_WITH_ANCESTORS: Final = """
    WITH RECURSIVE
        hits (id) AS (SELECT id FROM runs WHERE deleted_at IS NULL AND {}),
        above (id) AS (
            SELECT parent_id FROM hits JOIN runs USING (id) WHERE parent_id IS NOT NULL
            UNION
            SELECT parent_id FROM above JOIN runs USING (id) WHERE parent_id IS NOT NULL
        )
"""
_RUN_PATH: Final = re.compile(
    r"(?:run-(?P<declared>\d{1,18})|[0-9a-f]{16}(?P<made_up>[0-9a-f]{16}))/artifacts/"
)
_CACHED_RUNS: Final = 10_000
_CACHED_SEARCHES: Final = 4
_CACHED_KEYS: Final = 8
_LARGEST_TEMPLATE: Final = 100_000


class Dataset:
    """Runs and projects, looked up, searched and changed.

    An id that does not exist, or no longer, raises a `LookupError`.
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
        self._projects = {project.id: project for project in projects}
        self._starred: set[int] = set()
        self._serial = itertools.count()
        self._changes: list[tuple[float, int, int, Attributes]] = []  # to come, by timelines
        self._found: dict[tuple[str, tuple[Any, ...]], Found] = {}
        self._bodies: dict[int, bytes] = {}
        self._run_ids = [run_id for (run_id,) in self._db.execute("SELECT id FROM runs")]
        self._run_ids_shown: Sequence[int] = ()
        self._create_functions()

    def _create_functions(self) -> None:
        """What SQL asks of Python; none refers to the dataset, which owns the database."""
        generator, fixtures, projects = self._generator, self._fixtures, self._projects

        @functools.lru_cache(maxsize=_CACHED_KEYS)
        def values_of_made_up(field: PairsField, key: str) -> Sequence[Sequence[str]]:
            return [generator.run(number).values(field, key) for number in range(generator.runs)]

        def values_of(
            run_id: int, number: int | None, field: PairsField, key: str
        ) -> Sequence[str]:
            if number is None:
                return fixtures[run_id].values(field, key)
            return values_of_made_up(field, key)[number]

        def has_text(name: str, description: str, text: str) -> bool:
            return text in name.casefold() or text in description.casefold()

        def project_has_tags(project_id: int, text: str) -> bool:
            tags = pairs_of(projects[project_id].attributes.get("tags"))
            return all(tag in tags for tag in read_pairs(text))

        def run_has_tags(run_id: int, number: int | None, text: str) -> bool:
            return all(
                value in values_of(run_id, number, "tags", key) for key, value in read_pairs(text)
            )

        def run_has_params(run_id: int, number: int | None, text: str) -> bool:
            return all(
                any(map(test, values_of(run_id, number, "params", key)))
                for key, test in read_tests(text)
            )

        for function in (has_text, project_has_tags, run_has_tags, run_has_params):
            self._db.create_function(function.__name__, -1, function)

    @property
    def run_ids(self) -> Sequence[int]:
        """The ids of all runs: made-up ones, oldest first, then inserted ones.

        Those of deleted runs stay.
        """
        if len(self._run_ids_shown) < len(self._run_ids):  # what was handed out stays as it was
            self._run_ids_shown = tuple(self._run_ids)
        return self._run_ids_shown

    @property
    def project_ids(self) -> Sequence[int]:
        """The ids of all projects, inserted ones last."""
        return list(self._projects)

    def project(self, project_id: int) -> Project:
        """A project."""
        if project_id not in self._projects:
            raise NotFoundError("project")
        return self._projects[project_id]

    def project_resource(self, project_id: int) -> dict[str, Any]:
        """A project exactly as it is served now."""
        attributes = dict(self.project(project_id).attributes)
        if project_id in self._starred:
            attributes["is_starred"] = True
        return {"attributes": attributes, "id": str(project_id), "type": "projects"}

    def _state(self, run_id: int) -> tuple[Run, int | None, int | None, bool]:
        """A run, when it was pinned, when it was deleted, and whether it has children."""
        self._follow_timelines()
        found = self._db.execute(_READ_STATE, (run_id, run_id)).fetchone()
        if found is None:
            raise NotFoundError("run")
        number, pinned, deleted, has_children = found
        if deleted is not None and not self._soft_delete:
            raise NotFoundError("run")
        return self._run(run_id, number), pinned, deleted, has_children

    def _run(self, run_id: int, number: int | None) -> Run:
        return self._fixtures[run_id] if number is None else self._generator.run(number)

    def run(self, run_id: int) -> Run:
        """A run."""
        return self._state(run_id)[0]

    def resource(self, run_id: int) -> dict[str, Any]:
        """A run exactly as it is served now: `{"attributes": ..., "id": ..., "type": "runs"}`."""
        run, pinned, deleted, has_children = self._state(run_id)
        attributes = dict(run.attributes)
        if pinned is not None:
            attributes["is_pinned"] = True
        if has_children:
            attributes["has_children"] = True
        if deleted is not None:
            attributes["deleted_at"] = attributes["updated_at"] = to_text(deleted)
        return {"attributes": attributes, "id": str(run_id), "type": "runs"}

    def run_json(self, run_id: int, descendant_match: int = 0) -> bytes:
        """A run as it is served now, encoded."""
        self._follow_timelines()
        if descendant_match:
            resource = self.resource(run_id)
            resource["attributes"]["descendant_match"] = True
            return msgspec.json.encode(resource)
        if run_id not in self._bodies:
            if len(self._bodies) == _CACHED_RUNS:
                del self._bodies[next(iter(self._bodies))]
            self._bodies[run_id] = msgspec.json.encode(self.resource(run_id))
        return self._bodies[run_id]

    def find_projects(self, values: Mapping[str, Any]) -> Found:
        """The projects that the parameters of the list select."""
        matches, arguments = _where(_PROJECT_FILTERS, values)
        order = values.get("sort", _NEWEST_FIRST)
        return self._find(f"SELECT id, 0 FROM projects WHERE {matches} ORDER BY {order}", arguments)

    def find_runs(self, values: Mapping[str, Any]) -> Found:
        """The runs that the parameters of the list select; deleted ones never are."""
        self._follow_timelines()
        matches, arguments = _where(_RUN_FILTERS, values)
        parent, parent_arguments = _where(_PARENT_FILTER, values)
        before, selected, is_descendant_match = "", matches, "0"
        if values.get("include_descendant_matches"):
            before = _WITH_ANCESTORS.format(matches)
            selected = "(id IN hits OR id IN above)"
            is_descendant_match = "id NOT IN hits AND id IN above"
        pinned = "OR pinned IS NOT NULL" if values.get("include_pinned") else ""
        first = "pinned IS NULL, pinned DESC, " if values.get("pinned_first") else ""
        sql = f"""
            {before} SELECT id, {is_descendant_match} FROM runs
            WHERE deleted_at IS NULL AND ({selected} AND {parent} {pinned})
            ORDER BY {first} {values.get("sort", _NEWEST_FIRST)}
        """
        return self._find(sql, arguments + parent_arguments)

    def _find(self, sql: str, arguments: tuple[Any, ...]) -> Found:
        """What a search finds; kept for the pages that follow, until something changes."""
        search = (sql, arguments)
        if search not in self._found:
            if len(self._found) == _CACHED_SEARCHES:
                self._found.clear()
            self._found[search] = self._db.execute(sql, arguments).fetchall()
        return self._found[search]

    def runs_of_project(self, project_id: int) -> Sequence[Run]:
        """The runs of a project; deleted ones left out."""
        self.project(project_id)
        sql = "SELECT id, number FROM runs WHERE project_id = ? AND deleted_at IS NULL"
        return [self._run(*row) for row in self._db.execute(sql, (project_id,))]

    def column_values(self, project_id: int, column: str) -> Sequence[Any]:
        """The values of a column that occur in a project's runs, in order; NULL left out."""
        self._follow_timelines()
        sql = f"""
            SELECT DISTINCT {column} FROM runs
            WHERE project_id = ? AND deleted_at IS NULL AND {column} IS NOT NULL ORDER BY {column}
        """
        return [value for (value,) in self._db.execute(sql, (project_id,))]

    def tags_of_projects(self) -> Iterator[Any]:
        """The tags of each project."""
        return (project.attributes.get("tags") for project in self._projects.values())

    def content(self, project_id: int, artifact_path: str) -> Content:
        """An artifact's content: its `size`, and `read(start, stop)` for any part of it.

        Args:
            project_id: the project.
            artifact_path: path relative to the project's artifact root.

        Raises:
            LookupError: there is no such file.
        """
        files, path = self.project(project_id).artifacts, artifact_path
        match = _RUN_PATH.match(artifact_path)
        if match is not None:
            declared, made_up = match.groups()
            run = self.run(int(declared) if declared else int(made_up, 16))
            if run.project_id == project_id and artifact_path.startswith(run.path + "/"):
                files, path = run.artifacts, artifact_path[len(run.path) + 1 :]
        if path not in files:
            raise NotFoundError("artifact")
        return Content(f"{project_id}/{artifact_path}", files[path])

    def insert_run(
        self,
        run: int | Mapping[str, Any] | object | None = None,
        /,
        *,
        run_id: int | None = None,
        parent_run_id: int | None = None,
        timeline: Timeline = (),
        artifacts: Files | None = None,
        **attributes: Any,
    ) -> int:
        """Add a run, before the start or while the server runs.

        Args:
            run: its id; or a whole run: a `Run`, or a resource as the API writes it, with ``id``
                and ``attributes``, which are served unchanged.
            run_id: its id, in place of that of `run`; by default one above all others.
            parent_run_id: the run that it is a child of.
            timeline: the statuses it goes through, as `(seconds from now, status)`, by the
                simulator's clock; times and duration follow.
            artifacts: its files by path: their content, or a size for made-up content.
            **attributes: attributes as they are to be served, whether or not they make sense;
                `ABSENT` leaves one out. They take precedence over those of `run`. What neither has
                gets a default: a running run, created now, in the first project. A project
                that does not exist is added.

        Returns:
            Its id.

        Raises:
            ValueError: there is a run of that id already.
            TypeError: `run` is none of these, or an attribute is not one of the API's.
        """
        refuse_unknown("run", attributes, RUN_DEFAULTS)
        own_id, given = read_run(run)
        run_id = own_id if run_id is None else run_id
        if run_id is None:
            run_id = int(self._db.execute(_FREE_ID).fetchone()[0])
        elif self._db.execute("SELECT 1 FROM runs WHERE id = ?", (run_id,)).fetchone():
            raise ValueError(f"there is a run {run_id} already")
        given |= attributes
        project_id = self._project_of(given)
        now = self._clock()
        whole = run_attributes(run_id, project_id, seconds_to_text(now), given)
        if timeline:
            whole["started_at"] = None
        path = f"run-{run_id}/artifacts"
        self._write(FixtureRun(run_id, project_id, parent_run_id, whole, artifacts or {}, path))
        for moment, changes in follow_timeline(timeline, now):
            bisect.insort(self._changes, (moment, next(self._serial), run_id, changes))
        self._run_ids.append(run_id)
        if parent_run_id is not None:
            self._forget(parent_run_id)
        return run_id

    def update_run(self, run_id: int, **changes: Any) -> None:
        """Change a run, which sets its `updated_at` to the simulator's now.

        A timeline ends with it: the run stays as it is, apart from the changes.

        Args:
            run_id: the run, made up or inserted.
            **changes: attributes as they are to be served; `ABSENT` leaves one out.

        Raises:
            LookupError: there is none of that id, or it was deleted.
            TypeError: an attribute is not one of the API's.
        """
        refuse_unknown("run", changes, RUN_DEFAULTS)
        run, _, deleted, _ = self._state(run_id)
        if deleted is not None:
            raise NotFoundError("run")
        self._changes = [change for change in self._changes if change[2] != run_id]
        project_id = self._project_of({"project_id": run.project_id} | changes)
        updated = {"updated_at": seconds_to_text(self._clock())}
        attributes = served(run.attributes | updated | changes)
        self._write(
            FixtureRun(run_id, project_id, run.parent_id, attributes, run.artifacts, run.path)
        )

    def _project_of(self, attributes: Attributes) -> int:
        """The project of a declared run: the one that it names, else the first; added if new."""
        project_id = attributes.get("project_id")
        if not isinstance(project_id, int) or project_id.bit_length() > 63:
            project_id = next(iter(self._projects), None)
        if project_id not in self._projects:
            project_id = self.insert_project(project_id)
        return project_id

    def insert_project(
        self,
        project_id: int | None = None,
        *,
        artifacts: Files | None = None,
        **attributes: Any,
    ) -> int:
        """Add a project, before the start or while the server runs.

        Args:
            project_id: its id; by default one above all others.
            artifacts: its own files by path: their content, or a size for made-up content.
            **attributes: attributes as they are to be served; `ABSENT` leaves one out.

        Returns:
            Its id.

        Raises:
            ValueError: there is a project of that id already.
            TypeError: an attribute is not one of the API's.
        """
        refuse_unknown("project", attributes, PROJECT_DEFAULTS)
        if project_id is None:
            project_id = max([999, *self._projects]) + 1
        elif project_id in self._projects:
            raise ValueError(f"there is a project {project_id} already")
        given = project_attributes(project_id, seconds_to_text(self._clock()), attributes)
        project = Project(project_id, given, artifacts or {})
        self._db.execute(_WRITE_PROJECT, project.row())
        self._projects[project_id] = project
        self._found.clear()
        return project_id

    def delete_run(self, run_id: int) -> None:
        """Delete a run, as a request would.

        Raises:
            LookupError: there is none of that id, or it was deleted before.
        """
        now = round(self._clock() * 1_000_000)
        sql = "UPDATE runs SET deleted_at = ? WHERE id = ? AND deleted_at IS NULL"
        if not self._db.execute(sql, (now, run_id)).rowcount:
            raise NotFoundError("run")
        self._forget(run_id)

    def pin_run(self, run_id: int, *, pinned: bool) -> None:
        """Pin or unpin a run; either may be repeated."""
        self._state(run_id)
        number = next(self._serial) if pinned else None
        sql = "UPDATE runs SET pinned = ? WHERE id = ? AND (pinned IS NULL) = ?"
        self._db.execute(sql, (number, run_id, pinned))
        self._forget(run_id)

    def star_project(self, project_id: int, *, starred: bool) -> None:
        """Star or unstar a project; either may be repeated."""
        self.project(project_id)
        if starred:
            self._starred.add(project_id)
        else:
            self._starred.discard(project_id)

    def _follow_timelines(self) -> None:
        now = self._clock() if self._changes else 0.0
        while self._changes and self._changes[0][0] <= now:
            _, _, run_id, changes = self._changes.pop(0)
            run = self._fixtures[run_id]
            self._write(attrs.evolve(run, attributes=run.attributes | changes))

    def _write(self, run: FixtureRun) -> None:
        self._fixtures[run.id] = run
        self._db.execute(_WRITE_RUN, run.row())
        self._forget(run.id)

    def _forget(self, run_id: int) -> None:
        """Drop what was cached before a run changed."""
        self._bodies.pop(run_id, None)
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
    return database


def _make_up(generator: Generator) -> tuple[sqlite3.Connection, Sequence[Project]]:
    """A database of what a generator makes up, and the projects."""
    database = _connect()
    database.executescript(_SCHEMA)
    projects = list(generator.make_projects())
    database.executemany(_WRITE_PROJECT, (project.row() for project in projects))
    runs = map(generator.run, range(generator.runs))
    database.executemany(_WRITE_RUN, (run.row() for run in runs))
    return database, projects


_template: Final = functools.lru_cache(maxsize=16)(_make_up)


def _where(filters: Mapping[str, str], values: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
    """The condition of those filters that there are values for, and its arguments."""
    names = [name for name in filters if name in values]
    condition = " AND ".join(["TRUE", *(filters[name] for name in names)])
    return condition, tuple(values[name] for name in names)
