"""Which columns rows of runs have: names such as ``params.learning_rate`` taken apart, and types.

Nothing here needs Arrow; CSV and JSON lines have the same columns.
"""

from __future__ import annotations

import typing
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

import attrs

from modellab_async.models import MetricSummary, Run, RunStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Kind = Literal["text", "integer", "number", "flag", "time", "texts", "summaries"]
"""What a column holds; ``texts`` and ``summaries`` are maps from a key."""

Part = Literal["run", "params", "tags", "metrics"]
"""Where in a run a column's values are."""

Statistic = Literal["count", "first_step", "last_step", "latest", "max", "mean", "min", "stddev"]
"""What is kept of a metric's history."""

STATISTICS: Final[tuple[str, ...]] = get_args(Statistic)

ANY: Final = "*"
"""As a key: a column for each key that any of the runs has."""

_KINDS: Final[dict[object, Kind]] = {
    bool: "flag", int: "integer", float: "number", datetime: "time", str: "text", RunStatus: "text",
}  # fmt: skip


def _kind(hint: object) -> Kind | None:
    """The kind of a model's field; None for lists."""
    return next((_KINDS[kind] for kind in (hint, *get_args(hint)) if kind in _KINDS), None)


_HINTS: Final[dict[str, Kind | None]] = {
    name: _kind(hint) for name, hint in typing.get_type_hints(Run).items()
}
FIELDS: Final[dict[str, Kind]] = {name: kind for name, kind in _HINTS.items() if kind is not None}
"""The columns of a run's own fields, in order."""

_SUMMARY_HINTS: Final = typing.get_type_hints(MetricSummary)
STATISTIC_KINDS: Final[dict[str, Kind]] = {
    name: cast("Kind", _kind(_SUMMARY_HINTS[name])) for name in STATISTICS
}

_MAPS: Final[dict[str, Kind]] = {"params": "texts", "tags": "texts", "metrics": "summaries"}


@attrs.frozen
class Column:
    """One column.

    Attributes:
        name: as it was asked for, and as it is named in a table.
        part: where in a run its values are.
        key: a field of the run, or the key of a param, tag or metric; empty for a whole map.
        kind: what it holds.
        statistic: which statistic of a metric.
    """

    name: str
    part: Part
    key: str
    kind: Kind
    statistic: str = ""


def parse_columns(names: Iterable[str] | None, statistic: Statistic = "latest") -> list[Column]:
    """The columns that names such as ``status`` or ``metrics.eval_loss.min`` stand for.

    Args:
        names: all fields of the run and its maps where None.
        statistic: that of metrics whose name says none.

    Raises:
        TypeError: for a lone string.
        ValueError: for a name that is no column's, one that comes twice, and none at all.
    """
    if isinstance(names, str):
        raise TypeError("columns must be a collection of names, not one string")
    if statistic not in STATISTICS:
        raise ValueError(f"statistic must be one of {', '.join(STATISTICS)}, not {statistic!r}")
    found = [
        parse_column(name, statistic) for name in ([*FIELDS, *_MAPS] if names is None else names)
    ]
    if not found:
        raise ValueError("columns is empty: leave it out to have all of them")
    for index, column in enumerate(found):
        if column in found[:index]:
            raise ValueError(f"column {column.name!r} is named twice")
    return found


def parse_column(name: str, statistic: str) -> Column:
    """The column that a name stands for.

    Raises:
        ValueError: for a name that is no column's.
    """
    part, dot, key = name.partition(".")
    if not dot and part in FIELDS:
        return Column(name, "run", part, FIELDS[part])
    if part not in _MAPS or (dot and not key):
        raise ValueError(
            f"no column {name!r}: name a field of the run ({', '.join(FIELDS)}),"
            " params, tags, metrics, or one of theirs such as params.learning_rate, tags.team,"
            " metrics.eval_loss or metrics.eval_loss.min"
        )
    if not dot:
        return Column(name, cast("Part", part), "", _MAPS[part])
    if part != "metrics":
        return Column(name, cast("Part", part), key, "text")
    metric, _, last = key.rpartition(".")
    if metric and last in STATISTICS:
        key, statistic = metric, last
    return Column(name, "metrics", key, STATISTIC_KINDS[statistic], statistic)


def wide(columns: Sequence[Column]) -> list[Column]:
    """The columns of rows that stand for a run each: its id and other fields, then the rest.

    Where no field of the run is asked for, all of them come.
    """
    own = [column for column in columns if column.part == "run"]
    fields = own or [parse_column(name, "latest") for name in FIELDS]
    rest = [column for column in columns if column.part != "run"]
    first_of_all = parse_column("id", "latest")
    return [first_of_all, *(column for column in fields if column != first_of_all), *rest]


def first(run: Run, part: Part) -> dict[str, Any]:
    """Params, tags or metrics by key; of a repeated key the first, as ``run.param`` has it."""
    if part == "metrics":
        pairs: list[tuple[str, Any]] = [(metric.key, metric) for metric in run.metric_summaries]
    else:
        pairs = [(pair.key, pair.value) for pair in (run.params if part == "params" else run.tags)]
    found = dict(pairs)
    if len(found) < len(pairs):
        found.update(reversed(pairs))
    return found
