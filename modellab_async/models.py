"""The API's resources as frozen, slotted attrs classes.

Source: Datadog API v2, Model Lab (preview). Times are aware datetimes in UTC;
durations are seconds.
"""

# Annotations are evaluated, so that attrs.fields() holds types rather than their names.

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import Enum, StrEnum
from typing import Annotated, Any, Final, Self, TypeAlias, TypeVar, overload

import attrs
import cattrs

from modellab_async.notebook import render
from modellab_async.pydantic_schema import PydanticEnum, PydanticModel

T_co = TypeVar("T_co", covariant=True)

FilterValue: TypeAlias = str | float | bool
"""What a filter compares a param with."""


class RunStatus(PydanticEnum, StrEnum):
    """The status of a run. One that this version does not know is kept as it is.

    Compare with ``==``, also with plain strings; an unknown status is equal to its own text
    and to nothing else, and is never one of the members that iteration yields.
    """

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    KILLED = "killed"
    UNRESPONSIVE = "unresponsive"
    PAUSED = "paused"

    @property
    def is_terminal(self) -> bool:
        """Whether a run never leaves this status: completed, failed or killed."""
        return self in _TERMINAL

    def __reduce_ex__(self, _proto: object) -> tuple[Any, ...]:
        # By value: Python 3.11.0 to 3.11.3 pickle by name, which a status that is not known lacks.
        return RunStatus, (str(self.value),)

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        unknown = str.__new__(cls, value)
        unknown._name_ = value
        unknown._value_ = value
        return unknown


_TERMINAL: Final = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.KILLED})


def _short_repr(
    _model: type[Any], fields: "list[attrs.Attribute[Any]]"
) -> "list[attrs.Attribute[Any]]":
    """Leave optional fields out of a model's repr: a run's would have 3 KB, a page's 300."""
    shown: dict[Any, Any] = {datetime: str, RunStatus: lambda status: repr(str(status))}
    return [
        field.evolve(repr=field.default is attrs.NOTHING and shown.get(field.type, True))
        for field in fields
    ]


def count_of(items: Sequence[object]) -> str:
    """How a repr shows a long sequence."""
    return f"<{len(items)} items>"


@attrs.frozen(weakref_slot=False)
class Param(PydanticModel):
    """A training parameter of a run; values are text."""

    key: str
    value: str


@attrs.frozen(weakref_slot=False)
class Tag(PydanticModel):
    """A ``key:value`` label of a run or a project."""

    key: str
    value: str


@attrs.frozen(weakref_slot=False)
class MetricSummary(PydanticModel):
    """What the API keeps of one metric's history in a run.

    ``count`` values were recorded between ``first_step`` and ``last_step``; the statistics are
    floats, or None if the server left them out (it always leaves out ``stddev`` today).
    """

    key: str
    count: int
    first_step: int | None = None
    last_step: int | None = None
    latest: float | None = None
    max: float | None = None
    mean: float | None = None
    min: float | None = None
    stddev: float | None = None


@attrs.frozen(kw_only=True, field_transformer=_short_repr)
class Run(PydanticModel):
    """One training run.

    ``params``, ``tags`` and ``metric_summaries`` keep the server's order and repeats, and are
    empty if the server sends null. ``duration`` is in seconds. ``deleted_at`` is set on a run
    that was deleted but is still returned.
    """

    id: int
    name: str
    project_id: int
    status: RunStatus
    created_at: datetime
    updated_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    deleted_at: datetime | None = None
    description: str = ""
    duration: float | None = None
    owner_id: str | None = None
    external_url: str | None = None
    mlflow_artifact_location: str = ""
    has_children: bool = False
    is_pinned: bool = False
    descendant_match: bool = False
    params: tuple[Param, ...] = ()
    tags: tuple[Tag, ...] = ()
    metric_summaries: tuple[MetricSummary, ...] = ()

    def param(self, key: str) -> str | None:
        """The value of the first parameter named ``key``, or None."""
        return next((param.value for param in self.params if param.key == key), None)

    def tag(self, key: str) -> str | None:
        """The value of the first tag named ``key``, or None."""
        return next((tag.value for tag in self.tags if tag.key == key), None)

    def metric(self, key: str) -> MetricSummary | None:
        """The summary of the first metric named ``key``, or None."""
        return next((metric for metric in self.metric_summaries if metric.key == key), None)

    def _repr_html_(self) -> str | None:
        return render("run", run=self)


