"""The command line as a shell sees it: real processes, pipes, signals and terminals."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from itertools import combinations
from pathlib import Path

import pytest
from conftest import PATIENCE, eventually, posix
from shells import COLOUR, CURSOR, Shell, environment, finish, first_line, on_terminal

from modellab_async import ModelLabClient
from modellab_async.simulator import Fault, Simulator
from modellab_async.store import open_store

pytestmark = posix


async def test_importing_the_package_needs_no_command_line(shell: Shell) -> None:
    """Typer and Rich are imported by the command line only."""
    loaded = "print({'typer', 'rich', 'click'} & set(sys.modules))"
    process = await shell.python("-c", f"import sys, modellab_async; {loaded}")

    assert await finish(process) == (0, "set()\n", "")


@pytest.mark.parametrize("missing", ["typer", "rich"])
async def test_a_missing_extra_is_named(shell: Shell, missing: str) -> None:
    """Without the extra, one line says what to install, and the exit code is 2."""
    run = "from modellab_async.__main__ import main; main()"
    process = await shell.python("-c", f"import sys; sys.modules[{missing!r}] = None; {run}")

    expected = f"modellab needs {missing}: python -m pip install 'modellab_async[cli]'\n"
    assert await finish(process) == (2, "", expected)


INTERRUPTED_IMPORT = """
import os, signal, time
os.kill(os.getpid(), signal.SIGINT)
time.sleep(10)
"""


@pytest.mark.parametrize("imported", ["typer", "aiohttp"])
async def test_ctrl_c_during_start_up(shell: Shell, tmp_path: Path, imported: str) -> None:
    """While Python imports what the command needs, an interruption ends it quietly with 130."""
    (tmp_path / f"{imported}.py").write_text(INTERRUPTED_IMPORT)
    env = environment()
    env["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{env['PYTHONPATH']}"
    process = await shell.modellab("runs", "list", env=env)
    assert await finish(process) == (130, "", "")


async def test_importing_the_package_leaves_ctrl_c_alone(shell: Shell) -> None:
    """Only the command itself changes how it is interrupted."""
    code = "import signal, modellab_async; print(signal.getsignal(signal.SIGINT).__name__)"
    process = await shell.python("-c", code)
    assert await finish(process) == (0, "default_int_handler\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs", "list", "--text"],
        ["runs", "get"],
        ["artifacts", "list", "1"],
        ["runs", "list", "-o"],
    ],
)
async def test_an_argument_that_is_no_text(shell: Shell, arguments: list[str]) -> None:
    """Bytes that the system's encoding does not have are one line and exit code 2."""
    process = await shell.modellab(*arguments, os.fsdecode(b"caf\xe9"))
    expected = "error: 'caf\\udce9' is not text in this system's encoding\n"
    assert await finish(process) == (2, "", expected)


async def test_failures_that_last_are_told_without_a_terminal(shell: Shell, sim: Simulator) -> None:
    """After two seconds without success a line says what fails, though not once per request."""
    sim.faults.matching("*/runs*", *[Fault.status(503, retry_after=1)] * 4)
    process = await shell.modellab("runs", "list", "--limit", 1, env=environment(sim))
    code, stdout, stderr = await finish(process)
    assert (code, len(stdout.splitlines())) == (0, 1)
    assert re.fullmatch(r"Still trying after \d\.\d s: 503 from GET .*\n", stderr)


async def test_a_pause_for_quota_is_told_without_a_terminal(shell: Shell, sim: Simulator) -> None:
    """A line says until when, as a progress bar would."""
    sim.faults.matching("*/runs*", Fault.rate_limited(reset=3))
    process = await shell.modellab("runs", "list", "--limit", 1, env=environment(sim))
    code, stdout, stderr = await finish(process)
    assert (code, len(stdout.splitlines())) == (0, 1)
    assert re.fullmatch(r"waiting for quota until \d\d:\d\d:\d\d\n", stderr)


