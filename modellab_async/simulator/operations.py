"""The sixteen operations, each from what was asked to an answer; nothing here waits."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

import attrs
import msgspec

from modellab_async.simulator.answers import (
    NO_CONTENT,
    Answer,
    BadParameterError,
    json_answer,
    plain_error,
)
from modellab_async.simulator.facets import facet_keys, run_facet_values, tag_values
from modellab_async.simulator.queries import (
    PageQuery,
    ProjectQuery,
    Query,
    RunQuery,
    integer,
    refuse_unknown,
)
from modellab_async.simulator.search import Found, Search

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from modellab_async.simulator.artifacts import Artifacts
    from modellab_async.simulator.resources import RunResource
    from modellab_async.simulator.store import Store

PREFIX: Final = "/api/v2/model-lab-api"
LINKS_HOST: Final = "https://model-lab.internal.example"
"""The host that `links` name, as recorded: not the one that was asked."""


@attrs.frozen
class Asked:
    """What an operation needs to know of a request.

    Attributes:
        ids: the ids in the path, by name.
        path: the path, without the query.
        query: the query's parameters.
        headers: the headers.
    """

    ids: Mapping[str, str]
    path: str
    query: Query
    headers: Mapping[str, str]

    def id(self, name: str) -> int:
        """An id of the path.

        Raises:
            BadParameterError: it is not an integer.
        """
        return integer(self.ids[name], name)

    def required(self, *names: str) -> tuple[str, ...]:
        """The values of the query's only parameters.

        Raises:
            BadParameterError: one is missing or empty, or there are others.
        """
        refuse_unknown(self.query, names)
        for name in names:
            if not self.query.get(name):
                raise BadParameterError(name, "required")
        return tuple(self.query[name] for name in names)


class Operations:
    """The operations on one store."""

    def __init__(self, store: Store, artifacts: Artifacts, *, first_page: int) -> None:
        self._store = store
        self._search = Search(store)
        self._artifacts = artifacts
        self._first_page = first_page

    def get_run(self, asked: Asked) -> Answer:
        """One run."""
        refuse_unknown(asked.query, ())
        return Answer(body=b'{"data":%b}' % self._store.run_json(asked.id("run_id")))

    def list_runs(self, asked: Asked) -> Answer:
        """A page of runs."""
        found = self._search.runs(RunQuery.parse(asked.query))
        return self._page(
            asked,
            found,
            lambda run_id: self._store.run_json(
                run_id, descendant_match=run_id in found.descendant_matches
            ),
        )

    def delete_run(self, asked: Asked) -> Answer:
        """204; a second time 404, however runs are deleted."""
        self._store.delete_run(asked.id("run_id"))
        return NO_CONTENT

    def pin_run(self, asked: Asked) -> Answer:
        """204, also for a run that is pinned."""
        self._store.pin(asked.id("run_id"), pinned=True)
        return NO_CONTENT

    def unpin_run(self, asked: Asked) -> Answer:
        """204, also for a run that is not pinned."""
        self._store.pin(asked.id("run_id"), pinned=False)
        return NO_CONTENT

    def list_run_artifacts(self, asked: Asked) -> Answer:
        """One directory of a run's artifacts."""
        refuse_unknown(asked.query, ("path",))
        run = self._store.visible_run(asked.id("run_id"))
        return json_answer({"data": self._artifacts.of_run(run, asked.query.get("path", ""))})

    def get_project(self, asked: Asked) -> Answer:
        """One project."""
        refuse_unknown(asked.query, ())
        return json_answer({"data": self._store.project_resource(asked.id("project_id"))})

    def list_projects(self, asked: Asked) -> Answer:
        """A page of projects."""
        found = self._search.projects(ProjectQuery.parse(asked.query))
        return self._page(
            asked,
            found,
            lambda project_id: msgspec.json.encode(self._store.project_resource(project_id)),
        )

    def star_project(self, asked: Asked) -> Answer:
        """204, also for a project that is starred."""
        self._store.star(asked.id("project_id"), starred=True)
        return NO_CONTENT

    def unstar_project(self, asked: Asked) -> Answer:
        """204, also for a project that is not starred."""
        self._store.star(asked.id("project_id"), starred=False)
        return NO_CONTENT

    def list_project_artifacts(self, asked: Asked) -> Answer:
        """A project's own files."""
        refuse_unknown(asked.query, ())
        project = self._store.project(asked.id("project_id"))
        return json_answer({"data": self._artifacts.of_project(project)})

    def get_artifact_content(self, asked: Asked) -> Answer:
        """The bytes of one artifact, or a part of them."""
        project_id, artifact_path = asked.required("project_id", "artifact_path")
        content = self._artifacts.content(integer(project_id, "project_id"), artifact_path)
        return self._artifacts.answer(
            content, asked.headers.get("Range"), asked.headers.get("If-Range")
        )

    def list_facet_keys(self, asked: Asked) -> Answer:
        """The keys that a project's runs can be filtered by."""
        (project_id,) = asked.required("filter[project_id]")
        runs = self._runs_of(project_id)
        return json_answer({"data": facet_keys(runs, runs)})

    def list_facet_values(self, asked: Asked) -> Answer:
        """The values that one facet takes in a project's runs."""
        project_id, kind, name = asked.required("filter[project_id]", "facet_type", "facet_name")
        return json_answer({"data": run_facet_values(self._runs_of(project_id), kind, name)})

    def list_project_facet_keys(self, asked: Asked) -> Answer:
        """The keys that projects can be filtered by."""
        refuse_unknown(asked.query, ())
        projects = map(self._store.project, self._store.project_ids)
        return json_answer({"data": facet_keys(projects)})

    def list_project_facet_values(self, asked: Asked) -> Answer:
        """The values that one tag takes in projects."""
        kind, name = asked.required("facet_type", "facet_name")
        if kind != "tag":
            raise BadParameterError("facet_type", f"{kind!r} is not a type of facet of projects")
        projects = map(self._store.project, self._store.project_ids)
        return json_answer({"data": tag_values(projects, name)})

    def unknown(self, _asked: Asked) -> Answer:
        """What is answered where there is no operation."""
        return plain_error(404, "Not found")

    def _runs_of(self, project_id: str) -> list[RunResource]:
        self._store.project(integer(project_id, "filter[project_id]"))
        query = RunQuery.parse({"filter[project_id]": project_id})
        return [self._store.run(run_id) for run_id in self._search.runs(query).ids]

    def _page(self, asked: Asked, found: Found, encode: Callable[[int], bytes]) -> Answer:
        first = self._first_page
        page = PageQuery.parse(asked.query, first=first)
        total = len(found.ids)
        last = first + max(0, (total - 1) // page.size)
        numbers = {
            "first": first,
            "last": last,
            "next": page.number + 1 if page.number < last else None,
            "prev": min(page.number - 1, last) if page.number > first else None,
            "self": page.number,
        }
        meta = {
            "first_number": first,
            "last_number": last,
            "next_number": numbers["next"],
            "number": page.number,
            "prev_number": numbers["prev"],
            "size": page.size,
            "total": total,
            "type": "number_size",
        }
        links = {
            name: None if number is None else _link(asked, page.size, number)
            for name, number in numbers.items()
        }
        return Answer(
            body=b'{"data":[%b],"links":%b,"meta":%b}'
            % (
                b",".join(map(encode, found.page((page.number - first) * page.size, page.size))),
                msgspec.json.encode(links),
                msgspec.json.encode({"page": meta}),
            )
        )


def _link(asked: Asked, size: int, number: int) -> str:
    query = {**asked.query, "page[number]": number, "page[size]": size}
    return f"{LINKS_HOST}{asked.path}?{urlencode(query)}"


@attrs.frozen
class Route:
    """Where an operation is to be found; its name is that of a method of `Operations`."""

    method: str
    template: str
    operation: str
    pattern: re.Pattern[str] = attrs.field(
        init=False, default=attrs.Factory(lambda route: _pattern(route.template), takes_self=True)
    )


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", PREFIX + template))


ROUTES: Final = (
    Route("GET", "/runs/{run_id}", "get_run"),
    Route("GET", "/runs", "list_runs"),
    Route("DELETE", "/runs/{run_id}", "delete_run"),
    Route("POST", "/runs/{run_id}/pin", "pin_run"),
    Route("DELETE", "/runs/{run_id}/pin", "unpin_run"),
    Route("GET", "/runs/{run_id}/artifacts", "list_run_artifacts"),
    Route("GET", "/projects/{project_id}", "get_project"),
    Route("GET", "/projects", "list_projects"),
    Route("POST", "/projects/{project_id}/star", "star_project"),
    Route("DELETE", "/projects/{project_id}/star", "unstar_project"),
    Route("GET", "/projects/{project_id}/artifacts", "list_project_artifacts"),
    Route("GET", "/artifacts/content", "get_artifact_content"),
    Route("GET", "/facet-keys", "list_facet_keys"),
    Route("GET", "/facet-values", "list_facet_values"),
    Route("GET", "/project-facet-keys", "list_project_facet_keys"),
    Route("GET", "/project-facet-values", "list_project_facet_values"),
)


_NOWHERE: Final = Route("", "", "unknown")


def route_of(method: str, path: str) -> tuple[Route, Mapping[str, str]]:
    """The operation that a method and a path name, and the ids in the path."""
    for route in ROUTES:
        if route.method == method:
            match = route.pattern.fullmatch(path)
            if match is not None:
                return route, match.groupdict()
    return _NOWHERE, {}
