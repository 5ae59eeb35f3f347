"""The pages on tables and exports: what they show runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_cli import invoke, settings

from modellab_async import ModelLabClient
from modellab_async.simulator import Simulator

PAGES = Path(__file__).parents[1] / "docs/how-to"


def code_of(page: str) -> dict[str, Any]:
    """What the Python of a page defines."""
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (PAGES / page).read_text("utf-8"), re.DOTALL):
        exec(block, names)
    return names


async def test_the_page_on_tables(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its functions do what they say, and its lines for polars and DuckDB work on their table."""
    code = code_of("frames.md")
    await code["compare"](lab)
    assert "metrics.eval_loss.min: double" in capsys.readouterr().out
    path = tmp_path / "runs.parquet"
    await code["write"](lab, str(path))
    assert pq.read_metadata(path).num_rows == 2_000

    runs = pa.table({"name": ["b", "a"]})
    assert pl.from_arrow(runs).shape == (2, 1)
    query = re.search(r'duckdb\.sql\("(.*?)"\)', (PAGES / "frames.md").read_text("utf-8"))
    assert query is not None
    found = duckdb.sql(query[1])
    assert found is not None
    assert found.fetchall() == [("a",), ("b",)]


async def test_the_page_on_exports(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its function and each of its commands succeed, in the order of the page."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ids.txt").write_text(f"{sim.run_ids[0]}\n")
    for run_id in {2387, 70158, 71354} - {*sim.run_ids}:
        sim.insert_run(run_id)
    text = (PAGES / "export.md").read_text("utf-8").replace("\\\n", "")
    commands = re.findall(r"^\$ modellab (.*)$", text, re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        result = await invoke(*shlex.split(command), env=settings(sim))
        assert (result.exit_code, result.stderr) == (0, "")
    await code_of("export.md")["export"](lab)
