"""Runs as Arrow tables, and from there as polars', pandas' or DuckDB's. Needs the extra ``arrow``.

Example:
    ```python
    from modellab_async import frames

    runs = await lab.runs.get_many([70158, 71354])
    columns = ["name", "params.learning_rate", "metrics.eval_loss.min"]
    table = frames.to_table(runs, columns=columns)
    ```

``columns`` says what columns are called and hold, ``layout`` makes rows, ``survey`` learns what a
layout needs from the runs, ``arrow`` makes rows Arrow's. Importing this imports none of pyarrow.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from modellab_async.errors import MissingExtraError
from modellab_async.frames.columns import ANY, Statistic
from modellab_async.frames.layout import Layout, Shape, batched, wanted_columns
from modellab_async.frames.survey import Survey

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence

    import pyarrow as pa

    from modellab_async.frames.columns import Column
    from modellab_async.models import Run

__all__ = [
    "ROWS",
    "Shape",
    "Statistic",
    "to_batches",
    "to_batches_async",
    "to_table",
    "to_table_async",
]

ROWS: Final = 10_000
"""How many runs a batch holds, by default."""


def to_table(
    runs: Iterable[Run],
    *,
    columns: Iterable[str] | None = None,
    statistic: Statistic = "latest",
    shape: Shape = "wide",
) -> pa.Table:
    """Runs as one Arrow table.

    A param's column has a numeric type where every value of it parses; a param, tag or metric that
    a run has not is null, and of a repeated key the first counts.

    Args:
        runs: the runs; they are all held until the table is made.
        columns: fields of the run (``name``, ``duration`` and so on), ``params.KEY``,
            ``tags.KEY``, ``metrics.KEY.STATISTIC``, ``metrics.KEY``, whole maps (``params``,
            ``tags``, ``metrics``), and ``*`` as a key for each key that any run has. By default
            all fields and the three maps. A wide table has the run's ``id`` in any case, and all
            other fields too where ``columns`` names none of them.
        statistic: that of ``metrics.KEY``: count, first_step, last_step, latest, max, mean, min or
            stddev.
        shape: ``"wide"`` for one row per run; ``"long"`` for ``run``, ``key`` and ``value``, with
            values as text and repeated keys kept.

    Raises:
        MissingExtraError: where pyarrow is not installed.
        ValueError: for a column that cannot be, and for an integer beyond 64 bits, such as a
            metric's count; it names the run and the column.
    """
    return _table_of(list(runs), wanted_columns(columns, statistic, shape), shape)


async def to_table_async(
    runs: AsyncIterable[Run],
    *,
    columns: Iterable[str] | None = None,
    statistic: Statistic = "latest",
    shape: Shape = "wide",
) -> pa.Table:
    """Like :func:`to_table`, for what comes one by one, such as ``lab.runs.list()``."""
    wanted = wanted_columns(columns, statistic, shape)
    return _table_of([run async for run in runs], wanted, shape)


def to_batches(
    runs: Iterable[Run],
    *,
    columns: Iterable[str] | None = None,
    statistic: Statistic = "latest",
    shape: Shape = "wide",
    rows: int = ROWS,
) -> Iterator[pa.RecordBatch]:
    """Runs as record batches of one schema, made as they are asked for, in bounded memory.

    What is still to come is not known, so that params are text here, and ``*`` is refused.

    Args:
        runs: the runs, of which no more than ``rows`` are held.
        columns: as in :func:`to_table`.
        statistic: as in :func:`to_table`.
        shape: as in :func:`to_table`.
        rows: how many runs to a batch.

    Raises:
        MissingExtraError: where pyarrow is not installed.
        ValueError: for a column that cannot be, for ``rows`` below 1, and for an integer beyond
            64 bits.
    """
    make = _Batches(columns, statistic, shape, rows)
    return (make.batch(some) for some in batched(runs, rows))


def to_batches_async(
    runs: AsyncIterable[Run],
    *,
    columns: Iterable[str] | None = None,
    statistic: Statistic = "latest",
    shape: Shape = "wide",
    rows: int = ROWS,
) -> AsyncIterator[pa.RecordBatch]:
    """Like :func:`to_batches`, for what comes one by one, such as ``lab.runs.list()``."""
    make = _Batches(columns, statistic, shape, rows)

    async def batches() -> AsyncIterator[pa.RecordBatch]:
        some: list[Run] = []
        async for run in runs:
            some.append(run)
            if len(some) == rows:
                yield make.batch(some)
                some = []
        if some:
            yield make.batch(some)

    return batches()


def needs_arrow(user: str) -> Any:
    """The room that makes Arrow of rows.

    Raises:
        MissingExtraError: where pyarrow is not installed; it names ``user`` and the extra.
    """
    if find_spec("pyarrow") is None:
        raise MissingExtraError(f"{user} needs pyarrow: pip install 'modellab_async[arrow]'")
    return import_module("modellab_async.frames.arrow")


class _Batches:
    """Makes batches of one schema."""

    def __init__(
        self, columns: Iterable[str] | None, statistic: Statistic, shape: Shape, rows: int
    ) -> None:
        if rows < 1:
            raise ValueError(f"rows must be at least 1, not {rows}")
        self._arrow = needs_arrow(__name__)
        wanted = wanted_columns(columns, statistic, shape)
        if shape == "wide" and any(column.key == ANY for column in wanted):
            raise ValueError("batches cannot have a column for every key (*): name the columns")
        self._layout = Layout(shape, tuple(wanted))
        self._schema = self._arrow.schema_of(self._layout)

    def batch(self, runs: Sequence[Run]) -> pa.RecordBatch:
        return self._arrow.batch_of(self._layout, self._schema, runs)


def _table_of(runs: Sequence[Run], wanted: Sequence[Column], shape: Shape) -> pa.Table:
    arrow = needs_arrow(__name__)
    survey = Survey(shape, wanted)
    for run in runs:
        survey.see(run)
    return arrow.table_of(survey.layout(), batched(runs, ROWS))
