"""Listing, waiting, changing and downloading, run inside this process against the simulator."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import attrs
import pytest
from conftest import eventually
from test_cli import invoke, settings

from modellab_async import Project, Run, RunFile, from_json, to_json
from modellab_async.simulator import Fault, Simulator


def ids_of(output: str) -> list[int]:
    """The ids of JSON lines."""
    return [int(json.loads(line)["id"]) for line in output.splitlines()]


async def test_piped_listings_give_every_run(sim: Simulator) -> None:
    """Without a limit, JSON lines go on to the last page, each run once."""
    result = await invoke("runs", "list", "--sort", "created_at", env=settings(sim))

    assert (result.exit_code, result.stderr) == (0, "")
    assert sorted(ids_of(result.stdout)) == sorted(sim.run_ids)


@pytest.mark.parametrize("limit", [1, 30, 100, 101, 250])
async def test_a_limit_is_exact(sim: Simulator, limit: int) -> None:
    """So many runs are given, in the order asked for."""
    result = await invoke(
        "runs", "list", "--sort", "created_at", "--limit", limit, env=settings(sim)
    )

    assert result.exit_code == 0
    assert ids_of(result.stdout) == list(sim.run_ids[:limit])


async def test_a_small_limit_is_one_small_request(sim: Simulator) -> None:
    """What is not shown is not asked for."""
    await invoke("runs", "list", "--limit", 3, env=settings(sim))

    assert sim.counts.requests == 1
    assert "page[size]=3" in unquote(sim.requests[-1].query)


async def test_runs_are_listed_by_what_the_options_say(sim: Simulator) -> None:
    """Each option narrows the listing, a comparison of parameters included."""
    parent = sim.insert_run(name="root", project_id=91)
    wanted = sim.insert_run(
        name="tuned-one",
        project_id=91,
        parent_run_id=parent,
        status="completed",
        tags=[{"key": "team", "value": "ranking"}],
        params=[{"key": "lr", "value": "0.001"}],
    )
    sim.insert_run(name="tuned-two", project_id=91, parent_run_id=parent, status="failed")
    child = ["runs", "list", "--project", "91"]
    for options in (
        ["--status", "completed"],
        ["--tag", "team:ranking"],
        ["--param", "lr:<0.01"],
        ["--text", "tuned-one"],
        ["--parent", parent, "--status", "completed"],
    ):
        result = await invoke(*child, *options, env=settings(sim))
        assert (options, ids_of(result.stdout)) == (options, [wanted])

    result = await invoke(*child, "--roots", env=settings(sim))
    assert ids_of(result.stdout) == [parent]


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs", "list", "--tag", "team"],
        ["runs", "list", "--tag", ":x"],
        ["runs", "list", "--tag", "a:b,c"],
        ["runs", "list", "--param", "a:1", "--param", "a:2"],
        ["runs", "list", "--sort", "colour"],
        ["runs", "list", "--columns", "learning_rate"],
        ["runs", "list", "--columns", ""],
        ["runs", "list", "--limit", "0"],
        ["runs", "list", "--parent", "1", "--roots"],
        ["runs", "list", "--project", "../7"],
        ["runs", "wait", "1", "--timeout", "nan"],
        ["runs", "watch", "x"],
        ["runs", "delete", "1"],
        ["projects", "list", "--tag", "team"],
        ["projects", "list", "--sort", "duration"],
        ["projects", "get", "x"],
        ["artifacts", "list", "x"],
        ["artifacts", "download", "x", "out"],
    ],
)
async def test_what_makes_no_sense_is_2_and_asks_nothing(
    sim: Simulator, arguments: list[str]
) -> None:
    """Bad options, and deleting without a terminal or --yes, are refused before any request."""
    result = await invoke(*arguments, env=settings(sim))

    assert result.exit_code == 2
    assert result.stderr
    assert sim.counts.requests == 0


async def test_wait_is_well_only_if_all_completed(sim: Simulator) -> None:
    """Each run is shown as it ends; a run that failed makes the exit code 1."""
    done = sim.insert_run(status="completed")
    soon = sim.insert_run(status="running", timeline=[(2.0, "completed")])
    failed = sim.insert_run(status="failed")

    result = await invoke("runs", "wait", soon, done, env=settings(sim))
    assert (result.exit_code, ids_of(result.stdout)) == (0, [done, soon])

    result = await invoke("runs", "wait", failed, env=settings(sim))
    assert (result.exit_code, ids_of(result.stdout)) == (1, [failed])


async def test_wait_gives_up_in_time(sim: Simulator) -> None:
    """A run still going at the end of --timeout is named, with exit code 1; absence is 4."""
    run_id = sim.insert_run(status="running")

    result = await invoke("runs", "wait", run_id, "--timeout", 0, env=settings(sim))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: run {run_id}: run {run_id} was still running")

    result = await invoke("runs", "wait", 1, env=settings(sim))
    assert result.exit_code == 4


async def test_watch_gives_each_change(sim: Simulator) -> None:
    """A line for where a run stands, and one for its end; absent runs end as an error."""
    run_id = sim.insert_run(status="running", timeline=[(2.0, "completed")])

    result = await invoke("runs", "watch", run_id, 1, env=settings(sim))

    states = [json.loads(line)["attributes"]["status"] for line in result.stdout.splitlines()]
    assert states == ["running", "completed"]
    assert result.exit_code == 1
    assert "404" in result.stderr


async def test_runs_are_pinned_and_unpinned(sim: Simulator) -> None:
    """Each run that was changed is a JSON line; what became of it can be read back."""
    run_id = sim.run_ids[0]
    for command, done, pinned in (("pin", "pinned", True), ("unpin", "unpinned", False)):
        result = await invoke("runs", command, run_id, env=settings(sim))
        assert (result.exit_code, result.stderr) == (0, "")
        assert json.loads(result.stdout) == {"id": str(run_id), done: True}
        assert sim.resource(run_id)["attributes"].get("is_pinned", False) is pinned


async def test_runs_are_deleted(sim: Simulator) -> None:
    """With --yes the runs are gone; those that never were are errors."""
    first, second, third = sim.run_ids[:3]

    result = await invoke("runs", "delete", "--yes", first, 1, second, env=settings(sim))

    assert result.exit_code == 1
    assert sorted(ids_of(result.stdout)) == sorted([first, second])
    assert result.stderr.startswith("error: run 1: 404")
    for run_id in (first, second):
        with pytest.raises(LookupError):
            sim.resource(run_id)
    assert sim.resource(third)


async def test_refused_keys_end_a_change_once(sim: Simulator) -> None:
    """A wrong key is one line and exit code 3, whatever the number of runs."""
    env = settings(sim) | {"DD_APP_KEY": "SECRET-wrong"}

    result = await invoke("runs", "pin", *range(1, 500), env=env)

    assert result.exit_code == 3
    assert len(result.stderr.splitlines()) == 1
    assert "SECRET" not in result.output
    assert sim.counts.requests < 250


async def test_projects_are_listed_and_fetched(sim: Simulator) -> None:
    """Every project, some by their text, one by its id."""
    project_id = sim.insert_project(name="unmistakable")

    result = await invoke("projects", "list", env=settings(sim))
    assert sorted(ids_of(result.stdout)) == sorted(sim.project_ids)
    result = await invoke("projects", "list", "--text", "unmistakable", env=settings(sim))
    assert ids_of(result.stdout) == [project_id]
    result = await invoke("projects", "get", project_id, env=settings(sim))
    assert json.loads(result.stdout)["attributes"]["name"] == "unmistakable"
    result = await invoke("projects", "get", 1, env=settings(sim))
    assert result.exit_code == 4


async def test_files_are_listed_by_directory(sim: Simulator) -> None:
    """One directory at a time, each file with its size."""
    run_id = sim.insert_run(artifacts={"log.txt": b"fine", "model/weights.bin": 5_000})

    result = await invoke("artifacts", "list", run_id, env=settings(sim))
    listed = [json.loads(line) for line in result.stdout.splitlines()]
    assert {file["path"] for file in listed} == {"log.txt", "model/"}

    result = await invoke("artifacts", "list", run_id, "model/", env=settings(sim))
    [file] = [json.loads(line) for line in result.stdout.splitlines()]
    assert (file["path"], file["file_size"]) == ("model/weights.bin", 5_000)


async def test_files_are_downloaded(sim: Simulator, tmp_path: Path) -> None:
    """Every file of a run comes to disk under its path, or one under its name."""
    run_id = sim.insert_run(artifacts={"log.txt": b"fine", "model/weights.bin": 5_000})
    every, single = tmp_path / "every", tmp_path / "single"

    result = await invoke("artifacts", "download", run_id, every, env=settings(sim))
    assert (result.exit_code, result.stderr.count("error")) == (0, 0)
    files = [json.loads(line) for line in result.stdout.splitlines()]
    assert [file["path"] for file in files] == [
        str(every / "log.txt"),
        str(every / "model/weights.bin"),
    ]
    assert (every / "log.txt").read_bytes() == b"fine"
    assert (every / "model/weights.bin").stat().st_size == files[1]["file_size"] == 5_000

    options = ["--file", "model/weights.bin"]
    result = await invoke("artifacts", "download", run_id, single, *options, env=settings(sim))
    assert result.exit_code == 0
    assert [path.name for path in single.iterdir()] == ["weights.bin"]


@pytest.mark.parametrize("options", [[], ["--file", "absent"]])
async def test_a_download_of_nothing_writes_nothing(
    sim: Simulator, tmp_path: Path, options: list[str]
) -> None:
    """A run or file that does not exist is exit code 4, and no file is made."""
    run_id = sim.insert_run() if options else 1

    result = await invoke(
        "artifacts", "download", run_id, tmp_path / "out", *options, env=settings(sim)
    )

    assert result.exit_code == 4
    assert [names for _, _, names in os.walk(tmp_path) if names] == []


async def test_a_failed_listing_is_one_line(sim: Simulator) -> None:
    """What the server refuses becomes an error line and exit code 1."""
    sim.faults.next(Fault.status(400))

    result = await invoke("runs", "list", env=settings(sim))

    assert result.exit_code == 1
    assert result.stderr.startswith("error: 400 ")
    assert len(result.stderr.splitlines()) == 1
    await eventually(lambda: sim.counts.in_flight == 0)


def read_file(line: str) -> str:
    return json.dumps(attrs.asdict(RunFile(**json.loads(line))))


@pytest.mark.parametrize(
    ("command", "read"),
    [
        ("runs get {run}", lambda line: to_json(from_json(line, Run))),
        ("runs list --limit 3", lambda line: to_json(from_json(line, Run))),
        ("runs wait {run}", lambda line: to_json(from_json(line, Run))),
        ("runs watch {run}", lambda line: to_json(from_json(line, Run))),
        ("projects list --limit 3", lambda line: to_json(from_json(line, Project))),
        ("projects get {project}", lambda line: to_json(from_json(line, Project))),
        (
            "artifacts list {run}",
            lambda line: json.dumps(attrs.asdict(RunFile(**json.loads(line)))),
        ),
    ],
)
async def test_what_reads_each_shape_of_json(
    sim: Simulator, command: str, read: Callable[[str], str]
) -> None:
    """A line of JSON is read back by what the page about the shell names for it."""
    run_id = sim.insert_run(name="mine", status="completed", artifacts={"a/b": b"", "c": b"1"})
    project_id = sim.resource(run_id)["attributes"]["project_id"]
    arguments = command.format(run=run_id, project=project_id).split()
    result = await invoke(*arguments, env=settings(sim))
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert lines
    assert [read(line) for line in lines] == lines
