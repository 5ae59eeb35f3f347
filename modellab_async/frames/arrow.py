"""Rows as Arrow's record batches; the only room of frames that imports pyarrow."""

from __future__ import annotations

from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from modellab_async.frames.columns import STATISTIC_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from modellab_async.frames.columns import Kind
    from modellab_async.frames.layout import Layout
    from modellab_async.models import Run

_SCALARS: Final = {
    "text": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "flag": pa.bool_(),
    "time": pa.timestamp("us", tz="UTC"),
}
_SUMMARY: Final = pa.struct([(name, _SCALARS[kind]) for name, kind in STATISTIC_KINDS.items()])
_TYPES: Final[dict[str, Any]] = _SCALARS | {
    "texts": pa.map_(pa.string(), pa.string()),
    "summaries": pa.map_(pa.string(), _SUMMARY),
}


def schema_of(layout: Layout) -> pa.Schema:
    """The columns of a layout as Arrow's."""
    return pa.schema([(name, _TYPES[kind]) for name, kind in layout.kinds.items()])


def batch_of(layout: Layout, schema: pa.Schema, runs: Sequence[Run]) -> pa.RecordBatch:
    """Runs as one batch of rows.

    Raises:
        ValueError: for an integer beyond 64 bits, naming the run and the column.
    """
    try:
        arrays = _arrays(layout, runs)
    except OverflowError:
        raise _beyond(layout, runs) from None
    return pa.record_batch(arrays, schema=schema)


def _arrays(layout: Layout, runs: Sequence[Run]) -> list[pa.Array]:
    kinds = layout.kinds.values()
    return [_array(kind, values) for kind, values in zip(kinds, layout.values(runs), strict=True)]


def _beyond(layout: Layout, runs: Sequence[Run]) -> ValueError:
    """What to say of the first value that is too large for its column."""
    for run in runs:
        for (name, kind), values in zip(layout.kinds.items(), layout.values([run]), strict=True):
            try:
                _array(kind, values)
            except OverflowError:
                return ValueError(f"run {run.id}: an integer of {name} is beyond 64 bits")
    raise AssertionError("no run of them is to blame")


def table_of(layout: Layout, batches: Iterable[Sequence[Run]]) -> pa.Table:
    """Runs as one table."""
    schema = schema_of(layout)
    return pa.Table.from_batches([batch_of(layout, schema, runs) for runs in batches], schema)


def _array(kind: Kind, values: list[Any]) -> pa.Array:
    if kind in _SCALARS:
        return pa.array(values, type=_SCALARS[kind])
    return _map(kind, values)


def _map(kind: Kind, maps: Sequence[Mapping[str, Any]]) -> pa.Array:
    """Maps from flat lists, many times as fast as from a list of pairs for each."""
    offsets = pa.array([0, *accumulate(map(len, maps))], type=pa.int32())
    keys = pa.array(list(chain.from_iterable(maps)), type=pa.string())
    values = [value for found in maps for value in found.values()]
    if kind == "texts":
        items = pa.array(values, type=pa.string())
    else:
        items = pa.StructArray.from_arrays(
            [
                pa.array([getattr(value, name) for value in values], type=_SCALARS[of])
                for name, of in STATISTIC_KINDS.items()
            ],
            fields=list(_SUMMARY),
        )
    return pa.MapArray.from_arrays(offsets, keys, items)
