"""The operations of a client: thin methods, each of which passes a `Call` to a `Caller`.

Every method raises `InvalidIdError` for a bad id before any request, and otherwise the error of
this package for what failed, on the server or on the way to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import attrs

from modellab_async import bulk, endpoints
from modellab_async.calls import Caller
from modellab_async.errors import DecodeError, ModelLabError, detached
from modellab_async.models import (
    FacetKeys,
    FacetValues,
    Project,
    ProjectArtifacts,
    ProjectFilter,
    Run,
    RunArtifacts,
    RunFilter,
)
from modellab_async.pagination import Pager, Verify
from modellab_async.run_list import RunList
from modellab_async.transport import Stream
from modellab_async.waiting import Poller, RunWatcher

if TYPE_CHECKING:
    from modellab_async.downloads import Downloads


class Runs:
    """``client.runs``: training runs."""

    def __init__(self, caller: Caller, poller: Poller | None = None) -> None:
        self._caller = caller
        self._poller = poller or Poller(
            caller.perform, caller.limiter.max_concurrency, caller.clock
        )

    def with_caller(self, caller: Caller) -> Runs:
        """The operations of a view, whose waits share their requests with those of this client."""
        return Runs(caller, attrs.evolve(self._poller, perform=caller.perform))

    async def get(self, run_id: int | str) -> Run:
        """One run.

        Operation: ``GET /runs/{run_id}``.

        Raises:
            NotFoundError: if there is no such run.
        """
        return cast("Run", await self._caller.perform(endpoints.get_run(run_id)))

    async def get_many(
        self,
        run_ids: Iterable[int | str] | AsyncIterable[int | str],
        *,
        route: bulk.Route = "auto",
    ) -> RunList:
        """Many runs, fetched concurrently, in the order of the ids, repeats included.

        Operations, ``route`` and waits for quota: as in :meth:`fetch`.

        Raises:
            BulkError: if any id failed; it carries every run fetched and every error.
            TypeError: for a lone string or bytes.
        """
        return await bulk.collect(self._fetch(run_ids, route, ordered=True, keep_all=True))

    def fetch(
        self,
        run_ids: Iterable[int | str] | AsyncIterable[int | str],
        *,
        route: bulk.Route = "auto",
        ordered: bool = False,
        on_progress: bulk.Progress | None = None,
    ) -> bulk.Fetch:
        """The outcomes of any number of ids, as they arrive, in bounded memory.

        Returns exactly one `Outcome` for each id, repeats included. Ids are read as requests can
        be made, never far ahead. Requests wait for the quota, however long that takes, unless
        ``RetryPolicy.max_rate_limit_wait`` limits it. If 16 requests are refused by a 401 or 403
        before anything has succeeded, the refusal becomes the outcome of all remaining ids
        without another request. An error that the iterable itself raises comes after the outcomes
        of the ids already read.

        Args:
            run_ids: an iterable or async iterable of ids.
            route: ``"single"`` is one ``GET /runs/{run_id}`` per id. ``"batch"`` requests
                ``GET /runs`` for up to 100 ids at a time, and individually each id that is absent
                from the response, so that its outcome is as definite. ``"auto"`` is ``"batch"``,
                but continues with ``"single"`` if the listing is refused or ignores its filter.
            ordered: return the outcomes in the order of the ids.
            on_progress: called after each outcome with the number of outcomes returned and of all
                ids (None if the iterable does not know).

        Raises:
            TypeError: for a lone string or bytes.
            ValueError: for an unknown route.
        """
        return self._fetch(run_ids, route, ordered=ordered, on_progress=on_progress)

    def _fetch(
        self,
        run_ids: Iterable[int | str] | AsyncIterable[int | str],
        route: bulk.Route,
        **options: Any,
    ) -> bulk.Fetch:
        if route not in {"auto", "batch", "single"}:
            raise ValueError(f"route must be 'auto', 'batch' or 'single', not {route!r}")
        return bulk.Fetch(
            bulk.BulkFetcher(
                run_ids,
                self._caller.perform,
                self._caller.limiter.max_concurrency,
                route=route,
                **options,
            )
        )

    def list(
        self,
        filter: RunFilter | None = None,  # noqa: A002  # the API's own name
        *,
        sort: str | None = None,
        page_size: int | None = None,
        pinned_first: bool | None = None,
        include_pinned: bool | None = None,
        include_descendant_matches: bool | None = None,
        verify: bool = False,
    ) -> Pager[Run]:
        """Runs by filter: ``await`` returns one `Page`, ``async for`` yields every run.

        Operation: ``GET /runs``. Requests wait for the quota, however long that takes, unless
        ``RetryPolicy.max_rate_limit_wait`` limits it.

        Args:
            filter: which runs; all by default.
            sort: ``name``, ``created_at``, ``updated_at`` or ``duration``, with a leading ``-`` to
                descend; the server's own order by default.
            page_size: 1 to 100; by default the server's own for ``await``, 100 for iteration. With
                ``verify``, iteration chooses sizes up to 100.
            pinned_first: whether pinned runs precede the others.
            include_pinned: whether pinned runs are listed even if the filter excludes them.
            include_descendant_matches: whether runs are listed of which a descendant matches.
            verify: iterate over overlapping pages, so that no run is missed while others come and
                go, for about a sixth more requests; see `Pager.complete`. Runs are then sorted by
                ``created_at``, or by ``-created_at`` if ``sort`` says so.

        Raises:
            ValueError: for another ``sort`` or ``page_size``, and for ``verify`` with another
                order.
        """
        if verify and pinned_first:
            raise ValueError("verify needs the order of created_at, so pinned_first must be off")
        sort, verified = _verified_order(sort, verify=verify)
        return Pager(
            lambda size, number: endpoints.list_runs(
                filter,
                sort=sort,
                page_size=size,
                page_number=number,
                pinned_first=pinned_first,
                include_pinned=include_pinned,
                include_descendant_matches=include_descendant_matches,
                wait_for_quota=True,
            ),
            perform=self._caller.perform,
            page_size=page_size,
            verify=verified,
        )

    async def wait(self, run_id: int | str, *, timeout: float | None = None) -> Run:
        """Wait until a run is completed, failed or killed.

        Requests it at once, then after about 1 s, and at growing intervals of up to 30 s. All
        waits and watches of one client share their requests. Transient failures, such as no
        connection, a 5xx or a 429, do not end the wait.

        Operation: ``GET /runs/{run_id}``, or ``GET /runs?filter[id]=…`` for up to 100 together.

        Args:
            run_id: the run.
            timeout: seconds to wait at most, with a last request at their end; 0 requests it
                once, None waits without limit. An unanswered request gets up to 2 s more.

        Raises:
            WaitTimeoutError: if it has not ended in time; its ``run`` is the last one seen.
            NotFoundError: if there is no such run, or no longer.
            ValueError: for a ``timeout`` that is no number of seconds.
        """
        return await self._poller.wait(run_id, timeout)

    def watch(self, run_ids: Iterable[int | str]) -> RunWatcher:
        """Each change of several runs, as an async iterator that ends when all have ended.

        Yields every run once at first, and again each time that its ``status`` or ``updated_at``
        has changed. Polls as :meth:`wait` does, with the same tolerance of failures, and only
        while the next change is awaited. An id given twice is watched once.

        Any other error, such as that a run does not exist, is raised after the changes found with
        it. That run is then no longer watched: iterating again continues with the others.

        Operation: ``GET /runs?filter[id]=…`` for up to 100 runs, ``GET /runs/{run_id}`` for one,
        for those that the listing does not show, and if it is refused.

        Raises:
            InvalidIdError: for a bad id, before any request.
            NotFoundError: on iterating, if there is no such run, or no longer.
            TypeError: for a lone string or bytes.
        """
        return RunWatcher(self._poller, run_ids)

    async def delete(self, run_id: int | str) -> None:
        """Delete a run.

        Operation: ``DELETE /runs/{run_id}``. A 404 counts as success only if the response to an
        earlier attempt of the same call was lost.

        Raises:
            NotFoundError: if there is no such run.
        """
        await self._caller.perform(endpoints.delete_run(run_id))

    async def pin(self, run_id: int | str) -> None:
        """Pin a run for the current user; pinning it twice is no error.

        Operation: ``POST /runs/{run_id}/pin``.
        """
        await self._caller.perform(endpoints.pin_run(run_id))

    async def unpin(self, run_id: int | str) -> None:
        """Remove the pin of a run.

        Operation: ``DELETE /runs/{run_id}/pin``.
        """
        await self._caller.perform(endpoints.unpin_run(run_id))

    async def artifacts(self, run_id: int | str, path: str | None = None) -> RunArtifacts:
        """The files and directories of a run, one directory at a time.

        Operation: ``GET /runs/{run_id}/artifacts``.

        Args:
            run_id: the run.
            path: a sub-directory, as an earlier response named it; the top one by default.
        """
        call = endpoints.list_run_artifacts(run_id, path)
        return cast("RunArtifacts", await self._caller.perform(call))

    async def facet_keys(self, project_id: int | str) -> FacetKeys:
        """What the runs of a project can be filtered by.

        Operation: ``GET /facet-keys``.
        """
        return cast("FacetKeys", await self._caller.perform(endpoints.facet_keys(project_id)))

    async def facet_values(
        self, project_id: int | str, facet_type: endpoints.FacetType, facet_name: str
    ) -> FacetValues:
        """The values that one facet takes in a project's runs.

        Operation: ``GET /facet-values``.

        Raises:
            ValueError: for an unknown ``facet_type``.
        """
        call = endpoints.facet_values(project_id, facet_type, facet_name)
        return cast("FacetValues", await self._caller.perform(call))


class Projects:
    """``client.projects``: collections of runs."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def get(self, project_id: int | str) -> Project:
        """One project.

        Operation: ``GET /projects/{project_id}``.

        Raises:
            NotFoundError: if there is no such project.
        """
        return cast("Project", await self._caller.perform(endpoints.get_project(project_id)))

    def list(
        self,
        filter: ProjectFilter | None = None,  # noqa: A002  # the API's own name
        *,
        sort: str | None = None,
        page_size: int | None = None,
        verify: bool = False,
    ) -> Pager[Project]:
        """Projects by filter: ``await`` returns one `Page`, ``async for`` yields every project.

        Operation: ``GET /projects``. Waits for quota as :meth:`Runs.list` does.

        Args:
            filter: which projects; all by default.
            sort: ``name``, ``created_at`` or ``updated_at``, with a leading ``-`` to descend; the
                server's own order by default.
            page_size: 1 to 100; by default the server's own for ``await``, 100 for iteration.
            verify: as in :meth:`Runs.list`.

        Raises:
            ValueError: for another ``sort`` or ``page_size``.
        """
        sort, verified = _verified_order(sort, verify=verify)
        return Pager(
            lambda size, number: endpoints.list_projects(
                filter, sort=sort, page_size=size, page_number=number, wait_for_quota=True
            ),
            perform=self._caller.perform,
            page_size=page_size,
            verify=verified,
        )

    async def star(self, project_id: int | str) -> None:
        """Star a project for the current user; starring it twice is no error.

        Operation: ``POST /projects/{project_id}/star``.
        """
        await self._caller.perform(endpoints.star_project(project_id))

    async def unstar(self, project_id: int | str) -> None:
        """Remove the star of a project.

        Operation: ``DELETE /projects/{project_id}/star``.
        """
        await self._caller.perform(endpoints.unstar_project(project_id))

    async def artifacts(self, project_id: int | str) -> ProjectArtifacts:
        """The files of a project.

        Operation: ``GET /projects/{project_id}/artifacts``.
        """
        call = endpoints.list_project_artifacts(project_id)
        return cast("ProjectArtifacts", await self._caller.perform(call))

    async def facet_keys(self) -> FacetKeys:
        """What projects can be filtered by.

        Operation: ``GET /project-facet-keys``.
        """
        return cast("FacetKeys", await self._caller.perform(endpoints.project_facet_keys()))

    async def facet_values(self, facet_type: Literal["tag"], facet_name: str) -> FacetValues:
        """The values that one facet of projects takes.

        Operation: ``GET /project-facet-values``.

        Raises:
            ValueError: for another ``facet_type`` than ``"tag"``.
        """
        call = endpoints.project_facet_values(facet_type, facet_name)
        return cast("FacetValues", await self._caller.perform(call))


