"""The unfinished file beside its target, and the way to the disk."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import platform
import re
import stat
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, Final, Self, TypeVar, TypeVarTuple

import attrs

from modellab_async.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SUFFIXES: Final = (".part", ".part.json")
"""What a target's name gets for its part file, and for the version that the part file is of."""

LONGEST_NAME: Final = 255
"""Bytes of a name that the usual file systems can hold."""

TAIL: Final = 4096
"""How many bytes of a part file are compared with the server's before it is resumed."""

_STRONG_ETAG: Final = re.compile(r'"[\x21\x23-\x7e]{0,512}"')
"""An entity tag that promises equality byte for byte (RFC 9110, section 8.8.3)."""

_LONGEST_NOTE: Final = 1 << 17
"""Bytes that are read of a note; two headers, escaped, fit."""

_FLAGS: Final = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class DiskError(DownloadError):
    """The disk refused; what it refused for one file it will refuse for the next."""


async def on_disk(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """Call a function that touches the disk in a thread.

    It waits for the thread also when cancelled: a thread cannot be stopped, and nobody else may
    touch its file before it is done.

    Raises:
        DiskError: for an `OSError`.
    """
    work = asyncio.get_running_loop().run_in_executor(None, function, *args)
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        work.exception()  # the event loop would log an error that nobody retrieves
        raise cancelled
    try:
        return work.result()
    except OSError as error:
        raise DiskError(f"the disk refused: {error}") from error


@attrs.frozen
class Version:
    """What tells one version of a server's file from another.

    Attributes:
        etag: its entity tag, weak or strong, or None.
        modified: its ``Last-Modified``, or None.
        size: its size in bytes, or None.
    """

    etag: str | None = None
    modified: str | None = None
    size: int | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str], size: int | None) -> Self:
        """The version that a response is of."""
        return cls(headers.get("ETag"), headers.get("Last-Modified"), size)

    @property
    def validator(self) -> str | None:
        """What may be sent in ``If-Range``, which takes no weak tag (RFC 9110, section 13.1.5)."""
        strong = self.etag is not None and _STRONG_ETAG.fullmatch(self.etag)
        return self.etag if strong else None

    def is_continued_by(self, part: Version) -> bool:
        """Whether a part of a file belongs to this version, as far as the server says.

        A part requested with ``If-Range`` need not repeat ``Last-Modified`` (section 15.3.7).
        """
        same_date = part.modified == self.modified or (self.validator and part.modified is None)
        return part.etag == self.etag and self.size in {None, part.size} and bool(same_date)


@attrs.frozen
class Held:
    """What is on disk already.

    Attributes:
        size: how many bytes.
        tail: the last of them; empty if there is nothing worth resuming.
        version: the version that they are of; None if that is not known.
    """

    size: int = 0
    tail: bytes = b""
    version: Version | None = None

    @property
    def offset(self) -> int:
        """Where to resume; the tail is requested again, to be compared. 0 to start over."""
        return self.size - len(self.tail) if self.tail else 0


def names_beside(name: str) -> tuple[str, ...]:
    """The names of a target's part file and of its version's note.

    A long name is cut to leave space for the suffix, and made unique by a hash.
    """
    encoded = os.fsencode(name)
    if len(encoded) + max(map(len, SUFFIXES)) > LONGEST_NAME:
        digest = hashlib.sha256(encoded).hexdigest()[:16]
        name = f"{encoded[:200].decode('utf-8', 'ignore')}~{digest}"
    return tuple(name + suffix for suffix in SUFFIXES)


