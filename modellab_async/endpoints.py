"""One pure function per operation of the API, which returns its `Call`.

Source: Datadog API v2, Model Lab (preview). Paths are below ``/api/v2/model-lab-api``. Every
builder raises `InvalidIdError` for a bad id and ValueError for another bad argument.
"""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, SupportsIndex
from urllib.parse import quote, urlencode

import attrs

from modellab_async.errors import DecodeError, InvalidIdError
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

FacetType = Literal["parameter", "attribute", "tag", "metric"]

MAX_PAGE_SIZE: Final = 100
RUN_SORT_FIELDS: Final = ("name", "created_at", "updated_at", "duration")
PROJECT_SORT_FIELDS: Final = ("name", "created_at", "updated_at")
FACET_TYPES: Final = ("parameter", "attribute", "tag", "metric")


_MAX_ID: Final = 2**63 - 1


@attrs.frozen
class Call:
    """One operation of the API, ready to be sent.

    Attributes:
        operation: its name in this package, such as ``runs.get``; also the key under which its
            rate limit is learned.
        method: the HTTP method.
        path: the path below ``/api/v2/model-lab-api``, percent-encoded.
        query: the query, percent-encoded, without ``?``.
        returns: the model of the response (of its items if ``paged``), or None for no content.
        paged: whether the response is a page of a listing.
        unstructured: whether the resources of the response are left as JSON, to be structured when
            needed; ``one_of`` is not checked then.
        idempotent: whether sending it twice does no more than sending it once (RFC 9110, section
            9.2.2). If not, it is repeated only if the server certainly did not act on it.
        deletes: whether it removes something. A 404 is then a success if the response to an
            earlier attempt was lost: that attempt has most likely done the work.
        expects: the id that the response must carry.
        one_of: the values that attributes of the response can have. A listing in which no item
            has them was the response to another request.
        headers: further headers, which win over the client's.
        streamed: whether a successful response's body is returned open instead of read.
        wait_for_quota: whether it waits for quota however long that takes, as bulk work does,
            instead of failing if the wait would pass its deadline.
    """

    operation: str
    method: str
    path: str
    query: str = ""
    returns: type[Any] | None = None
    paged: bool = False
    unstructured: bool = False
    idempotent: bool = True
    deletes: bool = False
    expects: int | None = None
    one_of: Mapping[str, Sequence[object]] | None = attrs.field(default=None, hash=False)
    headers: Mapping[str, str] | None = attrs.field(default=None, hash=False)
    streamed: bool = False
    wait_for_quota: bool = False

    def check(self, result: Any) -> None:
        """Make sure that a decoded response can be the one to this call.

        Raises:
            DecodeError: ``mismatched``, if ``one_of`` tells that it cannot.
        """
        if self.one_of is None:
            return
        items = result.items if self.paged else [result]
        if items and not any(self._may_match(item, self.one_of) for item in items):
            message = f"the response to {self.operation} holds nothing that was requested"
            raise DecodeError(message, kind="mismatched")

    @staticmethod
    def _may_match(item: Any, one_of: Mapping[str, Sequence[object]]) -> bool:
        if isinstance(item, DecodeError):
            return item.kind != "mismatched"
        return all(
            # An attribute that is absent may have any value.
            (getattr(item, name, None) or values[0]) in values
            for name, values in one_of.items()
        )


class Perform(Protocol):
    """A function that sends a call: `calls.Caller.perform`, or a test double."""

    def __call__(
        self, call: Call, /, *, on_retry: Callable[[], object] | None = None
    ) -> Awaitable[Any]:
        """Send a call; see `calls.Caller.perform`."""
        ...


def parse_id(value: object, what: str = "run id") -> int:
    """An id as an int: a non-negative integer, or a string of ASCII digits.

    Raises:
        InvalidIdError: for anything else, such as a bool, a negative number or ``"1/../2"``.
    """
    if type(value) is int:  # first, since asking for SupportsIndex takes ten microseconds
        number = value
    elif isinstance(value, str):
        # The length is checked first: int() of a very long string is slow, then an error.
        number = int(value) if value.isascii() and value.isdigit() and len(value) < 20 else -1
    elif isinstance(value, SupportsIndex) and not isinstance(value, bool):
        try:
            number = operator.index(value)
        except Exception:  # noqa: BLE001  # an array has __index__ too, but only one of size 1 an index
            number = -1
    else:
        number = -1
    if not 0 <= number <= _MAX_ID:
        try:
            shown = _shorten(repr(value))
        except Exception:  # noqa: BLE001  # such as for an integer of thousands of digits
            shown = f"a {type(value).__name__} that cannot be shown"
        raise InvalidIdError(
            f"not a {what}: {shown}; give a non-negative integer or a string of digits"
        )
    return number


