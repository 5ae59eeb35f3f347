"""Selecting and ordering runs and projects."""

from __future__ import annotations

from array import array
from bisect import insort
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import attrs

from modellab_async.simulator.answers import NotFoundError
from modellab_async.simulator.queries import ProjectQuery, RunQuery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from modellab_async.simulator.resources import Resource, RunResource
    from modellab_async.simulator.store import Store

_CACHED_SEARCHES: Final = 16
_EVERYTHING: Final = RunQuery.parse({"sort": "created_at"})

_SORT_KEYS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "name": lambda resource: resource.name,
    "created_at": lambda resource: resource.created,
    "updated_at": lambda resource: resource.updated,
    "duration": lambda run: -1.0 if run.duration is None else run.duration,
}


def _rank(resource: Resource, sort: str) -> tuple[Any, int]:
    return _SORT_KEYS[sort](resource), resource.id


@attrs.frozen
class Found:
    """What a query selects, in order, without copying or reversing long lists.

    Attributes:
        ids: the ids in ascending order of the sort key.
        descending: whether they are to be read from the end.
        descendant_matches: those that are here for a descendant's sake only.
    """

    ids: Sequence[int]
    descending: bool = False
    descendant_matches: frozenset[int] = frozenset()

    def page(self, start: int, size: int) -> list[int]:
        """Up to `size` ids from position `start` on."""
        total = len(self.ids)
        positions = range(total)[start : start + size]
        return [self.ids[total - 1 - at if self.descending else at] for at in positions]


class Search:
    """Searches a store; remembers what the last few queries found among the made-up runs."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._remembered: OrderedDict[RunQuery, array[int]] = OrderedDict()

    def projects(self, query: ProjectQuery) -> Found:
        """The projects that a query selects."""
        projects = map(self._store.project, self._store.project_ids)
        ranks = sorted(_rank(project, query.sort) for project in projects if query.matches(project))
        return Found([identity for _, identity in ranks], query.descending)

    def runs(self, query: RunQuery) -> Found:
        """The runs that a query selects; deleted ones never are."""
        ids = self._matches(query.base)
        flagged: set[int] = set()
        if query.include_descendant_matches:
            flagged = self._ancestors(ids)
            ids = self._merged(ids, flagged, query.sort)
            ids = [run_id for run_id in ids if query.right_parent(self._store.run(run_id))]
        if query.include_pinned:
            ids = self._merged(ids, set(self._store.pinned).difference(ids), query.sort)
        found = Found(ids, query.descending, frozenset(flagged))
        return self._pinned_first(found) if query.pinned_first else found

    def _pinned_first(self, found: Found) -> Found:
        ids = found.page(0, len(found.ids))
        listed, pinned = set(ids), self._store.pinned
        first = [run_id for run_id in pinned if run_id in listed]
        rest = [run_id for run_id in ids if run_id not in pinned]
        return attrs.evolve(found, ids=[*first, *rest], descending=False)

    def _matches(self, query: RunQuery) -> Sequence[int]:
        store = self._store
        if query.ids is not None:
            return self._sorted(query, self._existing(query.ids))
        if query == _EVERYTHING and not store.declared_runs and not store.deleted:
            return store.world.run_ids
        ids: Sequence[int] = self._among_made_up(query)
        if store.deleted:
            ids = [run_id for run_id in ids if run_id not in store.deleted]
        declared = [
            run.id
            for run in store.declared_runs
            if run.id not in store.deleted and query.matches_run(run)
        ]
        return self._merged(ids, declared, query.sort)

    def _existing(self, ids: Iterable[int]) -> Iterable[RunResource]:
        for run_id in ids:
            if run_id not in self._store.deleted:
                try:
                    yield self._store.run(run_id)
                except NotFoundError:
                    continue

    def _among_made_up(self, query: RunQuery) -> array[int]:
        ids = self._remembered.get(query)
        if ids is None:
            world = self._store.world
            ids = self._sorted(query, map(world.run, range(len(world.run_ids))))
            self._remembered[query] = ids
            if len(self._remembered) > _CACHED_SEARCHES:
                self._remembered.popitem(last=False)
        self._remembered.move_to_end(query)
        return ids

    def _sorted(self, query: RunQuery, runs: Iterable[RunResource]) -> array[int]:
        ranks = sorted(_rank(run, query.sort) for run in runs if query.matches_run(run))
        return array("q", [run_id for _, run_id in ranks])

    def _merged(self, ids: Sequence[int], more: Iterable[int], sort: str) -> Sequence[int]:
        store = self._store
        merged: list[int] | None = None
        for run_id in more:
            merged = list(ids) if merged is None else merged
            insort(merged, run_id, key=lambda identity: _rank(store.run(identity), sort))
        return ids if merged is None else merged

    def _ancestors(self, ids: Sequence[int]) -> set[int]:
        known = set(ids)
        ancestors: set[int] = set()
        for run_id in ids:
            parent = self._store.run(run_id).parent_id
            while parent is not None and parent not in known:
                known.add(parent)
                if parent not in self._store.deleted:
                    ancestors.add(parent)
                parent = self._store.run(parent).parent_id
        return ancestors
