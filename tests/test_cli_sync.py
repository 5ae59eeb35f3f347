"""``modellab sync`` and ``modellab sql``, inside this process and as processes that are killed."""

from __future__ import annotations

import asyncio
import importlib
import json
import random
import re
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually, posix
from shells import COLOUR, Shell, environment, finish, on_terminal
from test_cli import invoke, settings
from test_export import names_in

from modellab_async.simulator import Simulator
from modellab_async.store import open_store

TABLES = ("runs", "params", "tags", "metrics", "failures")


def contents(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Every table of a database, in order."""
    with open_store(path, read_only=True) as store:
        return {name: store.rows(f"FROM {name} ORDER BY ALL") for name in TABLES}


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    """A simulator of 300 small runs."""
    async with Simulator(runs=300, size="small") as simulator:
        yield simulator


async def test_a_sync_and_its_summary(sim: Simulator, tmp_path: Path) -> None:
    """A line of JSON sums up; the next sync has nothing to do."""
    path = tmp_path / "runs.duckdb"
    for kind, runs in (("listing", 300), ("update", 0)):
        result = await invoke("sync", path, env=settings(sim))
        assert (result.exit_code, result.stderr) == (0, "")
        summary = json.loads(result.stdout)
        assert (summary["kind"], summary["runs"], summary["failed"]) == (kind, runs, 0)


async def test_a_filter(sim: Simulator, tmp_path: Path) -> None:
    """The options of a listing choose runs."""
    path = tmp_path / "runs.duckdb"
    assert (await invoke("sync", path, "--status", "failed", env=settings(sim))).exit_code == 0
    result = await invoke("sql", path, "SELECT DISTINCT status FROM runs", env={})
    assert result.stdout == '{"status": "failed"}\n'


@pytest.mark.parametrize("from_stdin", [False, True])
async def test_ids_and_failures(
    shell: Shell, sim: Simulator, tmp_path: Path, from_stdin: bool
) -> None:
    """Ids come from a file or standard input; what fails is counted and makes the code 1."""
    path, ids = tmp_path / "runs.duckdb", tmp_path / "ids.txt"
    ids.write_text(f"{sim.run_ids[0]}\n\n {sim.run_ids[1]} 1\r\n")
    source = "-" if from_stdin else ids
    process = await shell.modellab("sync", path, "--ids-from", source, env=environment(sim))
    code, stdout, stderr = await finish(process, ids.read_bytes())
    assert (code, json.loads(stdout)["runs"]) == (1, 2)
    assert stderr == "error: 1 could not be fetched, see the table failures\n"


async def test_vanished_runs_are_told(sim: Simulator, tmp_path: Path) -> None:
    """A full sync counts what is gone."""
    path = tmp_path / "runs.duckdb"
    assert (await invoke("sync", path, env=settings(sim))).exit_code == 0
    sim.delete_run(sim.run_ids[0])
    result = await invoke("sync", path, "--full", env=settings(sim))
    assert (result.exit_code, json.loads(result.stdout)["vanished"]) == (0, 1)


async def test_refused_keys(sim: Simulator, tmp_path: Path) -> None:
    """Wrong keys end a sync with exit code 3."""
    wrong = settings(sim) | {"DD_API_KEY": "x" * 32}
    result = await invoke("sync", tmp_path / "runs.duckdb", env=wrong)
    assert result.exit_code == 3
    assert result.stderr.splitlines()[-1].startswith("error: 403 from GET ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["runs.duckdb", "--ids-from", "no-such-file"],
        ["runs.duckdb", "--ids-from", "-", "--full"],
        ["runs.duckdb", "--ids-from", "-", "--project", "7"],
        ["runs.duckdb", "--parent", "1", "--roots"],
    ],
)
async def test_mistakes_are_told_in_a_line(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """What cannot be asked for is exit code 2, without a stack trace or a file."""
    monkeypatch.chdir(tmp_path)
    result = await invoke("sync", *arguments, env=settings(sim))
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert names_in(tmp_path) == []


async def test_a_file_that_is_no_database(sim: Simulator, tmp_path: Path) -> None:
    """One line says what is wrong with a file, to sync and to sql, and the file stays as it is."""
    path = tmp_path / "notes.txt"
    path.write_text("notes")
    for command in (["sync", path], ["sql", path, "SELECT 1"]):
        result = await invoke(*command, env=settings(sim))
        assert result.exit_code == 1
        assert re.fullmatch(r"error: \S+notes.txt: .*not a valid DuckDB.*\n", result.stderr)
    assert path.read_text() == "notes"


# Kills


@posix
async def test_killed_syncs_lose_and_double_nothing(shell: Shell, tmp_path: Path) -> None:
    """After five kills at random moments, every table equals that of an undisturbed sync."""
    chance = random.Random(14)
    path, calm = tmp_path / "runs.duckdb", tmp_path / "calm.duckdb"
    async with Simulator(runs=3_000, latency=0.05) as sim:
        for run_id in sim.run_ids[::500]:
            sim.insert_run(run_id + 1_000_000, name=None)  # broken, and so a failure
        code, *_ = await finish(await shell.modellab("sync", calm, env=environment(sim)))
        assert code == 1
        for _ in range(5):
            before = sim.counts.requests
            process = await shell.modellab("sync", path, env=environment(sim))
            some = chance.randrange(1, 25)
            await eventually(
                lambda: sim.counts.requests >= before + some or process.returncode is not None  # noqa: B023
            )
            await asyncio.sleep(chance.random() / 10)
            if process.returncode is None:
                process.kill()
            await process.wait()
        code, *_ = await finish(await shell.modellab("sync", path, env=environment(sim)))
    assert code == 1
    found, expected = contents(path), contents(calm)
    assert len(found["runs"]) == 3_000
    for each in (found, expected):
        for table in ("runs", "failures"):
            for row in each[table]:
                del row["sync"]
    assert found == expected


@posix
@pytest.mark.process
async def test_the_soak_of_kills_holds_in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published soak, which does the same thirty times, works."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    endurance = importlib.import_module("benchmarks.endurance")
    figures = await endurance.kills(endurance.SHORT)
    assert len(figures) == len(TABLES)
    assert [figure for figure in figures if not figure.holds] == []


@posix
async def test_an_interrupted_sync_resumes(shell: Shell, tmp_path: Path) -> None:
    """Ctrl-C is exit code 130, and the same command resumes."""
    path = tmp_path / "runs.duckdb"
    async with Simulator(runs=2_000, latency=0.3) as sim:
        process = await shell.modellab("sync", path, env=environment(sim))
        await eventually(lambda: sim.counts.requests > 4)
        process.send_signal(signal.SIGINT)
        code, stdout, stderr = await finish(process)
        assert (code, stdout) == (130, "")
        assert stderr == f"What was fetched is in {path}; the same command resumes.\n"
        code, stdout, _ = await finish(await shell.modellab("sync", path, env=environment(sim)))
    assert (code, json.loads(stdout)["runs"]) == (0, 2_000)


@posix
async def test_a_full_disk(shell: Shell, tmp_path: Path) -> None:
    """A write that fails is one line, and the same command resumes once there is room."""
    resource = pytest.importorskip("resource", reason="limits of POSIX")
    path = tmp_path / "runs.duckdb"
    limited = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))\n"
        "from modellab_async.__main__ import main; main()"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    async with Simulator(runs=2_000) as sim:
        process = await shell.python("-c", limited, "sync", path, env=environment(sim))
        code, stdout, stderr = await finish(process)
        assert (code, stdout) == (1, "")
        assert stderr.splitlines()[-1].startswith(f"error: {path}: ")
        assert "Traceback" not in stderr
        code, stdout, _ = await finish(await shell.modellab("sync", path, env=environment(sim)))
    assert (code, json.loads(stdout)["runs"]) == (0, 2_000)


@posix
async def test_progress_on_a_terminal(shell: Shell, tmp_path: Path) -> None:
    """Somebody who watches sees how much is done, how fast, and a summary."""
    path = tmp_path / "runs.duckdb"
    async with Simulator(runs=2_000, latency=0.2) as sim:
        code, drawn = await on_terminal(shell, "sync", path, env=environment(sim))
    text = COLOUR.sub("", drawn)
    assert code == 0
    assert re.search(r"[\d,]+/2,000 .*\d+% [\d,]+ runs/s (\d\d|--):(\d\d|--)", text)
    assert "".join(text.split()).endswith(f"2,000runsin{path}:2,000fetched")


# Questions


@pytest.fixture
async def database(sim: Simulator, tmp_path: Path) -> Path:
    path = tmp_path / "runs.duckdb"
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(map(str, sim.run_ids[:60])))
    await invoke("sync", path, "--ids-from", ids, env=settings(sim))
    return path


async def test_answers_are_json_lines(sim: Simulator, database: Path) -> None:
    """Piped, each row is a line of JSON, nested values included; NaN is null."""
    query = "SELECT id, params, 'nan'::DOUBLE AS nan, created_at FROM runs_wide ORDER BY id LIMIT 2"
    result = await invoke("sql", database, query, env={})
    assert (result.exit_code, result.stderr) == (0, "")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["id"] for row in rows] == sorted(sim.run_ids[:60])[:2]
    assert all(isinstance(row["params"], dict) and row["nan"] is None for row in rows)
    result = await invoke("sql", database, "FROM runs", "--limit", 5, env={})
    assert len(result.stdout.splitlines()) == 5


async def test_columns_of_one_name_are_told_apart(empty_database: Path) -> None:
    """The second one gets a number; names that differ in case are two names."""
    result = await invoke("sql", empty_database, "SELECT 1 AS n, 2 AS n, 3 AS m", env={})
    assert json.loads(result.stdout) == {"n": 1, "n_1": 2, "m": 3}
    result = await invoke("sql", empty_database, 'SELECT 1 AS n, 2 AS "N", 3 AS "N"', env={})
    assert json.loads(result.stdout) == {"n": 1, "N": 2, "N_2": 3}


async def test_answers_on_a_terminal(shell: Shell, database: Path) -> None:
    """A table shows some rows, and says if there are more; many columns stand below each other."""
    code, drawn = await on_terminal(shell, "sql", database, "SELECT id, name FROM runs")
    text = COLOUR.sub("", drawn)
    assert code == 0
    assert re.search(r" id +name", text)
    assert "The first 50 rows; --limit shows more." in text
    code, drawn = await on_terminal(shell, "sql", database, "FROM runs LIMIT 1")
    assert code == 0
    assert re.search(r"^id +\d+", COLOUR.sub("", drawn), re.MULTILINE)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELEC 1", 'syntax error at or near "SELEC"'),
        ("FROM runz", 'Did you mean "runs"?'),
        ("DROP TABLE runs", "read-only"),
        ("COPY runs TO 'out.csv'", "disabled by configuration"),
        ("FROM 'other.csv'", "disabled by configuration"),
        ("ATTACH 'other.duckdb'", "disabled by configuration"),
        ("SELECT 1::INTEGER / 'x'::INTEGER", "Could not convert"),
    ],
)
async def test_wrong_questions_are_told_in_a_line(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str, said: str
) -> None:
    """An error of SQL is one line; nothing is written, and no other file is read."""
    monkeypatch.chdir(tmp_path)
    database = shutil.copy(empty_database, tmp_path)
    result = await invoke("sql", database, query, env={})
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert names_in(tmp_path) == ["runs.duckdb"]


async def test_no_such_database(tmp_path: Path) -> None:
    """A question to a file that does not exist names what creates it, and creates nothing."""
    result = await invoke("sql", tmp_path / "runs.duckdb", "SELECT 1", env={})
    assert result.exit_code == 1
    assert "`modellab sync` creates it" in result.stderr
    assert names_in(tmp_path) == []
