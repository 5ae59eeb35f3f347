"""``modellab runs export``, inside this process and as a process that can be killed."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import polars as pl
import pytest
from conftest import eventually, posix
from shells import COLOUR, Shell, environment, finish, on_terminal
from test_cli import invoke, settings
from test_export import names_in

from modellab_async import Run, frames, from_dict
from modellab_async.simulator import Fault, Simulator
from modellab_async.store import open_store


def part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part.duckdb")


def begun(path: Path) -> bool:
    """Whether an export that is under way has written something."""
    wal = part_of(path).with_name(f"{part_of(path).name}.wal")
    return wal.exists() and wal.stat().st_size > 50_000


def fetched(path: Path) -> int:
    """How many runs an interrupted export has on disk."""
    with open_store(part_of(path), read_only=True) as store:
        return len(store.column("SELECT id FROM runs"))


async def test_ids_and_columns(sim: Simulator, tmp_path: Path) -> None:
    """The runs named go to the file, in the columns named, and a line of JSON sums up."""
    path = tmp_path / "runs.csv"
    ids = list(sim.run_ids[:3])
    columns = "status, metrics.eval_loss.min"

    result = await invoke(
        "runs", "export", *ids, "-o", path, "--columns", columns, env=settings(sim)
    )

    assert (result.exit_code, result.stderr) == (0, "")
    summary = json.loads(result.stdout)
    assert (summary["path"], summary["runs"], summary["failed"]) == (str(path), 3, 0)
    frame = pl.read_csv(path)
    assert frame.columns == ["id", "status", "metrics.eval_loss.min"]
    assert sorted(frame["id"]) == sorted(ids)


@pytest.mark.parametrize("path", [".", "/", ""])
async def test_a_path_that_names_no_file(sim: Simulator, path: str) -> None:
    """It is refused as one that names no format is."""
    result = await invoke("runs", "export", "1", "-o", path, env=settings(sim))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: '")
    assert "does not name a format" in result.stderr


async def test_paths_that_no_shell_has_expanded(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tilde is the home directory in every option and argument that names a file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # of Windows
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ids.txt").write_text(str(sim.run_ids[0]))
    out, ids = "--output=~/runs.csv", "--ids-from=~/ids.txt"
    result = await invoke("runs", "export", out, ids, env=settings(sim))
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout)["path"] == str(tmp_path / "runs.csv")
    assert (await invoke("sync", "~/runs.duckdb", ids, env=settings(sim))).exit_code == 0
    source = ("-o", "~/own.csv", "--from", "~/runs.duckdb")
    assert (await invoke("runs", "export", *source, env={})).exit_code == 0
    assert (await invoke("sql", "~/runs.duckdb", "FROM runs", env={})).exit_code == 0
    assert {*names_in(tmp_path)} == {"ids.txt", "runs.csv", "runs.duckdb", "own.csv"}


async def test_places_that_cannot_be_written(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A URL and a directory that does not exist are errors of one line, and make nothing."""
    monkeypatch.chdir(tmp_path)
    for command in (["runs", "export", "-o"], ["sync"]):
        for path, said, code in (
            ("s3://b/x.parquet", "is a URL; only paths on this machine", 2),
            ("none/x.parquet", "the directory none does not exist", 1),
        ):
            result = await invoke(*command, path, env=settings(sim))
            assert (result.exit_code, result.stderr.count("\n")) == (code, 1)
            assert said in result.stderr
    assert names_in(tmp_path) == []


async def test_ids_from_a_file(sim: Simulator, tmp_path: Path) -> None:
    """Any space parts the ids of a file; what fails is told of, named, and makes the code 1."""
    path, ids = tmp_path / "runs.jsonl", tmp_path / "ids.txt"
    ids.write_text(f"{sim.run_ids[0]}\n\n {sim.run_ids[1]} 1\r\n")

    result = await invoke("runs", "export", "-o", path, "--ids-from", ids, env=settings(sim))

    assert result.exit_code == 1
    assert result.stderr.startswith("error: 1 could not be fetched, see ")
    assert len(path.read_text().splitlines()) == 2


async def test_ids_from_standard_input(shell: Shell, sim: Simulator, tmp_path: Path) -> None:
    """A dash stands for the ids on standard input, among others."""
    path = tmp_path / "runs.csv"
    first, *rest = sim.run_ids[:150]
    process = await shell.modellab("runs", "export", first, "-", "-o", path, env=environment(sim))
    code, _, stderr = await finish(process, "\n".join(map(str, rest)).encode())
    assert (code, stderr) == (0, "")
    assert sorted(pl.read_csv(path)["id"]) == sorted([first, *rest])


async def test_a_filter_in_the_long_shape(sim: Simulator, tmp_path: Path) -> None:
    """Options choose runs and shape as they do in the library."""
    path = tmp_path / "runs.txt"
    arguments = ["--status", "failed", "--shape", "long", "--columns", "status"]

    result = await invoke(
        "runs", "export", "-o", path, "--format", "jsonl", *arguments, env=settings(sim)
    )

    assert result.exit_code == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {(row["key"], row["value"]) for row in rows} == {("status", "failed")}


