"""Exports, against the simulator, read back by the libraries that users read them with."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import client_for

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
    to_json,
)
from modellab_async.export import export_runs
from modellab_async.simulator import Fault, Simulator

NAMES = ["name", "params.seed", "params.learning_rate", "metrics.eval_loss.min", "tags.team"]
FORMATS = ["jsonl", "csv", "parquet"]


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    """A simulator of 1,100 runs: more than one step to disk."""
    async with Simulator(runs=1_100, record=20_000) as simulator:
        yield simulator


def served(sim: Simulator) -> list[Run]:
    """Every run as it is served now."""
    runs = []
    for run_id in sim.run_ids:
        with suppress(LookupError):  # those that were deleted
            runs.append(from_dict(sim.resource(run_id), Run))
    return runs


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


def ids_of(path: Path) -> list[int]:
    return [int(row["id"]) for row in rows_of(path)]


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def left_over(path: Path) -> set[str]:
    """The suffixes of everything that lies around a file."""
    return {name.removeprefix(path.name) for name in names_in(path.parent)}


async def test_parquet_is_read_back_equal(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """The file's table is that of the runs served; polars and DuckDB read the same from it."""
    path = tmp_path / "runs.parquet"

    exported = await export_runs(lab, path=path)

    assert (exported.runs, exported.fetched, exported.failed) == (1_100, 1_100, 0)
    assert exported.complete is None, "twelve pages"
    table = frames.to_table(served(sim))
    assert pq.read_table(path).equals(table)
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
    assert pq.read_table(path).equals(frames.to_table(served(sim), columns=names))


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
    assert found == {(1, "NotFoundError", 404), ("x", "InvalidIdError", None)}
    assert all(line["message"] for line in failures)
    assert progress[-2:] == [("fetch", 4, 4), ("write", 2, 2)]


