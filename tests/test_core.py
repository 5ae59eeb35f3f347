"""What the package does without any extra: `nox -s core` runs the tests where none is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from modellab_async import MissingExtraError, ModelLabClient, frames
from modellab_async.export import export_runs
from modellab_async.simulator import Simulator
from modellab_async.store import open_store


@pytest.fixture(autouse=True)
def _no_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("duckdb", "pyarrow", "rich", "typer"):
        monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
async def test_exports_name_their_extra(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path, suffix: str
):
    """Without DuckDB, an export is refused before any request, by the name of the extra."""
    with pytest.raises(MissingExtraError, match=r"\[tables\]"):
        await export_runs(lab, sim.run_ids[:3], path=tmp_path / f"runs.{suffix}")
    assert sim.counts.requests == 0


def test_databases_name_their_extra(tmp_path: Path):
    """Without DuckDB, a database is refused by the name of the extra, and not created."""
    with pytest.raises(MissingExtraError, match=r"\[tables\]"):
        open_store(tmp_path / "runs.duckdb")
    assert not (tmp_path / "runs.duckdb").exists()


def test_tables_name_their_extra():
    """Without DuckDB, a table is refused by the name of the extra."""
    with pytest.raises(MissingExtraError, match=r"\[tables\]"):
        frames.to_table([])