def _shorten(text: str, length: int = 80) -> str:
    return text if len(text) <= length else text[:length] + "…"


def get_run(run_id: object, *, wait_for_quota: bool = False, unstructured: bool = False) -> Call:
    """``GET /runs/{run_id}``."""
    number = parse_id(run_id)
    return Call(
        "runs.get",
        "GET",
        f"/runs/{number}",
        returns=Run,
        unstructured=unstructured,
        expects=number,
        wait_for_quota=wait_for_quota,
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
    wait_for_quota: bool = False,
) -> Call:
    """``GET /runs``."""
    run_filter = run_filter or RunFilter()
    parent = run_filter.parent_run_id
    ids = None if run_filter.ids is None else [parse_id(run_id) for run_id in run_filter.ids]
    one_of: dict[str, Sequence[object]] = {}
    if not (include_pinned or include_descendant_matches):  # with these, others are listed as well
        if ids is not None:
            one_of["id"] = ids
        if run_filter.project_id is not None:
            one_of["project_id"] = [parse_id(run_filter.project_id, "project id")]
        if run_filter.status is not None:
            one_of["status"] = [run_filter.status]
    return Call(
        "runs.list",
        "GET",
        "/runs",
        _query(
            ("filter[id]", None if ids is None else ",".join(map(str, ids))),
            ("filter", run_filter.text),
            ("filter[owner_id]", run_filter.owner_id),
            ("filter[status]", run_filter.status),
            ("filter[project_id]", _id(run_filter.project_id, "project id")),
            ("filter[tags]", _pairs(run_filter.tags)),
            ("filter[params]", _pairs(run_filter.params)),
            ("filter[parent_run_id]", "null" if parent is ROOT_RUNS else _id(parent, "run id")),
            ("pinned_first", pinned_first),
            ("include_pinned", include_pinned),
            ("include_descendant_matches", include_descendant_matches),
            ("sort", _sort(sort, RUN_SORT_FIELDS)),
            ("page[size]", _page_size(page_size)),
            ("page[number]", page_number),
        ),
        returns=Run,
        one_of=one_of or None,
        paged=True,
        wait_for_quota=wait_for_quota,
    )


def delete_run(run_id: object) -> Call:
    """``DELETE /runs/{run_id}``."""
    return Call("runs.delete", "DELETE", f"/runs/{parse_id(run_id)}", deletes=True)


def pin_run(run_id: object) -> Call:
    """``POST /runs/{run_id}/pin``: pinning twice is pinning once."""
    return Call("runs.pin", "POST", f"/runs/{parse_id(run_id)}/pin")


def unpin_run(run_id: object) -> Call:
    """``DELETE /runs/{run_id}/pin``."""
    return Call("runs.unpin", "DELETE", f"/runs/{parse_id(run_id)}/pin", deletes=True)


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
    wait_for_quota: bool = False,
) -> Call:
    """``GET /projects``."""
    project_filter = project_filter or ProjectFilter()
    return Call(
        "projects.list",
        "GET",
        "/projects",
        _query(
            ("filter", project_filter.text),
            ("filter[owner_id]", project_filter.owner_id),
            ("filter[tags]", _pairs(project_filter.tags)),
            ("sort", _sort(sort, PROJECT_SORT_FIELDS)),
            ("page[size]", _page_size(page_size)),
            ("page[number]", page_number),
        ),
        returns=Project,
        paged=True,
        wait_for_quota=wait_for_quota,
    )


def star_project(project_id: object) -> Call:
    """``POST /projects/{project_id}/star``: starring twice is starring once."""
    number = parse_id(project_id, "project id")
    return Call("projects.star", "POST", f"/projects/{number}/star")


def unstar_project(project_id: object) -> Call:
    """``DELETE /projects/{project_id}/star``."""
    return Call(
        "projects.unstar",
        "DELETE",
        f"/projects/{parse_id(project_id, 'project id')}/star",
        deletes=True,
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
    """``GET /artifacts/content``: a file's bytes, from ``offset`` on if the server can.

    The content is requested as it is stored: compressed on the way, its length and ranges (RFC
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
        one_of={"facet_type": [facet_type], "facet_name": [facet_name]},
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
        one_of={"facet_type": [facet_type], "facet_name": [facet_name]},
    )


def _query(*pairs: tuple[str, object]) -> str:
    """A query string of the pairs that have a value; commas and colons are not escaped."""
    return urlencode(
        [(name, _plain(value)) for name, value in pairs if value is not None],
        quote_via=quote,
        safe=",:",
    )


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _id(value: object, what: str) -> int | None:
    return None if value is None else parse_id(value, what)


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


def _one_of(value: str, name: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    return value
