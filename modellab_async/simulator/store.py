"""The organization as it stands: made-up and declared runs, and what requests did to them."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import msgspec

from modellab_async.simulator.answers import NotFoundError
from modellab_async.simulator.declared import (
    Declared,
    DeclaredRun,
    Timeline,
    project_attributes,
    run_attributes,
)
from modellab_async.simulator.ids import JoinedIds
from modellab_async.simulator.times import to_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from modellab_async.simulator.resources import Attributes, Resource, RunResource
    from modellab_async.simulator.world import World

_BODY_CACHE_BYTES: Final = 32 * 1024 * 1024


class BodyCache:
    """Encoded runs, up to a number of bytes; the one used longest ago goes first."""

    def __init__(self) -> None:
        self._bodies: OrderedDict[int, bytes] = OrderedDict()
        self._size = 0

    def get(self, run_id: int) -> bytes | None:
        """What is kept of a run, if anything."""
        body = self._bodies.get(run_id)
        if body is not None:
            self._bodies.move_to_end(run_id)
        return body

    def put(self, run_id: int, body: bytes) -> None:
        """Keep a run that is not kept yet."""
        self._bodies[run_id] = body
        self._size += len(body)
        while self._size > _BODY_CACHE_BYTES:
            self._size -= len(self._bodies.popitem(last=False)[1])

    def forget(self, run_id: int) -> None:
        """Keep a run no longer, because it changed."""
        self._size -= len(self._bodies.pop(run_id, b""))


class Store:
    """Runs and projects, looked up, searched and changed."""

    def __init__(self, world: World, clock: Callable[[], float], *, soft_delete: bool) -> None:
        self.world = world
        self._clock = clock
        self._soft_delete = soft_delete
        self._runs: dict[int, DeclaredRun] = {}
        self._projects: dict[int, Declared] = {}
        self._children: dict[int, list[int]] = {}
        self._deleted: dict[int, str] = {}
        self._pinned: dict[int, None] = {}  # a set that keeps the order of pinning
        self._starred: set[int] = set()
        self._highest_run = max([9_999, *world.run_ids[-1:]])
        self._bodies = BodyCache()

    @property
    def run_ids(self) -> Sequence[int]:
        """Every run there ever was, deleted ones included: made-up ones first, by creation."""
        if not self._runs:
            return self.world.run_ids
        return JoinedIds(self.world.run_ids, tuple(self._runs))

    @property
    def project_ids(self) -> Sequence[int]:
        """Every project."""
        if not self._projects:
            return self.world.project_ids
        return JoinedIds(self.world.project_ids, tuple(self._projects))

    def run(self, run_id: int) -> RunResource:
        """A run, deleted or not.

        Raises:
            NotFoundError: there never was such a run.
        """
        declared = self._runs.get(run_id)
        if declared is not None:
            return declared
        index = self.world.run_ids.find(run_id)
        if index is None:
            raise NotFoundError("run")
        return self.world.run(index)

    def visible_run(self, run_id: int) -> RunResource:
        """A run that can be read.

        Raises:
            NotFoundError: there is none of that id, or it was deleted for good.
        """
        if run_id in self._deleted and not self._soft_delete:
            raise NotFoundError("run")
        return self.run(run_id)

    def project(self, project_id: int) -> Resource:
        """A project.

        Raises:
            NotFoundError: there is none of that id.
        """
        declared = self._projects.get(project_id)
        if declared is not None:
            return declared
        index = self.world.project_ids.find(project_id)
        if index is None:
            raise NotFoundError("project")
        return self.world.project(index)

    @property
    def declared_runs(self) -> Collection[RunResource]:
        """The runs that were inserted, deleted or not."""
        return self._runs.values()

    @property
    def deleted(self) -> Collection[int]:
        """The runs that were deleted."""
        return self._deleted

    @property
    def pinned(self) -> Sequence[int]:
        """The pinned runs, the one pinned last first; deleted ones left out."""
        return [run_id for run_id in reversed(self._pinned) if run_id not in self._deleted]

    def run_resource(self, run_id: int) -> dict[str, Any]:
        """A run as it is served now.

        Raises:
            NotFoundError: there is none of that id, or it was deleted for good.
        """
        attributes = self.visible_run(run_id).attributes()
        if run_id in self._pinned:
            attributes["is_pinned"] = True
        if run_id in self._children:
            attributes["has_children"] = True
        deleted = self._deleted.get(run_id)
        if deleted is not None:
            attributes.update(deleted_at=deleted, updated_at=deleted)
        return _resource(run_id, "runs", attributes)

    def project_resource(self, project_id: int) -> dict[str, Any]:
        """A project as it is served now.

        Raises:
            NotFoundError: there is none of that id.
        """
        attributes = self.project(project_id).attributes()
        if project_id in self._starred:
            attributes["is_starred"] = True
        return _resource(project_id, "projects", attributes)

    def run_json(self, run_id: int, *, descendant_match: bool = False) -> bytes:
        """A run as it is served now, encoded.

        Raises:
            NotFoundError: there is none of that id, or it was deleted for good.
        """
        if descendant_match:
            resource = self.run_resource(run_id)
            resource["attributes"]["descendant_match"] = True
            return msgspec.json.encode(resource)
        body = self._bodies.get(run_id)
        if body is None:
            body = msgspec.json.encode(self.run_resource(run_id))
            if run_id not in self._runs:  # a declared run may change with the clock
                self._bodies.put(run_id, body)
        return body

    def insert_run(
        self,
        run_id: int | None,
        *,
        parent_run_id: int | None,
        timeline: Timeline,
        artifacts: Mapping[str, int | bytes],
        attributes: Mapping[str, Any],
    ) -> int:
        """Add a run; see `Simulator.insert_run`."""
        if run_id is None:
            run_id = self._highest_run + 1
        elif run_id in self._runs or run_id in self.world.run_ids:
            raise ValueError(f"there is a run {run_id} already")
        project_id = attributes.get("project_id")
        if project_id is None and self.project_ids:
            project_id = self.project_ids[0]
        if project_id is None or not self._has_project(project_id):
            project_id = self.insert_project(project_id, artifacts={}, attributes={})
        self._highest_run = max(self._highest_run, run_id)
        now = self._clock()
        self._runs[run_id] = DeclaredRun(
            id=run_id,
            given=run_attributes(run_id, project_id, now, attributes),
            parent_id=parent_run_id,
            artifacts=artifacts,
            timeline=timeline,
            clock=self._clock,
            inserted=now,
        )
        if parent_run_id is not None:
            self._children.setdefault(parent_run_id, []).append(run_id)
            self._bodies.forget(parent_run_id)
        return run_id

    def insert_project(
        self,
        project_id: int | None,
        *,
        artifacts: Mapping[str, int | bytes],
        attributes: Mapping[str, Any],
    ) -> int:
        """Add a project; see `Simulator.insert_project`."""
        if project_id is None:
            project_id = max([999, *self._projects, *self.world.project_ids[-1:]]) + 1
        elif self._has_project(project_id):
            raise ValueError(f"there is a project {project_id} already")
        given = project_attributes(project_id, self._clock(), attributes)
        self._projects[project_id] = Declared(project_id, given, artifacts)
        return project_id

    def _has_project(self, project_id: int) -> bool:
        return project_id in self._projects or project_id in self.world.project_ids

    def delete_run(self, run_id: int) -> None:
        """Delete a run.

        Raises:
            NotFoundError: there is none of that id, or it was deleted before.
        """
        if run_id in self._deleted:
            raise NotFoundError("run")
        self.run(run_id)
        self._deleted[run_id] = to_text(round(self._clock() * 1_000_000))
        self._bodies.forget(run_id)

    def pin(self, run_id: int, *, pinned: bool) -> None:
        """Pin or unpin a run; either may be repeated.

        Raises:
            NotFoundError: there is none of that id, or it was deleted for good.
        """
        self.visible_run(run_id)
        if not pinned:
            self._pinned.pop(run_id, None)
        else:
            self._pinned.setdefault(run_id)
        self._bodies.forget(run_id)

    def star(self, project_id: int, *, starred: bool) -> None:
        """Star or unstar a project; either may be repeated.

        Raises:
            NotFoundError: there is none of that id.
        """
        self.project(project_id)
        if starred:
            self._starred.add(project_id)
        else:
            self._starred.discard(project_id)


def _resource(identity: int, kind: str, attributes: Attributes) -> dict[str, Any]:
    return {"attributes": attributes, "id": str(identity), "type": kind}
