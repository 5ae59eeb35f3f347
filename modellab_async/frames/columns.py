"""Column names such as ``params.learning_rate``, taken apart. Needs neither pyarrow nor DuckDB."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import attrs

from modellab_async.models import MetricSummary, Run

if TYPE_CHECKING:
    from collections.abc import Iterable

Shape = Literal["wide", "long"]
"""``wide`` has one row per run, ``long`` one row per run, key and value."""

Statistic = Literal["count", "first_step", "last_step", "latest", "max", "mean", "min", "stddev"]
"""A statistic of a metric's history."""

ANY: Final = "*"
"""As a key: one column for each key that any of the runs has."""


def _types_of(model: type[Any]) -> dict[str, type]:
    """A model's scalar fields, each with its type; of ``T | None`` that is T."""
    hints = typing.get_type_hints(model).items()
    found = {name: (get_args(hint) or (hint,))[0] for name, hint in hints}
    return {name: kind for name, kind in found.items() if not attrs.has(kind)}


FIELDS: Final = _types_of(Run)
"""The columns of a run's scalar fields, in order, each with its type."""

_STATISTIC_TYPES: Final = _types_of(MetricSummary)
STATISTICS: Final[tuple[str, ...]] = get_args(Statistic)

LISTS: Final = {"params": "params", "tags": "tags", "metrics": "metric_summaries"}
"""The parts of a run that are lists, each with the field that holds it."""


@attrs.frozen
class Column:
    """One column.

    Attributes:
        name: its name in a table.
        part: ``"run"``, ``"params"``, ``"tags"`` or ``"metrics"``.
        key: a field of the run, or the key of a param, tag or metric; empty for a whole map.
        statistic: the statistic of a metric.
    """

    name: str
    part: str
    key: str
    statistic: str = ""

    @property
    def type(self) -> type:
        """The type of its values, as text if a param has not been looked at; dict for a map."""
        if self.part == "run":
            return FIELDS[self.key]
        if not self.key:
            return dict
        return _STATISTIC_TYPES[self.statistic] if self.statistic else str


def parse_columns(names: Iterable[str] | None, statistic: Statistic = "latest") -> list[Column]:
    """The columns that names such as ``status`` or ``metrics.eval_loss.min`` mean.

    Args:
        names: all fields and maps by default.
        statistic: the statistic of metrics named without one.

    Raises:
        TypeError: for a single string.
        ValueError: for an unknown or repeated name, no name at all, and an unknown statistic.
    """
    if isinstance(names, str):
        raise TypeError("columns must be a collection of names, not one string")
    if statistic not in STATISTICS:
        raise ValueError(f"statistic must be one of {', '.join(STATISTICS)}, not {statistic!r}")
    columns = [_parse(name, statistic) for name in ([*FIELDS, *LISTS] if names is None else names)]
    if not columns:
        raise ValueError("columns is empty: omit it for all of them")
    for index, column in enumerate(columns):
        if column in columns[:index]:
            raise ValueError(f"column {column.name!r} is named twice")
    return columns


def table_columns(names: Iterable[str] | None, statistic: Statistic, shape: Shape) -> list[Column]:
    """The columns of a table.

    A wide table starts with the run's id and its other fields: those named, or else all.

    Raises:
        TypeError: as `parse_columns`.
        ValueError: as `parse_columns`, and for an unknown shape.
    """
    if shape not in get_args(Shape):
        raise ValueError(f"shape must be 'wide' or 'long', not {shape!r}")
    columns = parse_columns(names, statistic)
    if shape == "long":
        return columns
    own = [column for column in columns if column.part == "run"]
    fields = own or [Column(name, "run", name) for name in FIELDS]
    rest = [column for column in columns if column.part != "run"]
    return [Column("id", "run", "id"), *(column for column in fields if column.key != "id"), *rest]


def _parse(name: str, statistic: str) -> Column:
    part, dot, key = name.partition(".")
    if not dot and part in FIELDS:
        return Column(name, "run", part)
    if part not in LISTS or (dot and not key):
        raise ValueError(
            f"no column {name!r}: name a field of the run ({', '.join(FIELDS)}),"
            " params, tags, metrics, or one of theirs such as params.learning_rate, tags.team,"
            " metrics.eval_loss or metrics.eval_loss.min"
        )
    if part != "metrics" or not dot:
        return Column(name, part, key)
    metric, _, last = key.rpartition(".")
    if metric and last in STATISTICS:
        return Column(name, part, metric, last)
    return Column(name, part, key, statistic)
