from __future__ import annotations

import json
import math

import pytest
from conftest import make_run

from modellab_async import Comparison, MetricSummary, Param, compare
from modellab_async.display import shares

ONE = make_run(
    id=1,
    params=(Param("lr", "0.1"), Param("seed", "7"), Param("only", "x")),
    metric_summaries=(
        MetricSummary("loss", 3, latest=0.5, min=0.25),
        MetricSummary("acc", 3, latest=0.9),
    ),
)
TWO = make_run(
    id=2,
    params=(Param("seed", "7"), Param("lr", "0.01"), Param("new", "")),
    metric_summaries=(MetricSummary("loss", 3, latest=0.25), MetricSummary("bleu", 1, latest=30)),
)


def test_params_that_differ() -> None:
    """A param is listed where values differ or a run lacks it, by its first appearance."""
    comparison = compare([ONE, TWO])

    assert [(row.key, row.values) for row in comparison.params] == [
        ("lr", ("0.1", "0.01")),
        ("only", ("x", None)),
        ("new", (None, "")),
    ]
    assert [(row.key, row.values) for row in comparison.same_params] == [("seed", ("7", "7"))]


def test_repeats_of_a_param_are_all_compared() -> None:
    """Runs that agree in the first value of a param only do differ, and it can be seen."""
    twice = make_run(params=(Param("lr", "0.1"), Param("lr", "0.2")))

    [row] = compare([make_run(params=(Param("lr", "0.1"),)), twice]).params

    assert row.values == ("0.1", "0.1, 0.2")


def test_metrics_are_side_by_side() -> None:
    """Every metric of any run has a value for each, None where there is none."""
    assert [(row.key, row.values) for row in compare([ONE, TWO]).metrics] == [
        ("loss", (0.5, 0.25)),
        ("acc", (0.9, None)),
        ("bleu", (None, 30)),
    ]
    least = compare([ONE, TWO], statistic="min")
    assert (least.statistic, least.metrics[0].values) == ("min", (0.25, None))


def test_any_number_of_runs_can_be_compared() -> None:
    """None or one differ in nothing; a generator will do."""
    assert compare([]) == Comparison((), "latest", (), (), ())
    alone = compare(run for run in [ONE])
    assert (alone.runs, alone.params, len(alone.same_params)) == ((ONE,), (), 3)


def test_an_unknown_statistic_is_refused() -> None:
    """The error names those there are; a lone run is no collection of runs."""
    with pytest.raises(ValueError, match="latest, min, max, mean, stddev"):
        compare([ONE], statistic="median")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        compare(ONE)  # type: ignore[arg-type]


def test_a_comparison_as_plain_values() -> None:
    """The dict is what JSON can hold, with lists in the order of the runs."""
    plain = compare([ONE, TWO]).to_dict()

    assert json.loads(json.dumps(plain)) == plain
    assert [run["id"] for run in plain["runs"]] == [1, 2]
    assert plain["params"]["lr"] == ["0.1", "0.01"]
    assert plain["same_params"] == {"seed": "7"}
    assert plain["metrics"]["acc"] == [0.9, None]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0, None], [0.5, 1.0, None]),
        ([-4.0, 1.0], [1.0, 0.25]),
        ([0.0, 0], [0.0, 0.0]),
        ([math.nan, math.inf, 3], [None, None, 1.0]),
        ([None], [None]),
        ([], []),
    ],
)
def test_bars_are_shares_of_the_largest(
    values: list[float | None], expected: list[float | None]
) -> None:
    """Bars compare magnitudes; what is missing or not finite has none."""
    assert shares(values) == expected
