"""Runs as Arrow tables, and from there as polars', pandas' or DuckDB's. Needs the extra ``tables``.

Example:
    ```python
    from modellab_async import frames

    runs = await lab.runs.get_many([70158, 71354])
    columns = ["name", "params.learning_rate", "metrics.eval_loss.min"]
    table = frames.to_table(runs, columns=columns)
    ```

``columns`` parses column names, ``arrow`` turns runs into Arrow data of one row each, and ``sql``
selects columns from that by an in-memory DuckDB. `modellab_async.store` and
`modellab_async.export` use the same three. Importing this imports neither pyarrow nor DuckDB.
"""

from __future__ import annotations

from importlib import import_module
from itertools import islice
from typing import TYPE_CHECKING, Final

from modellab_async.frames import sql
from modellab_async.frames.columns import ANY, Shape, Statistic, table_columns
from modellab_async.models import Run

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence

    import pyarrow as pa

    from modellab_async.frames.columns import Column

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
"""Runs per batch, by default."""


def to_table(
    runs: Iterable[Run],
    *,
    columns: Iterable[str] | None = None,
    statistic: Statistic = "latest",
    shape: Shape = "wide",
) -> pa.Table:
    """Runs as one Arrow table.

    A param's column is numeric if every value of it is a number; a param, tag or metric that a run
    does not have is null, and of a repeated key the first counts.

    Args:
        runs: the runs; all of them are held until the table is made.
        columns: fields of the run (``name``, ``duration`` and so on), ``params.KEY``,
            ``tags.KEY``, ``metrics.KEY.STATISTIC``, ``metrics.KEY``, whole maps (``params``,
            ``tags``, ``metrics``), and ``*`` as a key for each key that any run has. By default
            all fields and the three maps. A wide table always has the run's ``id``, and all other
            fields too unless ``columns`` names some of them.
        statistic: that of ``metrics.KEY``: count, first_step, last_step, latest, max, mean, min or
            stddev.
        shape: ``"wide"`` for one row per run; ``"long"`` for ``run``, ``key`` and ``value``, with
            values as text and repeated keys kept.

    Raises:
        MissingExtraError: without pyarrow or DuckDB.
        ValueError: for an unknown column, and for an integer beyond 64 bits, such as a metric's
            count; it names the run and the field.
    """
    return _table(runs, table_columns(columns, statistic, shape), shape)


async def to_table_async(
    runs: AsyncIterable[Run],
    *,
    columns: Iterable[str] | None = None,
    statistic: Statistic = "latest",
    shape: Shape = "wide",
) -> pa.Table:
    """Like :func:`to_table`, for an async iterable, such as ``lab.runs.list()``."""
    wanted = table_columns(columns, statistic, shape)
    return _table([run async for run in runs], wanted, shape)


def to_batches(
    runs: Iterable[Run],
    *,
    columns: Iterable[str] | None = None,
    statistic: Statistic = "latest",
    shape: Shape = "wide",
    rows: int = ROWS,
) -> Iterator[pa.RecordBatch]:
    """Runs as record batches of one schema, made on demand, in bounded memory.

    The runs to come are unknown, so params are text here, and ``*`` is refused.

    Args:
        runs: the runs, of which at most ``rows`` are held.
        columns: as in :func:`to_table`.
        statistic: as in :func:`to_table`.
        shape: as in :func:`to_table`.
        rows: runs per batch.

    Raises:
        MissingExtraError: without pyarrow or DuckDB.
        ValueError: for an unknown column, for ``rows`` below 1, and for an integer beyond 64 bits.
    """
    make_batch = _batch_maker(columns, statistic, shape, rows)
    remaining = iter(runs)
    return map(make_batch, iter(lambda: list(islice(remaining, rows)), []))


def to_batches_async(
    runs: AsyncIterable[Run],
    *,
    columns: Iterable[str] | None = None,
    statistic: Statistic = "latest",
    shape: Shape = "wide",
    rows: int = ROWS,
) -> AsyncIterator[pa.RecordBatch]:
    """Like :func:`to_batches`, for an async iterable, such as ``lab.runs.list()``."""
    make_batch = _batch_maker(columns, statistic, shape, rows)

    async def batches() -> AsyncIterator[pa.RecordBatch]:
        some: list[Run] = []
        async for run in runs:
            some.append(run)
            if len(some) == rows:
                yield make_batch(some)
                some = []
        if some:
            yield make_batch(some)

    return batches()


def _batch_maker(
    columns: Iterable[str] | None, statistic: Statistic, shape: Shape, rows: int
) -> Callable[[Sequence[Run]], pa.RecordBatch]:
    if rows < 1:
        raise ValueError(f"rows must be at least 1, not {rows}")
    sql.needed_by(__name__)
    wanted = table_columns(columns, statistic, shape)
    if shape == "wide" and any(column.key == ANY for column in wanted):
        raise ValueError("batches cannot have a column for every key (*): name the columns")

    def make_batch(runs: Sequence[Run]) -> pa.RecordBatch:
        structs = _select(runs, wanted, shape, resolve=False).to_struct_array().combine_chunks()
        return import_module("pyarrow").RecordBatch.from_struct_array(structs)

    return make_batch


def _table(runs: Iterable[Run], columns: Sequence[Column], shape: Shape) -> pa.Table:
    return _select(list(runs), columns, shape, resolve=True)


def _select(
    runs: Sequence[Run], columns: Sequence[Column], shape: Shape, *, resolve: bool
) -> pa.Table:
    with sql.connect(__name__, threads=1) as connection:
        from modellab_async.frames.arrow import to_arrow  # noqa: PLC0415 - needs pyarrow

        connection.register("runs", to_arrow(runs, Run))
        types: dict[str, str] = {}
        if resolve:
            columns, types = sql.resolve(columns, shape, "runs", connection)
        return connection.sql(sql.query(columns, shape, "runs", types)).to_arrow_table()
