"""The sixteen operations, each from the parameters of a request to a response."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import attrs
import msgspec
from aiohttp import web
from multidict import MultiMapping

from modellab_async.simulator.artifacts import Content, list_all, list_directory
from modellab_async.simulator.dataset import Dataset, Found, Run
from modellab_async.simulator.fixtures import objects_in, pairs_of
from modellab_async.simulator.queries import LIST_PROJECTS, LIST_RUNS, Reader, integer, not_empty
from modellab_async.simulator.responses import (
    NO_CONTENT,
    BadParameterError,
    NotFoundError,
    RequestRefusedError,
    Response,
    error_response,
    json_response,
)
from modellab_async.simulator.times import to_microseconds, to_text

PREFIX: Final = "/api/v2/model-lab-api"
LINKS_HOST: Final = "https://model-lab.internal.example"
"""The host that `links` name, as recorded: not the one that was asked."""

OCTETS: Final = "application/octet-stream"
_DEFAULT_PAGE_SIZE: Final = 25


@attrs.frozen
class Request:
    """A request for an operation.

    Attributes:
        values: the parameters in path and query, as they were read.
        http: the request as it came.
        dataset: the runs and projects.
        first_page: the number of the first page of a list.
        ranges: whether artifacts are served in part.
    """

    values: Mapping[str, Any]
    http: web.BaseRequest
    dataset: Dataset
    first_page: int
    ranges: bool


def get_run(request: Request) -> Response:
    """One run."""
    return Response(body=b'{"data":%b}' % request.dataset.run_json(request.values["run_id"]))


def list_runs(request: Request) -> Response:
    """A page of runs."""
    found = request.dataset.find_runs(request.values)
    return _page(request, found, request.dataset.run_json)


def delete_run(request: Request) -> Response:
    """204; a second time 404, however runs are deleted."""
    request.dataset.delete_run(request.values["run_id"])
    return NO_CONTENT


def pin_run(request: Request) -> Response:
    """204, also for a run that is pinned."""
    request.dataset.pin_run(request.values["run_id"], pinned=True)
    return NO_CONTENT


def unpin_run(request: Request) -> Response:
    """204, also for a run that is not pinned."""
    request.dataset.pin_run(request.values["run_id"], pinned=False)
    return NO_CONTENT


def list_run_artifacts(request: Request) -> Response:
    """One directory of a run's artifacts."""
    run = request.dataset.run(request.values["run_id"])
    directory = request.values.get("path", "")
    files = list_directory(run.artifacts, directory)
    if directory and not files:
        raise NotFoundError("artifact")
    return _resource("artifacts", str(run.id), {"files": files, "path_in_project": run.path})


def get_project(request: Request) -> Response:
    """One project."""
    project_id = request.values["project_id"]
    return json_response({"data": request.dataset.project_resource(project_id)})


def list_projects(request: Request) -> Response:
    """A page of projects."""

    def encode(project_id: int, _: int) -> bytes:
        return msgspec.json.encode(request.dataset.project_resource(project_id))

    return _page(request, request.dataset.find_projects(request.values), encode)


def star_project(request: Request) -> Response:
    """204, also for a project that is starred."""
    request.dataset.star_project(request.values["project_id"], starred=True)
    return NO_CONTENT


def unstar_project(request: Request) -> Response:
    """204, also for a project that is not starred."""
    request.dataset.star_project(request.values["project_id"], starred=False)
    return NO_CONTENT


def list_project_artifacts(request: Request) -> Response:
    """A project's own files."""
    project = request.dataset.project(request.values["project_id"])
    created = to_text(to_microseconds(project.attributes.get("created_at")))
    files = list_all(project.artifacts, created)
    return _resource("project_files", str(project.id), {"files": files})


def get_artifact_content(request: Request) -> Response:
    """The bytes of one artifact, or a part of them."""
    path = request.values["artifact_path"]
    content = request.dataset.content(request.values["project_id"], path)
    if not request.ranges:
        return Response(200, content, OCTETS)
    headers = (("Accept-Ranges", "bytes"), ("ETag", content.etag))
    part = _part(content, request.http)
    if part is None:
        return Response(200, content, OCTETS, headers)
    content_range = f"bytes {part.start}-{part.stop - 1}/{content.size}"
    return Response(206, content, OCTETS, (*headers, ("Content-Range", content_range)), part)


