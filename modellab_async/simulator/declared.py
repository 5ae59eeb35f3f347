"""Runs and projects that a test declares, attribute by attribute."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs

from modellab_async.simulator.times import to_microseconds, to_text

if TYPE_CHECKING:
    from modellab_async.simulator.resources import Attributes, Pair

Timeline: TypeAlias = Sequence[tuple[float, str]]
"""Statuses, each after the number of seconds since the run was inserted."""

_ENDED: Final = frozenset({"completed", "failed", "killed"})


class Absent(enum.Enum):
    """The type of `ABSENT`."""

    ABSENT = enum.auto()


ABSENT: Final = Absent.ABSENT
"""As the value of an attribute: leave the attribute out of the answer."""


@attrs.frozen(eq=False)
class Declared:
    """What declared runs and projects have in common."""

    id: int
    given: Mapping[str, Any]
    artifacts: Mapping[str, int | bytes]

    @property
    def name(self) -> str:
        """The name as text; empty where none was declared."""
        return str(self.given.get("name") or "")

    @property
    def description(self) -> str:
        """The description as text; empty where none was declared."""
        return str(self.given.get("description") or "")

    @property
    def owner_id(self) -> str | None:
        """The owner, or None where the declared one is no text."""
        return _text(self.given.get("owner_id"))

    @property
    def created(self) -> int:
        """`created_at` in microseconds since the epoch; 0 where it is no time."""
        return to_microseconds(self.given.get("created_at"))

    @property
    def updated(self) -> int:
        """`updated_at` in microseconds since the epoch; 0 where it is no time."""
        return to_microseconds(self.attributes().get("updated_at"))

    @property
    def tags(self) -> list[Pair] | None:
        """The well-formed tags, or None where there is no list of them."""
        return _pairs(self.given.get("tags"))

    def attributes(self) -> Attributes:
        """The attributes as served, apart from what requests have changed since."""
        return dict(self.given)


@attrs.frozen(eq=False)
class DeclaredRun(Declared):
    """One declared run; with a timeline its status follows the clock."""

    parent_id: int | None
    timeline: Timeline
    clock: Callable[[], float]
    inserted: float

    @property
    def project_id(self) -> int:
        """The project it belongs to."""
        return int(self.given["project_id"])

    @property
    def status(self) -> str:
        """The status, as of now."""
        return str(self.attributes().get("status"))

    @property
    def duration(self) -> float | None:
        """Seconds, as of now; None where it is no number."""
        duration = self.attributes().get("duration")
        return duration if isinstance(duration, int | float) else None

    @property
    def params(self) -> list[Pair] | None:
        """The well-formed params, or None where there is no list of them."""
        return _pairs(self.given.get("params"))

    def param_values(self, key: str) -> list[str]:
        """The values of the params with that key."""
        return [value for name, value in self.params or () if name == key]

    @property
    def path(self) -> str:
        """Where its artifacts are, relative to the project's."""
        return f"run-{self.id}/artifacts"

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


def run_attributes(
    run_id: int, project_id: int, now: float, given: Mapping[str, Any]
) -> Attributes:
    """A whole run around the attributes that a test cares about."""
    written = to_text(round(now * 1_000_000))
    return _completed(
        {
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
        },
        given,
    )


def project_attributes(project_id: int, now: float, given: Mapping[str, Any]) -> Attributes:
    """A whole project around the attributes that a test cares about."""
    written = to_text(round(now * 1_000_000))
    return _completed(
        {
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
        },
        given,
    )


def _completed(defaults: Attributes, given: Mapping[str, Any]) -> Attributes:
    merged = {**defaults, **given}
    return {name: value for name, value in merged.items() if value is not ABSENT}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _pairs(value: Any) -> list[Pair] | None:
    """Params or tags as pairs; whatever is not one, declared to vex a client, matches nothing."""
    if not isinstance(value, list):
        return None
    return [
        (entry["key"], entry["value"])
        for entry in value
        if isinstance(entry, dict)
        and isinstance(entry.get("key"), str)
        and isinstance(entry.get("value"), str)
    ]
