"""What the package does without any extra: `nox -s core` runs the tests where none is installed."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from modellab_async import MissingExtraError, ModelLabClient, frames
from modellab_async.export import export_runs
from modellab_async.simulator import Simulator


@pytest.fixture(autouse=True)
def _no_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pyarrow", "rich", "typer"):
        monkeypatch.setitem(sys.modules, module, None)


async def test_json_lines_need_no_extra(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """Runs are exported to JSON lines by the core alone."""
    ids = sim.run_ids[:3]
    exported = await export_runs(lab, ids, path=tmp_path / "runs.jsonl")

    rows = [json.loads(line) for line in exported.path.read_text("utf-8").splitlines()]
    assert sorted(int(row["id"]) for row in rows) == sorted(ids)


async def test_csv_needs_no_extra(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """Runs are exported to CSV by the core alone."""
    ids = sim.run_ids[:3]
    exported = await export_runs(lab, ids, path=tmp_path / "runs.csv", columns=["id", "name"])

    with exported.path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(int(row["id"]) for row in rows) == sorted(ids)


async def test_parquet_names_its_extra(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """Without pyarrow, Parquet is refused before any request, by the name of the extra."""
    with pytest.raises(MissingExtraError, match=r"modellab_async\[arrow\]"):
        await export_runs(lab, sim.run_ids[:3], path=tmp_path / "runs.parquet")
    assert sim.counts.requests == 0


def test_tables_name_their_extra():
    """Without pyarrow, a table is refused by the name of the extra."""
    with pytest.raises(MissingExtraError, match=r"modellab_async\[arrow\]"):
        frames.to_table([])
