"""The command line on a terminal: interruptions, narrow windows, progress, hostile servers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import posix
from shells import COLOUR, CURSOR, Shell, environment, on_terminal

from modellab_async.simulator import Fault, Simulator

pytestmark = posix


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


def shown(drawn: str) -> str:
    """What was drawn, without colours and without what moves the cursor."""
    return CURSOR.sub("", COLOUR.sub("", drawn))


async def test_waiting_shows_a_live_line(shell: Shell, sim: Simulator) -> None:
    """It names the runs that have not ended; each that ends gets a line, and nothing else stays."""
    done = sim.insert_run(status="completed", name="done")
    soon = sim.insert_run(status="running", name="soon", timeline=[(4.0, "completed")])
    code, drawn = await on_terminal(shell, "runs", "wait", soon, done, env=environment(sim))
    text = shown(drawn)
    assert code == 0
    assert re.search(rf"waiting for {soon} 0:00:0\d", text)
    assert re.search(rf"{done}  completed  done\s", text)
    assert re.search(rf"{soon}  completed  soon\s", text)
    assert drawn.count("\x1b[?25h") == drawn.count("\x1b[?25l") > 0


async def test_the_bar_shows_the_last_failure(shell: Shell, sim: Simulator) -> None:
    """While a request is repeated, what it failed with stands below the bar."""
    sim.faults.matching("*/runs/*", Fault.status(503, retry_after=1))
    code, drawn = await on_terminal(shell, "runs", "get", sim.run_ids[0], "1", env=environment(sim))
    assert code == 1
    assert re.search(r"last failure \d\.\d s ago: 503 from GET", shown(drawn))


async def test_the_bar_shows_until_when_quota_is_waited_for(shell: Shell, sim: Simulator) -> None:
    """The time is that of this machine's clock and zone."""
    sim.faults.matching("*/runs*", Fault.rate_limited(reset=2))
    code, drawn = await on_terminal(shell, "runs", "list", "--limit", 3, env=environment(sim))
    assert code == 0
    assert re.search(r"waiting for quota until \d\d:\d\d:\d\d", shown(drawn))


async def test_json_on_a_terminal_cannot_steer_it(shell: Shell, sim: Simulator) -> None:
    """Control and bidi characters in a name are escaped in JSON lines, which stay JSON."""
    name = "evil\x9b2J\u202egnp.exe\x7f"
    run_id = sim.insert_run(name=name)
    code, drawn = await on_terminal(shell, "runs", "get", run_id, "--json", env=environment(sim))
    [line] = drawn.splitlines()
    assert code == 0
    assert line.isprintable()
    assert json.loads(line)["attributes"]["name"] == name


@pytest.mark.parametrize("width", [5, 20, 50])
async def test_ids_are_whole_on_a_narrow_terminal(shell: Shell, sim: Simulator, width: int) -> None:
    """A list, a comparison, and a run in full have their ids in one piece."""
    first, second = sim.run_ids[:2]
    for command in (["list", "--limit", 2, "--sort", "created_at"], ["compare", first, second]):
        _, drawn = await on_terminal(shell, "runs", *command, env=environment(sim), width=width)
        assert {str(first), str(second)} <= set(re.findall(r"\d+", shown(drawn)))


async def test_columns_of_ones_choice(shell: Shell, sim: Simulator) -> None:
    """``--columns`` is the heading of the table."""
    arguments = ["runs", "list", "--limit", 2, "--columns", "id,status,metrics.eval_loss.min"]
    code, drawn = await on_terminal(shell, *arguments, env=environment(sim))
    assert code == 0
    assert shown(drawn).split()[:3] == ["id", "status", "metrics.eval_loss.min"]
