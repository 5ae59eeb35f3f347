"""Downloads of artifacts: resumed after interruptions, within their directory, in bounded memory.

A file grows beside its target as ``<name>.part`` and is renamed when it is whole. Meanwhile
``<name>.part.json`` holds what the server said of the file's version (ETag, Last-Modified, size).
A part file is resumed only if all that the response says of these is still the same, and the last
4 KiB are too; ``If-Range`` leaves the comparison to the server if the entity tag is a strong one.
Whoever writes the part file holds a lock on that note until the file has its name.
A run's file that is there already is left alone if its size and last 4 KiB are the server's.
"""

from __future__ import annotations

import asyncio
import functools
import os
from typing import TYPE_CHECKING, Final, TypeVar, cast

import attrs

from modellab_async import endpoints
from modellab_async.downloads.part import DiskError, PartFile, on_disk
from modellab_async.downloads.paths import Directory, split
from modellab_async.downloads.transfer import Transfer
from modellab_async.errors import DownloadError, NotFoundError
from modellab_async.localpaths import local_path

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from pathlib import Path

    from modellab_async.bulk import Progress
    from modellab_async.clock import Clock
    from modellab_async.endpoints import Perform
    from modellab_async.models import Run, RunArtifacts
    from modellab_async.retry import RetryPolicy

T = TypeVar("T")

MAX_WORKERS: Final = 8
"""How many files of one run are downloaded, or directories of it listed, at once."""

MAX_DEPTH: Final = 64
"""How many levels of directories a run may have."""

MAX_ENTRIES: Final = 100_000
"""How many files and directories a run may have."""


class Downloads:
    """Downloads files for one client, or for a view of it.

    Args:
        perform: sends a call.
        policy: how often, and after how long, a body that breaks off is resumed.
        clock: the source of time and jitter.
        permits: how many files may be received at once.
    """

    def __init__(
        self, perform: Perform, policy: RetryPolicy, clock: Clock, permits: asyncio.Semaphore
    ) -> None:
        self._perform = perform
        self._transfer = functools.partial(Transfer, perform, policy, clock, permits)

    async def file(
        self,
        project_id: int | str,
        artifact_path: str,
        destination: str | os.PathLike[str],
        on_progress: Progress | None,
    ) -> Path:
        """See :meth:`modellab_async.resources.Artifacts.download`."""
        target = await on_disk(_target, destination, artifact_path)
        transfer = self._transfer(project_id, artifact_path, PartFile(target))
        transfer.on_advance = _Progress(on_progress, lambda: transfer.total).advance
        await transfer.run()
        return target

    async def run(
        self, run_id: int | str, directory: str | os.PathLike[str], on_progress: Progress | None
    ) -> list[Path]:
        """See :meth:`modellab_async.resources.Artifacts.download_run`."""
        root = local_path(directory)
        run = cast("Run", await self._perform(endpoints.get_run(run_id)))
        files = await _files_of(self._perform, run.id)
        targets = await on_disk(_targets, root, files)
        sizes = [file.size for file in files if file.size is not None]
        total = sum(sizes) if len(sizes) == len(files) else None
        progress = _Progress(on_progress, lambda: total)
        progress.advance(0)
        failures: list[tuple[str, NotFoundError | DownloadError]] = []

        async def download(file: _File, target: Path) -> None:
            transfer = self._transfer(
                run.project_id, file.artifact_path, PartFile(target), file.size, progress.advance
            )
            try:
                await transfer.run_unless_there()
            except DiskError:
                raise
            except (NotFoundError, DownloadError) as error:
                failures.append((file.path, error))

        await _each(zip(files, targets, strict=True), lambda pair: download(*pair))
        if failures:
            path, first = failures[0]
            raise DownloadError(
                f"{len(failures)} of {len(files)} files of run {run.id} failed;"
                f" first {path!r}: {first}"
            ) from first
        return targets


@attrs.frozen
class _File:
    """A file of a run: its path there, what addresses its content, and its size in bytes."""

    path: str
    artifact_path: str
    size: int | None


async def _files_of(perform: Perform, run_id: int) -> list[_File]:
    """All files of a run, by their paths; its directories are listed level by level.

    Raises:
        DownloadError: if a path is unsafe, or the directories have no end.
    """
    files: list[_File] = []
    seen: set[tuple[str, ...]] = set()
    below: list[str | None] = []

    async def list_one(directory: str | None) -> None:
        call = endpoints.list_run_artifacts(run_id, directory)
        listing = cast("RunArtifacts", await perform(call))
        for entry in listing.files:
            if not (entry.is_dir or entry.path.endswith("/")):
                artifact_path = f"{listing.path_in_project}/{entry.path}"
                files.append(_File(entry.path, artifact_path, entry.file_size))
                continue
            names = split(entry.path.removesuffix("/"))
            if names not in seen:  # a directory may list itself
                seen.add(names)
                below.append(entry.path)
        if len(files) + len(seen) > MAX_ENTRIES:
            raise DownloadError(f"run {run_id} has more than {MAX_ENTRIES} artifacts")

    level: list[str | None] = [None]
    for _ in range(MAX_DEPTH):
        await _each(level, list_one)
        level, below = below, []
        if not level:
            return sorted(files, key=lambda file: file.path)
    raise DownloadError(f"run {run_id} has more than {MAX_DEPTH} levels of directories")


class _Progress:
    """The progress of one file, or of many together, which never falls back."""

    def __init__(self, callback: Progress | None, total: Callable[[], int | None]) -> None:
        self._callback = callback
        self._total = total
        self._done = 0
        self._told = -1

    def advance(self, count: int) -> None:
        """One file has gained so many bytes, or lost them by starting over."""
        self._done += count
        if self._callback is not None and self._done > self._told:
            self._told = self._done
            self._callback(self._done, self._total())


def _target(destination: str | os.PathLike[str], artifact_path: str) -> Path:
    """Where one file is to be put: a directory takes it under its own name."""
    path = local_path(destination)
    if path.is_dir() or os.fspath(destination).endswith(("/", os.sep)):
        return Directory(path).place(artifact_path.rpartition("/")[2])
    return path


def _targets(directory: Path, files: Iterable[_File]) -> list[Path]:
    """Where files are to be put; all are checked before any is."""
    place = Directory(directory).place
    return [place(file.path) for file in files]


async def _each(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Do some work for each item, for several at once; the first error ends all."""
    waiting = iter(items)
    failure: Exception | None = None

    async def worker() -> None:
        for item in waiting:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(MAX_WORKERS):
                group.create_task(worker())
    except ExceptionGroup as failed:
        failure = failed.exceptions[0]
    if failure is not None:
        raise failure