def list_facet_keys(request: Request) -> Response:
    """The keys that a project's runs can be filtered by; metrics are null, as recorded."""
    runs = request.dataset.runs_of_project(request.values["filter[project_id]"])
    return _facet_keys(
        [run.entries("params") for run in runs], [run.entries("tags") for run in runs]
    )


def list_facet_values(request: Request) -> Response:
    """The values that one facet takes in a project's runs."""
    project_id = request.values["filter[project_id]"]
    kind, name = request.values["facet_type"], request.values["facet_name"]
    runs = request.dataset.runs_of_project(project_id)
    match kind, name:
        case "tag", _:
            found = {value for run in runs for value in run.values("tags", name)}
            return _facet_values(kind, name, sorted(found))
        case "parameter", _:
            found = {value for run in runs for value in run.values("params", name)}
            return _facet_values(kind, name, sorted(found), **_numeric_range(found))
        case "metric", _:
            return _facet_values(kind, name, [], metric_stat_ranges=_stat_ranges(runs, name))
        case "attribute", "status" | "owner_id":
            values = request.dataset.column_values(project_id, name)
            return _facet_values(kind, name, values)
        case "attribute", "duration":
            durations = request.dataset.column_values(project_id, name)
            return _facet_values(kind, name, [], **_numeric_range(durations))
        case "attribute", _:
            raise BadParameterError("facet_name", f"{name!r} is not an attribute with facets")
        case _:
            raise BadParameterError("facet_type", f"{kind!r} is not a type of facet")


def list_project_facet_keys(request: Request) -> Response:
    """The keys that projects can be filtered by."""
    return _facet_keys([], request.dataset.tags_of_projects())


def list_project_facet_values(request: Request) -> Response:
    """The values that one tag takes in projects."""
    kind, name = request.values["facet_type"], request.values["facet_name"]
    if kind != "tag":
        raise BadParameterError("facet_type", f"{kind!r} is not a type of facet of projects")
    lists = request.dataset.tags_of_projects()
    found = {value for tags in lists for key, value in pairs_of(tags) if key == name}
    return _facet_values(kind, name, sorted(found))


def _page(request: Request, found: Found, encode: Callable[[int, int], bytes]) -> Response:
    first = request.first_page
    number = request.values.get("page[number]", first)
    size = request.values.get("page[size]", _DEFAULT_PAGE_SIZE)
    if number < first:
        raise BadParameterError("page[number]", f"the first page is number {first}")
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
    query = {**request.http.query, "page[number]": number, "page[size]": size}
    return f"{LINKS_HOST}{request.http.rel_url.raw_path}?{urlencode(query)}"


def _part(content: Content, http: web.BaseRequest) -> range | None:
    """The part that a `Range` header asks for, or None for all of the content.

    Raises:
        RequestRefusedError: status 416, there is no such part.
    """
    wanted = http.headers.get("Range")
    if wanted is None or http.headers.get("If-Range", content.etag) != content.etag:
        return None
    try:
        part = range(content.size)[http.http_range]
    except ValueError:
        return None  # one that cannot be read is to be ignored
    if not part or wanted == "bytes=-0":
        detail = f"the content has {content.size} bytes"
        refusal = error_response(416, "Range Not Satisfiable", detail)
        content_range = ("Content-Range", f"bytes */{content.size}")
        raise RequestRefusedError(attrs.evolve(refusal, headers=(content_range,)))
    return part


def _resource(kind: str, resource_id: str, attributes: Mapping[str, Any]) -> Response:
    return json_response({"data": {"attributes": attributes, "id": resource_id, "type": kind}})


def _facet_keys(params: Iterable[Any], tags: Iterable[Any]) -> Response:
    parameters, names = (
        sorted({key for entries in lists for key, _ in pairs_of(entries)})
        for lists in (params, tags)
    )
    attributes = {"metrics": None, "parameters": parameters, "tags": names}
    return _resource("facet_keys", "facet-keys", attributes)


