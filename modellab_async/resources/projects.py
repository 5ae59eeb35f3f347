"""``client.projects``: collections of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from modellab_async import endpoints
from modellab_async.pagination import Pager

if TYPE_CHECKING:
    from modellab_async.bulk import Perform
    from modellab_async.models import (
        FacetKeys,
        FacetValues,
        Project,
        ProjectArtifacts,
        ProjectFilter,
    )


class Projects:
    """``client.projects``: collections of runs."""

    def __init__(self, perform: Perform) -> None:
        self._perform = perform

    async def get(self, project_id: int | str) -> Project:
        """One project.

        Operation: ``GET /projects/{project_id}``.

        Raises:
            NotFoundError: where there is no such project.
        """
        return cast("Project", await self._perform(endpoints.get_project(project_id)))

    def list(
        self,
        filter: ProjectFilter | None = None,  # noqa: A002  # the API's own name
        *,
        sort: str | None = None,
        page_size: int | None = None,
    ) -> Pager[Project]:
        """Projects by filter: ``await`` gives one `Page`, ``async for`` gives every project.

        Operation: ``GET /projects``.

        Args:
            filter: which projects; all by default.
            sort: ``name``, ``created_at`` or ``updated_at``, with a leading ``-`` to descend.
            page_size: 1 to 100; by default the server's own for ``await``, 100 for iteration.

        Raises:
            ValueError: for another ``sort`` or ``page_size``.
        """
        return Pager(
            lambda size, number: endpoints.list_projects(
                filter, sort=sort, page_size=size, page_number=number
            ),
            perform=self._perform,
            page_size=page_size,
        )

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
