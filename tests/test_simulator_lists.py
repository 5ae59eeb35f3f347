"""The two lists: pages, filters, order, pinned runs and relatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import pytest
from simulator_client import PREFIX, asking

from modellab_async.simulator import Simulator
from modellab_async.simulator.times import to_microseconds

Query = dict[str, str | int]

BIG: Query = {"page[size]": 100}


def runs_of(simulator: Simulator) -> dict[int, dict[str, Any]]:
    """Attributes of all runs, by id."""
    return {run_id: simulator.resource(run_id)["attributes"] for run_id in simulator.run_ids}


def pairs(entries: list[dict[str, str]] | None) -> dict[str, str]:
    return {entry["key"]: entry["value"] for entry in entries or ()}


@pytest.mark.parametrize("first_page", [0, 1])
async def test_pages_are_walked_by_their_next_number(first_page: Literal[0, 1]) -> None:
    """Following `next_number` from the first page shows every run once, newest first."""
    simulator = Simulator(runs=120, first_page=first_page)
    seen: list[int] = []
    numbers: list[int] = []
    number = None
    async with asking(simulator) as ask:
        while True:
            reply = await ask("/runs", {} if number is None else {"page[number]": number})
            page = reply.json["meta"]["page"]
            seen += reply.ids
            numbers.append(page["number"])
            assert (page["size"], page["total"]) == (25, 120)
            assert (page["first_number"], page["last_number"]) == (first_page, first_page + 4)
            number = page["next_number"]
            if number is None:
                break
    assert numbers == list(range(first_page, first_page + 5))
    assert seen == list(simulator.run_ids)[::-1]


async def test_the_first_page_is_the_recorded_one() -> None:
    """The first page of the default organization has the numbers that were recorded."""
    async with asking(Simulator()) as ask:
        reply = await ask("/runs")
    assert reply.json["meta"]["page"] == {
        "first_number": 0, "last_number": 2624, "next_number": 1, "number": 0,
        "prev_number": None, "size": 25, "total": 65614, "type": "number_size",
    }  # fmt: skip


async def test_links_name_another_host() -> None:
    """Links lead to another host, with the query that was asked and another page number."""
    simulator = Simulator(runs=60)
    query: Query = {"page[number]": 1, "page[size]": 20, "sort": "name"}
    async with asking(simulator) as ask:
        links = (await ask("/runs", query)).json["links"]
        last = (await ask("/runs", {"page[number]": 2})).json["links"]
    numbers = {"first": "0", "prev": "0", "self": "1", "next": "2", "last": "2"}
    for name, number in numbers.items():
        link = urlsplit(links[name])
        assert link.netloc == "model-lab.internal.example"
        assert link.path == PREFIX + "/runs"
        asked = parse_qs(link.query)
        assert asked == {"page[number]": [number], "page[size]": ["20"], "sort": ["name"]}
    assert last["next"] is None


async def test_a_page_beyond_the_last_is_empty() -> None:
    """Beyond the last page there are no runs and no next page, but a way back."""
    async with asking(Simulator(runs=30)) as ask:
        reply = await ask("/runs", {"page[number]": 9})
    assert reply.ids == []
    page = reply.json["meta"]["page"]
    assert (page["next_number"], page["prev_number"], page["total"]) == (None, 1, 30)


async def test_an_empty_list_has_one_page() -> None:
    """Without runs the first page is the last."""
    async with asking(Simulator(runs=0)) as ask:
        page = (await ask("/runs")).json["meta"]["page"]
    assert (page["total"], page["first_number"], page["last_number"]) == (0, 0, 0)
    assert page["next_number"] is None


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("page[size]", "101"),
        ("page[size]", "0"),
        ("page[size]", "many"),
        ("page[number]", "-1"),
        ("page[number]", ""),
        ("sort", "owner_id"),
        ("sort", "--name"),
        ("filter[status]", "done"),
        ("filter[project_id]", "x"),
        ("filter[owner_id]", "me"),
        ("filter[id]", "1,,2"),
        ("filter[tags]", "team"),
        ("filter[params]", ":1"),
        ("filter[params]", "lr:>fast"),
        ("filter[parent_run_id]", "none"),
        ("pinned_first", "yes"),
        ("include_pinned", "True"),
        ("include_descendant_matches", "1"),
    ],
)
async def test_bad_parameters_are_pointed_out(parameter: str, value: str) -> None:
    """A value that makes no sense answers 400 in the documented form, naming the parameter."""
    async with asking(Simulator(runs=1)) as ask:
        reply = await ask("/runs", {parameter: value})
    (error,) = reply.json["errors"]
    assert (reply.status, error["status"]) == (400, "400")
    assert error["source"] == {"parameter": parameter}


async def test_numbering_from_one_has_no_page_zero() -> None:
    """Where the first page is number 1, asking for 0 is a bad request."""
    async with asking(Simulator(runs=1, first_page=1)) as ask:
        assert (await ask("/runs", {"page[number]": 0})).status == 400


async def test_runs_by_their_ids() -> None:
    """A comma-separated list of ids gives those that exist, each once, paged like all lists."""
    simulator = Simulator(runs=60)
    wanted = list(simulator.run_ids[:40])
    text = ",".join(map(str, [*wanted, wanted[0], 1]))
    async with asking(simulator) as ask:
        assert sorted((await ask("/runs", {"filter[id]": text, **BIG})).ids) == wanted
        reply = await ask("/runs", {"filter[id]": text})
        assert (len(reply.ids), reply.json["meta"]["page"]["total"]) == (25, 40)


async def selected(
    query: Query, predicate: Callable[[dict[str, Any]], bool], *, runs: int = 400
) -> None:
    """Asserts that a query selects, over all pages, the runs that a predicate does; not none."""
    simulator = Simulator(runs=runs, projects=12)
    expected = {run_id for run_id, run in runs_of(simulator).items() if predicate(run)}
    found: list[int] = []
    async with asking(simulator) as ask:
        for number in range(math.ceil(runs / 100)):
            found += (await ask("/runs", {**query, **BIG, "page[number]": number})).ids
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert 0 < len(expected) < runs


async def test_filter_by_status() -> None:
    """Only runs of the status are listed."""
    await selected({"filter[status]": "failed"}, lambda run: run["status"] == "failed")


async def test_filter_by_project() -> None:
    """Only runs of the project are listed."""
    project = Simulator(projects=12).project_ids[2]
    await selected({"filter[project_id]": project}, lambda run: run["project_id"] == project)


async def test_filter_by_owner() -> None:
    """Only runs of the owner are listed, however the UUID is written."""
    simulator = Simulator(runs=400, projects=12)
    owner = next(run["owner_id"] for run in runs_of(simulator).values() if run["owner_id"])
    query = {"filter[owner_id]": owner.upper()}
    await selected(query, lambda run: run["owner_id"] == owner)


async def test_filter_by_text() -> None:
    """The text is looked for in name and description, whatever its case."""
    await selected(
        {"filter": "OTTER"},
        lambda run: "otter" in (run["name"] + run["description"]).lower(),
    )
    await selected({"filter": "größerer"}, lambda run: "größerer" in run["description"].lower())


async def test_filter_by_tags() -> None:
    """All tags asked for must be there."""
    team = Simulator(projects=12).resource(70158)["attributes"]["tags"][0]["value"]
    await selected(
        {"filter[tags]": f"team:{team},env:dev"},
        lambda run: (
            pairs(run["tags"]).get("team") == team and pairs(run["tags"]).get("env") == "dev"
        ),
        runs=65_614 // 40,
    )


@pytest.mark.parametrize(
    ("text", "predicate"),
    [
        ("optimizer.dtype:bfloat16", lambda p: p.get("optimizer.dtype") == "bfloat16"),
        ("learning_rate:>0.01", lambda p: float(p.get("learning_rate", 0)) > 0.01),
        ("learning_rate:>=0.01", lambda p: float(p.get("learning_rate", 0)) >= 0.01),
        ("learning_rate:<0.01", lambda p: float(p.get("learning_rate", 1)) < 0.01),
        ("learning_rate:<=0.01", lambda p: float(p.get("learning_rate", 1)) <= 0.01),
        ("learning_rate:1e-2", lambda p: p.get("learning_rate") == "0.01"),
        ("enabled:true", lambda p: p.get("enabled") == "True"),
        (
            "enabled:false,batch_size:>64",
            lambda p: p.get("enabled") == "False" and float(p.get("batch_size", 0)) > 64,
        ),
        ("config:>1", lambda p: False),
    ],
)
async def test_filter_by_params(text: str, predicate: Callable[[dict[str, str]], bool]) -> None:
    """Params compare as text, as numbers and as booleans; all conditions must hold."""
    simulator = Simulator(runs=300)
    expected = [
        run_id
        for run_id, run in runs_of(simulator).items()
        if run["params"] and predicate(pairs(run["params"]))
    ]
    async with asking(simulator) as ask:
        reply = await ask("/runs", {"filter[params]": text, "sort": "created_at", **BIG})
    assert reply.ids == expected[:100]
    assert reply.json["meta"]["page"]["total"] == len(expected)
    assert bool(expected) == (text != "config:>1")


async def test_the_long_value_can_be_filtered_by() -> None:
    """A param that only few runs have is found, quotes and line breaks notwithstanding."""
    simulator = Simulator(runs=600)
    expected = {i for i, run in runs_of(simulator).items() if "config" in pairs(run["params"])}
    simulator.insert_run(name="mine", params=[{"key": "config", "value": "{'a': \"b\"}"}])
    async with asking(simulator) as ask:
        reply = await ask("/runs", {"filter[params]": "config:{'a': \"b\"}"})
    assert expected
    assert [run["attributes"]["name"] for run in reply.json["data"]] == ["mine"]


async def test_filters_combine() -> None:
    """A run must pass all filters."""
    simulator = Simulator(runs=400, projects=3)
    project = simulator.project_ids[0]
    ids = ",".join(str(run_id) for run_id in simulator.run_ids[:200])
    query: Query = {"filter[status]": "completed", "filter[project_id]": project, "filter[id]": ids}
    expected = [
        run_id
        for run_id, run in list(runs_of(simulator).items())[:200]
        if run["status"] == "completed" and run["project_id"] == project
    ]
    async with asking(simulator) as ask:
        reply = await ask("/runs", {**query, "sort": "created_at", **BIG})
    assert expected
    assert reply.ids == expected[:100]


SORT_KEYS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "name": lambda run: run["name"],
    "created_at": lambda run: to_microseconds(run["created_at"]),
    "updated_at": lambda run: to_microseconds(run["updated_at"]),
    "duration": lambda run: -1 if run["duration"] is None else run["duration"],
}


@pytest.mark.parametrize("field", SORT_KEYS)
async def test_sorting(field: str) -> None:
    """Runs are sorted by the field, then by id; a minus reverses; no duration comes first."""
    simulator = Simulator(runs=90)
    runs = runs_of(simulator)
    expected = sorted(runs, key=lambda run_id: (SORT_KEYS[field](runs[run_id]), run_id))
    async with asking(simulator) as ask:
        assert (await ask("/runs", {"sort": field, **BIG})).ids == expected
        assert (await ask("/runs", {"sort": f"-{field}", **BIG})).ids == expected[::-1]


async def test_pinned_runs() -> None:
    """Pinned runs can come first, the last pinned before the others, and in spite of filters."""
    simulator = Simulator(runs=30)
    listed = list(simulator.run_ids)[::-1]
    one, two = listed[20], listed[5]
    async with asking(simulator) as ask:
        for run_id in (one, two, one):
            assert (await ask(f"/runs/{run_id}/pin", method="POST")).status == 204
        assert (await ask("/runs", BIG)).ids == listed
        first = (await ask("/runs", {"pinned_first": "true", **BIG})).ids
        assert first == [two, one, *(i for i in listed if i not in {one, two})]
        some = {"filter[id]": f"{listed[0]},{two}"}
        assert (await ask("/runs", some)).ids == [listed[0], two]
        included = await ask("/runs", {**some, "include_pinned": "true"})
        assert included.ids == [listed[0], two, one]
        both = await ask("/runs", {**some, "include_pinned": "true", "pinned_first": "true"})
        assert both.ids == [two, one, listed[0]]


async def test_children_name_their_parents() -> None:
    """The made-up runs hold families; a parent has children, which the filter finds."""
    simulator = Simulator(runs=300)
    runs = runs_of(simulator)
    parents = [run_id for run_id, run in runs.items() if run["has_children"]]
    assert parents
    children: set[int] = set()
    async with asking(simulator) as ask:
        for parent in parents:
            found = (await ask("/runs", {"filter[parent_run_id]": parent})).ids
            assert 1 <= len(found) <= 8
            assert {runs[child]["project_id"] for child in found} == {runs[parent]["project_id"]}
            children.update(found)
        roots = await ask("/runs", {"filter[parent_run_id]": "null"})
    assert roots.json["meta"]["page"]["total"] == len(runs) - len(children)


async def test_descendant_matches() -> None:
    """A run is listed, and marked, when only a descendant matches; also among root runs alone."""
    simulator = Simulator(runs=0)
    root = simulator.insert_run(name="root")
    middle = simulator.insert_run(name="middle", parent_run_id=root)
    leaf = simulator.insert_run(name="leaf", parent_run_id=middle)
    simulator.insert_run(name="other")
    query = {"filter": "leaf", "include_descendant_matches": "true", "sort": "created_at"}
    async with asking(simulator) as ask:
        reply = await ask("/runs", query)
        assert reply.ids == [root, middle, leaf]
        flags = [run["attributes"]["descendant_match"] for run in reply.json["data"]]
        assert flags == [True, True, False]
        assert (await ask("/runs", {**query, "filter[parent_run_id]": "null"})).ids == [root]
        assert (await ask("/runs", {"filter": "leaf"})).ids == [leaf]
        assert (await ask(f"/runs/{middle}")).attributes["has_children"] is True
        simulator.delete_run(middle)
        assert (await ask("/runs", query)).ids == [root, leaf]


async def test_projects_are_listed_like_runs() -> None:
    """Projects are filtered, sorted and paged as runs are."""
    simulator = Simulator(runs=10, projects=40)
    projects = {i: simulator.project_resource(i)["attributes"] for i in simulator.project_ids}
    async with asking(simulator) as ask:
        names = (await ask("/projects", {"sort": "name", **BIG})).ids
        assert names == sorted(projects, key=lambda i: (projects[i]["name"], i))
        reply = await ask("/projects", {"page[number]": 1})
        assert (len(reply.ids), reply.json["meta"]["page"]["total"]) == (15, 40)
        owner = next(project["owner_id"] for project in projects.values() if project["owner_id"])
        mine = await ask("/projects", {"filter[owner_id]": owner, **BIG})
        assert set(mine.ids) == {i for i, p in projects.items() if p["owner_id"] == owner}
        tagged = await ask("/projects", {"filter[tags]": "tier:2", **BIG})
        assert set(tagged.ids) == {
            i for i, p in projects.items() if pairs(p["tags"]).get("tier") == "2"
        }
        found = await ask("/projects", {"filter": "CHURN", **BIG})
        assert set(found.ids) == {i for i, p in projects.items() if "churn" in p["name"]}
        assert (await ask("/projects", {"sort": "duration"})).status == 400
        assert (await ask("/projects", {"filter[status]": "failed"})).status == 400


async def test_filters_stay_usable_over_the_whole_organization() -> None:
    """The first page of a filter over all 65,614 runs is the same when asked for again."""
    async with asking(Simulator()) as ask:
        query = {"filter[status]": "killed", "sort": "-duration"}
        one, two = await ask("/runs", query), await ask("/runs", query)
    assert one.body == two.body
    assert 2_500 < one.json["meta"]["page"]["total"] < 4_000


@pytest.mark.parametrize("field", SORT_KEYS)
async def test_inserted_runs_take_their_place(field: str) -> None:
    """Inserted runs are sorted among the made-up ones, and deleted ones left out."""
    simulator = Simulator(runs=40)
    for day in (1, 9):
        simulator.insert_run(
            name=f"jolly-{day}",
            created_at=f"2025-03-0{day}T00:00:00Z",
            updated_at=f"2025-04-0{day}T00:00:00Z",
            duration=day * 100,
            owner_id=Simulator().resource(70158)["attributes"]["owner_id"],
        )
    gone = simulator.run_ids[7]
    simulator.delete_run(gone)
    runs = {i: simulator.resource(i)["attributes"] for i in simulator.run_ids if i != gone}
    async with asking(simulator) as ask:
        reply = await ask("/runs", {"sort": field, **BIG})
    assert reply.ids == sorted(runs, key=lambda i: (SORT_KEYS[field](runs[i]), i))


async def test_any_number_of_searches_can_be_made() -> None:
    """What earlier searches found is forgotten in time, and found again."""
    simulator = Simulator(runs=50)
    async with asking(simulator) as ask:
        first = await ask("/runs", {"filter": "a"})
        for letter in "bcdefghijklmnopqrstuvwxyz":
            await ask("/runs", {"filter": letter})
        assert (await ask("/runs", {"filter": "a"})).body == first.body