class Artifacts:
    """``client.artifacts``: the content of files, by project and path."""

    def __init__(self, caller: Caller, permits: asyncio.Semaphore) -> None:
        self._caller = caller
        self._permits = permits

    def with_caller(self, caller: Caller) -> Artifacts:
        """The operations of a view, whose downloads count towards the limit of this client."""
        return Artifacts(caller, self._permits)

    @functools.cached_property
    def _downloads(self) -> Downloads:
        from modellab_async.downloads import Downloads  # noqa: PLC0415 - few programs download

        caller = self._caller
        return Downloads(caller.perform, caller.policy, caller.clock, self._permits)

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
        return cast("bytes", await self._caller.perform(call))

    @contextlib.asynccontextmanager
    async def stream(self, project_id: int | str, artifact_path: str) -> AsyncIterator[Stream]:
        """A file's bytes as they arrive: ``async with`` yields an async iterator of bytes.

        Operation: ``GET /artifacts/content``. The request is repeated until the response begins;
        iterating raises `TransportError` if the body is cut short.

        Raises:
            NotFoundError: if there is no such file.
            DecodeError: if the response is a success, but not the whole content (200).
        """
        body: Stream = await self._caller.perform(
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
        on_progress: bulk.Progress | None = None,
    ) -> Path:
        """Write a file to disk in bounded memory, and return its path.

        Operation: ``GET /artifacts/content``. The file grows as ``<name>.part`` beside its target
        and is renamed when it is complete; an older target stays until then. A body that breaks
        off is resumed. After as many breaks without progress as the retry policy has attempts,
        the part file is kept, and the next download, in any process, resumes it. It starts over
        if the server has no ranges, or another version of the file by its ``ETag``,
        ``Last-Modified``, size or last 4 KiB. One client receives eight files at once.

        Args:
            project_id: the project.
            artifact_path: as in :meth:`read`.
            destination: the file to write; directories above it are created, ``~`` is expanded. An
                existing directory, or a path that ends in a slash, takes the file under its own
                name.
            on_progress: called with the bytes on disk and in all (None if the server does not
                say), as the response begins and then after each write; never falls.

        Raises:
            ConfigError: if the destination is a URL.
            NotFoundError: if there is no such file; nothing is written then.
            DownloadError: if it keeps breaking off, has another size than the server announced
                (``Content-Length``), or cannot be written; if another download is writing the
                same file, which the message names; if a file is in the way.
        """
        try:
            return await self._downloads.file(project_id, artifact_path, destination, on_progress)
        except ModelLabError as error:
            raise detached(error)  # noqa: B904  # it is the same error

    async def download_run(
        self,
        run_id: int | str,
        directory: str | os.PathLike[str],
        *,
        on_progress: bulk.Progress | None = None,
    ) -> list[Path]:
        """Write every file of a run to disk, several at once, and return their paths in order.

        Operations: ``GET /runs/{run_id}``, ``GET /runs/{run_id}/artifacts`` for each directory,
        ``GET /artifacts/content`` for each file. Everything is listed and checked before anything
        is written. If a file is missing, keeps breaking off or has another size than listed, the
        others are downloaded before the error is raised; any other error ends all at once. Part
        files are kept, also on cancellation. A file that exists is left as it is if it has the
        listed size and its last 4 KiB equal the server's, which takes one small request; one of
        up to 4 KiB is downloaded again.

        Args:
            run_id: the run.
            directory: where the files are put under their paths; created if needed, ``~`` is
                expanded.
            on_progress: called with the bytes on disk and in all (None if the listing lacks a
                size), at the start and then after each write; never falls.

        Raises:
            ConfigError: if the directory is a URL.
            NotFoundError: if there is no such run.
            DownloadError: if files failed, if a listed path is not safe on every platform, leads
                over a symbolic link or differs from another only in case, or if the run has more
                than 100,000 artifacts or 64 levels of directories.
        """
        try:
            return await self._downloads.run(run_id, directory, on_progress)
        except ModelLabError as error:
            raise detached(error)  # noqa: B904  # it is the same error


def _verified_order(sort: str | None, *, verify: bool) -> tuple[str | None, Verify | None]:
    """The order of a listing, and the one that verification relies on."""
    if not verify:
        return sort, None
    if sort not in {None, "created_at", "-created_at"}:
        raise ValueError(f"verify needs sort='created_at' or '-created_at', not {sort!r}")
    return sort or "created_at", cast("Verify", sort or "created_at")
