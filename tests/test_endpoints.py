"""The sixteen operations: the method, path and query of each, and what none of them takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import pytest

from modellab_async import endpoints, models
from modellab_async.endpoints import (
    Call,
    artifact_content,
    delete_run,
    facet_keys,
    facet_values,
    get_project,
    get_run,
    list_project_artifacts,
    list_projects,
    list_run_artifacts,
    list_runs,
    pin_run,
    project_facet_keys,
    project_facet_values,
    star_project,
    unpin_run,
    unstar_project,
)
from modellab_async.errors import InvalidIdError
from modellab_async.models import ROOT_RUNS, ProjectFilter, RunFilter, RunStatus

OPERATIONS: list[tuple[Call, str, str, dict[str, str], Any]] = [
    (get_run("7"), "GET", "/runs/7", {}, models.Run),
    (list_runs(), "GET", "/runs", {}, models.Run),
    (delete_run(7), "DELETE", "/runs/7", {}, None),
    (pin_run(7), "POST", "/runs/7/pin", {}, None),
    (unpin_run(7), "DELETE", "/runs/7/pin", {}, None),
    (list_run_artifacts(7), "GET", "/runs/7/artifacts", {}, models.RunArtifacts),
    (get_project(3), "GET", "/projects/3", {}, models.Project),
    (list_projects(), "GET", "/projects", {}, models.Project),
    (star_project("3"), "POST", "/projects/3/star", {}, None),
    (unstar_project(3), "DELETE", "/projects/3/star", {}, None),
    (list_project_artifacts(3), "GET", "/projects/3/artifacts", {}, models.ProjectArtifacts),
    (
        artifact_content(3, "7/a b&c.bin"),
        "GET",
        "/artifacts/content",
        {"project_id": "3", "artifact_path": "7/a b&c.bin"},
        bytes,
    ),
    (facet_keys(3), "GET", "/facet-keys", {"filter[project_id]": "3"}, models.FacetKeys),
    (
        facet_values(3, "metric", "loss"),
        "GET",
        "/facet-values",
        {"filter[project_id]": "3", "facet_type": "metric", "facet_name": "loss"},
        models.FacetValues,
    ),
    (project_facet_keys(), "GET", "/project-facet-keys", {}, models.FacetKeys),
    (
        project_facet_values("tag", "team"),
        "GET",
        "/project-facet-values",
        {"facet_type": "tag", "facet_name": "team"},
        models.FacetValues,
    ),
]


def query(call: Call) -> dict[str, str]:
    """A call's query, decoded; nothing stands in it twice."""
    pairs = parse_qsl(call.query, keep_blank_values=True, strict_parsing=bool(call.query))
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.mark.parametrize(
    ("call", "method", "path", "expected", "returns"),
    OPERATIONS,
    ids=[operation[0].operation for operation in OPERATIONS],
)
def test_operations(
    call: Call, method: str, path: str, expected: dict[str, str], returns: Any
) -> None:
    """Each operation has its method, path, query and answer."""
    assert (call.method, call.path, query(call), call.returns) == (method, path, expected, returns)
    assert call.paged is (path in {"/runs", "/projects"})
    assert (call.idempotent, call.deletes) == (True, method == "DELETE")


def test_operations_are_told_apart() -> None:
    """There are sixteen operations, each with a name of its own."""
    assert len({operation[0].operation for operation in OPERATIONS}) == 16


def test_answers_are_checked_against_the_id() -> None:
    """One run or project must be answered with the id that was asked for, as a number."""
    assert (get_run("007").expects, get_run("007").path) == (7, "/runs/7")
    assert get_project("3").expects == 3
    assert list_runs().expects is None


WITH_ID: list[Callable[[Any], Call]] = [
    *(get_run, delete_run, pin_run, unpin_run, list_run_artifacts),
    *(get_project, star_project, unstar_project, list_project_artifacts, facet_keys),
    lambda value: artifact_content(value, "a"),
    lambda value: facet_values(value, "tag", "a"),
    lambda value: list_runs(RunFilter(ids=(7, value))),
    lambda value: list_runs(RunFilter(project_id=value)) if value is not None else get_run(None),
    lambda value: list_runs(RunFilter(parent_run_id=value)) if value is not None else get_run(None),
]


@pytest.mark.parametrize("build", WITH_ID)
@pytest.mark.parametrize("value", ["", "1/../2", "7?x=1", "٣", -1, True, None, 1.5, 2**63])
def test_bad_ids_reach_no_path(build: Callable[[Any], Call], value: object) -> None:
    """No operation takes what is no id."""
    with pytest.raises(InvalidIdError):
        build(value)


