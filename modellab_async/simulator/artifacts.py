"""Listings of artifacts, and file contents of any size that are computed as they are sent."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any, Final

from modellab_async.simulator.fixtures import Files

CHUNK: Final = 65_536


class Content:
    """The bytes of one artifact: those declared, or as many as its size, made up from its name.

    Made-up bytes come in blocks of 64 KiB, each of which starts with its own number, so that a
    download that misplaces a block is noticed.
    """

    def __init__(self, name: str, source: int | bytes) -> None:
        self._declared = source if isinstance(source, bytes) else None
        self.size: int = _size(source)
        self._pattern = random.Random(name).randbytes(CHUNK)  # noqa: S311  # not a secret
        self.etag: str = f'"{random.Random(f"{name} {self.size}").getrandbits(64):016x}"'  # noqa: S311

    def __len__(self) -> int:
        return self.size

    def _block(self, number: int) -> bytes:
        if self._declared is not None:
            return self._declared[number * CHUNK : (number + 1) * CHUNK]
        stamp = number.to_bytes(8, "big")
        return stamp + self._pattern[len(stamp) :]

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` to before `stop`, at most 64 KiB at a time."""
        stop = self.size if stop is None else min(stop, self.size)
        while start < stop:
            number, offset = divmod(start, CHUNK)
            chunk = self._block(number)[offset : offset + stop - start]
            yield chunk
            start += len(chunk)

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes from `start` to before `stop`, all at once."""
        return b"".join(self.chunks(start, stop))


def list_directory(files: Files, directory: str) -> list[Mapping[str, Any]]:
    """The files and directories in one directory, in order; none if there is no such directory."""
    prefix = directory and directory.rstrip("/") + "/"
    entries: dict[str, Mapping[str, Any]] = {}
    for path, source in files.items():
        if not path.startswith(prefix):
            continue
        head, slash, _ = path[len(prefix) :].partition("/")
        # A path that would climb out of its directory is shown as it was declared.
        if slash and head not in {"", ".", ".."}:
            name = f"{prefix}{head}/"
            entries[name] = {"file_size": None, "is_dir": True, "path": name}
        else:
            entries[path] = {"file_size": _size(source), "is_dir": False, "path": path}
    return [entries[name] for name in sorted(entries)]


def list_all(files: Files, created_at: str) -> list[Mapping[str, Any]]:
    """All files as those of a project are listed, in order."""
    return [
        {
            "artifact_path": path,
            "created_at": created_at,
            "file_size": _size(source),
            "filename": path.rpartition("/")[2],
        }
        for path, source in sorted(files.items())
    ]


def _size(source: int | bytes) -> int:
    return source if isinstance(source, int) else len(source)