@attrs.frozen(kw_only=True, field_transformer=_short_repr)
class Project(PydanticModel):
    """A collection of runs."""

    id: int
    name: str
    description: str = ""
    artifact_storage_location: str = ""
    created_at: datetime | None = None
    updated_at: datetime | None = None
    deleted_at: datetime | None = None
    external_url: str | None = None
    owner_id: str | None = None
    is_starred: bool = False
    tags: tuple[Tag, ...] = ()

    def tag(self, key: str) -> str | None:
        """The value of the first tag named ``key``, or None."""
        return next((tag.value for tag in self.tags if tag.key == key), None)

    def _repr_html_(self) -> str | None:
        return render("project", project=self)


@attrs.frozen(weakref_slot=False)
class RunFile(PydanticModel):
    """A file or directory of a run; a directory's ``path`` ends in ``/``. Sizes are in bytes."""

    path: str
    is_dir: bool = False
    file_size: int | None = None


@attrs.frozen(kw_only=True, weakref_slot=False)
class RunArtifacts(PydanticModel):
    """One directory of a run's artifacts.

    A file's content is addressed by its project and ``path_in_project + "/" + file.path``.
    """

    id: str = ""
    path_in_project: str = ""
    files: tuple[RunFile, ...] = attrs.field(default=(), repr=count_of)

    def _repr_html_(self) -> str | None:
        return render("artifacts", artifacts=self, place=self.path_in_project)


@attrs.frozen(weakref_slot=False)
class ProjectFile(PydanticModel):
    """A file of a project; ``artifact_path`` addresses its content. The size is in bytes."""

    filename: str
    artifact_path: str
    created_at: datetime | None = None
    file_size: int | None = None


@attrs.frozen(kw_only=True, weakref_slot=False)
class ProjectArtifacts(PydanticModel):
    """The files of a project."""

    id: str = ""
    files: tuple[ProjectFile, ...] = attrs.field(default=(), repr=count_of)

    def _repr_html_(self) -> str | None:
        return render("artifacts", artifacts=self, place="")


@attrs.frozen(kw_only=True, weakref_slot=False)
class FacetKeys(PydanticModel):
    """What runs (or projects) can be filtered by."""

    id: str = ""
    metrics: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@attrs.frozen(weakref_slot=False)
class NumericRange(PydanticModel):
    """The smallest and the largest value of a numeric facet."""

    min: float | None = None
    max: float | None = None


@attrs.frozen(weakref_slot=False)
class MetricStatRange(PydanticModel):
    """The smallest and the largest value of one statistic (``stat``) of a metric."""

    stat: str
    min: float | None = None
    max: float | None = None


@attrs.frozen(kw_only=True, weakref_slot=False)
class FacetValues(PydanticModel):
    """The values that one facet takes."""

    id: str = ""
    facet_name: str = ""
    facet_type: str = ""
    values: tuple[str, ...] = ()
    numeric_range: NumericRange | None = None
    metric_stat_ranges: tuple[MetricStatRange, ...] = ()


@attrs.frozen(kw_only=True)
class Page(PydanticModel, Sequence[T_co]):
    """One page of a listing: a sequence of its items, and its position.

    ``number`` is the server's own count (it starts at 0 or at 1, see ``first_number``);
    ``next_number`` is None on the last page. ``total`` counts all pages' items, if known.
    """

    items: tuple[T_co, ...] = attrs.field(default=(), repr=count_of)
    total: int | None = None
    number: int | None = None
    size: int | None = None
    next_number: int | None = None
    prev_number: int | None = None
    first_number: int | None = None
    last_number: int | None = None

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> T_co: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[T_co, ...]: ...

    def __getitem__(self, index: int | slice) -> T_co | tuple[T_co, ...]:
        return self.items[index]

    def __iter__(self) -> Iterator[T_co]:
        return iter(self.items)

    def _repr_html_(self) -> str | None:
        return render("page", page=self)


