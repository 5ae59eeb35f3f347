"""The unfinished file beside its target; all that touches the disk, and the way to it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import stat
import sys
from typing import TYPE_CHECKING, BinaryIO, Final, TypeVar, TypeVarTuple

import attrs

from modellab_async.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SUFFIXES: Final = (".part", ".part.etag")
"""What is added to a target's name, for its part file and for the version that this is of."""

LONGEST_NAME: Final = 255
"""Bytes of a name that the usual file systems can hold."""

TAIL: Final = 4096
"""How many bytes of a part file are compared with the server's before it is gone on with."""

_STRONG_ETAG: Final = re.compile(r'"[\x21\x23-\x7e]{0,512}"')
"""An entity tag that promises equality byte for byte (RFC 9110, section 8.8.3)."""

_FLAGS: Final = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class DiskError(DownloadError):
    """The disk refused; what it refused for one file it will refuse for the next."""


async def on_disk(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """Call a function that touches the disk in a thread, and wait for it.

    Raises:
        DiskError: for an `OSError`.
    """
    return await finished(begun(function, *args))


def begun(function: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
    """Call a function that touches the disk in a thread; to be given to :func:`finished`."""
    work = asyncio.get_running_loop().run_in_executor(None, function, *args)
    # Where a cancelled download asks no more, its error is not for the log of the event loop.
    work.add_done_callback(lambda done: done.cancelled() or done.exception())
    return work


async def finished(work: asyncio.Future[T]) -> T:
    """What a function gives that was :func:`begun`; waits for its end also when cancelled.

    Raises:
        DiskError: for an `OSError`.
    """
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        # A thread cannot be stopped, and nobody else may touch its file before it is done.
        while not work.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        raise
    except OSError as error:
        raise DiskError(f"the disk refused: {error}") from error


@attrs.frozen
class Held:
    """What earlier attempts left in a part file.

    Attributes:
        size: how many bytes.
        tail: the last of them; empty where there are too few to be worth going on with.
        etag: the version that they are of, where the server named one.
    """

    size: int = 0
    tail: bytes = b""
    etag: str | None = None

    @property
    def offset(self) -> int:
        """Where to go on; the tail is asked for once more, to be compared. 0 for the beginning."""
        return self.size - len(self.tail) if self.tail else 0


def names_beside(name: str) -> tuple[str, ...]:
    """The names of a target's part file and of its version's, which its own name leaves room for.

    A long name is cut, and what is left told apart by a hash.
    """
    encoded = os.fsencode(name)
    if len(encoded) + max(map(len, SUFFIXES)) > LONGEST_NAME:
        digest = hashlib.sha256(encoded).hexdigest()[:16]
        name = f"{encoded[:200].decode('utf-8', 'ignore')}~{digest}"
    return tuple(name + suffix for suffix in SUFFIXES)


class Part:
    """A part file. Everything here blocks; call it by :func:`on_disk`.

    The disk is the only memory: an attempt in another process goes on as one in this does.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path: Path
        self.path, self._note = map(target.with_name, names_beside(target.name))
        self._file: BinaryIO | None = None

    def look(self) -> Held:
        """What is there to go on with; nothing is changed."""
        if self.target.is_dir():
            raise DownloadError(f"{self.target} is a directory; name a file")
        try:
            status = self.path.lstat()
        except FileNotFoundError:
            return Held()
        if not stat.S_ISREG(status.st_mode):
            raise DownloadError(f"{self.path} is in the way: it is no regular file")
        if status.st_size <= TAIL:
            return Held(status.st_size)
        return Held(status.st_size, _tail(self.path, status.st_size), self._noted())

    def look_at_target(self, size: int) -> Held:
        """The target itself, where it has this size and no part file is to be gone on with."""
        if size <= TAIL or self.path.exists():
            return Held()
        if not self.target.is_file() or self.target.stat().st_size != size:
            return Held()
        return Held(size, _tail(self.target, size))

    def open(self, held: Held, begin: int, etag: str | None) -> None:
        """Make ready to write from ``begin`` on; from 0 on, bytes of the version ``etag``."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.fdopen(os.open(self.path, _FLAGS, 0o666), "r+b")
        if not lock(self._file) or os.fstat(self._file.fileno()).st_size != held.size:
            raise DownloadError(f"another download is writing {self.path}")
        if begin:
            self._file.seek(begin)
            return
        # In this order, a killed process leaves no bytes of one version with the tag of another.
        self._file.truncate(0)
        self._note.unlink(missing_ok=True)
        if etag is not None and _STRONG_ETAG.fullmatch(etag):
            with self._note.open("x", encoding="ascii") as note:  # "x" follows no symbolic link
                note.write(etag)

    def write(self, chunks: Iterable[bytes]) -> None:
        """Append to what is written."""
        assert self._file is not None
        self._file.writelines(chunks)
        self._file.flush()

    def close(self) -> None:
        """Let go of the file, wherever it stands."""
        if self._file is not None:
            self._file.close()

    def finish(self) -> None:
        """Give the closed file its own name, in one step."""
        self.path.replace(self.target)
        self._note.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the closed file."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _noted(self) -> str | None:
        try:
            etag = self._note.read_text(encoding="ascii")
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        return etag if _STRONG_ETAG.fullmatch(etag) else None


def _tail(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(size - TAIL)
        return file.read(TAIL)


if sys.platform == "win32":

    def lock(_file: BinaryIO) -> bool:
        """Nothing, on Windows: whoever comes second cannot rename what is open, and fails."""
        return True

else:
    import fcntl

    def lock(file: BinaryIO) -> bool:
        """Whether nobody else, of any process, has the file; freed when it is closed."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # not every network file system has locks
        return True
