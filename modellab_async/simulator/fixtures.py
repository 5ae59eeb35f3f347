"""Runs and projects that a test declares, and what declared and made-up ones have in common."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import attrs

from modellab_async.simulator.times import to_microseconds, to_text

Attributes: TypeAlias = dict[str, Any]
Files: TypeAlias = Mapping[str, int | bytes]
"""Artifacts by path: their content, or the size of made-up content."""
Pair: TypeAlias = tuple[str, str]
PairsField: TypeAlias = Literal["params", "tags"]
Timeline: TypeAlias = Sequence[tuple[float, str]]
"""Statuses, each after the number of seconds since the run was inserted."""

_ENDED: Final = frozenset({"completed", "failed", "killed"})


class Absent(enum.Enum):
    """The type of `ABSENT`."""

    ABSENT = enum.auto()


ABSENT: Final = Absent.ABSENT
"""As the value of an attribute: leave the attribute out of the response."""


class RunRow(NamedTuple):
    """What runs are filtered and sorted by: the columns that the database has.

    Attributes:
        number: its place among the made-up runs; None for a declared run.
        created_at: microseconds since the epoch, as is `updated_at`.
        duration: seconds; None unless it is a number.
    """

    id: int
    number: int | None
    project_id: int
    parent_id: int | None
    name: str
    description: str
    status: str
    owner_id: str | None
    created_at: int
    updated_at: int
    duration: float | None


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

    @property
    def tags(self) -> list[Pair]:
        """The well-formed tags."""
        return _pairs(self.attributes.get("tags"))

    def row(self) -> tuple[Any, ...]:
        """What projects are filtered and sorted by: `RunRow` without what only runs have."""
        given = self.attributes
        return (
            self.id,
            str(given.get("name") or ""),
            str(given.get("description") or ""),
            _text(given.get("owner_id")),
            to_microseconds(given.get("created_at")),
            to_microseconds(given.get("updated_at")),
        )


@attrs.frozen(eq=False)
class FixtureRun:
    """One declared run; with a timeline its status follows the clock.

    Attributes:
        project_id: the project whose artifacts hold its own.
        given: its attributes, apart from what the timeline and requests change.
        path: where its artifacts are, relative to the project's.
        inserted: when the timeline begins, in seconds by the clock.
    """

    id: int
    project_id: int
    given: Attributes
    parent_id: int | None
    artifacts: Files
    path: str
    timeline: Timeline
    inserted: float
    clock: Callable[[], float]

    def attributes(self) -> Attributes:
        """The attributes as of now, apart from what requests have changed since."""
        attributes = dict(self.given)
        if not self.timeline:
            return attributes
        attributes["started_at"] = started = None
        now = self.clock()
        for after, status in self.timeline:
            moment = self.inserted + after
            if moment > now:
                break
            written = to_text(round(moment * 1_000_000))
            attributes.update(status=status, updated_at=written)
            if status != "pending" and started is None:
                started = after
                attributes["started_at"] = written
            if status in _ENDED:
                attributes["completed_at"] = written
                attributes["duration"] = None if started is None else after - started
        return attributes

    def next_change(self) -> float | None:
        """When the timeline changes it next, if ever, in seconds by the clock."""
        now = self.clock()
        moments = (self.inserted + after for after, _ in self.timeline)
        return next((moment for moment in moments if moment > now), None)

    def pairs(self, field: PairsField, keys: Collection[str]) -> list[Pair]:
        """Those of its well-formed params or tags that have one of the keys."""
        return [pair for pair in getattr(self, field) if pair[0] in keys]

    @property
    def params(self) -> list[Pair]:
        """The well-formed params."""
        return _pairs(self.given.get("params"))

    @property
    def tags(self) -> list[Pair]:
        """The well-formed tags."""
        return _pairs(self.given.get("tags"))

    @property
    def metric_summaries(self) -> list[Attributes]:
        """The well-formed metric summaries."""
        summaries = self.given.get("metric_summaries")
        if not isinstance(summaries, list):
            return []
        return [summary for summary in summaries if isinstance(summary, dict)]

    def row(self) -> RunRow:
        """What it is filtered and sorted by, as of now."""
        now = self.attributes()
        duration = now.get("duration")
        return RunRow(
            self.id,
            None,
            self.project_id,
            self.parent_id,
            str(now.get("name") or ""),
            str(now.get("description") or ""),
            str(now.get("status")),
            _text(now.get("owner_id")),
            to_microseconds(now.get("created_at")),
            to_microseconds(now.get("updated_at")),
            float(duration) if isinstance(duration, int | float) else None,
        )


def run_attributes(
    run_id: int, project_id: int, now: float, given: Mapping[str, Any]
) -> Attributes:
    """A whole run around the attributes that a test cares about."""
    written = to_text(round(now * 1_000_000))
    defaults: Attributes = {
        "completed_at": None,
        "created_at": written,
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
        "started_at": written,
        "status": "running",
        "tags": [],
        "updated_at": written,
    }
    return served({**defaults, **given})


def project_attributes(project_id: int, now: float, given: Mapping[str, Any]) -> Attributes:
    """A whole project around the attributes that a test cares about."""
    written = to_text(round(now * 1_000_000))
    defaults: Attributes = {
        "artifact_storage_location": f"s3://model-lab-artifacts.example/{project_id}",
        "created_at": written,
        "deleted_at": None,
        "description": "",
        "external_url": None,
        "is_starred": False,
        "name": f"project-{project_id}",
        "owner_id": None,
        "tags": [],
        "updated_at": written,
    }
    return served({**defaults, **given})


_ENTRY_FIELDS: Final = {
    "params": ("key", "value"),
    "tags": ("key", "value"),
    "metric_summaries": (
        "key", "count", "first_step", "last_step", "latest", "max", "mean", "min", "stddev",
    ),
}  # fmt: skip


def refuse_unknown(what: str, names: Iterable[str], known: Collection[str]) -> None:
    """Raise a `TypeError` that names what is not known."""
    if unknown := [name for name in names if name not in known]:
        raise TypeError(
            f"a {what} has no {', '.join(map(repr, unknown))}; it has {', '.join(known)}"
        )


def read_run(run: Any) -> tuple[int | None, Attributes]:
    """The id and the attributes of an id, of a resource, or of an object with a run's attributes.

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
    attributes = {name: getattr(run, name) for name in RUN_ATTRIBUTES if hasattr(run, name)}
    for name, fields in _ENTRY_FIELDS.items():
        entries = attributes.get(name) or ()
        attributes[name] = [{field: getattr(e, field, None) for field in fields} for e in entries]
    return int(run.id), attributes


def served(attributes: Mapping[str, Any]) -> Attributes:
    """The attributes that are not `ABSENT`; times as the API writes them."""
    return {name: _plain(value) for name, value in attributes.items() if value is not ABSENT}


def pairs_to_json(pairs: list[Pair] | None) -> list[dict[str, str]] | None:
    """Params or tags as the API writes them."""
    return None if pairs is None else [{"key": key, "value": value} for key, value in pairs]


def _plain(value: Any) -> Any:
    return to_text(to_microseconds(value.isoformat())) if isinstance(value, datetime) else value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _pairs(value: Any) -> list[Pair]:
    """Params or tags as pairs; an entry that is not well-formed matches no filter."""
    if not isinstance(value, list):
        return []
    return [
        (entry["key"], entry["value"])
        for entry in value
        if isinstance(entry, dict)
        and isinstance(entry.get("key"), str)
        and isinstance(entry.get("value"), str)
    ]


RUN_ATTRIBUTES: Final = tuple(run_attributes(0, 0, 0, {}))
PROJECT_ATTRIBUTES: Final = tuple(project_attributes(0, 0, {}))
