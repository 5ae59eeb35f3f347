"""What changes: pins, stars, deletions, insertions, and runs that progress with the clock."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
from conftest import client_for
from simulator_client import asking

from modellab_async.simulator import ABSENT, ManualClock, Simulator
from modellab_async.simulator.times import to_microseconds


@pytest.fixture
def simulator() -> Simulator:
    return Simulator(runs=30, projects=5)


@pytest.fixture
def run_id(simulator: Simulator) -> int:
    return simulator.run_ids[3]


async def test_pins(simulator: Simulator, run_id: int) -> None:
    """A pin shows in the run, may be repeated, and comes off again."""
    async with asking(simulator) as ask:
        for method, expected in (
            ("POST", True),
            ("POST", True),
            ("DELETE", False),
            ("DELETE", False),
        ):
            assert (await ask(f"/runs/{run_id}/pin", method=method)).status == 204
            assert (await ask(f"/runs/{run_id}")).attributes["is_pinned"] is expected
            assert simulator.resource(run_id)["attributes"]["is_pinned"] is expected
        assert (await ask("/runs/1/pin", method="POST")).status == 404


async def test_stars(simulator: Simulator) -> None:
    """A star shows in the project, may be repeated, and comes off again."""
    project = f"/projects/{simulator.project_ids[1]}"
    async with asking(simulator) as ask:
        for method, expected in (
            ("POST", True),
            ("POST", True),
            ("DELETE", False),
            ("DELETE", False),
        ):
            reply = await ask(project + "/star", method=method)
            assert (reply.status, reply.body) == (204, b"")
            assert (await ask(project)).attributes["is_starred"] is expected
        missing = await ask("/projects/1/star", method="POST")
    assert missing.status == 404
    assert missing.json["errors"][0]["detail"] == "project not found"


async def test_a_deleted_run_is_gone(simulator: Simulator, run_id: int) -> None:
    """After its deletion a run is neither found nor listed, and cannot be deleted again."""
    async with asking(simulator) as ask:
        before = (await ask("/runs", {"page[size]": 100})).ids
        assert (await ask(f"/runs/{run_id}", method="DELETE")).status == 204
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/pin"), ("GET", "/artifacts")):
            assert (await ask(f"/runs/{run_id}{path}", method=method)).status == 404
        before.remove(run_id)
        assert (await ask("/runs", {"page[size]": 100})).ids == before
        assert (await ask("/runs", {"filter[id]": run_id})).ids == []
        assert run_id in simulator.run_ids


async def test_a_softly_deleted_run_can_still_be_read() -> None:
    """With soft deletion a run tells when it was deleted, but is listed no more."""
    simulator = Simulator(runs=3, soft_delete=True, clock=ManualClock(now=0.5))
    run_id = simulator.run_ids[0]
    async with asking(simulator) as ask:
        assert (await ask(f"/runs/{run_id}")).attributes["deleted_at"] is None
        assert (await ask(f"/runs/{run_id}", method="DELETE")).status == 204
        run = (await ask(f"/runs/{run_id}")).attributes
        assert run["deleted_at"] == run["updated_at"] == "1970-01-01T00:00:00.5Z"
        assert run_id not in (await ask("/runs")).ids
        assert (await ask(f"/runs/{run_id}", method="DELETE")).status == 404


async def test_rows_move_while_pages_are_walked() -> None:
    """A run inserted between two pages shows one twice; runs deleted between them hide others."""
    simulator = Simulator(runs=30)
    async with asking(simulator) as ask:
        first = (await ask("/runs", {"page[size]": 10})).ids
        simulator.insert_run()
        second = (await ask("/runs", {"page[size]": 10, "page[number]": 1})).ids
        assert second[0] == first[-1]
        simulator.delete_run(first[0])
        simulator.delete_run(first[1])
        third = (await ask("/runs", {"page[size]": 10, "page[number]": 1})).ids
    assert third[0] == second[2]


def test_inserted_runs_have_defaults() -> None:
    """A run inserted without attributes has all documented ones, and the next free id."""
    simulator = Simulator(runs=3, projects=2, clock=ManualClock(now=60.0))
    run_id = simulator.insert_run()
    assert run_id == simulator.run_ids[2] + 1
    assert list(simulator.run_ids)[3:] == [run_id]
    run = simulator.resource(run_id)["attributes"]
    made_up = simulator.resource(simulator.run_ids[0])["attributes"]
    assert set(made_up) <= {*run, "compute"}
    assert (run["name"], run["status"]) == (f"run-{run_id}", "running")
    assert run["created_at"] == "1970-01-01T00:01:00Z"
    assert run["project_id"] == simulator.project_ids[0]


async def test_inserted_runs_are_served_as_given() -> None:
    """Attributes are served as given, sensible or not; `ABSENT` ones are left out."""
    simulator = Simulator(runs=0)
    given: dict[str, Any] = {
        "name": None,
        "params": {"lr": 1},
        "tags": ABSENT,
        "status": 3,
        "novel": [1],
    }
    run_id = simulator.insert_run({"id": "7", "type": "runs", "attributes": given})
    async with asking(simulator) as ask:
        run = (await ask("/runs/7")).attributes
        assert (run["name"], run["params"], run["status"], run["novel"]) == (
            None,
            {"lr": 1},
            3,
            [1],
        )
        assert "tags" not in run
        listed = await ask("/runs", {"filter[tags]": "a:b"})
        assert (listed.status, listed.ids) == (200, [])
        assert (await ask("/runs")).ids == [run_id]
    with pytest.raises(ValueError, match="run 7 already"):
        simulator.insert_run(7)


def test_a_resource_can_be_inserted() -> None:
    """A run in the API's form is served as it is, but for defaults; keywords take precedence."""
    made_up = Simulator(runs=3)
    resource = made_up.resource(made_up.run_ids[1])
    simulator = Simulator(runs=0)
    run_id = simulator.insert_run(resource)
    assert run_id == made_up.run_ids[1]
    attributes = {"completed_at": None, **resource["attributes"]}
    assert simulator.resource(run_id) == {**resource, "attributes": attributes}
    assert simulator.insert_run(resource, run_id=5, name="mine") == 5
    assert simulator.resource(5)["attributes"] == {**attributes, "name": "mine"}
    assert simulator.insert_run({"attributes": {"novel": 1}}) == run_id + 1