async def test_ids_from_standard_input_are_fetched_as_they_come(
    shell: Shell, sim: Simulator
) -> None:
    """The first run is out before the second id is in; any whitespace parts ids."""
    first, second, third = sim.run_ids[:3]
    process = await shell.modellab("runs", "get", "-", env=environment(sim))
    assert process.stdin is not None

    process.stdin.write(f"{first}\n".encode())
    line = await first_line(process.stdout)
    code, stdout, stderr = await finish(process, f"  {second} 1\r\n\n{third}".encode())

    assert code == 1
    assert json.loads(line)["id"] == str(first)
    rest = [json.loads(line)["id"] for line in stdout.splitlines()]
    assert rest == [str(second), str(third)]
    assert stderr.startswith("error: run 1: 404")


async def test_ids_can_be_interleaved_with_standard_input(shell: Shell, sim: Simulator) -> None:
    """A dash among the arguments stands for standard input at that place."""
    first, second, third = sim.run_ids[:3]
    process = await shell.modellab("runs", "get", first, "-", third, env=environment(sim))
    code, stdout, _ = await finish(process, f"{second}\n".encode())

    assert code == 0
    ids = [int(json.loads(line)["id"]) for line in stdout.splitlines()]
    assert ids == [first, second, third]


async def test_no_ids_on_standard_input_is_well(shell: Shell, sim: Simulator) -> None:
    """An empty input asks for nothing, and gets it."""
    process = await shell.modellab("runs", "get", "-", env=environment(sim))
    assert await finish(process) == (0, "", "")


@pytest.mark.parametrize("ids", ["-", "{there}"])
async def test_an_interruption_is_130(shell: Shell, sim: Simulator, ids: str) -> None:
    """Ctrl-C while waiting for the server, or for standard input, ends at once without a trace."""
    sim.faults.always(Fault.stall())
    process = await shell.modellab(
        "runs", "get", ids.format(there=sim.run_ids[0]), env=environment(sim)
    )
    assert process.stdin is not None
    process.stdin.write(f"{sim.run_ids[0]}\n".encode())
    await eventually(lambda: sim.counts.in_flight > 0)

    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(PATIENCE):
        await process.wait()

    assert await finish(process) == (130, "", "")


async def test_a_reader_that_leaves_early_causes_no_trace(shell: Shell, sim: Simulator) -> None:
    """``| head -1`` gets its line; the rest ends quietly, though more ids may still come."""
    ids = f"{' '.join(map(str, sim.run_ids))} ".encode()
    ours, theirs = os.pipe()
    process = await shell.modellab("runs", "get", "-", env=environment(sim), stdout=theirs)
    os.close(theirs)
    assert process.stdin is not None
    process.stdin.write(ids)
    try:
        async with asyncio.timeout(PATIENCE):
            first = await asyncio.to_thread(os.read, ours, 100)
    finally:
        os.close(ours)

    code, _, stderr = await finish(process)

    assert first.startswith(b'{"id":')
    assert code == 1
    assert stderr == ""