class PartFile:
    """A part file and its note. Everything here blocks; call it by :func:`on_disk`.

    The disk is the only memory: another process resumes as an attempt in this one does. Between
    `open` and `close`, a lock on the note keeps others from the part file.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path: Path
        self.path, self._note_path = map(target.with_name, names_beside(target.name))
        self._file: BinaryIO | None = None
        self._note: BinaryIO | None = None

    def look(self) -> Held:
        """What an earlier attempt left; nothing is changed.

        Raises:
            DownloadError: if something else has the name of the target or of a file beside it.
        """
        if self.target.is_dir():
            raise DownloadError(f"{self.target} is a directory; name a file")
        while True:  # another download may come or go between two steps
            status = _status(self.path)
            note = self._read_note()
            if status is None:
                return Held()
            if note is not None:
                with suppress(FileNotFoundError):
                    return self._held(status.st_size, note.version)
            elif (again := _status(self.path)) and again.st_mtime_ns == status.st_mtime_ns:
                raise _in_the_way(self.path)

    def look_at_target(self, size: int) -> Held:
        """The target itself, if it has this size and there is no part file to be resumed."""
        if size <= TAIL or self.path.exists():
            return Held()
        if not self.target.is_file() or self.target.stat().st_size != size:
            return Held()
        return Held(size, _tail(self.target, size))

    def open(self, held: Held, begin: int, version: Version) -> None:
        """Prepare to write from ``begin`` on; from 0 on, bytes of this version.

        Raises:
            DownloadError: if another download is writing the file, or was since `look`.
        """
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._check(held)
        self._note = self._locked_note()
        self._check(held)
        # In this order, a killed process leaves no bytes of one version with the note of another.
        # What was there is removed, not truncated: without locks, it may be a target by now.
        if not begin:
            self.path.unlink(missing_ok=True)
        self._note.truncate(0)
        self._note.write(json.dumps(attrs.asdict(version) | {"writer": _writer()}).encode("ascii"))
        self._note.flush()
        flags = _FLAGS if begin else _FLAGS | os.O_CREAT | os.O_EXCL
        self._file = os.fdopen(os.open(self.path, flags, 0o666), "r+b")
        self._file.seek(begin)

    def write(self, chunks: Iterable[bytes]) -> None:
        """Append to what is written."""
        assert self._file is not None
        self._file.writelines(chunks)
        self._file.flush()

    def finish(self) -> None:
        """Rename the open file to its target, in one step.

        Raises:
            DownloadError: if another download has replaced it, on a file system without locks.
        """
        assert self._file is not None
        if not _is_at(self._file, self.path):
            raise DownloadError(f"another download is writing {self.path}")
        self._file.close()  # Windows renames no open file
        self.path.replace(self.target)

    def discard(self) -> None:
        """Remove the open file."""
        assert self._file is not None
        self._file.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file, whatever has been written; without one, the note goes, too."""
        if self._file is not None:
            self._file.close()
        if self._note is not None:
            unlock(self._note, None if os.path.lexists(self.path) else self._note_path)
        self._file = self._note = None

    def _held(self, size: int, version: Version | None) -> Held:
        if version is None or size <= TAIL:
            return Held(size)
        return Held(size, _tail(self.path, size), version)

    def _check(self, held: Held) -> None:
        if self.look() != held:
            raise DownloadError(f"another download was writing {self.path} at the same time")

    def _locked_note(self) -> BinaryIO:
        """The note, created if need be, which nobody else has."""
        while True:
            note = os.fdopen(os.open(self._note_path, _FLAGS | os.O_CREAT, 0o666), "r+b")
            if not lock(note):
                note.close()
                found = self._read_note()
                by = f": {found.writer}" if found and found.writer else ""
                raise DownloadError(f"another download is writing {self.path}{by}")
            if _is_at(note, self._note_path):
                return note
            note.close()  # whoever had it has finished, and removed it

    def _read_note(self) -> _Note | None:
        """What the note says; None without one.

        Raises:
            DownloadError: if a file that is none has its name.
        """
        if _status(self._note_path) is None:
            return None
        try:
            with self._note_path.open("rb") as file:
                text = file.read(_LONGEST_NOTE)
            if not text:  # of a process that was killed before it wrote anything
                return _Note(None)
            fields = json.loads(text)
            version = Version(**{name: fields.pop(name) for name in _VERSION})
            note = _Note(version, **fields)
        except FileNotFoundError:
            return None
        except (AttributeError, KeyError, ValueError, TypeError, RecursionError):
            raise _in_the_way(self._note_path) from None
        texts = (version.etag, version.modified)
        valid = all(isinstance(text, str | None) for text in texts)
        if not valid or not isinstance(version.size, int | None):
            return attrs.evolve(note, version=None)
        return note


@attrs.frozen
class _Note:
    """A note: the version of the part file, if it is known, and who is writing it."""

    version: Version | None
    writer: object = None


_VERSION: Final = [field.name for field in attrs.fields(Version)]


def _writer() -> str:
    return f"process {os.getpid()} on {platform.node()}"


def _in_the_way(path: Path) -> DownloadError:
    return DownloadError(f"{path} is in the way: no download left it; rename or remove it")


def _status(path: Path) -> os.stat_result | None:
    """A file's status; None if there is nothing of that name.

    Raises:
        DownloadError: if it is no regular file.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise DownloadError(f"{path} is in the way: it is no regular file")
    return status


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is the one of that name now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except FileNotFoundError:
        return False


def _tail(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(size - TAIL)
        return file.read(TAIL)


if sys.platform == "win32":
    import msvcrt

    _FAR: Final = 1 << 30  # others may read what is before

    def lock(file: BinaryIO) -> bool:
        """Whether nobody else, of any process, has the file locked."""
        file.seek(_FAR)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            file.seek(0)
        return True

    def unlock(file: BinaryIO, remove: Path | None) -> None:
        """Close a locked file, and remove it by this path if nobody else has it open by then."""
        file.seek(_FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
        file.close()
        if remove is not None:
            with suppress(OSError):
                remove.unlink()

else:
    import fcntl

    def lock(file: BinaryIO) -> bool:
        """Whether nobody else, of any process, has the file locked."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # not every network file system has locks
        return True

    def unlock(file: BinaryIO, remove: Path | None) -> None:
        """Close a locked file, removed by this path before if there is one."""
        if remove is not None:
            remove.unlink(missing_ok=True)
        with suppress(OSError):  # a forked process may have the file, too
            fcntl.flock(file, fcntl.LOCK_UN)
        file.close()
