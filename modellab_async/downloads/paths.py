"""The paths that a server may name: those below one directory that every platform can hold."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Final

from modellab_async.downloads.part import LONGEST_NAME, names_beside
from modellab_async.errors import DownloadError

if TYPE_CHECKING:
    from pathlib import Path

_UNSAFE: Final = re.compile(
    r"""
    [\x00-\x1f\x7f-\x9f\ud800-\udfff]  # NUL, other control characters, halves of characters
    | [\\:<>"|?*]                      # Windows: separator, drive, stream, and what it reserves
    | [.\ ]$                           # .. and . themselves; Windows drops these silently
    | ^(?: con | prn | aux | nul | conin\$ | conout\$ | (?:com|lpt)[0-9¹²³] )\ *(?: \. | $ )
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""What no name may contain; see "Naming Files, Paths, and Namespaces" in Windows' documentation."""


def split(path: str) -> tuple[str, ...]:
    """The names that a server's path is made of.

    The rules of every platform hold on each, so that a run's files are the same everywhere.

    Raises:
        DownloadError: if the path could lead out of the directory that it is relative to, or
            to something that is no file.
    """
    names = tuple(path.split("/"))
    for name in names:
        if not name or _UNSAFE.search(name):
            raise DownloadError(
                f"unsafe path {path[:200]!r}: {name[:80]!r} cannot name anything below a directory"
            )
        if len(name.encode()) > LONGEST_NAME:
            raise DownloadError(
                f"unsafe path {path[:200]!r}: a name in it is longer than {LONGEST_NAME} bytes"
            )
    return names


class Directory:
    """A directory that takes files under the paths that a server names.

    It checks the disk once, and changes nothing: processes that can write there are trusted.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._real_root = root.resolve()
        self._files: set[tuple[str, ...]] = set()
        self._directories: set[tuple[str, ...]] = set()

    def place(self, path: str) -> Path:
        """The path on disk for a path of the server's.

        Raises:
            DownloadError: for an unsafe path, one that leads over a symbolic link, or one that
                another file or its part file has, on file systems without case included.
        """
        names = split(path)
        self._claim(path, names)
        target = self._root
        for name in names:
            target /= name
            if target.is_symlink():
                raise DownloadError(f"unsafe path {path!r}: {target} is a symbolic link")
        # Windows has junctions, too, which are no symbolic links.
        if not target.parent.resolve().is_relative_to(self._real_root):
            raise DownloadError(f"unsafe path {path!r}: {target.parent} leads elsewhere")
        return target

    def _claim(self, path: str, names: tuple[str, ...]) -> None:
        above = [_folded(name) for name in names[:-1]]
        files = {(*above, _folded(name)) for name in (names[-1], *names_beside(names[-1]))}
        directories = {tuple(above[:depth]) for depth in range(1, len(names))}
        if (
            not files.isdisjoint(self._files)
            or not files.isdisjoint(self._directories)
            or not directories.isdisjoint(self._files)
        ):
            raise DownloadError(f"{path!r} and another path of the listing are the same on disk")
        self._files |= files
        self._directories |= directories


def _folded(name: str) -> str:
    """A name as file systems see it that have no case, or normalize."""
    return unicodedata.normalize("NFC", name).casefold()
