"""Runs and projects that a test declares, and the form in which the API writes all of them."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import attrs
import msgspec

from modellab_async.simulator.times import seconds_to_text, to_microseconds, to_text

Attributes: TypeAlias = dict[str, Any]
Files: TypeAlias = Mapping[str, int | bytes]
"""Artifacts by path: their content, or the size of made-up content."""
Pair: TypeAlias = tuple[str, str]
PairsField: TypeAlias = Literal["params", "tags"]
ListField: TypeAlias = PairsField | Literal["metric_summaries"]
Timeline: TypeAlias = Sequence[tuple[float, str]]
"""Statuses, each after the number of seconds since the run was inserted."""

_ENDED: Final = frozenset({"completed", "failed", "killed"})


class Absent(enum.Enum):
    """The type of `ABSENT`."""

    ABSENT = enum.auto()


ABSENT: Final = Absent.ABSENT
"""As the value of an attribute: leave the attribute out of the response."""


class RunRow(NamedTuple):
    """What runs are filtered and sorted by; projects have the columns up to `updated_at`.

    Attributes:
        created_at: microseconds since the epoch, as is `updated_at`.
        duration: seconds; None unless it is a number.
        number: its place among the made-up runs; None for a declared run.
    """

    id: int
    name: str
    description: str
    owner_id: str | None
    created_at: int
    updated_at: int
    status: str
    duration: float | None
    project_id: int
    parent_id: int | None
    number: int | None


@attrs.frozen(eq=False)
class Project:
    """One project, made up or declared.

    Attributes:
        attributes: as served, apart from what requests have changed since.
        artifacts: its own files.
    """

    id: int
    attributes: Attributes
    artifacts: Files

    def row(self) -> tuple[Any, ...]:
        """What projects are filtered and sorted by."""
        return self.id, *_common_columns(self.attributes)


@attrs.frozen(eq=False)
class FixtureRun:
    """One declared run.

    Attributes:
        project_id: the project whose artifacts hold its own.
        attributes: as served, apart from what requests have changed since.
        path: where its artifacts are, relative to the project's.
    """

    id: int
    project_id: int
    parent_id: int | None
    attributes: Attributes
    artifacts: Files
    path: str

    def entries(self, field: ListField) -> Any:
        """One of its lists, whether or not it is one."""
        return self.attributes.get(field)

    def values(self, field: PairsField, key: str) -> list[str]:
        """The values of one param or tag."""
        return [value for name, value in pairs_of(self.entries(field)) if name == key]

    def row(self) -> RunRow:
        """What it is filtered and sorted by."""
        duration = self.attributes.get("duration")
        return RunRow(
            self.id,
            *_common_columns(self.attributes),
            str(self.attributes.get("status")),
            float(duration) if isinstance(duration, int | float) else None,
            self.project_id,
            self.parent_id,
            None,
        )


def _common_columns(attributes: Attributes) -> tuple[str, str, str | None, int, int]:
    owner_id = attributes.get("owner_id")
    return (
        str(attributes.get("name") or ""),
        str(attributes.get("description") or ""),
        owner_id if isinstance(owner_id, str) else None,
        to_microseconds(attributes.get("created_at")),
        to_microseconds(attributes.get("updated_at")),
    )


def follow_timeline(timeline: Timeline, inserted: float) -> Iterator[tuple[float, Attributes]]:
    """When a timeline changes a run, in seconds by the clock, and the attributes that change."""
    started = None
    for after, status in timeline:
        moment = inserted + after
        written = seconds_to_text(moment)
        changes: Attributes = {"status": status, "updated_at": written}
        if status != "pending" and started is None:
            started = after
            changes["started_at"] = written
        if status in _ENDED:
            changes["completed_at"] = written
            changes["duration"] = None if started is None else after - started
        yield moment, changes


def run_attributes(run_id: int, project_id: int, now: str, given: Attributes) -> Attributes:
    """A whole run around the attributes that a test cares about."""
    defaults: Attributes = {
        "completed_at": None,
        "created_at": now,
        "deleted_at": None,
        "descendant_match": False,
        "description": "",
        "duration": None,
        "external_url": None,
        "has_children": False,
        "is_pinned": False,
        "metric_summaries": [],
        "mlflow_artifact_location": f"mlflow-artifacts:/{project_id}/run-{run_id}/artifacts",
        "name": f"run-{run_id}",
        "owner_id": None,
        "params": [],
        "project_id": project_id,
        "started_at": now,
        "status": "running",
        "tags": [],
        "updated_at": now,
    }
    return served(defaults | given)


def project_attributes(project_id: int, now: str, given: Attributes) -> Attributes:
    """A whole project around the attributes that matter."""
    defaults: Attributes = {
        "artifact_storage_location": f"s3://model-lab-artifacts.example/{project_id}",
        "created_at": now,
        "deleted_at": None,
        "description": "",
        "external_url": None,
        "is_starred": False,
        "name": f"project-{project_id}",
        "owner_id": None,
        "tags": [],
        "updated_at": now,
    }
    return served(defaults | given)


def served(attributes: Mapping[str, Any]) -> Attributes:
    """The attributes that are not `ABSENT`, as the API writes them."""
    return {name: _plain(value) for name, value in attributes.items() if value is not ABSENT}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return to_text(to_microseconds(value.isoformat()))
    return list(value) if isinstance(value, tuple) else value


def refuse_unknown(what: str, names: Iterable[str], known: Collection[str]) -> None:
    """Raise a `TypeError` that names what is not known."""
    if unknown := [name for name in names if name not in known]:
        raise TypeError(
            f"a {what} has no {', '.join(map(repr, unknown))}; it has {', '.join(known)}"
        )


def read_run(run: Any) -> tuple[int | None, Attributes]:
    """The id and the attributes of an id, of a resource, or of an attrs object such as a `Run`.

    Raises:
        TypeError: it is none of these, or the resource has other keys.
    """
    if run is None or type(run) is int:
        return run, {}
    if isinstance(run, Mapping):
        refuse_unknown("resource", run, ("id", "type", "attributes"))
        return int(run["id"]) if "id" in run else None, dict(run.get("attributes", {}))
    if not hasattr(run, "id") or not hasattr(run, "status"):
        raise TypeError(f"expected an id, a resource or a run, not {run!r}")
    fields = msgspec.to_builtins(run, builtin_types=(datetime,))
    return int(run.id), {name: fields[name] for name in RUN_DEFAULTS if name in fields}


def objects_in(entries: Any) -> list[dict[str, Any]]:
    """The well-formed entries of a list, if it is one."""
    if not isinstance(entries, list):
        return []
    return [entry for entry in entries if isinstance(entry, dict)]


def pairs_of(entries: Any) -> list[Pair]:
    """Params or tags as pairs; an entry that is not well-formed matches no filter."""
    return [
        (entry["key"], entry["value"])
        for entry in objects_in(entries)
        if isinstance(entry.get("key"), str) and isinstance(entry.get("value"), str)
    ]


def to_entries(pairs: Iterable[Pair]) -> list[dict[str, str]]:
    """Params or tags as the API writes them."""
    return [{"key": key, "value": value} for key, value in pairs]


RUN_DEFAULTS: Final = run_attributes(0, 0, "", {})
PROJECT_DEFAULTS: Final = project_attributes(0, "", {})
