"""Rows as Apache Parquet, one row group after the other; imported only where pyarrow is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from modellab_async.errors import ExportError
from modellab_async.export.part import synced
from modellab_async.frames.arrow import batch_of, schema_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from modellab_async.frames.layout import Layout
    from modellab_async.idset import IdSet
    from modellab_async.models import Run

_CARRIED: Final = 10_000
_CARRIED_LONG: Final = 500_000
"""How many rows of either shape are carried over as one row group."""


class Parquet:
    """A Parquet file, compressed by Zstandard, with a row group for each batch."""

    def __init__(self, path: Path, layout: Layout, _became_text: Collection[str] = ()) -> None:
        """Begin the file."""
        self._layout = layout
        self._schema = schema_of(layout)
        self._file = path.open("wb")
        self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")

    def write(self, runs: Sequence[Run]) -> None:
        """Add the rows of runs, as a row group.

        Raises:
            ExportError: for an integer beyond 64 bits.
        """
        try:
            batch = batch_of(self._layout, self._schema, runs)
        except ValueError as error:
            raise ExportError(f"{error}: leave it out, or export to JSON lines or CSV") from error
        if batch.num_rows:
            self._writer.write_batch(batch, row_group_size=batch.num_rows)

    def carry(self, earlier: Path, without: IdSet, kept: IdSet) -> Iterator[int]:
        """Add an earlier file's rows, but for some runs'; gives now and then how many it read."""
        size = _CARRIED if self._layout.shape == "wide" else _CARRIED_LONG
        read = 0
        try:
            with pq.ParquetFile(earlier) as file:
                for batch in file.iter_batches(size):
                    ids = batch.column(self._schema.names[0]).to_pylist()
                    mask = [number not in without for number in ids]
                    for number in set(ids):
                        if number not in without:
                            kept.add(number)
                    rows = batch.filter(pa.array(mask, type=pa.bool_()))
                    if rows.num_rows:
                        self._writer.write_batch(self._fitted(rows), row_group_size=rows.num_rows)
                    read += len(ids)
                    yield read
        except (pa.ArrowException, KeyError) as error:
            raise ExportError(f"{earlier} is not as it was exported: {error}") from error

    def close(self) -> None:
        """Write the footer, bring the file to disk, and let go of it."""
        with self._file:
            self._writer.close()
            synced(self._file)

    def _fitted(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Rows in the schema of this file, which may have more columns, or wider ones."""
        names = set(rows.schema.names)
        columns = [
            pc.cast(rows.column(field.name), field.type)
            if field.name in names
            else pa.nulls(rows.num_rows, field.type)
            for field in self._schema
        ]
        return pa.record_batch(columns, schema=self._schema)
