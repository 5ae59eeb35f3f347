"""The whole API on one page: a pure builder per operation, each giving a `Call`.

Source: Datadog API v2, Model Lab (preview). Paths stand below ``/api/v2/model-lab-api``. Every
builder raises `InvalidIdError` for a bad id and ValueError for another bad argument.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote, urlencode

from modellab_async.models import (
    ROOT_RUNS,
    FacetKeys,
    FacetValues,
    Project,
    ProjectArtifacts,
    ProjectFilter,
    Run,
    RunArtifacts,
    RunFilter,
)
from modellab_async.wire import Call, parse_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

FacetType = Literal["parameter", "attribute", "tag", "metric"]

MAX_PAGE_SIZE: Final = 100
RUN_SORT_FIELDS: Final = ("name", "created_at", "updated_at", "duration")
PROJECT_SORT_FIELDS: Final = ("name", "created_at", "updated_at")
FACET_TYPES: Final = ("parameter", "attribute", "tag", "metric")


def get_run(run_id: object, *, sharing: bool = False, patient: bool = False) -> Call:
    """``GET /runs/{run_id}``."""
    number = parse_id(run_id)
    return Call(
        "runs.get",
        "GET",
        f"/runs/{number}",
        returns=Run,
        expects=number,
        sharing=sharing,
        patient=patient,
    )


def list_runs(
    run_filter: RunFilter | None = None,
    *,
    sort: str | None = None,
    page_size: int | None = None,
    page_number: int | None = None,
    pinned_first: bool | None = None,
    include_pinned: bool | None = None,
    include_descendant_matches: bool | None = None,
    sharing: bool = True,
    patient: bool = False,
) -> Call:
    """``GET /runs``."""
    wanted = run_filter or RunFilter()
    parent = wanted.parent_run_id
    return Call(
        "runs.list",
        "GET",
        "/runs",
        _query(
            ("filter[id]", _ids(wanted.ids)),
            ("filter", wanted.text),
            ("filter[owner_id]", wanted.owner_id),
            ("filter[status]", wanted.status),
            ("filter[project_id]", _id(wanted.project_id, "project id")),
            ("filter[tags]", _pairs(wanted.tags)),
            ("filter[params]", _pairs(wanted.params)),
            ("filter[parent_run_id]", "null" if parent is ROOT_RUNS else _id(parent, "run id")),
            ("pinned_first", pinned_first),
            ("include_pinned", include_pinned),
            ("include_descendant_matches", include_descendant_matches),
            ("sort", _sort(sort, RUN_SORT_FIELDS)),
            ("page[size]", _page_size(page_size)),
            ("page[number]", page_number),
        ),
        returns=Run,
        paged=True,
        sharing=sharing,
        patient=patient,
    )


def delete_run(run_id: object) -> Call:
    """``DELETE /runs/{run_id}``."""
    return Call("runs.delete", "DELETE", f"/runs/{parse_id(run_id)}", effect="removal")


def pin_run(run_id: object) -> Call:
    """``POST /runs/{run_id}/pin``: pinning twice is pinning once."""
    return Call("runs.pin", "POST", f"/runs/{parse_id(run_id)}/pin", effect="set")


def unpin_run(run_id: object) -> Call:
    """``DELETE /runs/{run_id}/pin``."""
    return Call("runs.unpin", "DELETE", f"/runs/{parse_id(run_id)}/pin", effect="removal")


def list_run_artifacts(run_id: object, path: str | None = None) -> Call:
    """``GET /runs/{run_id}/artifacts``; ``path`` is a sub-directory."""
    return Call(
        "runs.artifacts",
        "GET",
        f"/runs/{parse_id(run_id)}/artifacts",
        _query(("path", path)),
        returns=RunArtifacts,
    )


def get_project(project_id: object) -> Call:
    """``GET /projects/{project_id}``."""
    number = parse_id(project_id, "project id")
    return Call("projects.get", "GET", f"/projects/{number}", returns=Project, expects=number)


def list_projects(
    project_filter: ProjectFilter | None = None,
    *,
    sort: str | None = None,
    page_size: int | None = None,
    page_number: int | None = None,
) -> Call:
    """``GET /projects``."""
    wanted = project_filter or ProjectFilter()
    return Call(
        "projects.list",
        "GET",
        "/projects",
        _query(
            ("filter", wanted.text),
            ("filter[owner_id]", wanted.owner_id),
            ("filter[tags]", _pairs(wanted.tags)),
            ("sort", _sort(sort, PROJECT_SORT_FIELDS)),
            ("page[size]", _page_size(page_size)),
            ("page[number]", page_number),
        ),
        returns=Project,
        paged=True,
    )


def star_project(project_id: object) -> Call:
    """``POST /projects/{project_id}/star``: starring twice is starring once."""
    number = parse_id(project_id, "project id")
    return Call("projects.star", "POST", f"/projects/{number}/star", effect="set")


def unstar_project(project_id: object) -> Call:
    """``DELETE /projects/{project_id}/star``."""
    return Call(
        "projects.unstar",
        "DELETE",
        f"/projects/{parse_id(project_id, 'project id')}/star",
        effect="removal",
    )


def list_project_artifacts(project_id: object) -> Call:
    """``GET /projects/{project_id}/artifacts``."""
    return Call(
        "projects.artifacts",
        "GET",
        f"/projects/{parse_id(project_id, 'project id')}/artifacts",
        returns=ProjectArtifacts,
    )


def artifact_content(
    project_id: object, artifact_path: str, *, streamed: bool = False, offset: int = 0
) -> Call:
    """``GET /artifacts/content``: a file's bytes, from ``offset`` on where the server can.

    The content is asked for as it is stored: compressed on the way, its length and ranges (RFC
    9110, section 14) would not be the file's.
    """
    if not artifact_path:
        raise ValueError(f"artifact_path must be a path, not {artifact_path!r}")
    headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    return Call(
        "artifacts.content",
        "GET",
        "/artifacts/content",
        _query(
            ("project_id", parse_id(project_id, "project id")), ("artifact_path", artifact_path)
        ),
        headers=headers,
        returns=bytes,
        streamed=streamed,
    )


def facet_keys(project_id: object) -> Call:
    """``GET /facet-keys``: what the runs of a project can be filtered by."""
    return Call(
        "runs.facet_keys",
        "GET",
        "/facet-keys",
        _query(("filter[project_id]", parse_id(project_id, "project id"))),
        returns=FacetKeys,
    )


def facet_values(project_id: object, facet_type: FacetType, facet_name: str) -> Call:
    """``GET /facet-values``: the values that a facet takes in a project's runs."""
    return Call(
        "runs.facet_values",
        "GET",
        "/facet-values",
        _query(
            ("filter[project_id]", parse_id(project_id, "project id")),
            ("facet_type", _one_of(facet_type, "facet_type", FACET_TYPES)),
            ("facet_name", facet_name),
        ),
        returns=FacetValues,
    )


