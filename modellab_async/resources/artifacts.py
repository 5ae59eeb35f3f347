"""``client.artifacts``: the content of files, by project and path."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, cast

from modellab_async import endpoints
from modellab_async.errors import DecodeError

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator
    from pathlib import Path

    from modellab_async.bulk import Perform, Progress
    from modellab_async.clock import Clock
    from modellab_async.downloads import Downloads
    from modellab_async.retry import RetryPolicy
    from modellab_async.transport import Stream


class Artifacts:
    """``client.artifacts``: the content of files, by project and path."""

    def __init__(self, perform: Perform, policy: RetryPolicy, clock: Clock) -> None:
        self._perform = perform
        self._policy = policy
        self._clock = clock

    @functools.cached_property
    def _downloads(self) -> Downloads:
        from modellab_async.downloads import Downloads  # noqa: PLC0415 - few programs download

        return Downloads(self._perform, self._policy, self._clock)

    async def read(self, project_id: int | str, artifact_path: str) -> bytes:
        """A file's bytes, read into memory.

        Operation: ``GET /artifacts/content``.

        Args:
            project_id: the project.
            artifact_path: the path below the project's artifact root; for a file of a run,
                ``path_in_project + "/" + path`` of its listing.

        Raises:
            NotFoundError: if there is no such file.
            DecodeError: if it is larger than the client's ``max_body_bytes``.
        """
        call = endpoints.artifact_content(project_id, artifact_path)
        return cast("bytes", await self._perform(call))

    @contextlib.asynccontextmanager
    async def stream(self, project_id: int | str, artifact_path: str) -> AsyncIterator[Stream]:
        """A file's bytes as they arrive: ``async with`` gives an async iterator of bytes.

        Operation: ``GET /artifacts/content``. The request is repeated until the answer begins;
        iterating raises `TransportError` where the body breaks off.

        Raises:
            NotFoundError: if there is no such file.
            DecodeError: if the answer is good, but not the whole content (200).
        """
        body: Stream = await self._perform(
            endpoints.artifact_content(project_id, artifact_path, streamed=True)
        )
        try:
            if body.status != 200:
                raise DecodeError(f"{body.status} for artifacts.content, which is not all of it")
            yield body
        finally:
            body.close()

    async def download(
        self,
        project_id: int | str,
        artifact_path: str,
        destination: str | os.PathLike[str],
        *,
        on_progress: Progress | None = None,
    ) -> Path:
        """Download a file in bounded memory; returns the path written.

        Operation: ``GET /artifacts/content``. The file grows as ``<name>.part`` beside its target
        and is renamed when it is whole; an older target stays until then. A body that breaks off
        is resumed; after as many breaks without progress as the retry policy has attempts, the
        part file is kept, and the next download, of any process, resumes from there. It starts
        over if the server has no ranges, or another version of the file by its ``ETag``,
        ``Last-Modified``, size or last 4 KiB. One client receives eight files at once.

        Args:
            project_id: the project.
            artifact_path: as in :meth:`read`.
            destination: the file to write; directories above it are created. An existing
                directory, or a path that ends in a slash, takes the file under its own name.
            on_progress: called with the bytes on disk and in all (None where the server does not
                say), as the answer begins and then after each write; never falls.

        Raises:
            NotFoundError: if there is no such file; nothing is written then.
            DownloadError: if it breaks off for good, has another size than the server
                announced (``Content-Length``), or cannot be written.
        """
        return await self._downloads.file(project_id, artifact_path, destination, on_progress)

    async def download_run(
        self,
        run_id: int | str,
        directory: str | os.PathLike[str],
        *,
        on_progress: Progress | None = None,
    ) -> list[Path]:
        """Download every file of a run, several at once, each as :meth:`download` does.

        Operations: ``GET /runs/{run_id}``, ``GET /runs/{run_id}/artifacts`` for each directory,
        ``GET /artifacts/content`` for each file. Everything is listed and checked before anything
        is written. If a file is gone, keeps breaking off or has another size than listed, the
        others are downloaded before the error is raised; any other error ends all at once. Part
        files are kept, also on cancellation. A file that is there already is left as it is if
        it has the listed size and its last 4 KiB are the server's, which one small request tells;
        one of up to 4 KiB is fetched again. Returns the paths of all files, in their order.

        Args:
            run_id: the run.
            directory: where the files are put under their paths; created where needed.
            on_progress: called with the bytes on disk and in all (None where the listing lacks a
                size), at the start and then after each write; never falls.

        Raises:
            NotFoundError: if there is no such run.
            DownloadError: if files failed, where a listed path is not safe on every platform,
                leads over a symbolic link or differs from another only in case, or where the run
                has more than 100,000 artifacts or 64 levels of directories.
        """
        return await self._downloads.run(run_id, directory, on_progress)
