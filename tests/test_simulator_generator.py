"""The made-up runs: deterministic, and shaped like recorded ones."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from modellab_async.simulator import ManualClock, Simulator
from modellab_async.simulator.generator import Size
from modellab_async.simulator.times import to_microseconds, to_text

SAMPLE = slice(0, None, 59)


def sizes(resources: Iterable[dict[str, Any]]) -> list[int]:
    return [len(msgspec.json.encode({"data": resource})) for resource in resources]


@pytest.fixture(scope="module")
def resources() -> list[dict[str, Any]]:
    """A sample of the default organization's runs."""
    simulator = Simulator()
    return [simulator.resource(run_id) for run_id in simulator.run_ids[SAMPLE]]


@pytest.fixture(scope="module")
def attributes(resources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [resource["attributes"] for resource in resources]


def test_the_default_organization_has_the_recorded_extent() -> None:
    """65,614 runs with ids of five and six digits, in 403 projects."""
    simulator = Simulator()
    assert len(simulator.run_ids) == 65_614
    assert len(simulator.project_ids) == 403
    assert 10_000 <= simulator.run_ids[0] < 100_000 <= simulator.run_ids[-1] <= 999_999


def test_the_ids_of_the_documentation_exist() -> None:
    """The runs and the project that examples use are there by default."""
    simulator = Simulator()
    assert simulator.resource(70158)["attributes"]["status"] == "completed"
    assert 71354 in simulator.run_ids
    assert 2387 in simulator.project_ids


def test_ids_ascend_with_gaps() -> None:
    """Ids grow, and some numbers between them belong to no run."""
    ids = Simulator(runs=2_000).run_ids
    assert list(ids) == sorted(set(ids))
    assert set(range(ids[0], ids[-1])) - set(ids)


def test_the_same_seed_gives_the_same_runs() -> None:
    """Two simulators agree on every run; another seed gives others."""
    one, two, other = (Simulator(runs=2_000, seed=seed) for seed in (5, 5, 6))
    assert [one.resource(i) for i in one.run_ids[:50]] == [
        two.resource(i) for i in two.run_ids[:50]
    ]
    assert one.run_ids[:50] != other.run_ids[:50]


def test_a_run_has_exactly_the_documented_attributes() -> None:
    """Without quirks every documented attribute is there, and nothing else."""
    simulator = Simulator(runs=500, quirks=False)
    documented = {
        "completed_at", "created_at", "deleted_at", "descendant_match", "description", "duration",
        "external_url", "has_children", "is_pinned", "metric_summaries",
        "mlflow_artifact_location", "name", "owner_id", "params", "project_id", "started_at",
        "status", "tags", "updated_at",
    }  # fmt: skip
    for run_id in simulator.run_ids:
        resource = simulator.resource(run_id)
        assert (resource["id"], resource["type"]) == (str(run_id), "runs")
        run = resource["attributes"]
        assert set(run) == documented
        assert isinstance(run["params"], list)
        assert isinstance(run["tags"], list)
        assert run["status"] != "queued"
        assert all(isinstance(summary["stddev"], float) for summary in run["metric_summaries"])


def test_mixed_sizes_are_those_of_production(resources: list[dict[str, Any]]) -> None:
    """The median run has about 1.6 KB of JSON and the mean one 2.2 KB; large ones have 8.9."""
    found = sizes(resources)
    assert 1_450 < statistics.median(found) < 1_750
    assert 2_050 < statistics.mean(found) < 2_450
    assert 8_000 < statistics.quantiles(found, n=20)[-1] < 9_500


@pytest.mark.parametrize(
    ("size", "expected"), [("small", 1_100), ("medium", 2_200), ("large", 8_900)]
)
def test_all_runs_can_have_one_size(size: Size, expected: int) -> None:
    """With a size given, the runs have it on average, and none is far from it."""
    simulator = Simulator(runs=200, size=size)
    found = sizes(map(simulator.resource, simulator.run_ids))
    assert statistics.mean(found) == pytest.approx(expected, rel=0.03)
    assert min(found) > 0.7 * expected
    assert max(found) < 1.2 * expected


def test_large_runs_have_the_recorded_lists() -> None:
    """A large run has 110 params and 22 metric summaries."""
    simulator = Simulator(runs=5, size="large")
    run = simulator.resource(simulator.run_ids[0])["attributes"]
    assert (len(run["params"]), len(run["metric_summaries"])) == (110, 22)


def test_quirk_lists_may_be_null(attributes: list[dict[str, Any]]) -> None:
    """Params are null in two runs of five, tags and metric summaries now and then."""
    shares = {
        name: sum(run[name] is None for run in attributes) / len(attributes)
        for name in ("params", "tags", "metric_summaries")
    }
    assert 0.35 < shares["params"] < 0.45
    assert 0.01 < shares["tags"] < 0.1
    assert 0.01 < shares["metric_summaries"] < 0.1


def test_quirk_numbers_and_fields(attributes: list[dict[str, Any]]) -> None:
    """No stddev; floats come as integers too; there are unknown fields, and absent ones."""
    summaries = [summary for run in attributes for summary in run["metric_summaries"] or ()]
    assert not any("stddev" in summary for summary in summaries)
    assert {type(summary["max"]) for summary in summaries} == {int, float}
    assert any(summary["max"] > 10**12 for summary in summaries)
    assert any(summary["latest"] is None for summary in summaries)
    assert {type(run["duration"]) for run in attributes} >= {int, float}
    assert any("compute" in run for run in attributes)
    assert any("completed_at" not in run for run in attributes)


def test_quirk_texts(attributes: list[dict[str, Any]]) -> None:
    """Keys hold dots; there are long values full of quotes, line breaks and Python literals."""
    keys = {entry["key"] for run in attributes for entry in run["tags"] or ()}
    assert "mlflow.runName" in keys
    values = [entry["value"] for run in attributes for entry in run["params"] or ()]
    longest = max(values, key=len)
    assert 1_800 < len(longest) < 2_600
    assert all(part in longest for part in ('"', "'", "\n", "None", "True", "\\"))
    assert any(not run["description"].isascii() for run in attributes)


def test_quirk_statuses(attributes: list[dict[str, Any]]) -> None:
    """Every documented status occurs, and rarely one that is not documented."""
    statuses = {run["status"] for run in attributes}
    assert statuses == {
        "pending", "running", "completed", "failed", "killed", "unresponsive", "paused", "queued",
    }  # fmt: skip


def test_times_have_zero_to_six_fraction_digits(attributes: list[dict[str, Any]]) -> None:
    """Times are UTC with a Z; every number of fraction digits occurs."""
    digits = set()
    for run in attributes:
        match = re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.(\d{1,6}))?Z", run["created_at"])
        assert match is not None
        digits.add(len(match[1] or ""))
    assert digits == set(range(7))


