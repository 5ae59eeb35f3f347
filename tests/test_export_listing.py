"""Exports by filter: where they go on, and what cannot be read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Literal
from unittest import mock

import pytest
from conftest import client_for
from test_export import ids_of, served

from modellab_async import ModelLabClient, ServerError
from modellab_async.export import export_runs
from modellab_async.simulator import Fault, Simulator


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    """A simulator of 1,100 runs: eleven pages."""
    async with Simulator(runs=1_100, record=20_000) as simulator:
        yield simulator


async def test_a_listing_goes_on_where_it_was(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """Pages that were read are not read again, though runs on them were deleted meanwhile."""
    path = tmp_path / "runs.csv"
    sim.faults.matching("*/runs", *[None] * 11, *[Fault.status(501)] * 20)
    with monotony(), pytest.raises(ServerError):
        await export_runs(lab, path=path)
    sim.faults.clear()
    for run_id in sim.run_ids[5:120]:
        sim.delete_run(run_id)
    before = sim.counts.requests

    exported = await export_runs(lab, path=path, resume=True)

    assert sim.counts.requests - before < 8  # of 11 pages
    assert set(ids_of(path)) >= {run.id for run in served(sim)}
    assert len(ids_of(path)) == exported.runs


@contextlib.contextmanager
def monotony() -> Iterator[None]:
    """Every page is brought to disk as it comes."""
    with mock.patch("modellab_async.export.spool.STEP", 1):
        yield


async def test_runs_that_vanish_while_a_listing_is_read(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path
):
    """What moved to a page that was read already is found by the next attempt."""
    path = tmp_path / "runs.csv"

    def during(phase: str, done: int, _total: int | None) -> None:
        if (phase, done) == ("fetch", 300):
            for run_id in sim.run_ids[:40]:
                sim.delete_run(run_id)
        elif done > 400:
            raise RuntimeError

    with monotony(), pytest.raises(RuntimeError):
        await export_runs(lab, path=path, on_progress=during)
    await export_runs(lab, path=path, resume=True)
    assert set(ids_of(path)) >= {run.id for run in served(sim)}


@pytest.mark.parametrize("first_page", [0, 1])
async def test_a_broken_run_costs_no_other(tmp_path: Path, first_page: Literal[0, 1]):
    """A listed run that cannot be read is named in the side file, and all others are exported."""
    async with Simulator(runs=250, first_page=first_page) as sim, client_for(sim) as lab:
        broken = [
            sim.insert_run(name=None, created_at="2001-01-01T00:00:00Z"),
            sim.insert_run(status=7, created_at="2030-01-01T00:00:00Z"),
        ]
        path = tmp_path / "runs.jsonl"
        exported = await export_runs(lab, path=path)
        assert (exported.runs, exported.failed) == (250, 2)
        assert ids_of(path) == sorted(set(sim.run_ids) - set(broken))
        failures = [json.loads(line) for line in exported.failures.read_text().splitlines()]
        assert [(line["run_id"], line["error"]) for line in failures] == [
            (run_id, "DecodeError") for run_id in broken
        ]


async def test_broken_runs_stay_named_when_an_export_is_resumed(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path
):
    """What could not be read before a kill is in the side file at the end, once."""
    broken = sim.insert_run(name=None, created_at="2001-01-01T00:00:00Z")
    path = tmp_path / "runs.jsonl"

    def breaks_off(_phase: str, done: int, _total: int | None) -> None:
        if done > 500:
            raise RuntimeError

    with monotony(), pytest.raises(RuntimeError):
        await export_runs(lab, path=path, on_progress=breaks_off)
    exported = await export_runs(lab, path=path, resume=True)
    assert (exported.runs, exported.failed) == (1_100, 1)
    assert json.loads(exported.failures.read_text())["run_id"] == broken
