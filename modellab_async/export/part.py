"""What lies on disk around an export: the directory it grows in, and what is kept beside its file.

Everything here blocks; call it by `on_disk`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import msgspec

from modellab_async.downloads.part import lock
from modellab_async.errors import ExportError
from modellab_async.export.plan import Plan, Record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from modellab_async.idset import IdSet

NoteT = TypeVar("NoteT", Plan, Record)


class Part:
    """The directory ``NAME.part`` in which the file ``NAME`` grows, and the files beside it.

    A file of it changes its name in one step, and the plan goes first: whenever a process is
    killed, the next one finds either an export to go on with, or a complete one.

    Attributes:
        target: the file, complete or not there.
        failed: the side file beside it, of what could not be fetched.
        runs: the runs fetched so far.
        failures: what could not be fetched so far.
        place: how far a listing was read.
        output: the file as it is written.
    """

    def __init__(self, target: Path) -> None:
        def beside(suffix: str) -> Path:
            return target.with_name(target.name + suffix)

        self.target = target
        self.failed: Path = beside(".failed.jsonl")
        self.directory: Path = beside(".part")
        self.runs: Path = self.directory / "runs.jsonl"
        self.failures: Path = self.directory / "failed.jsonl"
        self.place: Path = self.directory / "page"
        self.output: Path = self.directory / "output"
        self._record = beside(".export.json")
        self._new_record = self.directory / "export.json"
        self._plan = self.directory / "plan.json"
        self._lock: BinaryIO | None = None

    def open(self) -> None:
        """Make the directory where there is none, and keep other exports out of it.

        Raises:
            ExportError: where another export is at work in it, or the target is a directory.
        """
        if self.target.is_dir():
            raise ExportError(f"{self.target} is a directory; name a file")
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = (self.directory / "lock").open("wb")
        if not lock(self._lock):
            self._lock.close()
            self._lock = None
            raise ExportError(f"another export is writing {self.target}")

    def close(self) -> None:
        """Let others in; a directory that holds nothing to go on with goes away."""
        if self._lock is not None:
            if self.plan() is None and not self._new_record.exists():
                shutil.rmtree(self.directory)
            self._lock.close()
            self._lock = None

    def plan(self) -> Plan | None:
        """The plan of the export that is under way here, if it has come to anything."""
        if not self.runs.exists() or not self.runs.stat().st_size:
            return None
        return _read_note(self._plan, Plan)

    def begin(self, plan: Plan) -> None:
        """Begin an export anew."""
        for path in (self._plan, self.runs, self.failures, self.place, self.output):
            path.unlink(missing_ok=True)
        _write_note(self._plan, plan)

    def earlier(self) -> Record | None:
        """What is remembered of the export that the target is from, if any."""
        return _read_note(self._record, Record) if self.target.exists() else None

    def settle(self) -> Record | None:
        """Give a complete export its names, where a process was killed just before it did."""
        record = _read_note(self._new_record, Record)
        if record is not None:
            self._give_names(record)
        return record

    def commit(self, record: Record) -> None:
        """Give everything that is complete its name; from the first line on, there is no return."""
        _write_note(self._new_record, record)
        self._give_names(record)
        shutil.rmtree(self.directory)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _give_names(self, record: Record) -> None:
        if self.output.exists():
            self.output.replace(self.target)
        if self.failures.exists() and record.failed:
            self.failures.replace(self.failed)
        elif not record.failed:
            self.failed.unlink(missing_ok=True)
        self._plan.unlink(missing_ok=True)
        self._new_record.replace(self._record)
        _sync_directory(self.target.parent)


class Lines:
    """A file of JSON lines that grows in steps, each of them safe on disk before the next."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        self._lines: list[bytes] = []

    def __len__(self) -> int:
        """How many lines wait to be written."""
        return len(self._lines)

    def add(self, line: bytes) -> None:
        """Add a line, which is written later."""
        self._lines.append(line)

    def open(self, size: int | None) -> None:
        """Make ready to go on after the first ``size`` bytes; after the last whole line if None."""
        self._file = self.path.open("a+b")
        if size is None:
            self._file.seek(0)
            size = sum(len(line) for line in self._file if line.endswith(b"\n"))
        self._file.truncate(size)

    def write(self) -> None:
        """Write what waits; it survives whatever happens next."""
        assert self._file is not None
        if self._lines:
            self._file.write(b"\n".join((*self._lines, b"")))
            self._lines.clear()
            synced(self._file)

    def cut(self, size: int) -> None:
        """Take back what was written after the first ``size`` bytes."""
        assert self._file is not None
        self._file.truncate(size)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()


def failed_ids(path: Path) -> Iterator[Any]:
    """The ids that a side file names, as they were given."""
    for _, run_id in _failures(path):
        yield run_id


def keep_failures(earlier: Path, growing: Lines, fetched: IdSet) -> None:
    """Keep what an earlier side file names and is still not fetched, unless it failed anew."""
    named = {str(run_id) for run_id in failed_ids(growing.path)}
    for line, run_id in _failures(earlier):
        name = str(run_id)
        if name not in named and not (name.isdecimal() and int(name) in fetched):
            named.add(name)
            growing.add(line)


def _failures(path: Path) -> Iterator[tuple[bytes, Any]]:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.rstrip(b"\n"), msgspec.json.decode(line)["run_id"]
            except (msgspec.DecodeError, TypeError, KeyError):
                raise ExportError(f"{path}, line {number}: no failure of an export") from None


def synced(file: BinaryIO) -> None:
    """Have all that was written to a file brought to disk."""
    file.flush()
    os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    with contextlib.suppress(OSError):  # Windows opens no directories
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_note(path: Path, note: Plan | Record) -> None:
    growing = path.with_name(path.name + ".new")
    with growing.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(note), indent=2) + b"\n")
        synced(file)
    growing.replace(path)


def _read_note(path: Path, kind: type[NoteT]) -> NoteT | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise ExportError(f"{path} is not what an export left there: {error}") from None
