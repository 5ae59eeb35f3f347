"""Exports that bring an earlier one up to date."""

from __future__ import annotations

import csv
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest

from modellab_async import ConfigError, ExportError, ModelLabClient, RunFilter, ServerError
from modellab_async.export import Exported, export_runs
from modellab_async.simulator import Fault, ManualClock, Simulator

FORMATS = ["jsonl", "csv", "parquet"]
NOW = 1_800_000_000.0  # after every made-up run


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
async def sim(clock: ManualClock) -> AsyncIterator[Simulator]:
    """A simulator of 250 runs whose time moves by hand."""
    async with Simulator(runs=250, clock=clock) as simulator:
        yield simulator


def times(*, ago: float = 0.0, digits: int = 6) -> str:
    """A time a while before now, with so many fraction digits."""
    whole, _, fraction = f"{NOW - ago:.6f}".partition(".")
    stem = {"1800000000": "2027-01-15T08:00:00", "1799999970": "2027-01-15T07:59:30"}[whole]
    return f"{stem}.{fraction[:digits]}Z" if digits else f"{stem}Z"


def read(path: Path) -> pl.DataFrame:
    """What a file holds, with numbers where a format knows them."""
    match path.suffix:
        case ".parquet":
            return pl.read_parquet(path)
        case ".csv":
            return pl.read_csv(path, infer_schema=False).with_columns(pl.first().cast(pl.Int64))
        case _:
            return pl.read_ndjson(path, infer_schema_length=None)


def listed(sim: Simulator) -> int:
    """How many pages of runs were asked for."""
    return sum(record.operation == "list_runs" for record in sim.requests)


async def exported_twice(
    lab: ModelLabClient, path: Path, sim: Simulator, clock: ManualClock, **options: Any
) -> Exported:
    """Export, let one run change and one come, and export what is new."""
    changing = sim.insert_run(
        name="before",
        params=[{"key": "p", "value": "7"}],
        timeline=[(0, "running"), (3600, "completed")],
    )
    await export_runs(lab, path=path, **options)
    clock.advance(7200)
    sim.insert_run(changing + 1, name="new", params=[{"key": "p", "value": "x"}])
    return await export_runs(lab, path=path, since_last=True, **options)


@pytest.mark.parametrize("suffix", FORMATS)
async def test_rows_of_changed_runs_are_replaced(
    sim: Simulator, lab: ModelLabClient, clock: ManualClock, tmp_path: Path, suffix: str
):
    """One page is asked for, and the file is what an export of everything would have made."""
    path, anew = tmp_path / f"runs.{suffix}", tmp_path / f"anew.{suffix}"
    names = ["status", "params.p", "params.*", "metrics.eval_loss.min"]

    exported = await exported_twice(lab, path, sim, clock, columns=names)

    assert (exported.runs, exported.fetched, exported.unlisted) == (252, 2, 0)
    await export_runs(lab, path=anew, columns=names)
    assert read(path).sort("id").equals(read(anew).sort("id"))
    assert read(path).filter(pl.col("id") == sim.run_ids[-2])["status"].to_list() == ["completed"]


@pytest.mark.parametrize("suffix", FORMATS)
async def test_the_long_shape_is_brought_up_to_date(
    sim: Simulator, lab: ModelLabClient, clock: ManualClock, tmp_path: Path, suffix: str
):
    """All rows of a changed run are replaced."""
    path, anew = tmp_path / f"runs.{suffix}", tmp_path / f"anew.{suffix}"
    exported = await exported_twice(lab, path, sim, clock, shape="long")
    assert (exported.runs, exported.fetched) == (252, 2)
    await export_runs(lab, path=anew, shape="long")
    order = ["run", "key", "value"]
    assert read(path).sort(order).equals(read(anew).sort(order))


async def test_a_param_that_becomes_text(
    sim: Simulator, lab: ModelLabClient, clock: ManualClock, tmp_path: Path
):
    """A numeric column turns into text where a new value is none, and no value is lost."""
    path = tmp_path / "runs.parquet"
    await exported_twice(lab, path, sim, clock, columns=["name", "params.p", "params.seed"])
    table = pq.read_table(path)
    assert set(table.column("params.p").to_pylist()) == {None, "7", "x"}
    assert str(table.schema.field("params.seed").type) == "int64"


