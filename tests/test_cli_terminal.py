"""The command line on a terminal: interruptions, narrow windows, progress, hostile servers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from shells import COLOUR, CURSOR, Shell, environment, on_terminal

from modellab_async.simulator import Fault, Simulator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="terminals of POSIX")


@pytest.mark.parametrize(
    "command", [["runs", "get", "{run}"], ["runs", "list"], ["runs", "wait", "{run}"], ["doctor"]]
)
async def test_ctrl_c_is_130(shell: Shell, sim: Simulator, command: list[str]) -> None:
    """Ctrl-C typed on the terminal ends the command at once with 130 and without a trace."""
    sim.faults.always(Fault.stall())
    arguments = [part.format(run=sim.run_ids[0]) for part in command]

    code, drawn = await on_terminal(
        shell, *arguments, env=environment(sim), interrupt=lambda: sim.counts.in_flight > 0
    )

    assert code == 130
    assert "Traceback" not in drawn
    assert "Error" not in drawn
    assert drawn.count("\x1b[?25h") == drawn.count("\x1b[?25l")


async def test_an_error_breaks_between_words(shell: Shell, sim: Simulator) -> None:
    """On a narrow terminal a long message continues on the next line with a whole word."""
    words = " ".join(f"word{number:03}" for number in range(20))
    sim.faults.always(Fault.status(400, body=f'{{"errors":["{words}"]}}'.encode()))

    code, drawn = await on_terminal(
        shell, "runs", "get", sim.run_ids[0], env=environment(sim), width=40
    )

    assert code == 1
    lines = [line.strip() for line in COLOUR.sub("", drawn).splitlines()]
    assert all(len(line) <= 40 for line in lines)
    assert re.findall(r"\bword\d{3}\b", "\n".join(lines)) == words.split()


async def test_a_servers_error_cannot_steer_the_terminal(shell: Shell, sim: Simulator) -> None:
    """Control characters in an answer's error are shown escaped."""
    body = rb'{"errors":[{"title":"bad","detail":"\u001b]0;owned\u0007\u001b[2J\nnext"}]}'
    sim.faults.always(Fault.status(400, body=body))

    _, drawn = await on_terminal(shell, "runs", "get", sim.run_ids[0], env=environment(sim))

    assert r"\x1b]0;owned\x07\x1b[2J\nnext" in COLOUR.sub("", drawn)
    assert "\x1b]0;" not in drawn
    assert "\x1b[2J" not in drawn


async def test_the_download_of_one_file_shows_how_far_it_is(
    shell: Shell, sim: Simulator, tmp_path: Path
) -> None:
    """The bar of ``--file`` knows the size and ends at it."""
    run_id = sim.insert_run(artifacts={"weights.bin": 30_000_000})
    breaks = Fault.cut(after=20_000_000), Fault.status(503, retry_after=1)
    sim.faults.matching("*/artifacts/content", *breaks)

    arguments = ["artifacts", "download", run_id, tmp_path, "--file", "weights.bin"]
    code, drawn = await on_terminal(shell, *arguments, env=environment(sim))

    assert code == 0
    assert re.search(r"\d/30\.0 MB", CURSOR.sub("", COLOUR.sub("", drawn)))
    assert (tmp_path / "weights.bin").stat().st_size == 30_000_000


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["runs", "list", "--help"], ["doctor"], ["runs", "get", "x"], ["nope"]],
)
async def test_no_color_holds_everywhere(
    shell: Shell, sim: Simulator, arguments: list[str]
) -> None:
    """With NO_COLOR neither help nor errors nor findings are coloured; without it they are."""
    colour = re.compile(r"\x1b\[(?:\d+;)*[349]\d(?:;\d+)*m")
    env = environment(sim)

    _, coloured = await on_terminal(shell, *arguments, env=env)
    _, plain = await on_terminal(shell, *arguments, env=env | {"NO_COLOR": "1"})

    assert colour.search(coloured)
    assert not colour.search(plain)
    assert len(plain.splitlines()) == len(coloured.splitlines())
