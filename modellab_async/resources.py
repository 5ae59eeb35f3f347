"""What hangs on a client: thin methods, each a `Call` handed to the one ``perform``.

Every method raises `InvalidIdError` for a bad id before any request, and any other of this
package's errors for what the server or the way to it did.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal, cast

from modellab_async import bulk, endpoints

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable

    from modellab_async.models import (
        FacetKeys,
        FacetValues,
        Project,
        ProjectArtifacts,
        Run,
        RunArtifacts,
    )
    from modellab_async.transport import Stream


class Runs:
    """``client.runs``: training runs."""

    def __init__(self, perform: bulk.Perform, concurrency: int) -> None:
        self._perform = perform
        self._concurrency = concurrency

    async def get(self, run_id: int | str) -> Run:
        """One run.

        Operation: ``GET /runs/{run_id}``.

        Raises:
            NotFoundError: where there is no such run.
        """
        return cast("Run", await self._perform(endpoints.get_run(run_id)))

    async def get_many(self, run_ids: Iterable[Any] | AsyncIterable[Any]) -> list[Run]:
        """Many runs, fetched concurrently, in the order asked, repeats included.

        Operation: ``GET /runs/{run_id}`` for each.

        Raises:
            BulkError: where any failed; it carries every run fetched and every error.
            TypeError: for a lone string or bytes.
        """
        return await bulk.collect(run_ids, perform=self._perform, concurrency=self._concurrency)

    def fetch(
        self,
        run_ids: Iterable[Any] | AsyncIterable[Any],
        *,
        route: bulk.Route = "auto",
        ordered: bool = False,
        on_progress: bulk.Progress | None = None,
    ) -> bulk.Fetch:
        """The outcomes of any number of ids, as they arrive, in bounded memory.

        Exactly one `Outcome` comes for each id asked, repeats included. Ids are read as requests
        can be made, never far ahead. A 401 or 403 before anything has succeeded becomes the
        outcome of all remaining ids without another request. An error that the iterable itself
        raises comes after the outcomes of the ids already read.

        Args:
            run_ids: an iterable or async iterable of ids.
            route: how runs are asked for; ``"single"`` is one ``GET /runs/{run_id}`` per id.
            ordered: give the outcomes in the order asked.
            on_progress: called with the number of outcomes given and of ids in all (None where
                the iterable does not know) after each outcome.

        Raises:
            TypeError: for a lone string or bytes.
            ValueError: for an unknown route.
        """
        if route not in {"auto", "batch", "single"}:
            raise ValueError(f"route must be 'auto', 'batch' or 'single', not {route!r}")
        return bulk.fetch(
            run_ids,
            perform=self._perform,
            concurrency=self._concurrency,
            ordered=ordered,
            on_progress=on_progress,
        )

    async def delete(self, run_id: int | str) -> None:
        """Delete a run.

        Operation: ``DELETE /runs/{run_id}``. A 404 counts as success only where the answer to an
        earlier attempt of the same call was lost.

        Raises:
            NotFoundError: where there is no such run.
        """
        await self._perform(endpoints.delete_run(run_id))

    async def pin(self, run_id: int | str) -> None:
        """Pin a run for the current user; pinning it twice is no error.

        Operation: ``POST /runs/{run_id}/pin``.
        """
        await self._perform(endpoints.pin_run(run_id))

    async def unpin(self, run_id: int | str) -> None:
        """Take a run's pin away.

        Operation: ``DELETE /runs/{run_id}/pin``.
        """
        await self._perform(endpoints.unpin_run(run_id))

    async def artifacts(self, run_id: int | str, path: str | None = None) -> RunArtifacts:
        """The files and directories of a run, one directory at a time.

        Operation: ``GET /runs/{run_id}/artifacts``.

        Args:
            run_id: the run.
            path: a sub-directory, as an earlier answer named it; the top one by default.
        """
        call = endpoints.list_run_artifacts(run_id, path)
        return cast("RunArtifacts", await self._perform(call))

    async def facet_keys(self, project_id: int | str) -> FacetKeys:
        """What the runs of a project can be filtered by.

        Operation: ``GET /facet-keys``.
        """
        return cast("FacetKeys", await self._perform(endpoints.facet_keys(project_id)))

    async def facet_values(
        self, project_id: int | str, facet_type: endpoints.FacetType, facet_name: str
    ) -> FacetValues:
        """The values that one facet takes in a project's runs.

        Operation: ``GET /facet-values``.

        Raises:
            ValueError: for an unknown ``facet_type``.
        """
        call = endpoints.facet_values(project_id, facet_type, facet_name)
        return cast("FacetValues", await self._perform(call))


class Projects:
    """``client.projects``: collections of runs."""

    def __init__(self, perform: bulk.Perform) -> None:
        self._perform = perform

    async def get(self, project_id: int | str) -> Project:
        """One project.

        Operation: ``GET /projects/{project_id}``.

        Raises:
            NotFoundError: where there is no such project.
        """
        return cast("Project", await self._perform(endpoints.get_project(project_id)))

    async def star(self, project_id: int | str) -> None:
        """Star a project for the current user; starring it twice is no error.

        Operation: ``POST /projects/{project_id}/star``.
        """
        await self._perform(endpoints.star_project(project_id))

    async def unstar(self, project_id: int | str) -> None:
        """Take a project's star away.

        Operation: ``DELETE /projects/{project_id}/star``.
        """
        await self._perform(endpoints.unstar_project(project_id))

    async def artifacts(self, project_id: int | str) -> ProjectArtifacts:
        """The files of a project.

        Operation: ``GET /projects/{project_id}/artifacts``.
        """
        call = endpoints.list_project_artifacts(project_id)
        return cast("ProjectArtifacts", await self._perform(call))

    async def facet_keys(self) -> FacetKeys:
        """What projects can be filtered by.

        Operation: ``GET /project-facet-keys``.
        """
        return cast("FacetKeys", await self._perform(endpoints.project_facet_keys()))

    async def facet_values(self, facet_type: Literal["tag"], facet_name: str) -> FacetValues:
        """The values that one facet of projects takes.

        Operation: ``GET /project-facet-values``.

        Raises:
            ValueError: for another ``facet_type`` than ``"tag"``.
        """
        call = endpoints.project_facet_values(facet_type, facet_name)
        return cast("FacetValues", await self._perform(call))


class Artifacts:
    """``client.artifacts``: the content of files, by project and path."""

    def __init__(self, perform: bulk.Perform) -> None:
        self._perform = perform

    async def read(self, project_id: int | str, artifact_path: str) -> bytes:
        """A file's bytes, read into memory.

        Operation: ``GET /artifacts/content``.

        Args:
            project_id: the project.
            artifact_path: the path below the project's artifact root; for a file of a run,
                ``path_in_project + "/" + path`` of its listing.

        Raises:
            NotFoundError: where there is no such file.
            DecodeError: where it is larger than the client's ``max_body_bytes``.
        """
        call = endpoints.artifact_content(project_id, artifact_path)
        return cast("bytes", await self._perform(call))

    @contextlib.asynccontextmanager
    async def stream(self, project_id: int | str, artifact_path: str) -> AsyncIterator[Stream]:
        """A file's bytes as they arrive: ``async with`` gives an async iterator of bytes.

        Operation: ``GET /artifacts/content``. The request is repeated until the answer begins;
        iterating raises `TransportError` where the body breaks off.

        Raises:
            NotFoundError: where there is no such file.
        """
        body: Stream = await self._perform(
            endpoints.artifact_content(project_id, artifact_path, streamed=True)
        )
        try:
            yield body
        finally:
            body.close()