def test_an_object_with_a_runs_attributes_can_be_inserted() -> None:
    """Times, params, tags and metric summaries of a run are served as the API writes them."""

    @attrs.frozen
    class Pair:
        key: str
        value: str

    @attrs.frozen
    class Metric:
        key: str
        count: int
        latest: float | None = None
        min: float | None = None

    @attrs.frozen
    class Run:
        id: int = 70158
        name: str = "mine"
        project_id: int = 2387
        status: str = "completed"
        created_at: datetime = datetime(2026, 5, 15, 2, 57, 3, 79_000, tzinfo=UTC)
        completed_at: datetime | None = None
        params: tuple[Pair, ...] = (Pair("lr", "0.1"),)
        tags: tuple[Pair, ...] = ()
        metric_summaries: tuple[Metric, ...] = (Metric("loss", 3, 0.5),)

    simulator = Simulator(runs=0, projects=0)
    assert simulator.insert_run(Run()) == 70158
    run = simulator.resource(70158)["attributes"]
    assert (run["name"], run["project_id"], run["status"]) == ("mine", 2387, "completed")
    assert run["created_at"] == "2026-05-15T02:57:03.079Z"
    assert run["completed_at"] is None
    assert run["params"] == [{"key": "lr", "value": "0.1"}]
    assert run["tags"] == []
    (metric,) = run["metric_summaries"]
    assert (metric["key"], metric["count"], metric["latest"], metric["min"]) == (
        "loss",
        3,
        0.5,
        None,
    )
    assert list(simulator.project_ids) == [2387]


async def test_a_run_that_was_fetched_can_be_inserted() -> None:
    """The client's `Run` goes into another simulator, and comes back equal."""
    async with (
        Simulator(runs=3, quirks=False) as source,
        Simulator(runs=0) as copy,
        client_for(source) as lab,
        client_for(copy) as other,
    ):
        run = await lab.runs.get(source.run_ids[0])
        assert copy.insert_run(run) == run.id
        assert await other.runs.get(run.id) == run


def test_names_that_no_run_has_are_refused() -> None:
    """A misspelt attribute is a TypeError that names it, and so is what is no run."""
    simulator = Simulator(runs=1)
    with pytest.raises(TypeError, match=r"a run has no 'staus', 'tag'; it has .* status"):
        simulator.insert_run(staus="failed", name="mine", tag=[])
    with pytest.raises(TypeError, match="a run has no 'nam'"):
        simulator.update_run(simulator.run_ids[0], nam="mine")
    with pytest.raises(TypeError, match="a project has no 'params'"):
        simulator.insert_project(params=[])
    with pytest.raises(TypeError, match="a resource has no 'name'; it has id, type, attributes"):
        simulator.insert_run({"id": 7, "name": "mine"})
    for nonsense in ("70158", True, object()):
        with pytest.raises(TypeError, match="expected an id, a resource or a run, not"):
            simulator.insert_run(nonsense)
    assert len(simulator.run_ids) == 1


