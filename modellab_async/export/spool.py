"""The runs of an export that is under way, on disk: what a killed process leaves to the next."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from modellab_async.converter import from_json, make_converter, to_json
from modellab_async.errors import DecodeError
from modellab_async.export.part import Lines
from modellab_async.idset import IdSet
from modellab_async.models import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STEP: Final = 1_000
"""After so many runs, or a second, what was fetched is brought to disk."""

_STEP_SECONDS: Final = 1.0


class Spool:
    """Runs as JSON lines, each run once.

    Attributes:
        ids: the runs that are in it.
        earlier: those of them that were in it when it was opened.
    """

    def __init__(self, path: Path, see: Callable[[Run], object]) -> None:
        """Nothing is read or written yet.

        Args:
            path: the file.
            see: called with every run, also with those of earlier processes.
        """
        self.ids: IdSet = IdSet()
        self.earlier: IdSet = IdSet()
        self._whole = 0
        self._see = see
        self._lines = Lines(path)
        self._converter = make_converter()
        self._written_at = 0.0

    def open(self) -> None:
        """Find what is there, cut off what a killed process did not write to its end. Blocks."""
        for run, size in self._read():
            self.ids.add(run.id)
            self.earlier.add(run.id)
            self._see(run)
            self._whole += size
        self._lines.open(self._whole)

    def add(self, run: Run) -> None:
        """Take in a run, unless it is there."""
        if run.id not in self.ids:
            self.ids.add(run.id)
            self._see(run)
            self._lines.add(to_json(run, converter=self._converter).encode())

    @property
    def due(self) -> bool:
        """Whether it is time to `write`."""
        now = asyncio.get_running_loop().time()
        return len(self._lines) >= STEP or now - self._written_at >= _STEP_SECONDS

    def write(self) -> None:
        """Bring what was taken in to disk. Blocks; nothing may be added meanwhile."""
        self._lines.write()

    def forget_new(self) -> None:
        """Cut off what was not there when it was opened. Blocks; nothing is added after it."""
        self._lines.cut(self._whole)

    def written(self) -> None:
        """Note that it has just been brought to disk."""
        self._written_at = asyncio.get_running_loop().time()

    def runs(self) -> Iterator[Run]:
        """All runs that are on disk. Blocks."""
        return (run for run, _ in self._read())

    def close(self) -> None:
        """Let go of the file. Blocks."""
        self._lines.close()

    def _read(self) -> Iterator[tuple[Run, int]]:
        """The runs up to the first line that is not whole, each with its line's size."""
        try:
            file = self._lines.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            for line in file:
                try:
                    run = from_json(line, Run, converter=self._converter)
                except DecodeError:
                    return
                if not line.endswith(b"\n"):
                    return
                yield run, len(line)
