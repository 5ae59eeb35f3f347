"""Facets: the keys to filter by and the values they take."""

from __future__ import annotations

from typing import Any

import pytest
from simulator_client import Reply, asking

from modellab_async.simulator import Simulator


def pairs(simulator: Simulator, project: int, field: str) -> list[tuple[str, Any]]:
    runs = (simulator.resource(run_id)["attributes"] for run_id in simulator.run_ids)
    return [
        (entry["key"], entry)
        for run in runs
        if run["project_id"] == project
        for entry in run[field] or ()
    ]


@pytest.fixture
def simulator() -> Simulator:
    return Simulator(runs=200, projects=3)


@pytest.fixture
def project(simulator: Simulator) -> int:
    return simulator.project_ids[0]


async def values(simulator: Simulator, kind: str, name: str, project: int | None = None) -> Reply:
    path = "/project-facet-values" if project is None else "/facet-values"
    query = {"facet_type": kind, "facet_name": name}
    if project is not None:
        query["filter[project_id]"] = str(project)
    async with asking(simulator) as ask:
        return await ask(path, query)


async def test_keys(simulator: Simulator, project: int) -> None:
    """The keys are those of the project's params and tags; metrics are null, as recorded."""
    async with asking(simulator) as ask:
        reply = await ask("/facet-keys", {"filter[project_id]": project})
        missing = await ask("/facet-keys")
        unknown = await ask("/facet-keys", {"filter[project_id]": 1})
    assert reply.json["data"]["type"] == "facet_keys"
    assert reply.attributes == {
        "metrics": None,
        "parameters": sorted({key for key, _ in pairs(simulator, project, "params")}),
        "tags": sorted({key for key, _ in pairs(simulator, project, "tags")}),
    }
    assert (missing.status, unknown.status) == (400, 404)


async def test_values_of_a_param(simulator: Simulator, project: int) -> None:
    """A param has its values, and a range where they all are numbers."""
    params = pairs(simulator, project, "params")
    reply = await values(simulator, "parameter", "batch_size", project)
    found = sorted({entry["value"] for key, entry in params if key == "batch_size"})
    assert reply.json["data"]["type"] == "facet_values"
    assert reply.attributes == {
        "facet_name": "batch_size",
        "facet_type": "parameter",
        "values": found,
        "numeric_range": {"max": max(map(float, found)), "min": min(map(float, found))},
    }
    words = await values(simulator, "parameter", "dtype", project)
    assert "numeric_range" not in words.attributes
    assert set(words.attributes["values"]) <= {"bfloat16", "float16", "float32"}
    nothing = await values(simulator, "parameter", "no such", project)
    assert nothing.attributes["values"] == []


async def test_values_of_a_metric(simulator: Simulator, project: int) -> None:
    """A metric has no values but a range for each of its statistics."""
    reply = await values(simulator, "metric", "train/loss", project)
    summaries = [
        entry for key, entry in pairs(simulator, project, "metric_summaries") if key == "train/loss"
    ]
    ranges = {entry["stat"]: entry for entry in reply.attributes["metric_stat_ranges"]}
    assert set(ranges) == {"latest", "max", "mean", "min"}
    for stat in ("max", "min"):
        found = [summary[stat] for summary in summaries]
        assert ranges[stat] == {"stat": stat, "max": max(found), "min": min(found)}
    assert reply.attributes["values"] == []


@pytest.mark.parametrize("name", ["status", "owner_id"])
async def test_values_of_an_attribute(simulator: Simulator, project: int, name: str) -> None:
    """An attribute has the values that occur."""
    runs = [simulator.resource(run_id)["attributes"] for run_id in simulator.run_ids]
    found = {run[name] for run in runs if run["project_id"] == project and run[name]}
    reply = await values(simulator, "attribute", name, project)
    assert reply.attributes["values"] == sorted(found)


async def test_durations_have_a_range(simulator: Simulator, project: int) -> None:
    """The duration is a range."""
    reply = await values(simulator, "attribute", "duration", project)
    span = reply.attributes["numeric_range"]
    assert 0 < span["min"] < span["max"]


async def test_values_of_a_tag(simulator: Simulator, project: int) -> None:
    """A tag has the values that occur, in a project's runs and among projects."""
    reply = await values(simulator, "tag", "env", project)
    assert reply.attributes["values"] == ["dev", "prod", "staging"]
    teams = await values(simulator, "tag", "team")
    found = [simulator.project_resource(i)["attributes"]["tags"] for i in simulator.project_ids]
    assert teams.attributes["values"] == sorted(
        {tag["value"] for tags in found for tag in tags or () if tag["key"] == "team"}
    )


async def test_keys_of_projects(simulator: Simulator) -> None:
    """Projects can be filtered by their tags only."""
    async with asking(simulator) as ask:
        reply = await ask("/project-facet-keys")
    assert reply.attributes == {"metrics": None, "parameters": [], "tags": ["team", "tier"]}


@pytest.mark.parametrize(("kind", "name"), [("colour", "x"), ("attribute", "x"), ("tag", "")])
async def test_facets_that_make_no_sense(
    simulator: Simulator, project: int, kind: str, name: str
) -> None:
    """An unknown type, an unknown attribute or an empty name answers 400."""
    assert (await values(simulator, kind, name, project)).status == 400


async def test_projects_have_facets_of_tags_only(simulator: Simulator) -> None:
    """Any other type of facet of projects answers 400."""
    assert (await values(simulator, "parameter", "x")).status == 400