def project_facet_keys() -> Call:
    """``GET /project-facet-keys``: what projects can be filtered by."""
    return Call("projects.facet_keys", "GET", "/project-facet-keys", returns=FacetKeys)


def project_facet_values(facet_type: Literal["tag"], facet_name: str) -> Call:
    """``GET /project-facet-values``: the values that a facet of projects takes."""
    return Call(
        "projects.facet_values",
        "GET",
        "/project-facet-values",
        _query(
            ("facet_type", _one_of(facet_type, "facet_type", ("tag",))),
            ("facet_name", facet_name),
        ),
        returns=FacetValues,
    )


def _query(*pairs: tuple[str, object]) -> str:
    """A query string of the pairs that have a value; commas and colons stand as they are."""
    return urlencode(
        [(name, _plain(value)) for name, value in pairs if value is not None],
        quote_via=quote,
        safe=",:",
    )


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _id(value: object, what: str) -> int | None:
    return None if value is None else parse_id(value, what)


def _ids(values: Sequence[object] | None) -> str | None:
    return None if values is None else ",".join([str(parse_id(value)) for value in values])


def _pairs(values: Mapping[str, Any] | None) -> str | None:
    if not values:
        return None
    return ",".join(f"{key}:{_plain(value)}" for key, value in values.items())


def _sort(sort: str | None, fields: Iterable[str]) -> str | None:
    if sort is not None and str(sort).removeprefix("-") not in fields:
        raise ValueError(
            f"sort must be one of {', '.join(fields)}, with a leading - to descend, not {sort!r}"
        )
    return sort


def _page_size(size: int | None) -> int | None:
    whole = isinstance(size, int) and not isinstance(size, bool)
    if size is not None and not (whole and 1 <= size <= MAX_PAGE_SIZE):
        raise ValueError(f"page_size must be a number from 1 to {MAX_PAGE_SIZE}, not {size!r}")
    return size


def _one_of(value: str, name: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")
    return value
