"""Runs side by side: the params in which they differ, and their metrics."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeVar, get_args

import attrs

from modellab_async.models import Run, count_of
from modellab_async.notebook import render

T = TypeVar("T")

Statistic = Literal["latest", "min", "max", "mean", "stddev"]
"""What a summary of a metric holds."""


@attrs.frozen
class ParamRow:
    """A param and what each run has for it, in the order of the runs; None if one lacks it.

    If a run has the same param more than once, its values are joined by commas.
    """

    key: str
    values: tuple[str | None, ...]

    @property
    def differs(self) -> bool:
        """Whether the runs disagree; they compare as text, so ``1`` and ``1.0`` do."""
        return len(set(self.values)) > 1


@attrs.frozen
class MetricRow:
    """A metric and its statistic in each run, in the order of the runs; None if one lacks it."""

    key: str
    values: tuple[float | None, ...]


@attrs.frozen
class Comparison:
    """What `compare` found; a notebook shows it as a table.

    Attributes:
        runs: the runs, in the order given.
        statistic: which statistic of the metrics is compared.
        params: the params in which the runs differ, in the order in which they first appear.
        same_params: those in which they all agree.
        metrics: every metric that at least one run has.
    """

    runs: tuple[Run, ...]
    statistic: Statistic
    params: tuple[ParamRow, ...] = attrs.field(repr=count_of)
    same_params: tuple[ParamRow, ...] = attrs.field(repr=count_of)
    metrics: tuple[MetricRow, ...] = attrs.field(repr=count_of)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain values; lists are in the order of the runs."""
        return {
            "runs": [
                {"id": run.id, "name": run.name, "status": str(run.status)} for run in self.runs
            ],
            "statistic": self.statistic,
            "params": {row.key: list(row.values) for row in self.params},
            "same_params": {row.key: row.values[0] for row in self.same_params},
            "metrics": {row.key: list(row.values) for row in self.metrics},
        }

    def _repr_html_(self) -> str | None:
        return render("comparison", comparison=self)


def compare(runs: Iterable[Run], *, statistic: Statistic = "latest") -> Comparison:
    """Put runs side by side: the params in which they differ, and their metrics.

    Args:
        runs: two or more; one alone differs from nothing.
        statistic: ``latest``, ``min``, ``max``, ``mean`` or ``stddev`` of each metric. Of a metric
            that a run has more than once, the first summary counts, as in ``run.metric``.

    Raises:
        ValueError: for an unknown statistic.
        TypeError: for a lone run.
    """
    known = get_args(Statistic)
    if statistic not in known:
        raise ValueError(f"statistic must be one of {', '.join(known)}, not {statistic!r}")
    found = tuple(runs)
    params = [
        ParamRow(key, tuple(None if given is None else ", ".join(given) for given in values))
        for key, values in _side_by_side(
            [(param.key, param.value) for param in run.params] for run in found
        )
    ]
    metrics = [
        MetricRow(key, tuple(None if given is None else given[0] for given in values))
        for key, values in _side_by_side(
            [(metric.key, getattr(metric, statistic)) for metric in run.metric_summaries]
            for run in found
        )
    ]
    return Comparison(
        found,
        statistic,
        tuple(row for row in params if row.differs),
        tuple(row for row in params if not row.differs),
        tuple(metrics),
    )


def _side_by_side(
    columns: Iterable[Iterable[tuple[str, T]]],
) -> Iterator[tuple[str, list[list[T] | None]]]:
    """Each key with its values in every column, in the order in which keys first appear."""
    found: list[dict[str, list[T]]] = []
    for column in columns:
        values: dict[str, list[T]] = {}
        for key, value in column:
            values.setdefault(key, []).append(value)
        found.append(values)
    for key in dict.fromkeys(key for values in found for key in values):
        yield key, [values.get(key) for values in found]