async def test_what_did_not_change_is_not_written_again(
    sim: Simulator, lab: ModelLabClient, clock: ManualClock, tmp_path: Path
):
    """Where nothing is new, the file stays as it is, and few pages are asked for."""
    path = tmp_path / "runs.csv"
    sim.insert_run(updated_at=times())
    await export_runs(lab, path=path)
    before, pages = path.stat(), listed(sim)

    exported = await export_runs(lab, path=path, since_last=True)

    assert (exported.runs, exported.fetched) == (251, 1)  # the newest one, which may be a new one
    assert listed(sim) - pages == 1
    assert path.stat().st_size == before.st_size


@pytest.mark.parametrize("digits", [0, 3, 6])
async def test_equal_and_late_times_are_not_missed(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path, digits: int
):
    """A run with the very time of the newest, however written, or a little older, is found."""
    path = tmp_path / "runs.jsonl"
    sim.insert_run(updated_at=times())
    await export_runs(lab, path=path)

    equal = sim.insert_run(updated_at=times(digits=digits))
    late = sim.insert_run(updated_at=times(ago=30.0, digits=digits))
    timeless = sim.insert_run(updated_at=None)
    await export_runs(lab, path=path, since_last=True)

    assert {equal, late} <= set(read(path)["id"])
    assert timeless not in set(read(path)["id"])  # behind the newest ones, nobody looks


async def test_a_change_during_an_export_is_found_by_the_next(
    sim: Simulator, lab: ModelLabClient, clock: ManualClock, tmp_path: Path
):
    """What is read early and changes before the export's end counts as new afterwards."""
    path = tmp_path / "runs.jsonl"
    early = sim.insert_run(
        created_at="2001-01-01T00:00:00Z", timeline=[(0, "running"), (60, "completed")]
    )
    sim.insert_run(timeline=[(0, "running"), (7200, "failed")])

    def during(phase: str, done: int, _total: int | None) -> None:
        if phase == "fetch" and done == 100:  # then the newest run is newer than the early one
            clock.advance(7200)

    await export_runs(lab, path=path, on_progress=during)
    frame = read(path)
    assert frame.filter(pl.col("id") == early)["status"].to_list() == ["running"]
    await export_runs(lab, path=path, since_last=True)
    assert read(path).filter(pl.col("id") == early)["status"].to_list() == ["completed"]