@pytest.mark.parametrize("inserted", [False, True])
async def test_a_run_can_be_updated(inserted: bool) -> None:
    """An update changes what is given and `updated_at`, in answers, order and filters."""
    clock = ManualClock()
    simulator = Simulator(runs=0 if inserted else 12, clock=clock)
    for _ in range(12 if inserted else 0):
        simulator.insert_run(artifacts={"a.txt": b"1"})
        clock.advance(1)
    run_id = simulator.run_ids[5]
    before = simulator.resource(run_id)["attributes"]
    params = [{"key": "learning_rate", "value": "0.25"}]
    clock.advance(86_400 * 365)
    async with asking(simulator) as ask:
        files = (await ask(f"/runs/{run_id}/artifacts")).json
        path = {"filter[params]": "learning_rate:0.25"}
        assert (await ask("/runs", path)).ids == []
        assert (await ask(f"/runs/{run_id}/pin", method="POST")).status == 204
        simulator.update_run(run_id, status="failed", params=params, description=ABSENT)
        run = (await ask(f"/runs/{run_id}")).attributes
        assert (await ask("/runs", {"sort": "-updated_at"})).ids[0] == run_id
        assert (await ask("/runs", path)).ids == [run_id]
        old = before["params"] and before["params"][0]
        if old:
            gone: dict[str, str | int] = {
                "filter[params]": f"{old['key']}:{old['value']}",
                "filter[id]": run_id,
            }
            assert (await ask("/runs", gone)).ids == []
        assert (await ask(f"/runs/{run_id}/artifacts")).json == files
    del before["description"]
    updated_at = run["updated_at"]
    assert run == {
        **before, "status": "failed", "params": params, "is_pinned": True, "updated_at": updated_at
    }  # fmt: skip
    assert to_microseconds(updated_at) == round(clock() * 1_000_000)


def test_an_update_ends_a_timeline() -> None:
    """A run that is updated keeps the status that it has reached; a deleted one cannot be."""
    clock = ManualClock()
    simulator = Simulator(runs=0, clock=clock, soft_delete=True)
    run_id = simulator.insert_run(timeline=[(0, "running"), (10, "completed")])
    clock.advance(5)
    simulator.update_run(run_id)
    clock.advance(10)
    assert simulator.resource(run_id)["attributes"]["status"] == "running"
    simulator.delete_run(run_id)
    for missing in (run_id, 1):
        with pytest.raises(LookupError):
            simulator.update_run(missing)


async def test_projects_can_be_inserted() -> None:
    """Projects can be declared, and are added where an inserted run names an unknown one."""
    simulator = Simulator(runs=0, projects=0)
    project_id = simulator.insert_project(2387, name="mine", tags=[{"key": "a", "value": "b"}])
    simulator.insert_run(project_id=99)
    simulator.insert_run(project_id=99)
    async with asking(simulator) as ask:
        assert (await ask(f"/projects/{project_id}")).attributes["name"] == "mine"
        assert (await ask("/projects/99")).attributes["name"] == "project-99"
        assert (await ask("/projects", {"filter[tags]": "a:b"})).ids == [2387]
        assert (await ask("/runs", {"filter[project_id]": 99})).json["meta"]["page"]["total"] == 2
    assert list(simulator.project_ids) == [2387, 99]
    assert simulator.insert_project() == 2388
    with pytest.raises(ValueError, match="project 99 already"):
        simulator.insert_project(99)


def test_inserted_ids_follow_the_made_up_ones() -> None:
    """Made-up ids come first, then inserted ones in the order of insertion."""
    simulator = Simulator(runs=4)
    before = simulator.run_ids
    inserted = [simulator.insert_run(run_id) for run_id in (None, 7, None)]
    assert list(simulator.run_ids) == [*before, *inserted]
    assert inserted == [before[-1] + 1, 7, before[-1] + 2]


async def test_a_run_progresses_with_the_clock() -> None:
    """A run with a timeline goes through its statuses; times and duration follow."""
    clock = ManualClock(now=1_000.0)
    simulator = Simulator(runs=0, clock=clock)
    timeline = [(0, "pending"), (5, "running"), (65.5, "completed")]
    path = f"/runs/{simulator.insert_run(timeline=timeline)}"
    async with asking(simulator) as ask:
        run = (await ask(path)).attributes
        assert (run["status"], run["started_at"], run["duration"]) == ("pending", None, None)
        clock.advance(5)
        run = (await ask(path)).attributes
        assert (run["status"], run["started_at"]) == ("running", "1970-01-01T00:16:45Z")
        assert (await ask("/runs", {"filter[status]": "completed"})).ids == []
        clock.advance(60.5)
        run = (await ask(path)).attributes
        assert (run["status"], run["duration"]) == ("completed", 60.5)
        assert run["completed_at"] == run["updated_at"] == "1970-01-01T00:17:45.5Z"
        assert len((await ask("/runs", {"filter[status]": "completed"})).ids) == 1