def test_params_repeat_between_runs(attributes: list[dict[str, Any]]) -> None:
    """Most values of params occur in many runs, and a few runs hold the same param twice."""
    pairs = [(entry["key"], entry["value"]) for run in attributes for entry in run["params"] or ()]
    assert len(set(pairs)) < len(pairs) / 5
    repeats = [
        run
        for run in attributes
        if run["params"] and len({entry["key"] for entry in run["params"]}) < len(run["params"])
    ]
    assert repeats


def test_a_run_that_ended_has_consistent_times() -> None:
    """Duration is what lies between start and end; a run that goes on has neither."""
    simulator = Simulator(runs=300)
    for run_id in simulator.run_ids:
        run = simulator.resource(run_id)["attributes"]
        if run["duration"] is None:
            assert run.get("completed_at") is None
        else:
            spent = to_microseconds(run["completed_at"]) - to_microseconds(run["started_at"])
            assert spent == pytest.approx(run["duration"] * 1_000_000, abs=1)


def test_runs_need_a_project() -> None:
    """Made-up runs without projects to belong to, or of an unknown size, are refused."""
    with pytest.raises(ValueError, match="at least one project"):
        Simulator(runs=1, projects=0)
    with pytest.raises(ValueError, match="size must be"):
        Simulator(size="huge")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="negative"):
        Simulator(runs=-1)


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_778_814_223_079_000, "2026-05-15T03:03:43.079Z"),
        (1_778_814_223_387_050, "2026-05-15T03:03:43.38705Z"),
    ],
)
def test_times_survive_being_written(microseconds: int, text: str) -> None:
    """A time is written without trailing zeros and read back as it was."""
    assert to_text(microseconds) == text
    assert to_microseconds(text) == microseconds


@pytest.mark.parametrize("nonsense", [None, 3, "yesterday"])
def test_nonsense_is_no_time(nonsense: object) -> None:
    """Whatever is not a time counts as the epoch."""
    assert to_microseconds(nonsense) == 0


async def test_a_manual_clock_moves_when_told() -> None:
    """The clock stands still but for `advance` and `sleep`, which does not wait."""
    clock = ManualClock(now=100.0)
    assert clock() == clock() == 100.0
    clock.advance(5)
    await clock.sleep(60)
    assert clock() == 165.0