def _facet_values(kind: str, name: str, values: Sequence[str], **more: Any) -> Response:
    attributes = {"facet_name": name, "facet_type": kind, "values": values, **more}
    return _resource("facet_values", f"{kind}:{name}", attributes)


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
        for summary in objects_in(run.entries("metric_summaries"))
        if summary.get("key") == name
    ]
    ranges: list[dict[str, Any]] = []
    for stat in ("latest", "max", "mean", "min", "stddev"):
        values = [summary[stat] for summary in summaries if summary.get(stat) is not None]
        if values:
            ranges.append({"max": max(values), "min": min(values), "stat": stat})
    return ranges


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", PREFIX + template))


@attrs.frozen
class Route:
    """How an operation is reached.

    Attributes:
        required: readers of the parameters that must be there, those of the path included.
        optional: readers of the others.
    """

    method: str
    template: str
    operation: Callable[[Request], Response]
    required: Mapping[str, Reader] = {}
    optional: Mapping[str, Reader] = {}
    pattern: re.Pattern[str] = attrs.field(
        init=False, default=attrs.Factory(lambda route: _pattern(route.template), takes_self=True)
    )

    @property
    def name(self) -> str:
        """The name of the operation."""
        return self.operation.__name__

    def read(self, ids: Mapping[str, str], query: MultiMapping[str]) -> dict[str, Any]:
        """The values of the parameters in path and query.

        Raises:
            BadParameterError: one is missing, makes no sense, is given twice, or is unknown: a
                real server may ignore that, but a mistake of the client must show.
        """
        readers = {**self.required, **self.optional}
        values: dict[str, Any] = {}
        for name, text in (*ids.items(), *query.items()):
            if name not in readers:
                raise BadParameterError(name, "unknown parameter")
            if name in values:
                raise BadParameterError(name, "given more than once")
            try:
                values[name] = readers[name](text)
            except ValueError as error:
                raise BadParameterError(name, str(error)) from None
        for name in self.required:
            if name not in values:
                raise BadParameterError(name, "required")
        return values


_RUN: Final[Mapping[str, Reader]] = {"run_id": integer}
_PROJECT: Final[Mapping[str, Reader]] = {"project_id": integer}
_PROJECT_OF_RUNS: Final[Mapping[str, Reader]] = {"filter[project_id]": integer}
_FACET: Final[Mapping[str, Reader]] = {"facet_type": not_empty, "facet_name": not_empty}
_CONTENT: Final[Mapping[str, Reader]] = {"project_id": integer, "artifact_path": not_empty}

ROUTES: Final = (
    Route("GET", "/runs/{run_id}", get_run, _RUN),
    Route("GET", "/runs", list_runs, optional=LIST_RUNS),
    Route("DELETE", "/runs/{run_id}", delete_run, _RUN),
    Route("POST", "/runs/{run_id}/pin", pin_run, _RUN),
    Route("DELETE", "/runs/{run_id}/pin", unpin_run, _RUN),
    Route("GET", "/runs/{run_id}/artifacts", list_run_artifacts, _RUN, {"path": str}),
    Route("GET", "/projects/{project_id}", get_project, _PROJECT),
    Route("GET", "/projects", list_projects, optional=LIST_PROJECTS),
    Route("POST", "/projects/{project_id}/star", star_project, _PROJECT),
    Route("DELETE", "/projects/{project_id}/star", unstar_project, _PROJECT),
    Route("GET", "/projects/{project_id}/artifacts", list_project_artifacts, _PROJECT),
    Route("GET", "/artifacts/content", get_artifact_content, _CONTENT),
    Route("GET", "/facet-keys", list_facet_keys, _PROJECT_OF_RUNS),
    Route("GET", "/facet-values", list_facet_values, {**_PROJECT_OF_RUNS, **_FACET}),
    Route("GET", "/project-facet-keys", list_project_facet_keys),
    Route("GET", "/project-facet-values", list_project_facet_values, _FACET),
)


def find_route(method: str, path: str) -> tuple[Route | None, Mapping[str, str]]:
    """The operation that a method and a path name, if any, and the ids in the path."""
    for route in ROUTES:
        if route.method == method:
            match = route.pattern.fullmatch(path)
            if match is not None:
                return route, match.groupdict()
    return None, {}