async def test_deleted_runs_are_counted(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """Rows of runs that are not listed any more stay, and are told of; a full export drops them."""
    path = tmp_path / "runs.parquet"
    await export_runs(lab, path=path)
    for run_id in sim.run_ids[:3]:
        sim.delete_run(run_id)
    exported = await export_runs(lab, path=path, since_last=True)
    assert (exported.runs, exported.unlisted) == (250, 3)
    exported = await export_runs(lab, path=path)
    assert (exported.runs, exported.unlisted) == (247, 0)


async def test_the_first_export_is_of_everything(lab: ModelLabClient, tmp_path: Path):
    """A nightly job may always ask for what is new."""
    exported = await export_runs(lab, path=tmp_path / "runs.csv", since_last=True)
    assert (exported.runs, exported.fetched) == (250, 250)


async def test_an_update_that_broke_off_is_gone_on_with(
    sim: Simulator, lab: ModelLabClient, clock: ManualClock, tmp_path: Path
):
    """It goes back as far as it would have gone, and the earlier file stays until then."""
    path = tmp_path / "runs.jsonl"
    await export_runs(lab, path=path)
    clock.advance(7200)
    new = {sim.insert_run(name="new") for _ in range(250)}
    sim.faults.matching("*/runs", None, None, *[Fault.status(501)] * 9)
    with pytest.raises(ServerError):
        await export_runs(lab, path=path, since_last=True)
    assert len(read(path)) == 250
    sim.faults.clear()
    with pytest.raises(ExportError, match="resume it"):
        await export_runs(lab, path=path, since_last=True)

    with pytest.raises(ConfigError, match="'since_last', not 'all'"):
        await export_runs(lab, path=path, resume=True)
    exported = await export_runs(lab, path=path, since_last=True, resume=True)

    assert exported.runs == 500
    assert new <= set(read(path)["id"])


async def test_a_new_run_that_cannot_be_read(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """It is named in the side file, and the other new ones are exported."""
    path = tmp_path / "runs.jsonl"
    await export_runs(lab, path=path)
    new, broken = sim.insert_run(name="new"), sim.insert_run(name=None)
    exported = await export_runs(lab, path=path, since_last=True)
    assert (exported.runs, exported.failed) == (251, 1)
    assert new in set(read(path)["id"])
    assert json.loads(exported.failures.read_text())["run_id"] == broken


async def test_line_ends_within_text(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """In CSV they are quoted, read back whole, and no obstacle to the next export."""
    path = tmp_path / "runs.csv"
    names = ["a\rb", "a\r\nb", "a\nb", "\r", 'a"\r']
    odd = {sim.insert_run(name=name): name for name in names}
    await export_runs(lab, path=path, columns=["name"])
    sim.insert_run(name="new", updated_at=times())
    exported = await export_runs(lab, path=path, columns=["name"], since_last=True)
    with path.open(newline="") as file:
        rows = {row["id"]: row["name"] for row in csv.DictReader(file)}
    assert exported.runs == len(rows) == 256
    assert {run_id: rows[str(run_id)] for run_id in odd} == odd
    assert duckdb.read_csv(str(path)).aggregate("count(*)").fetchall() == [(256,)]
    assert b"\r\n" not in path.read_bytes().replace(b'"a\r\nb"', b"")


async def test_a_run_that_stays_broken_is_named_once(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path
):
    """However often it was met, it has one line in the side file."""
    path = tmp_path / "runs.jsonl"
    broken = sim.insert_run(name=None, updated_at=times())
    for _ in range(3):
        exported = await export_runs(lab, path=path, since_last=True)
        assert (exported.runs, exported.failed) == (250, 1)
        assert json.loads(exported.failures.read_text())["run_id"] == broken


async def test_failures_of_earlier_stay_named(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """A side file names what failed until it was fetched, whatever was exported since."""
    path = tmp_path / "runs.jsonl"
    await export_runs(lab, path=path)
    failed = tmp_path / "runs.jsonl.failed.jsonl"
    new = sim.insert_run(name="new")
    failed.write_text(f'{{"run_id": "1"}}\n{{"run_id": {new}}}\n')
    exported = await export_runs(lab, path=path, since_last=True)
    assert exported.failed == 1
    assert [json.loads(line) for line in failed.read_text().splitlines()] == [{"run_id": "1"}]


async def test_another_export_cannot_be_brought_up_to_date(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path
):
    """Other options than the earlier export had are refused, as is a file of unknown origin."""
    path = tmp_path / "runs.csv"
    await export_runs(lab, path=path)
    with pytest.raises(ConfigError, match="another filter"):
        await export_runs(lab, path=path, since_last=True, filter=RunFilter(project_id=1))
    await export_runs(lab, sim.run_ids[:2], path=path)
    with pytest.raises(ConfigError, match="another filter"):
        await export_runs(lab, path=path, since_last=True)
    unknown = tmp_path / "other.csv"
    unknown.write_text("id\n")
    with pytest.raises(ConfigError, match="nothing is known"):
        await export_runs(lab, path=unknown, since_last=True)


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("jsonl", b"x\n"),
        ("csv", b"id,other\n1,2\n"),
        ("csv", b"name,id\n"),
        ("parquet", b"PAR1"),
    ],
)
async def test_a_file_that_was_tampered_with(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path, suffix: str, content: bytes
):
    """A file that is not what was exported is an error, and stays as it is."""
    path = tmp_path / f"runs.{suffix}"
    await export_runs(lab, path=path)
    path.write_bytes(content)
    sim.insert_run(name="new")
    with pytest.raises(ExportError, match=r"runs\."):
        await export_runs(lab, path=path, since_last=True)
    assert path.read_bytes() == content
