"""Exports, against the simulator, read back by the libraries that users read them with."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import errno
import json
import math
import os
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import client_for, posix

from modellab_async import (
    ConfigError,
    ExportError,
    ModelLabClient,
    PermissionDeniedError,
    Run,
    RunFilter,
    ServerError,
    frames,
    from_dict,
)
from modellab_async.export import export_runs, export_store
from modellab_async.simulator import Fault, Simulator
from modellab_async.store import open_store, sync

NAMES = ["name", "params.seed", "params.learning_rate", "metrics.eval_loss.min", "tags.team"]
FORMATS = ["jsonl", "csv", "parquet"]


@pytest.fixture
async def sim(request: pytest.FixtureRequest) -> AsyncIterator[Simulator]:
    """A simulator of 250 runs of all sizes, or as a test says."""
    async with Simulator(**getattr(request, "param", {"runs": 250})) as simulator:
        yield simulator


more_than_a_step = pytest.mark.parametrize(
    "sim", [{"runs": 1_100, "size": "small"}], indirect=True, ids=["1100 small runs"]
)
"""With more runs than are written to disk in one step."""


def served(sim: Simulator) -> list[Run]:
    """Every run as it is served now."""
    found = []
    for run_id in sim.run_ids:
        with contextlib.suppress(LookupError):  # deleted
            found.append(from_dict(sim.resource(run_id), Run))
    return found


def rows_of(path: Path) -> list[dict[str, Any]]:
    """What a file holds, by the run's id."""
    match path.suffix:
        case ".parquet":
            rows = pq.read_table(path).to_pylist()
        case ".csv":
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
        case _:
            rows = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(rows, key=lambda row: int(row["id"]))


def read_like(table: pa.Table, path: Path) -> pa.Table:
    """A Parquet file, whose columns may be known to have no nulls, in a table's schema."""
    return pq.read_table(path).cast(table.schema)


def ids_of(path: Path) -> list[int]:
    return [int(row["id"]) for row in rows_of(path)]


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def contents_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def left_over(path: Path) -> set[str]:
    """The suffixes of everything that lies around a file."""
    return {name.removeprefix(path.name) for name in names_in(path.parent)}