class _RootRuns(Enum):
    """The type of `ROOT_RUNS`."""

    ROOT_RUNS = "null"

    def __repr__(self) -> str:
        return "ROOT_RUNS"


ROOT_RUNS: Final = _RootRuns.ROOT_RUNS
"""As ``RunFilter(parent_run_id=ROOT_RUNS)``: only runs that have no parent."""


def _plain_pairs(
    _instance: object, attribute: "attrs.Attribute[Any]", value: Mapping[str, object] | None
) -> None:
    """Refuse what ``key:value,key2:value2`` cannot carry; the API knows no way to escape."""
    if value is None:
        return
    for key, entry in value.items():
        for part in (key, entry):
            if isinstance(part, str) and ("," in part or ":" in part):
                raise ValueError(
                    f"{attribute.name} cannot hold {part!r}: commas and colons separate filters"
                    " on the wire; filter by another key, or filter what the listing returns"
                )
        if not isinstance(entry, str | int | float) or not key:
            raise ValueError(
                f"{attribute.name} must map names to text, numbers or booleans,"
                f" not {key!r} to {entry!r}"
            )


def _id_tuple(value: Iterable[int | str] | None) -> tuple[int | str, ...] | None:
    if isinstance(value, str | bytes):
        raise TypeError(f"ids must be a collection of ids, not {type(value).__name__}")
    ids = None if value is None else tuple(value)
    if ids == ():
        raise ValueError("ids is empty: omit it to list all runs")
    return ids


def _parent(value: int | str | _RootRuns | None) -> int | str | _RootRuns | None:
    return ROOT_RUNS if value == ROOT_RUNS.value else value


_AS_GIVEN: Final = cattrs.override(struct_hook=lambda value, _: value)
"""cattrs has no hook for these unions, such as for a filter from a configuration file."""

# One for each type of value: checkers take a filter's arguments to be what these take.


def _texts(value: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if value is None else dict(value)


def _values(value: Mapping[str, FilterValue] | None) -> dict[str, FilterValue] | None:
    return None if value is None else dict(value)


@attrs.frozen
class RunFilter(PydanticModel):
    """Which runs a listing returns; None means any, and a run must match all that is given.

    Args:
        ids: these runs only.
        text: text in the name or the description.
        owner_id: the owner's UUID.
        status: one status.
        project_id: runs of one project.
        tags: tags that a run must have.
        params: params that a run must have; a text such as ``"<0.01"`` or ``">=2"`` compares.
        parent_run_id: children of one run, or `ROOT_RUNS` (in a file ``"null"``) for runs
            without a parent.

    Raises:
        ValueError: for tags or params with a comma or a colon, which the API cannot take, and for
            an empty ``ids``, which it would take for all runs.
        TypeError: for a lone string as ``ids``.
    """

    ids: Annotated[tuple[int | str, ...] | None, _AS_GIVEN] = attrs.field(
        default=None, converter=_id_tuple
    )
    text: str | None = None
    owner_id: str | None = None
    status: Annotated[RunStatus | str | None, _AS_GIVEN] = None
    project_id: Annotated[int | str | None, _AS_GIVEN] = None
    tags: Mapping[str, str] | None = attrs.field(
        default=None, converter=_texts, validator=_plain_pairs, hash=False
    )
    params: Annotated[Mapping[str, FilterValue] | None, _AS_GIVEN] = attrs.field(
        default=None, converter=_values, validator=_plain_pairs, hash=False
    )
    parent_run_id: Annotated[int | str | _RootRuns | None, _AS_GIVEN] = attrs.field(
        default=None, converter=_parent
    )


@attrs.frozen
class ProjectFilter(PydanticModel):
    """Which projects a listing returns; None means any.

    Args:
        text: text in the name or the description.
        owner_id: the owner's UUID.
        tags: tags that a project must have.

    Raises:
        ValueError: for tags with a comma or a colon, which the API cannot take.
    """

    text: str | None = None
    owner_id: str | None = None
    tags: Mapping[str, str] | None = attrs.field(
        default=None, converter=_texts, validator=_plain_pairs, hash=False
    )