@pytest.mark.parametrize(
    ("run_filter", "expected"),
    [
        (RunFilter(), {}),
        (RunFilter(ids=(7, "008")), {"filter[id]": "7,8"}),
        (RunFilter(text="a&b=c #é"), {"filter": "a&b=c #é"}),
        (RunFilter(owner_id="u"), {"filter[owner_id]": "u"}),
        (RunFilter(status=RunStatus.COMPLETED), {"filter[status]": "completed"}),
        (RunFilter(status="resting"), {"filter[status]": "resting"}),
        (RunFilter(project_id="3"), {"filter[project_id]": "3"}),
        (RunFilter(project_id=0), {"filter[project_id]": "0"}),
        (RunFilter(tags={"team": "a b", "x": "y"}), {"filter[tags]": "team:a b,x:y"}),
        (RunFilter(tags={}), {}),
        (
            RunFilter(params={"lr": ">0.5", "n": 3, "x": 0.5, "on": True}),
            {"filter[params]": "lr:>0.5,n:3,x:0.5,on:true"},
        ),
        (RunFilter(parent_run_id=7), {"filter[parent_run_id]": "7"}),
        (RunFilter(parent_run_id=ROOT_RUNS), {"filter[parent_run_id]": "null"}),
    ],
)
def test_run_filters(run_filter: RunFilter, expected: dict[str, str]) -> None:
    """Each part of a filter has its parameter, and what is not given is not sent."""
    assert query(list_runs(run_filter)) == expected


def test_options_of_listing_runs() -> None:
    """Flags are sent as JSON writes them, also False, and a page number of 0 is a number."""
    call = list_runs(
        sort="-duration",
        page_size=100,
        page_number=0,
        pinned_first=True,
        include_pinned=False,
        include_descendant_matches=True,
    )
    assert query(call) == {
        "sort": "-duration",
        "page[size]": "100",
        "page[number]": "0",
        "pinned_first": "true",
        "include_pinned": "false",
        "include_descendant_matches": "true",
    }


def test_listing_projects() -> None:
    """Projects are filtered, sorted and paged like runs."""
    wanted = ProjectFilter(text="vision", owner_id="u", tags={"team": "ranking"})
    call = list_projects(wanted, sort="name", page_size=1, page_number=2)
    assert query(call) == {
        "filter": "vision",
        "filter[owner_id]": "u",
        "filter[tags]": "team:ranking",
        "sort": "name",
        "page[size]": "1",
        "page[number]": "2",
    }


def test_queries_are_encoded_once() -> None:
    """Separators stand as they are; all else is percent-encoded, a space never as a plus."""
    call = list_runs(RunFilter(tags={"a": "b c+", "d": "é"}))
    assert call.query == "filter%5Btags%5D=a:b%20c%2B,d:%C3%A9"
    assert list_run_artifacts(7, "a/b c/").query == "path=a%2Fb%20c%2F"


@pytest.mark.parametrize("list_them", [list_runs, list_projects])
@pytest.mark.parametrize("size", [0, -1, 101, True, 1.0, "25"])
def test_wrong_page_sizes(list_them: Any, size: object) -> None:
    """A page has 1 to 100 items."""
    with pytest.raises(ValueError, match="page_size must be a number from 1 to 100"):
        list_them(page_size=size)


@pytest.mark.parametrize("sort", ["", "-", "--name", "+name", "id", "Name", "name,duration"])
@pytest.mark.parametrize("list_them", [list_runs, list_projects])
def test_wrong_sorts(list_them: Any, sort: str) -> None:
    """A listing is sorted by one field that it knows."""
    with pytest.raises(ValueError, match="sort must be one of name, created_at, updated_at"):
        list_them(sort=sort)


def test_sorts() -> None:
    """All known fields are taken, up and down; only runs have a duration."""
    for list_them, fields in (
        (list_runs, endpoints.RUN_SORT_FIELDS),
        (list_projects, endpoints.PROJECT_SORT_FIELDS),
    ):
        for field in fields:
            assert query(list_them(sort=field)) == {"sort": field}
            assert query(list_them(sort=f"-{field}")) == {"sort": f"-{field}"}
    with pytest.raises(ValueError, match="sort must"):
        list_projects(sort="duration")


@pytest.mark.parametrize("facet_type", ["", "tags", "Tag", None])
def test_wrong_facet_types(facet_type: Any) -> None:
    """A facet is of a known type, and projects have tags only."""
    with pytest.raises(ValueError, match="parameter, attribute, tag, metric"):
        facet_values(3, facet_type, "a")
    with pytest.raises(ValueError, match="must be one of tag, not"):
        project_facet_values(facet_type, "a")
    with pytest.raises(ValueError, match="must be one of tag, not 'metric'"):
        project_facet_values("metric", "a")  # type: ignore[arg-type]


@pytest.mark.parametrize("facet_type", endpoints.FACET_TYPES)
def test_facet_types(facet_type: Any) -> None:
    """Runs have four types of facets."""
    assert query(facet_values(3, facet_type, "a"))["facet_type"] == facet_type


def test_artifact_content() -> None:
    """Content is asked for as stored, from an offset where one is given; a path is needed."""
    whole, rest = artifact_content(3, "a"), artifact_content(3, "a", streamed=True, offset=7)
    assert whole.headers == {"Accept": "*/*", "Accept-Encoding": "identity"}
    assert rest.headers == {"Accept": "*/*", "Accept-Encoding": "identity", "Range": "bytes=7-"}
    assert (whole.streamed, rest.streamed) == (False, True)
    with pytest.raises(ValueError, match="artifact_path must be a path"):
        artifact_content(3, "")
