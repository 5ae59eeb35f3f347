"""Rows as JSON lines and as CSV."""

from __future__ import annotations

import contextlib
import csv
import sys
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TextIO

import attrs
import msgspec

from modellab_async.errors import ExportError
from modellab_async.export.part import synced
from modellab_async.frames.columns import STATISTICS
from modellab_async.frames.layout import as_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    from modellab_async.frames.columns import Kind
    from modellab_async.frames.layout import Layout
    from modellab_async.idset import IdSet
    from modellab_async.models import MetricSummary, Run

_CARRIED: Final = 10_000
"""How many rows are carried over in one go."""


class JsonLines:
    """One JSON object for each row; ``NaN``, which JSON does not know, is null."""

    def __init__(self, path: Path, layout: Layout, became_text: Collection[str] = ()) -> None:
        """Begin the file.

        Args:
            path: the file.
            layout: of its rows.
            became_text: columns that held numbers in the file that rows are carried over from.
        """
        self._file = path.open("wb")
        self._layout = layout
        self._became_text = became_text
        self._names = tuple(layout.kinds)
        self._mends = [_PLAIN.get(kind) for kind in layout.kinds.values()]
        self._encoder = msgspec.json.Encoder()

    def write(self, runs: Sequence[Run]) -> None:
        """Add the rows of runs."""
        columns = [
            values if mend is None else [mend(value) for value in values]
            for values, mend in zip(self._layout.values(runs), self._mends, strict=True)
        ]
        rows = [dict(zip(self._names, row, strict=True)) for row in zip(*columns, strict=True)]
        self._file.write(self._encoder.encode_lines(rows))

    def carry(self, earlier: Path, without: IdSet, kept: IdSet) -> Iterator[int]:
        """Add an earlier file's rows, but for some runs'; gives now and then how many it read."""
        row = msgspec.defstruct("_Row", [(self._names[0], int)])
        run_id = msgspec.json.Decoder(row).decode
        with earlier.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    found = getattr(run_id(line), self._names[0])
                    if found not in without:
                        kept.add(found)
                        self._file.write(self._mended(line) if self._became_text else line)
                except msgspec.DecodeError as error:
                    raise ExportError(f"{earlier}, line {number}: {error}") from None
                if number % _CARRIED == 0:
                    yield number

    def close(self) -> None:
        """Bring the file to disk and let go of it."""
        _close(self._file)

    def _mended(self, line: bytes) -> bytes:
        row = msgspec.json.decode(line)
        for name in self._became_text:
            if row.get(name) is not None:
                row[name] = as_text(row[name])
        return self._encoder.encode(row) + b"\n"


class Csv:
    """A header and a line for each row; what is null is empty, and maps are JSON in a cell."""

    def __init__(self, path: Path, layout: Layout, _became_text: Collection[str] = ()) -> None:
        """Begin the file."""
        self._binary = path.open("wb")
        self._file = open(  # noqa: SIM115 - closed in close()
            self._binary.fileno(), "w", encoding="utf-8", newline="", closefd=False
        )
        self._layout = layout
        self._rows = csv.writer(_EndedByNewline(self._file), lineterminator="\r\n")
        self._names = list(layout.kinds)
        self._mends = [_CELLS.get(kind, as_text) for kind in layout.kinds.values()]
        self._rows.writerow(self._names)

    def write(self, runs: Sequence[Run]) -> None:
        """Add the rows of runs."""
        columns = [
            ["" if value is None else mend(value) for value in values]
            for values, mend in zip(self._layout.values(runs), self._mends, strict=True)
        ]
        self._rows.writerows(zip(*columns, strict=True))

    def carry(self, earlier: Path, without: IdSet, kept: IdSet) -> Iterator[int]:
        """Add an earlier file's rows, but for some runs'; gives now and then how many it read."""
        with earlier.open(encoding="utf-8", newline="") as file, _long_cells():
            rows = csv.reader(file)
            header = next(rows, [])
            at = {name: index for index, name in enumerate(header)}
            places = [at.get(name) for name in self._names]
            if header[:1] != self._names[:1] or not at.keys() <= set(self._names):
                raise ExportError(f"{earlier} has other columns than it was exported with")
            for number, row in enumerate(rows, start=1):
                if len(row) != len(header) or not row[0].isdecimal():
                    raise ExportError(f"{earlier}, row {number}: not as it was exported")
                if (found := int(row[0])) not in without:
                    kept.add(found)
                    self._rows.writerow(["" if i is None else row[i] for i in places])
                if number % _CARRIED == 0:
                    yield number

    def close(self) -> None:
        """Bring the file to disk and let go of it."""
        try:
            self._file.close()
        finally:
            _close(self._binary)


@attrs.frozen
class _EndedByNewline:
    """Rows ended by a newline alone.

    A writer quotes what ends its lines, and a bare carriage return otherwise only since 3.13.
    """

    _file: TextIO

    def write(self, row: str) -> int:
        """Write a row that ends in both."""
        return self._file.write(row[:-2] + "\n")


def _close(file: BinaryIO) -> None:
    with file:
        synced(file)


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
    """A cell may be a whole map, which is more than the reader takes by default."""
    limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _plain_summaries(found: dict[str, MetricSummary]) -> dict[str, Any]:
    return {
        key: {name: getattr(summary, name) for name in STATISTICS} for key, summary in found.items()
    }


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


_PLAIN: Final[dict[Kind, Callable[[Any], Any]]] = {"summaries": _plain_summaries}
_CELLS: Final[dict[Kind, Callable[[Any], str]]] = {
    "text": str,
    "texts": _json,
    "summaries": lambda found: _json(_plain_summaries(found)),
}
