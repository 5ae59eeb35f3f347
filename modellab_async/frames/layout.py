"""Rows of runs, column by column: one row for each run, or one for each key and value of it."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, get_args

import attrs

from modellab_async.frames.columns import ANY, STATISTICS, first, parse_columns, wide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from modellab_async.frames.columns import Column, Kind, Part, Statistic
    from modellab_async.models import Run

T = TypeVar("T")

Shape = Literal["wide", "long"]
"""``wide`` is one row for each run, ``long`` one for each run, key and value."""

LONG: Final[dict[str, Kind]] = {"run": "integer", "key": "text", "value": "text"}
"""The columns of the long shape; ``run`` is the run's id."""

SHAPES: Final = get_args(Shape)

_TYPED: Final[dict[Kind, Callable[[str], Any]]] = {"integer": int, "number": float}


@attrs.frozen
class Layout:
    """How runs become rows.

    Attributes:
        shape: what a row stands for.
        columns: of the wide shape, its columns; of the long one, the keys that it gives.
    """

    shape: Shape
    columns: tuple[Column, ...]

    @property
    def kinds(self) -> dict[str, Kind]:
        """What each column of the table holds, by name, in order; the run's id comes first."""
        if self.shape == "long":
            return LONG
        return {column.name: column.kind for column in self.columns}

    def values(self, runs: Sequence[Run]) -> list[list[Any]]:
        """The runs' rows, as one list for each column."""
        if self.shape == "wide":
            return self._wide(runs)
        ids: list[int] = []
        keys: list[str] = []
        values: list[str] = []
        for run in runs:
            for column in self.columns:
                for key, value in _entries(column, run):
                    ids.append(run.id)
                    keys.append(key)
                    values.append(as_text(value))
        return [ids, keys, values]

    def _wide(self, runs: Sequence[Run]) -> list[list[Any]]:
        parts: dict[Part, list[dict[str, Any]]] = {}
        found: list[list[Any]] = []
        for column in self.columns:
            if column.part == "run":
                found.append([getattr(run, column.key) for run in runs])
                continue
            if column.part not in parts:
                parts[column.part] = [first(run, column.part) for run in runs]
            found.append(_of_part(column, parts[column.part]))
        return found


def wanted_columns(names: Iterable[str] | None, statistic: Statistic, shape: Shape) -> list[Column]:
    """The columns that a table of a shape is to have.

    Raises:
        TypeError: for a lone string.
        ValueError: for a name that is no column's, an unknown shape or statistic.
    """
    if shape not in SHAPES:
        raise ValueError(f"shape must be 'wide' or 'long', not {shape!r}")
    found = parse_columns(names, statistic)
    return wide(found) if shape == "wide" else found


def _of_part(column: Column, maps: list[dict[str, Any]]) -> list[Any]:
    """A column of params, tags or metrics."""
    key, statistic = column.key, column.statistic
    if not key:
        return maps
    values = [found.get(key) for found in maps]
    if statistic:
        return [None if value is None else getattr(value, statistic) for value in values]
    typed = _TYPED.get(column.kind)
    if typed is None:
        return values
    return [None if value is None else typed(value) for value in values]


def _entries(column: Column, run: Run) -> Iterator[tuple[str, Any]]:
    """What a column gives in the long shape: keys and values that are not null, with repeats."""
    if column.part == "run":
        if (value := getattr(run, column.key)) is not None:
            yield column.name, value
    elif column.part == "metrics":
        statistics = (column.statistic,) if column.statistic else STATISTICS
        for metric in run.metric_summaries:
            if column.key in {"", ANY, metric.key}:
                for statistic in statistics:
                    if (value := getattr(metric, statistic)) is not None:
                        yield f"metrics.{metric.key}.{statistic}", value
    else:
        for pair in run.params if column.part == "params" else run.tags:
            if column.key in {"", ANY, pair.key}:
                yield f"{column.part}.{pair.key}", pair.value


def as_text(value: object) -> str:
    """A value as text that reads back as the same: times in UTC, numbers in full, true or false."""
    match value:
        case str():
            return str(value)
        case bool():
            return "true" if value else "false"
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case _:
            return repr(value)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Items in lists of up to ``size``."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