async def test_simulate_tells_how_to_use_it(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment that it prints, the command and the client get runs; Ctrl-C ends it."""
    server = await shell.modellab("simulate", "--runs", 50, "--rate-limit", "100/1")
    lines = [await first_line(server.stdout) for _ in range(3)]
    remarks = [await first_line(server.stderr) for _ in range(4)]
    settings = dict(re.findall(r"(\w+)=(\S+)", "".join(lines)))

    assert settings.keys() == {"MODELLAB_BASE_URL", "DD_API_KEY", "DD_APP_KEY"}
    assert lines[-1] == "unset DD_BEARER_TOKEN\n"
    assert remarks[0].startswith("Simulating 50 runs at ")
    command = remarks[-1].partition("modellab ")[2].split()
    client = await shell.modellab(*command, env=environment(**settings))
    code, stdout, _ = await finish(client)
    assert code == 0
    assert [json.loads(line)["id"] for line in stdout.splitlines()] == command[2:]

    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    async with ModelLabClient() as lab:
        assert [str(run.id) for run in await lab.runs.get_many(command[2:])] == command[2:]

    server.send_signal(signal.SIGINT)
    assert await finish(server) == (130, "", "")


async def test_a_taken_port_is_2(shell: Shell, sim: Simulator) -> None:
    """A port that cannot be listened on is one line and exit code 2."""
    port = sim.base_url.rpartition(":")[2]
    process = await shell.modellab("simulate", "--port", port)
    code, stdout, stderr = await finish(process)

    assert (code, stdout) == (2, "")
    assert stderr.startswith("error: cannot listen")
    assert len(stderr.splitlines()) == 1


async def test_a_terminal_gets_a_table(shell: Shell, sim: Simulator) -> None:
    """Several runs are a table in colour, and no JSON."""
    first, second = sim.run_ids[:2]
    code, drawn = await on_terminal(shell, "runs", "get", first, second, env=environment(sim))
    text = COLOUR.sub("", drawn)

    assert code == 0
    assert COLOUR.search(drawn)
    assert "{" not in text
    heading = next(line for line in text.splitlines() if "name" in line)
    assert heading.split()[:5] == ["id", "name", "status", "project", "duration"]
    assert sim.resource(first)["attributes"]["name"] in text
    assert all(len(line) <= 100 for line in text.splitlines())


async def test_a_terminal_gets_one_run_in_full(shell: Shell, sim: Simulator) -> None:
    """A single run is shown with its metrics."""
    metric = {"key": "eval_loss", "count": 3, "latest": 0.25}
    run_id = sim.insert_run(name="mine", status="completed", metric_summaries=[metric])
    code, drawn = await on_terminal(shell, "runs", "get", run_id, env=environment(sim))

    assert code == 0
    for expected in ("mine", "completed", "eval_loss", "0.25"):
        assert expected in drawn


async def test_no_color_is_respected(shell: Shell, sim: Simulator) -> None:
    """With NO_COLOR the table has no colours."""
    run_ids = sim.run_ids[:2]
    code, drawn = await on_terminal(
        shell, "runs", "get", *run_ids, env=environment(sim, NO_COLOR="1")
    )

    assert code == 0
    assert not re.search(r"\x1b\[(?:\d+;)*[349]\dm", drawn)


async def test_json_on_a_terminal_is_not_disturbed(shell: Shell, sim: Simulator) -> None:
    """``--json`` on a terminal gives JSON lines only: no progress in between."""
    code, drawn = await on_terminal(
        shell, "runs", "get", "--json", *sim.run_ids[:3], env=environment(sim)
    )
    assert code == 0
    assert [int(json.loads(line)["id"]) for line in drawn.splitlines()] == list(sim.run_ids[:3])


async def test_a_server_cannot_steer_the_terminal(shell: Shell, sim: Simulator) -> None:
    """Control characters in a run's name do not reach the terminal."""
    run_id = sim.insert_run(name="evil\x1b]0;owned\x07\x1b[2J", description="\x1b[5mblink")
    for ids in ([run_id], [run_id, sim.run_ids[0]]):
        _, drawn = await on_terminal(shell, "runs", "get", *ids, env=environment(sim))
        assert "owned" in drawn
        assert "\x1b]0;" not in drawn
        assert "\x1b[2J" not in drawn
        assert "\x1b[5m" not in drawn


async def test_demo_on_a_terminal(shell: Shell) -> None:
    """The demonstration draws its progress, ends with a verdict and gives the cursor back."""
    code, drawn = await on_terminal(
        shell, "demo", "--runs", 100, "--rate-limit", "none", "--faults", 0
    )
    text = CURSOR.sub("", COLOUR.sub("", drawn))

    assert code == 0
    assert "103/103 100%" in text
    assert "runs/s" in text
    assert "103 ids requested, 103 outcomes: exactly one for each." in text
    assert "NotFoundError" in text
    assert drawn.count("\x1b[?25h") == drawn.count("\x1b[?25l") > 0


@pytest.mark.parametrize(
    ("typed", "code", "deleted"),
    [(b"y\n", 0, True), (b"n\n", 1, False), (b"\n", 1, False), (b"\x04", 1, False)],
)
async def test_deleting_asks_first(
    shell: Shell, sim: Simulator, typed: bytes, code: int, deleted: bool
) -> None:
    """On a terminal nothing is deleted without a yes; no answer means no."""
    run_id = sim.run_ids[0]
    ended, drawn = await on_terminal(
        shell, "runs", "delete", run_id, env=environment(sim), typed=typed
    )

    assert ended == code
    assert f"Delete run {run_id}" in COLOUR.sub("", drawn)
    assert (sim.counts.requests > 0) is deleted


async def test_a_download_on_a_terminal_is_summed_up(
    shell: Shell, sim: Simulator, tmp_path: Path
) -> None:
    """Files and bytes are counted in one line, and the cursor is given back."""
    run_id = sim.insert_run(artifacts={"weights.bin": 2_000_000})
    sim.faults.next(Fault.status(503))
    code, drawn = await on_terminal(
        shell, "artifacts", "download", run_id, tmp_path, env=environment(sim)
    )

    assert code == 0
    assert "1 file, 2.0 MB, in " in COLOUR.sub("", drawn)
    assert drawn.count("\x1b[?25h") == drawn.count("\x1b[?25l")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("command", [["runs", "get", "{run}"], ["doctor"], ["--help"]])
async def test_a_full_disk_is_one_line(shell: Shell, sim: Simulator, command: list[str]) -> None:
    """Results that cannot be written are an error line and exit code 1, not a stack trace."""
    arguments = [part.format(run=sim.run_ids[0]) for part in command]
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        process = await shell.modellab(*arguments, env=environment(sim), stdout=full)
    finally:
        os.close(full)

    assert await finish(process) == (1, "", "error: No space left on device\n")


async def test_a_directory_that_refuses_is_one_line(
    shell: Shell, sim: Simulator, tmp_path: Path
) -> None:
    """Many files that cannot be written are one error line, and no remark of the event loop."""
    run_id = sim.insert_run(artifacts={f"d{number}/file": 10 for number in range(20)})
    (tmp_path / "out").write_text("in the way")
    arguments = ["artifacts", "download", run_id, tmp_path / "out" / "below"]
    code, stdout, stderr = await finish(await shell.modellab(*arguments, env=environment(sim)))

    assert (code, stdout) == (1, "")
    assert stderr.startswith("error: the disk refused")
    assert len(stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "closed", [part for count in (1, 2, 3) for part in combinations(("<&-", ">&-", "2>&-"), count)]
)
@pytest.mark.parametrize(
    ("arguments", "code"), [("--version", 0), ("runs get {run} 1", 1), ("sync {file}", 0)]
)
async def test_closed_standard_streams(
    shell: Shell,
    sim: Simulator,
    tmp_path: Path,
    closed: tuple[str, ...],
    arguments: str,
    code: int,
) -> None:
    """A command ends as it would otherwise; what it writes to a closed stream is dropped."""
    file = tmp_path / "runs.duckdb"
    words = arguments.format(run=sim.run_ids[0], file=file).split()
    script = f'exec "$0" -m modellab_async "$@" {" ".join(closed)}'
    process = await shell.run("/bin/sh", "-c", script, sys.executable, *words, env=environment(sim))
    ended, stdout, stderr = await finish(process)

    assert ended == code
    assert stdout.count("\n") == (">&-" not in closed)
    assert stderr.count("error: run 1: 404") == (code == 1 and "2>&-" not in closed)
    assert stderr.count("\n") == stderr.count("error: ")
    if words[0] == "sync":
        with open_store(file, read_only=True) as store:
            assert len(store.rows("FROM runs")) == len(sim.run_ids)


async def test_a_terminal_that_cannot_show_all_shows_the_rest(shell: Shell, sim: Simulator) -> None:
    """Characters that the terminal's encoding lacks are question marks, not an error."""
    run_id = sim.insert_run(name="größer")
    env = environment(sim, PYTHONIOENCODING="ascii")
    code, drawn = await on_terminal(shell, "runs", "get", run_id, env=env)

    assert code == 0
    assert "gr??er" in drawn
