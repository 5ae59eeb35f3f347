"""The sixteen operations, each from a request to a response; nothing here waits."""

from __future__ import annotations

import itertools
import math
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import attrs
import msgspec

from modellab_async.simulator.queries import ListQuery, Query, integer, read_page, refuse_unknown
from modellab_async.simulator.responses import (
    NO_CONTENT,
    BadParameterError,
    Response,
    json_response,
    plain_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from modellab_async.simulator.artifacts import Artifacts
    from modellab_async.simulator.dataset import Dataset, Found, Run
    from modellab_async.simulator.fixtures import Pair

PREFIX: Final = "/api/v2/model-lab-api"
LINKS_HOST: Final = "https://model-lab.internal.example"
"""The host that `links` name, as recorded: not the one that was asked."""


@attrs.frozen
class Request:
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
        """An id of the path, if it is an integer."""
        return integer(self.ids[name], name)

    def required(self, *names: str) -> tuple[str, ...]:
        """The values of the query's parameters, if none is missing or empty, nor any other."""
        refuse_unknown(self.query, names)
        for name in names:
            if not self.query.get(name):
                raise BadParameterError(name, "required")
        return tuple(self.query[name] for name in names)


class Operations:
    """The operations on one dataset."""

    def __init__(self, dataset: Dataset, artifacts: Artifacts, *, first_page: int) -> None:
        self._dataset = dataset
        self._artifacts = artifacts
        self._first_page = first_page

    def get_run(self, request: Request) -> Response:
        """One run."""
        refuse_unknown(request.query, ())
        return Response(body=b'{"data":%b}' % self._dataset.run_json(request.id("run_id")))

    def list_runs(self, request: Request) -> Response:
        """A page of runs."""
        found = self._dataset.find_runs(ListQuery.of_runs(request.query))
        return self._page(request, found, self._dataset.run_json)

    def delete_run(self, request: Request) -> Response:
        """204; a second time 404, however runs are deleted."""
        self._dataset.delete_run(request.id("run_id"))
        return NO_CONTENT

    def pin_run(self, request: Request) -> Response:
        """204, also for a run that is pinned."""
        self._dataset.pin(request.id("run_id"), pinned=True)
        return NO_CONTENT

    def unpin_run(self, request: Request) -> Response:
        """204, also for a run that is not pinned."""
        self._dataset.pin(request.id("run_id"), pinned=False)
        return NO_CONTENT

    def list_run_artifacts(self, request: Request) -> Response:
        """One directory of a run's artifacts."""
        refuse_unknown(request.query, ("path",))
        run = self._dataset.run(request.id("run_id"))
        return json_response({"data": self._artifacts.of_run(run, request.query.get("path", ""))})

    def get_project(self, request: Request) -> Response:
        """One project."""
        refuse_unknown(request.query, ())
        return json_response({"data": self._dataset.project_resource(request.id("project_id"))})

    def list_projects(self, request: Request) -> Response:
        """A page of projects."""
        found = self._dataset.find_projects(ListQuery.of_projects(request.query))
        return self._page(
            request,
            found,
            lambda project_id, _: msgspec.json.encode(self._dataset.project_resource(project_id)),
        )

    def star_project(self, request: Request) -> Response:
        """204, also for a project that is starred."""
        self._dataset.star(request.id("project_id"), starred=True)
        return NO_CONTENT

    def unstar_project(self, request: Request) -> Response:
        """204, also for a project that is not starred."""
        self._dataset.star(request.id("project_id"), starred=False)
        return NO_CONTENT

    def list_project_artifacts(self, request: Request) -> Response:
        """A project's own files."""
        refuse_unknown(request.query, ())
        project = self._dataset.project(request.id("project_id"))
        return json_response({"data": self._artifacts.of_project(project)})

    def get_artifact_content(self, request: Request) -> Response:
        """The bytes of one artifact, or a part of them."""
        project_id, artifact_path = request.required("project_id", "artifact_path")
        content = self._artifacts.content(integer(project_id, "project_id"), artifact_path)
        return self._artifacts.respond(
            content, request.headers.get("Range"), request.headers.get("If-Range")
        )

    def list_facet_keys(self, request: Request) -> Response:
        """The keys that a project's runs can be filtered by; metrics are null, as recorded."""
        (project_id,) = request.required("filter[project_id]")
        runs = self._dataset.runs_of_project(integer(project_id, "filter[project_id]"))
        return _facet_keys((run.params for run in runs), (run.tags for run in runs))

    def list_facet_values(self, request: Request) -> Response:
        """The values that one facet takes in a project's runs."""
        text, kind, name = request.required("filter[project_id]", "facet_type", "facet_name")
        project_id = integer(text, "filter[project_id]")
        runs = self._dataset.runs_of_project(project_id)
        match kind, name:
            case "tag", _:
                found = {value for run in runs for _, value in run.pairs("tags", {name})}
                return _facet_values(kind, name, sorted(found))
            case "parameter", _:
                found = {value for run in runs for _, value in run.pairs("params", {name})}
                return _facet_values(kind, name, sorted(found), **_numeric_range(found))
            case "metric", _:
                return _facet_values(kind, name, [], metric_stat_ranges=_stat_ranges(runs, name))
            case "attribute", "status" | "owner_id":
                values = self._dataset.column_values(project_id, name)
                return _facet_values(kind, name, values)
            case "attribute", "duration":
                durations = self._dataset.column_values(project_id, name)
                return _facet_values(kind, name, [], **_numeric_range(durations))
            case "attribute", _:
                raise BadParameterError("facet_name", f"{name!r} is not an attribute with facets")
            case _:
                raise BadParameterError("facet_type", f"{kind!r} is not a type of facet")

    def list_project_facet_keys(self, request: Request) -> Response:
        """The keys that projects can be filtered by."""
        refuse_unknown(request.query, ())
        return _facet_keys((), (project.tags for project in self._dataset.projects.values()))

    def list_project_facet_values(self, request: Request) -> Response:
        """The values that one tag takes in projects."""
        kind, name = request.required("facet_type", "facet_name")
        if kind != "tag":
            raise BadParameterError("facet_type", f"{kind!r} is not a type of facet of projects")
        tags = (tag for project in self._dataset.projects.values() for tag in project.tags)
        return _facet_values(kind, name, sorted({value for key, value in tags if key == name}))

    def unknown(self, _request: Request) -> Response:
        """What is answered to a path or method that is no operation."""
        return plain_error(404, "Not found")

    def _page(
        self, request: Request, found: Found, encode: Callable[[int, int], bytes]
    ) -> Response:
        first = self._first_page
        number, size = read_page(request.query, first=first)
        total = len(found)
        last = first + max(0, (total - 1) // size)
        numbers = {
            "first": first,
            "last": last,
            "next": number + 1 if number < last else None,
            "prev": min(number - 1, last) if number > first else None,
            "self": number,
        }
        meta = {
            "first_number": first,
            "last_number": last,
            "next_number": numbers["next"],
            "number": number,
            "prev_number": numbers["prev"],
            "size": size,
            "total": total,
            "type": "number_size",
        }
        links = {
            name: None if other is None else _link(request, size, other)
            for name, other in numbers.items()
        }
        start = (number - first) * size
        return Response(
            body=b'{"data":[%b],"links":%b,"meta":%b}'
            % (
                b",".join(itertools.starmap(encode, found[start : start + size])),
                msgspec.json.encode(links),
                msgspec.json.encode({"page": meta}),
            )
        )


def _link(request: Request, size: int, number: int) -> str:
    query = {**request.query, "page[number]": number, "page[size]": size}
    return f"{LINKS_HOST}{request.path}?{urlencode(query)}"


def _facet_keys(params: Iterable[list[Pair] | None], tags: Iterable[list[Pair] | None]) -> Response:
    parameters, names = (
        sorted({key for pairs in lists for key, _ in pairs or ()}) for lists in (params, tags)
    )
    attributes = {"metrics": None, "parameters": parameters, "tags": names}
    return json_response(
        {"data": {"attributes": attributes, "id": "facet-keys", "type": "facet_keys"}}
    )


def _facet_values(kind: str, name: str, values: Sequence[str], **more: Any) -> Response:
    attributes = {"facet_name": name, "facet_type": kind, "values": values, **more}
    return json_response(
        {"data": {"attributes": attributes, "id": f"{kind}:{name}", "type": "facet_values"}}
    )


def _numeric_range(values: Iterable[str | float]) -> dict[str, Any]:
    """The field `numeric_range`, or no field if a value is no number."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return {}
    if not numbers or not all(map(math.isfinite, numbers)):
        return {}
    return {"numeric_range": {"max": max(numbers), "min": min(numbers)}}


def _stat_ranges(runs: Iterable[Run], name: str) -> list[dict[str, Any]]:
    summaries = [
        summary
        for run in runs
        for summary in run.metric_summaries or ()
        if summary.get("key") == name
    ]
    ranges: list[dict[str, Any]] = []
    for stat in ("latest", "max", "mean", "min", "stddev"):
        values = [summary[stat] for summary in summaries if summary.get(stat) is not None]
        if values:
            ranges.append({"max": max(values), "min": min(values), "stat": stat})
    return ranges


@attrs.frozen
class Route:
    """How an operation is reached; its name is that of a method of `Operations`."""

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
_UNKNOWN: Final = Route("", "", "unknown")


def find_route(method: str, path: str) -> tuple[Route, Mapping[str, str]]:
    """The operation that a method and a path name, and the ids in the path."""
    for route in ROUTES:
        if route.method == method:
            match = route.pattern.fullmatch(path)
            if match is not None:
                return route, match.groupdict()
    return _UNKNOWN, {}