async def test_from_a_database(sim: Simulator, tmp_path: Path) -> None:
    """A database of `modellab sync` is exported without a request, and without keys."""
    database, path = tmp_path / "runs.duckdb", tmp_path / "runs.csv"
    assert (await invoke("sync", database, env=settings(sim))).exit_code == 0
    before = sim.counts.requests
    result = await invoke("runs", "export", "-o", path, "--from", database, env={})
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout)["runs"] == 2_000
    assert sorted(pl.read_csv(path)["id"]) == sorted(sim.run_ids)
    assert sim.counts.requests == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "runs.xlsx"],
        ["-o", "runs.csv", "--columns", "learning_rate"],
        ["-o", "runs.csv", "--shape", "tall"],
        ["-o", "runs.csv", "--statistic", "median"],
        ["-o", "runs.csv", "--format", "xlsx"],
        ["-o", "runs.csv", "1", "--project", "2"],
        ["-o", "runs.csv", "1", "--from", __file__],
        ["-o", "runs.csv", "--tag", "a:b,c"],
        ["-o", "runs.csv", "--parent", "1", "--roots"],
        [],
    ],
)
async def test_mistakes_are_told_in_a_line(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """What cannot be asked for is exit code 2, without a stack trace or a file."""
    monkeypatch.chdir(tmp_path)
    result = await invoke("runs", "export", *arguments, env=settings(sim))
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert names_in(tmp_path) == []


@posix
@pytest.mark.parametrize("by_id", [False, True])
async def test_a_killed_export_is_resumed(
    shell: Shell, sim: Simulator, tmp_path: Path, by_id: bool
) -> None:
    """After ``kill -9``, --resume neither loses nor repeats a run, and reads no run twice."""
    path, ids = tmp_path / "runs.parquet", tmp_path / "ids.txt"
    ids.write_text("\n".join(map(str, sim.run_ids)))
    command = ["runs", "export", "-o", path, *(["--ids-from", ids] if by_id else [])]
    sim.faults.matching("*/runs", *[None] * 12)
    sim.faults.always(Fault.stall(), where="*/runs")
    sim.faults.always(Fault.stall(), where="*/runs/*")

    process = await shell.modellab(*command, env=environment(sim))
    await eventually(lambda: begun(path))
    process.kill()
    await process.wait()

    kept = fetched(path)
    assert 0 < kept < 2_000
    assert not path.exists()
    sim.faults.clear()
    await eventually(lambda: sim.counts.in_flight == 0)  # it counts what was cut off only then
    before = sim.counts.requests
    process = await shell.modellab(*command, "--resume", env=environment(sim))
    code, stdout, stderr = await finish(process)

    assert (code, stderr) == (0, "")
    assert json.loads(stdout)["runs"] == 2_000
    runs = [from_dict(sim.resource(run_id), Run) for run_id in sim.run_ids]
    assert pl.read_parquet(path).sort("id").equals(pl.DataFrame(frames.to_table(runs)).sort("id"))
    if by_id:
        assert sim.counts.requests - before <= (2_000 - kept) // 100 + 2


@posix
async def test_an_interrupted_export_is_resumed(
    shell: Shell, sim: Simulator, tmp_path: Path
) -> None:
    """Ctrl-C is exit code 130, says how to go on, and keeps all that was fetched."""
    path = tmp_path / "runs.csv"
    sim.faults.matching("*/runs", *[None] * 12)
    sim.faults.always(Fault.stall(), where="*/runs")
    process = await shell.modellab("runs", "export", "-o", path, env=environment(sim))
    await eventually(lambda: begun(path))
    process.send_signal(signal.SIGINT)
    code, stdout, stderr = await finish(process)

    assert (code, stdout) == (130, "")
    assert stderr == f"What was fetched is in {path}.part.duckdb; --resume continues.\n"
    assert 0 < fetched(path) < 2_000
    sim.faults.clear()
    process = await shell.modellab("runs", "export", "-o", path, "--resume", env=environment(sim))
    assert (await finish(process))[0] == 0
    assert pl.read_csv(path)["id"].to_list() == list(sim.run_ids)


@posix
async def test_progress_on_a_terminal(shell: Shell, tmp_path: Path) -> None:
    """Somebody who watches sees how much is done, how fast, and the time that remains."""
    async with Simulator(runs=2_000, latency=0.2) as sim:
        code, drawn = await on_terminal(
            shell, "runs", "export", "-o", tmp_path / "runs.csv", env=environment(sim)
        )
    text = COLOUR.sub("", drawn)
    assert code == 0
    assert re.search(r"[\d,]+/2,000 .*\d+% [\d,]+ runs/s (\d\d|--):(\d\d|--)", text)
    assert "2,000 runs, " in text


async def test_without_duckdb(shell: Shell, sim: Simulator, tmp_path: Path) -> None:
    """One line names the extra, before anything is fetched, whatever is written."""
    run = "from modellab_async.__main__ import main; main()"
    hidden = f"import sys; sys.modules['duckdb'] = None; {run}"
    for command in (["runs", "export", "-o", tmp_path / "a.csv"], ["sync", tmp_path / "a.duckdb"]):
        process = await shell.python("-c", hidden, *command, env=environment(sim))
        code, stdout, stderr = await finish(process)
        assert (code, stdout) == (2, "")
        expected = " needs duckdb: python -m pip install 'modellab_async[tables]'\n"
        assert stderr.endswith(expected)
    assert sim.counts.requests == 0