@more_than_a_step
async def test_parquet_is_read_back_equal(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """The file's table is that of the runs served; polars and DuckDB read the same from it."""
    path = tmp_path / "runs.parquet"

    exported = await export_runs(lab, path=path)

    assert (exported.runs, exported.fetched, exported.failed) == (1_100, 1_100, 0)
    table = frames.to_table(served(sim))
    assert read_like(table, path).equals(table)
    assert pl.read_parquet(path).equals(pl.DataFrame(table))
    with duckdb.connect() as connection:
        query = "SELECT id, duration, params, metrics FROM read_parquet($path)"
        found = connection.execute(query, {"path": str(path)}).fetchall()
    assert found == [
        (row["id"], row["duration"], dict(row["params"]), dict(row["metrics"]))
        for row in table.to_pylist()
    ]


async def test_columns_have_the_types_of_a_table(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path
):
    """Named columns and stars give what `to_table` gives."""
    path = tmp_path / "runs.parquet"
    names = [*NAMES, "params.*", "metrics.*.max"]
    await export_runs(lab, path=path, columns=names)
    table = frames.to_table(served(sim), columns=names)
    assert read_like(table, path).equals(table)


async def test_long_shape(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """The long shape is that of a table, in every format."""
    expected = frames.to_table(served(sim), shape="long").to_pylist()
    for suffix in FORMATS:
        path = tmp_path / f"runs.{suffix}"
        await export_runs(lab, path=path, shape="long", columns=None)
        if suffix == "csv":
            found = pl.read_csv(path, infer_schema=False).with_columns(pl.col("run").cast(int))
        elif suffix == "jsonl":
            found = pl.read_ndjson(path)
        else:
            found = pl.read_parquet(path)
        assert found.columns == ["run", "key", "value"]
        assert [row | {"value": row["value"] or ""} for row in found.to_dicts()] == expected


async def test_json_lines(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """A row is an object with the run's fields, and its params, tags and metrics by key."""
    path = tmp_path / "runs.jsonl"
    await export_runs(lab, path=path)

    for row, run in zip(rows_of(path), sorted(served(sim), key=lambda run: run.id), strict=True):
        assert (row["id"], row["status"], row["duration"]) == (run.id, run.status, run.duration)
        assert row["params"] == {param.key: param.value for param in reversed(run.params)}
        assert {key: value["min"] for key, value in row["metrics"].items()} == {
            metric.key: metric.min for metric in run.metric_summaries
        }


async def test_csv(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """Cells read back as the run's values, with newlines and quotes in them; null is empty."""
    sim.insert_run(name='a "b",\nc', params=[{"key": "seed", "value": "x"}], duration=0.1)
    path = tmp_path / "runs.csv"
    await export_runs(lab, path=path, columns=["duration", *NAMES])

    for row, run in zip(rows_of(path), sorted(served(sim), key=lambda run: run.id), strict=True):
        assert row["name"] == run.name
        assert row["params.seed"] == (run.param("seed") or "")
        assert row["duration"] == ("" if run.duration is None else repr(run.duration))


async def test_ids_are_exported_once_each(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """Repeats, in whatever form, are one row; what cannot be fetched is in the side file."""
    first, second = sim.run_ids[:2]
    path = tmp_path / "runs.jsonl"
    progress: list[tuple[str, int, int | None]] = []

    asked: list[int | str] = [first, str(first), second, 1, "x"]
    exported = await export_runs(lab, asked, path=path, on_progress=lambda *p: progress.append(p))

    assert (exported.runs, exported.failed) == (2, 2)
    assert ids_of(path) == sorted([first, second])
    failures = [json.loads(line) for line in exported.failures.read_text().splitlines()]
    found = {(line["run_id"], line["error"], line["status"]) for line in failures}
    assert found == {("1", "NotFoundError", 404), ("x", "InvalidIdError", None)}
    assert all(line["message"] for line in failures)
    assert progress[-3:] == [("fetch", 5, 5), ("write", 0, 2), ("write", 2, 2)]


async def test_refused_keys_end_an_export(sim: Simulator, tmp_path: Path):
    """Wrong keys are an error, not the failure of every run, and leave nothing behind."""
    async with ModelLabClient(base_url=sim.base_url, api_key="x", app_key="y") as lab:
        for ids in (sim.run_ids, None):
            with pytest.raises(PermissionDeniedError):
                await export_runs(lab, ids, path=tmp_path / "runs.csv")
    assert names_in(tmp_path) == []
    assert sim.counts.requests < 50


async def interrupted(lab: ModelLabClient, path: Path, ids: Iterable[int], **options: Any) -> None:
    """Leave an export that was interrupted after these ids."""

    async def source() -> AsyncIterator[int]:
        for run_id in ids:
            yield run_id
        raise RuntimeError("the source of ids is gone")

    with pytest.raises(RuntimeError, match="the source"):
        await export_runs(lab, source(), path=path, **options)


@more_than_a_step
async def test_an_interrupted_export_resumes(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """What was fetched is not asked for again, not lost and not there twice."""
    path = tmp_path / "runs.parquet"
    ids = list(sim.run_ids)
    await interrupted(lab, path, ids[:700])
    assert left_over(path) == {".part.duckdb"}
    before = sim.counts.requests

    exported = await export_runs(lab, ids, path=path, resume=True)

    assert sim.counts.requests - before <= 4  # pages of 100, for 400 runs
    assert exported.fetched == 1_100
    assert ids_of(path) == sorted(ids)
    assert left_over(path) == {""}


@more_than_a_step
async def test_an_interrupted_listing_resumes(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """Its pages are not read again, and another format can be written from them."""

    def interrupt(_phase: str, done: int, _total: int | None) -> None:
        if done > 800:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await export_runs(lab, path=tmp_path / "runs", format="csv", on_progress=interrupt)
    before = sim.counts.requests
    path = tmp_path / "runs"
    exported = await export_runs(lab, path=path, format="jsonl", columns=["name"], resume=True)
    assert sim.counts.requests - before <= 6  # of 11 pages
    assert exported.runs == 1_100
    assert ids_of(path) == sorted(sim.run_ids)


async def test_an_interrupted_export_is_not_overwritten(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path
):
    """Without being told to resume it, or with another filter, an export refuses to begin."""
    path = tmp_path / "runs.csv"
    ids = list(sim.run_ids[:5])
    await interrupted(lab, path, ids)

    with pytest.raises(ExportError, match=r"resume it, or remove it"):
        await export_runs(lab, ids, path=path)
    with pytest.raises(ConfigError, match="another filter: ids, not all runs"):
        await export_runs(lab, path=path, resume=True)
    assert (await export_runs(lab, ids, path=path, resume=True)).runs == 5


async def test_other_ids_are_not_mixed_in(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """A resumed export holds the runs that are asked for now, and no other."""
    path = tmp_path / "runs.csv"
    ids, others = sorted(sim.run_ids)[:5], sorted(sim.run_ids)[3:10]
    await interrupted(lab, path, ids)
    exported = await export_runs(lab, others, path=path, resume=True)
    assert exported.runs == len(others)
    assert ids_of(path) == others


async def test_resuming_what_never_began_begins(lab: ModelLabClient, tmp_path: Path):
    """A script may always ask to resume."""
    chosen = RunFilter(status="failed")
    exported = await export_runs(lab, path=tmp_path / "runs.csv", filter=chosen, resume=True)
    assert exported.runs > 0


@pytest.mark.process
async def test_two_exports_of_one_file(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """The second one is told that the file is in use."""
    path = tmp_path / "runs.csv"
    await interrupted(lab, path, sim.run_ids[:5])
    code = (
        "import duckdb, sys, time; c = duckdb.connect(sys.argv[1]); print(1, flush=True); input()"
    )
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, f"{path}.part.duckdb"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert other.stdout
    await other.stdout.readline()
    with pytest.raises(ExportError, match="another process has it open"):
        await export_runs(lab, sim.run_ids, path=path, resume=True)
    await other.communicate(b"\n")


async def test_the_earlier_file_stays_until_the_new_one_is_complete(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path
):
    """A listing that fails changes nothing under the file's name."""
    path = tmp_path / "runs.csv"
    await export_runs(lab, sim.run_ids[:3], path=path)
    before = path.read_bytes()
    sim.faults.matching("*/runs", None, None, *[Fault.status(501)] * 100)
    with pytest.raises(ServerError):
        await export_runs(lab, path=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"path": "runs.xlsx"}, ConfigError, "does not name a format"),
        ({"path": "runs.csv", "format": "xlsx"}, ValueError, "format must be"),
        ({"path": "runs.csv", "columns": ["x"]}, ValueError, "no column"),
        ({"path": "runs.csv", "columns": "name"}, TypeError, "collection of names"),
        ({"path": "runs.csv", "run_ids": "70158"}, TypeError, "iterable of ids"),
        ({"path": "runs.csv", "run_ids": [1], "filter": RunFilter()}, ValueError, "exclude"),
        ({"path": "."}, ConfigError, "does not name"),
        ({"path": "file/runs.csv"}, ExportError, "file is not a directory"),
        ({"path": "none/runs.csv"}, ExportError, "the directory .*none does not exist"),
    ],
)
async def test_what_cannot_be_is_refused(
    lab: ModelLabClient,
    tmp_path: Path,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
):
    """A mistake is told before anything is fetched or left behind."""
    (tmp_path / "file").write_text("in the way")
    given = options | {"path": tmp_path / options["path"]}
    with pytest.raises(error, match=message):
        await export_runs(lab, given.pop("run_ids", None), **given)
    assert names_in(tmp_path) == ["file"]
    assert lab.stats.calls == 0


async def test_a_filter_chooses_runs(sim: Simulator, tmp_path: Path):
    """Only what the filter lets through is exported."""
    async with client_for(sim) as lab:
        path = tmp_path / "runs.parquet"
        await export_runs(lab, path=path, filter=RunFilter(status="failed"))
    assert ids_of(path) == sorted(run.id for run in served(sim) if run.status == "failed")


# Targets


@posix
async def test_a_replaced_file_keeps_its_mode(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """Who could read the earlier file can read the new one, and nobody else."""
    path = tmp_path / "runs.csv"
    path.write_text("earlier")
    path.chmod(0o640)
    await export_runs(lab, sim.run_ids[:2], path=path)
    assert ids_of(path) == sorted(sim.run_ids[:2])
    assert path.stat().st_mode & 0o777 == 0o640


@posix
async def test_only_a_regular_file_is_replaced(lab: ModelLabClient, tmp_path: Path):
    """A symbolic link, a pipe and a directory are refused before any request."""
    (tmp_path / "real.csv").write_text("data")
    (tmp_path / "link.csv").symlink_to("real.csv")
    (tmp_path / "directory.csv").mkdir()
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe.csv")
    for name in ("link.csv", "pipe.csv", "directory.csv"):
        with pytest.raises(ExportError, match="not a regular file"):
            await export_runs(lab, [1], path=tmp_path / name)
    assert lab.stats.calls == 0
    assert (tmp_path / "real.csv").read_text() == "data"


@pytest.mark.parametrize("suffix", FORMATS)
async def test_files_beside_the_target_are_not_touched(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path, suffix: str
):
    """What no export wrote stays as it is; failures are named in another file then."""
    path = tmp_path / f"runs.{suffix}"
    own = {
        f"runs.{suffix}{ending}": b"own\n"
        for ending in (".part", ".part.json", ".tmp", ".failed.jsonl", ".failed-2.jsonl")
    } | {f"tmp_runs.{suffix}": b"own\n", f"runs.{suffix}.failed-3.jsonl": b'{"run_id": 1}\n'}
    for name, data in own.items():
        (tmp_path / name).write_bytes(data)
    for ids in (sim.run_ids[:2], [1], sim.run_ids[:2]):
        exported = await export_runs(lab, ids, path=path)
        found = contents_of(tmp_path)
        added = {path.name} | ({exported.failures.name} if exported.failed else set())
        assert found.keys() - own.keys() == added
        assert found | own == found
        if exported.failed:
            assert json.loads(exported.failures.read_text())["run_id"] == "1"


async def test_the_side_file_is_that_of_the_last_export(lab: ModelLabClient, tmp_path: Path):
    """An earlier one is replaced, or removed if nothing fails."""
    path = tmp_path / "runs.csv"
    for wrong in ([1], [2], []):
        exported = await export_runs(lab, wrong, path=path)
        named = exported.failures.read_text().splitlines() if exported.failures.exists() else []
        assert [int(json.loads(line)["run_id"]) for line in named] == wrong
        assert left_over(path) <= {"", ".failed.jsonl"}


@posix
async def test_a_link_in_place_of_the_side_file(lab: ModelLabClient, tmp_path: Path):
    """It is neither followed nor replaced."""
    (tmp_path / "runs.csv.failed.jsonl").symlink_to(tmp_path / "elsewhere")
    exported = await export_runs(lab, [1], path=tmp_path / "runs.csv")
    assert exported.failures == tmp_path / "runs.csv.failed-2.jsonl"
    assert (tmp_path / "runs.csv.failed.jsonl").is_symlink()
    assert not (tmp_path / "elsewhere").exists()


async def test_a_disk_that_refuses_the_file(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What was fetched is kept, and nothing that was half written."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ExportError, match="No space left on device"):
        await export_runs(lab, sim.run_ids[:2], path=tmp_path / "runs.csv")
    assert names_in(tmp_path) == ["runs.csv.part.duckdb"]


async def test_a_path_in_the_home_directory(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A tilde is expanded, and everything is in that directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # of Windows
    exported = await export_runs(lab, [*sim.run_ids[:2], 1], path="~/runs.csv")
    assert exported.path == tmp_path / "runs.csv"
    assert left_over(exported.path) == {"", ".failed.jsonl"}
    with open_store("~/runs.duckdb") as store:
        assert export_store(store, path="~/own.csv").path == tmp_path / "own.csv"
    assert (tmp_path / "runs.duckdb").exists()


async def test_a_url_is_refused(
    lab: ModelLabClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The error says which paths there are; nothing is requested or made."""
    monkeypatch.chdir(tmp_path)
    for path in ("s3://b/x.parquet", Path("s3://b/x.parquet"), "file:///x.csv"):
        with pytest.raises(ConfigError, match="is a URL; only paths on this machine"):
            await export_runs(lab, [1], path=path)
        with pytest.raises(ConfigError, match="is a URL"):
            open_store(path)
    assert names_in(tmp_path) == []
    assert lab.stats.calls == 0


async def test_a_store_is_exported_without_a_request(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path
):
    """The file is what an export of the listing would have made; vanished runs are left out."""
    with open_store(tmp_path / "runs.duckdb") as store:
        await sync(lab, store)
        sim.delete_run(sim.run_ids[0])
        await sync(lab, store, full=True)
    before = sim.counts.requests
    with open_store(tmp_path / "runs.duckdb", read_only=True) as store:
        exported = export_store(store, path=tmp_path / "runs.parquet", columns=NAMES)
    assert sim.counts.requests == before
    assert (exported.runs, exported.fetched, exported.failed) == (249, 0, 0)
    table = frames.to_table(served(sim), columns=NAMES)
    assert read_like(table, exported.path).sort_by("id").equals(table.sort_by("id"))


# What a format makes of values


async def test_csv_cannot_run_as_formulas(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """Text that a spreadsheet would run gets an apostrophe, numbers stay as they are."""
    names = ["=1+1", "+1+1", "-cmd", "@SUM(A1)", "\t=1", "-0.5", "+1e-3", "fine", "a=b", ""]
    ids = [sim.insert_run(name=name) for name in names]
    safe, raw = tmp_path / "safe.csv", tmp_path / "raw.csv"
    await export_runs(lab, ids, path=safe, columns=["name"])
    await export_runs(lab, ids, path=raw, columns=["name"], safe_cells=False)
    expected = [f"'{name}" if index < 5 else name for index, name in enumerate(names)]
    assert [row["name"] for row in rows_of(safe)] == expected
    assert [row["name"] for row in rows_of(raw)] == names


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("stars", [True, False])
async def test_keys_that_differ_only_in_case(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path, suffix: str, stars: bool
):
    """Params, tags and metrics have a column and a value for each key, whatever their types."""
    params = {"loss": "1", "Loss": "x", "LOSS": "0.5", "=loss": "2"}
    tags = {"Team": "a", "team": "b", 'tE"am,': "c"}
    metrics = {"Acc": 0.25, "acc": 0.75}
    run_id = sim.insert_run(
        params=[{"key": key, "value": value} for key, value in params.items()],
        tags=[{"key": key, "value": value} for key, value in tags.items()],
        metric_summaries=[{"key": key, "min": value, "count": 1} for key, value in metrics.items()],
    )
    expected: dict[str, object] = {f"params.{key}": value for key, value in params.items()}
    expected |= {f"tags.{key}": value for key, value in tags.items()}
    expected |= {f"metrics.{key}.min": value for key, value in metrics.items()}
    columns = ["params.*", "tags.*", "metrics.*.min"] if stars else [*expected]
    path = tmp_path / f"runs.{suffix}"
    await export_runs(lab, [run_id], path=path, columns=["name", *columns])
    (row,) = rows_of(path)
    assert {key: str(value) for key, value in row.items()} == {
        "id": str(run_id),
        "name": row["name"],
        **{key: str(value) for key, value in expected.items()},
    }


@pytest.mark.parametrize("suffix", FORMATS)
async def test_a_thousand_columns(sim: Simulator, lab: ModelLabClient, tmp_path: Path, suffix: str):
    """Every value of a run with many params has its own column."""
    keys = [f"{letter}{number}" for letter in "pP" for number in range(500)]
    run_id = sim.insert_run(params=[{"key": key, "value": key} for key in keys])
    path = tmp_path / f"runs.{suffix}"
    await export_runs(lab, [run_id], path=path, columns=["name", "params.*"])
    (row,) = rows_of(path)
    assert {key: row.get(f"params.{key}") for key in keys} == {key: key for key in keys}


async def test_line_ends_within_text(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """In CSV they are quoted, and read back whole."""
    names = ["a\rb", "a\r\nb", "a\nb", "b\r", 'a"\r', "\0"]
    ids = [sim.insert_run(name=name) for name in names]
    path = tmp_path / "runs.csv"
    await export_runs(lab, ids, path=path, columns=["name"])
    assert [row["name"] for row in rows_of(path)] == names
    assert pl.read_csv(path).sort("id")["name"].to_list() == names


async def test_numbers_that_json_does_not_have(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """NaN and the infinities are null in JSON lines, and stay numbers in Parquet."""
    params = [{"key": "p", "value": "nan"}]
    run_id = sim.insert_run(params=params)
    for suffix in ("jsonl", "parquet"):
        path = tmp_path / f"runs.{suffix}"
        await export_runs(lab, [run_id], path=path, columns=["params.p"])
        (row,) = rows_of(path)
        value = row["params.p"]
        assert value is None if suffix == "jsonl" else math.isnan(value)


async def test_times_at_both_ends_of_the_calendar(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path
):
    """The years 1 and 9999 are written as they are, in every format."""
    ends: dict[str, Any] = {
        "created_at": "0001-01-01T00:00:00Z",
        "updated_at": "9999-12-31T23:59:59.999999Z",
    }
    run_id = sim.insert_run(**ends)
    for suffix in FORMATS:
        path = tmp_path / f"runs.{suffix}"
        await export_runs(lab, [run_id], path=path, columns=[*ends])
        (row,) = rows_of(path)
        found = [row[name] for name in ends]
        if suffix == "parquet":
            found = [time.isoformat().replace("+00:00", "Z") for time in found]
        assert found == [*ends.values()]


@pytest.mark.parametrize("suffix", FORMATS)
async def test_polars_and_pandas_read_back_the_models(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path, suffix: str
):
    """Both read the values that the models have, from every format."""
    path = tmp_path / f"runs.{suffix}"
    columns = ["name", "status", "created_at", "duration", "params.seed", "metrics.eval_loss.min"]
    await export_runs(lab, path=path, columns=columns)
    expected = [
        (
            run.id,
            run.name,
            run.status.value,
            run.created_at,
            run.duration,
            None if run.param("seed") is None else int(run.param("seed") or 0),
            None if (metric := run.metric("eval_loss")) is None else metric.min,
        )
        for run in served(sim)
    ]
    frame = POLARS[suffix](path).sort("id")
    if suffix != "parquet":
        frame = frame.with_columns(pl.col("created_at").str.to_datetime(time_zone="UTC"))
    assert frame.rows() == sorted(expected)
    other = PANDAS[suffix](path).sort_values("id")
    other["created_at"] = pd.to_datetime(other["created_at"], utc=True, format="ISO8601")
    rows = other.astype(object).where(other.notna(), None).itertuples(index=False, name=None)
    assert [*rows] == sorted(expected)


POLARS: dict[str, Any] = {
    "jsonl": lambda path: pl.read_ndjson(path, infer_schema_length=None),
    "csv": lambda path: pl.read_csv(path, infer_schema_length=None),
    "parquet": pl.read_parquet,
}
PANDAS: dict[str, Any] = {
    "jsonl": lambda path: pd.read_json(path, lines=True, dtype=False, precise_float=True),
    "csv": pd.read_csv,
    "parquet": pd.read_parquet,
}
