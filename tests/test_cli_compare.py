"""``modellab runs compare``: the table, the JSON, and what cannot be compared."""

from __future__ import annotations

import json
import re

import pytest
from conftest import make_run
from shells import COLOUR, Shell, environment, on_terminal
from test_cli import invoke, settings
from test_cli_render import drawn

from modellab_async import MetricSummary, Param, compare
from modellab_async.cli.render import comparison_table
from modellab_async.simulator import Simulator


def declared(sim: Simulator, loss: float, rate: str) -> int:
    """A run with a metric and two params, one of them as in every other."""
    return sim.insert_run(
        metric_summaries=[{"key": "loss", "count": 1, "latest": loss, "min": loss / 2}],
        params=[{"key": "lr", "value": rate}, {"key": "seed", "value": "7"}],
    )


async def test_a_pipe_gets_one_object(sim: Simulator) -> None:
    """Piped, a comparison is one JSON object whose lists are in the order asked."""
    one, two = declared(sim, 0.5, "0.1"), declared(sim, 0.25, "0.01")

    result = await invoke("runs", "compare", two, one, env=settings(sim))

    assert (result.exit_code, result.stderr) == (0, "")
    [line] = result.stdout.splitlines()
    found = json.loads(line)
    assert [run["id"] for run in found["runs"]] == [two, one]
    assert found["params"] == {"lr": ["0.01", "0.1"]}
    assert found["same_params"] == {"seed": "7"}
    assert found["metrics"] == {"loss": [0.25, 0.5]}


async def test_the_statistic_and_the_metrics_can_be_chosen(sim: Simulator) -> None:
    """``--statistic`` and ``--metric`` decide what is compared."""
    ids = [declared(sim, 0.5, "0.1"), declared(sim, 0.25, "0.1")]

    options = ["--statistic", "min", "--metric", "loss", "--metric", "absent"]
    result = await invoke("runs", "compare", *ids, *options, env=settings(sim))
    assert json.loads(result.stdout)["metrics"] == {"loss": [0.25, 0.125]}

    result = await invoke("runs", "compare", *ids, "--statistic", "mode", env=settings(sim))
    assert result.exit_code == 2


async def test_what_is_missing_is_named_and_the_rest_compared(sim: Simulator) -> None:
    """A run that does not exist is an error line and exit code 1; none at all is 4."""
    ids = [declared(sim, 0.5, "0.1"), 1, declared(sim, 0.25, "0.1")]

    result = await invoke("runs", "compare", *ids, env=settings(sim))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: run 1: 404")
    assert len(json.loads(result.stdout)["runs"]) == 2

    result = await invoke("runs", "compare", 1, 2, env=settings(sim))
    assert (result.exit_code, result.stdout) == (4, "")


async def test_one_run_is_not_compared(sim: Simulator) -> None:
    """A single id is a usage error, and nothing is asked."""
    result = await invoke("runs", "compare", sim.run_ids[0], env=settings(sim))
    assert result.exit_code == 2
    assert sim.counts.requests == 0


async def test_a_terminal_gets_a_table(shell: Shell, sim: Simulator) -> None:
    """Runs are columns, metrics have bars by their size, equal params are only counted."""
    ids = [declared(sim, 0.5, "0.1"), declared(sim, 0.25, "0.01")]

    code, text = await on_terminal(shell, "runs", "compare", *ids, env=environment(sim))
    lines = [line.split() for line in COLOUR.sub("", text).splitlines()]

    assert code == 0
    assert lines[0] == ["run", *map(str, ids)]
    assert ["loss", "0.5", "████████", "0.25", "████"] in lines
    assert ["lr", "0.1", "0.01"] in lines
    assert lines[-1] == ["Params", "the", "same", "in", "all:", "1."]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_runs_that_do_not_fit_follow_below(width: int) -> None:
    """Every run is shown whole at any width, in as many blocks as it takes."""
    runs = [
        make_run(
            id=number,
            params=(Param("lr", f"value-{number}"), Param("path", f"/data/{number}/" + "x" * 50)),
            metric_summaries=(MetricSummary("loss", 1, latest=float(-number)),),
        )
        for number in range(1, 8)
    ]

    text = drawn(comparison_table(compare(runs), width), width)

    assert all(len(line) <= width for line in text.splitlines())
    assert re.findall(r"value-\d", text) == [f"value-{number}" for number in range(1, 8)]
    assert text.count("loss") == text.count("lr") == -(-7 // max(1, (width - 30) // 20))


def test_a_server_cannot_style_the_table() -> None:
    """Markup and control characters in names, params and metrics are plain text."""
    evil = "[red]\x1b[2J"
    run = make_run(
        name=evil,
        params=(Param(evil, evil),),
        metric_summaries=(MetricSummary(evil, 1, latest=1.0),),
    )

    text = drawn(comparison_table(compare([run, make_run()]), 100), 100)

    assert text.count("[red]") == 4
    assert "\x1b" not in text
