"""The unfinished file beside its target, and the way to the disk."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import stat
import sys
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

_LONGEST_NOTE: Final = 4096

_FLAGS: Final = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


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
    """A part file. Everything here blocks; call it by :func:`on_disk`.

    The disk is the only memory: another process resumes as an attempt in this one does.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path: Path
        self.path, self._note = map(target.with_name, names_beside(target.name))
        self._file: BinaryIO | None = None

    def look(self) -> Held:
        """What an earlier attempt left; nothing is changed."""
        if self.target.is_dir():
            raise DownloadError(f"{self.target} is a directory; name a file")
        try:
            status = self.path.lstat()
        except FileNotFoundError:
            return Held()
        if not stat.S_ISREG(status.st_mode):
            raise DownloadError(f"{self.path} is in the way: it is no regular file")
        version = self._read_note()
        if version is None or status.st_size <= TAIL:
            return Held(status.st_size)
        return Held(status.st_size, _tail(self.path, status.st_size), version)

    def look_at_target(self, size: int) -> Held:
        """The target itself, if it has this size and there is no part file to be resumed."""
        if size <= TAIL or self.path.exists():
            return Held()
        if not self.target.is_file() or self.target.stat().st_size != size:
            return Held()
        return Held(size, _tail(self.target, size))

    def open(self, held: Held, begin: int, version: Version) -> None:
        """Prepare to write from ``begin`` on; from 0 on, bytes of this version."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.fdopen(os.open(self.path, _FLAGS, 0o666), "r+b")
        if not lock(self._file) or os.fstat(self._file.fileno()).st_size != held.size:
            raise DownloadError(f"another download is writing {self.path}")
        if begin:
            self._file.seek(begin)
            return
        # In this order, a killed process leaves no bytes of one version with the note of another.
        self._file.truncate(0)
        self._note.unlink(missing_ok=True)
        with self._note.open("x", encoding="ascii") as note:  # "x" follows no symbolic link
            json.dump(attrs.asdict(version), note)

    def write(self, chunks: Iterable[bytes]) -> None:
        """Append to what is written."""
        assert self._file is not None
        self._file.writelines(chunks)
        self._file.flush()

    def close(self) -> None:
        """Close the file, whatever has been written."""
        if self._file is not None:
            self._file.close()

    def finish(self) -> None:
        """Rename the closed file to its target, in one step."""
        self.path.replace(self.target)
        self._note.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the closed file."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _read_note(self) -> Version | None:
        try:
            with self._note.open(encoding="ascii") as note:
                version = Version(**json.loads(note.read(_LONGEST_NOTE)))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        texts = (version.etag, version.modified)
        valid = all(isinstance(text, str | None) for text in texts)
        return version if valid and isinstance(version.size, int | None) else None


def _tail(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(size - TAIL)
        return file.read(TAIL)


if sys.platform == "win32":

    def lock(_file: BinaryIO) -> bool:
        """Nothing, on Windows: a second process cannot rename an open file, and fails."""
        return True

else:
    import fcntl

    def lock(file: BinaryIO) -> bool:
        """Whether nobody else, of any process, has the file; released when it is closed."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # not every network file system has locks
        return True