async def test_failures_can_be_retried(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """A retry asks only for what failed, adds its rows, and keeps what fails again."""
    path = tmp_path / "runs.parquet"
    missing = max(sim.run_ids) + 1
    ids = [*sim.run_ids[:50], missing, 1]
    await export_runs(lab, ids, path=path, columns=NAMES)
    sim.insert_run(missing, name="late")
    before = sim.counts.requests

    exported = await export_runs(lab, path=path, columns=NAMES, retry_failed=True)

    assert sim.counts.requests - before <= 3
    assert (exported.runs, exported.fetched, exported.failed) == (51, 1, 1)
    assert ids_of(path) == sorted(ids[:-1])
    sim.insert_run(1, name="later")
    exported = await export_runs(lab, path=path, columns=NAMES, retry_failed=True)
    assert (exported.runs, exported.failed) == (52, 0)
    assert left_over(path) == {"", ".export.json"}


async def test_refused_keys_end_an_export(sim: Simulator, tmp_path: Path):
    """Wrong keys are an error, not the failure of every run, and leave nothing behind."""
    async with ModelLabClient(base_url=sim.base_url, api_key="x", app_key="y") as lab:
        for ids in (sim.run_ids, None):
            with pytest.raises(PermissionDeniedError):
                await export_runs(lab, ids, path=tmp_path / "runs.csv")
    assert names_in(tmp_path) == []
    assert sim.counts.requests < 50


async def test_an_export_that_broke_off_is_gone_on_with(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path
):
    """What was fetched is not asked for again, not lost and not there twice."""
    path = tmp_path / "runs.parquet"
    ids = list(sim.run_ids)

    async def breaks_off() -> AsyncIterator[int]:
        for run_id in ids[:700]:
            yield run_id
        raise RuntimeError("the source of ids is gone")

    with pytest.raises(RuntimeError, match="the source"):
        await export_runs(lab, breaks_off(), path=path)
    assert left_over(path) == {".part"}
    before = sim.counts.requests

    exported = await export_runs(lab, ids, path=path, resume=True)

    assert sim.counts.requests - before <= 4  # pages of 100, for 400 runs
    assert exported.fetched == 1_100
    assert ids_of(path) == sorted(ids)
    assert left_over(path) == {"", ".export.json"}


@pytest.mark.parametrize("torn", [b'{"id":"1', b"\0\0\0\0\0", b'{"id":"1"}\n', b"\n"])
async def test_a_torn_line_is_cut_off(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path, torn: bytes
):
    """What a killed process did not write to its end is fetched again."""
    path = tmp_path / "runs.csv"
    ids = list(sim.run_ids[:5])
    runs = [from_dict(sim.resource(run_id), Run) for run_id in ids]
    await begun(lab, path, ids)
    spool = tmp_path / "runs.csv.part" / "runs.jsonl"
    spool.write_bytes("".join(f"{to_json(run)}\n" for run in runs[:3]).encode() + torn)

    exported = await export_runs(lab, ids, path=path, resume=True)

    assert exported.runs == 5
    assert ids_of(path) == sorted(ids)


async def begun(lab: ModelLabClient, path: Path, ids: list[int], **options: Any) -> None:
    """Leave an export that broke off after these ids."""

    async def breaks_off() -> AsyncIterator[int]:
        for run_id in ids:
            yield run_id
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await export_runs(lab, breaks_off(), path=path, **options)


async def test_an_export_that_broke_off_is_not_overwritten(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path
):
    """Without being told to go on with it, or with other options, an export refuses to begin."""
    path = tmp_path / "runs.csv"
    ids = list(sim.run_ids[:5])
    await begun(lab, path, ids)

    with pytest.raises(ExportError, match=r"resume it, or remove the directory"):
        await export_runs(lab, ids, path=path)
    with pytest.raises(ConfigError, match=r"another columns: None, not \('name',\)"):
        await export_runs(lab, ids, path=path, columns=["name"], resume=True)
    with pytest.raises(ConfigError, match="another filter"):
        await export_runs(lab, path=path, resume=True)
    assert (await export_runs(lab, ids, path=path, resume=True)).runs == 5


@pytest.mark.parametrize("streamed", [False, True])
async def test_other_ids_are_not_mixed_in(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path, streamed: bool
):
    """An export is gone on with by the ids that it was begun with, and unharmed by others."""
    path = tmp_path / "runs.csv"
    ids, others = sorted(sim.run_ids)[:5], sorted(sim.run_ids)[3:10]
    await begun(lab, path, ids)
    before = sim.counts.requests
    with pytest.raises(ConfigError, match=f"other ids, such as ({ids[0]}|{ids[1]}|{ids[2]}):"):
        await export_runs(lab, iter(others) if streamed else others, path=path, resume=True)
    assert (sim.counts.requests > before) is streamed
    assert not path.exists()
    await export_runs(lab, iter(ids) if streamed else [*ids, "x"], path=path, resume=True)
    assert ids_of(path) == sorted(ids)


async def test_resuming_what_never_began_begins(lab: ModelLabClient, tmp_path: Path):
    """A script may always ask to resume."""
    chosen = RunFilter(status="failed")
    exported = await export_runs(lab, path=tmp_path / "runs.csv", filter=chosen, resume=True)
    assert exported.runs > 0


async def test_a_kill_before_the_last_renaming(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """An export that is complete but for its name gets it, and nothing is fetched again."""
    path = tmp_path / "runs.csv"
    with monkeypatch.context() as patched:
        patched.setattr("modellab_async.export.part.Part._give_names", _killed)
        with pytest.raises(KeyboardInterrupt):
            await export_runs(lab, sim.run_ids, path=path)
    assert left_over(path) == {".part"}
    before = sim.counts.requests

    exported = await export_runs(lab, sim.run_ids, path=path, resume=True)

    assert sim.counts.requests == before
    assert exported.runs == 1_100
    assert len(ids_of(path)) == 1_100
    assert left_over(path) == {"", ".export.json"}


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


async def test_two_exports_of_one_file(sim: Simulator, lab: ModelLabClient, tmp_path: Path):
    """The second one is told of the first, which goes on undisturbed."""
    path = tmp_path / "runs.csv"
    sim.faults.always(Fault.stall())
    first = asyncio.create_task(export_runs(lab, sim.run_ids, path=path))
    while not sim.counts.in_flight:
        await asyncio.sleep(0.005)
    with pytest.raises(ExportError, match="another export is writing"):
        await export_runs(lab, sim.run_ids, path=path)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert names_in(tmp_path) == []


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
        ({"path": "runs.xlsx"}, ConfigError, "does not say what to write"),
        ({"path": "runs.csv", "format": "xlsx"}, ValueError, "format must be"),
        ({"path": "runs.csv", "columns": ["x"]}, ValueError, "no column"),
        ({"path": "runs.csv", "columns": "name"}, TypeError, "collection of names"),
        ({"path": "runs.csv", "run_ids": "70158"}, TypeError, "iterable of ids"),
        ({"path": "runs.csv", "run_ids": [1], "since_last": True}, ValueError, "exclude"),
        ({"path": "runs.csv", "run_ids": [1], "filter": RunFilter()}, ValueError, "exclude"),
        ({"path": "runs.csv", "retry_failed": True, "since_last": True}, ValueError, "exclude"),
        ({"path": "runs.csv", "retry_failed": True}, ConfigError, "no export whose failures"),
        ({"path": "."}, ConfigError, "does not say"),
        ({"path": "file/runs.csv"}, ExportError, "the disk refused"),
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


# What a format has no room for


@pytest.mark.parametrize(
    ("odd", "column"),
    [
        ({"project_id": 10**19 - 1}, "project_id"),
        ({"metric_summaries": [{"key": "m", "count": 10**19}]}, "metrics"),
    ],
)
async def test_integers_beyond_64_bits(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path, odd: dict[str, Any], column: str
):
    """Arrow's integers end there: the run and the column are named; other formats take them."""
    run_id = sim.insert_run(**odd)
    said = f"run {run_id}: an integer of {column} is beyond 64 bits"
    with pytest.raises(ValueError, match=said):
        frames.to_table([await lab.runs.get(run_id)])
    with pytest.raises(ExportError, match=said):
        await export_runs(lab, path=tmp_path / "runs.parquet")
    for suffix in ("jsonl", "csv"):
        exported = await export_runs(lab, path=tmp_path / f"runs.{suffix}")
        assert exported.runs == 1_101
        assert str(next(iter(odd.values())) if column != "metrics" else 10**19) in (
            exported.path.read_text()
        )


async def test_half_a_surrogate_pair_beside_nan(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A page with both is read run by run; what is no Unicode is a failure, and nothing more."""
    encode = type(sim._dataset).run_json

    def as_python_would(*args: Any, **kwargs: Any) -> bytes:
        body = encode(*args, **kwargs)
        return body.replace(b"HALF", b"\\ud83d").replace(b"PAIR", b"\\uD83D\\uDE00").replace(
            b"-123.5", b"NaN"
        )  # fmt: skip

    monkeypatch.setattr(type(sim._dataset), "run_json", as_python_would)
    nan = [{"key": "m", "count": 1, "mean": -123.5}]
    whole = sim.insert_run(name="PAIR", metric_summaries=nan)
    broken = [sim.insert_run(name="HALF", metric_summaries=nan), sim.insert_run(name="HALF")]
    exported = await export_runs(lab, path=tmp_path / "runs.jsonl")
    assert failed_in(exported.failures) == broken, exported.failures.read_text()
    assert exported.runs == 1_101
    names = {row["id"]: row["name"] for row in rows_of(exported.path)}
    assert names[whole] == "\N{GRINNING FACE}"


def failed_in(path: Path) -> list[int]:
    return [json.loads(line)["run_id"] for line in path.read_text().splitlines()]
