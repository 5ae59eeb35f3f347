"""The commands, run inside this process against the simulator, with output piped."""

from __future__ import annotations

import asyncio
import functools
import json

import pytest
import typer
import typer.main
from typer import testing

from modellab_async import Run, __version__, from_json
from modellab_async.cli import app
from modellab_async.simulator import Fault, Simulator

SECRETS = {
    "DD_API_KEY": "SECRET-api-0123",
    "DD_APP_KEY": "SECRET-app-4567",
    "DD_BEARER_TOKEN": "SECRET-token-89",
}


def settings(sim: Simulator) -> dict[str, str]:
    """The environment that `modellab simulate` tells its user to set."""
    return {
        "MODELLAB_BASE_URL": sim.base_url,
        "DD_API_KEY": sim.api_key,
        "DD_APP_KEY": sim.app_key,
    }


# Building all commands takes ten times as long as running one.
vars(testing)["_get_command"] = functools.cache(typer.main.get_command)


async def invoke(*arguments: object, env: dict[str, str]) -> testing.Result:
    """Run a command in a thread, so that the simulator can answer it from this loop."""
    return await asyncio.to_thread(
        testing.CliRunner().invoke, app, [str(argument) for argument in arguments], env=env
    )


def command_paths(group: typer.Typer = app, *path: str) -> list[tuple[str, ...]]:
    """Every group and command there is, as typed after ``modellab``."""
    paths = [path]
    for command in group.registered_commands:
        assert command.callback is not None
        paths.append((*path, command.name or command.callback.__name__))
    for info in group.registered_groups:
        assert info.typer_instance is not None
        name = info.typer_instance.info.name
        nested = (*path, name) if isinstance(name, str) else path
        paths += command_paths(info.typer_instance, *nested)
    return sorted(set(paths))


async def test_version() -> None:
    """``--version`` names the program and its version."""
    result = await invoke("--version", env={})
    assert (result.exit_code, result.output) == (0, f"modellab {__version__}\n")


@pytest.mark.parametrize("path", command_paths())
async def test_help_shows_no_secret(path: tuple[str, ...]) -> None:
    """``--help`` of every command and group has examples, and never a value of the environment."""
    result = await invoke(*path, "--help", env=SECRETS)

    assert result.exit_code == 0
    assert "SECRET" not in result.output
    assert " ".join(["modellab", *path]) in result.output.partition("Examples")[2]


def test_the_help_test_sees_the_commands() -> None:
    """The list that the help test goes through is not empty by accident."""
    assert {(), ("runs",), ("runs", "compare"), ("doctor",)} <= set(command_paths())


@pytest.mark.parametrize("path", [path for path in command_paths() if path])
async def test_keys_are_no_options(path: tuple[str, ...]) -> None:
    """No command takes a key or token as an option, where ``ps`` would show it."""
    for option in ("--api-key", "--app-key", "--bearer-token", "--token"):
        result = await invoke(*path, option, "x", env={})
        assert result.exit_code == 2


async def test_piped_runs_are_json_lines(sim: Simulator) -> None:
    """One resource a line, in the order asked, repeats included, nothing on standard error."""
    first, second = sim.run_ids[7], sim.run_ids[3]

    result = await invoke("runs", "get", first, second, first, env=settings(sim))

    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [str(first), str(second), str(first)]
    assert from_json(lines[0], Run).name == sim.resource(first)["attributes"]["name"]


@pytest.mark.parametrize(
    ("ids", "code"),
    [
        (["{there}"], 0),
        (["{there}", "1"], 1),
        (["1", "x"], 1),
        (["x"], 2),
        (["1/../2", "-0x7"], 2),
        (["1"], 4),
        (["1", "2", "3"], 4),
    ],
)
async def test_exit_codes(sim: Simulator, ids: list[str], code: int) -> None:
    """0 all well, 1 some failed, 2 no ids at all, 4 all not found; each failure has its line."""
    ids = [run_id.format(there=sim.run_ids[0]) for run_id in ids]

    result = await invoke("runs", "get", "--", *ids, env=settings(sim))

    assert result.exit_code == code
    failed = [run_id for run_id in ids if run_id != str(sim.run_ids[0])]
    assert len(result.stdout.splitlines()) == len(ids) - len(failed)
    lines = result.stderr.splitlines()
    assert [line.split(":")[:2] for line in lines] == [["error", f" run {r}"] for r in failed]


@pytest.mark.parametrize("name", ["DD_API_KEY", "DD_APP_KEY", "DD_BEARER_TOKEN"])
async def test_refused_keys_are_one_line_and_3(sim: Simulator, name: str) -> None:
    """Wrong keys end the command with exit code 3, once, whatever the number of ids."""
    env = settings(sim) | {name: "SECRET-wrong"}

    result = await invoke("runs", "get", *range(1, 200), env=env)

    assert result.exit_code == 3
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: 40")
    assert "SECRET" not in result.output
    assert sim.counts.requests < 50


async def test_a_key_that_the_server_echoes_is_not_shown() -> None:
    """A key is hidden even where the server quotes it in its error."""
    api_key, app_key = SECRETS["DD_API_KEY"], SECRETS["DD_APP_KEY"]
    body = json.dumps({"errors": [f"no such key {api_key} for {app_key}"]}).encode()
    async with Simulator(runs=1, api_key=api_key, app_key=app_key) as sim:
        sim.faults.always(Fault.status(403, body=body))

        result = await invoke("runs", "get", 1, env=settings(sim))

    assert result.exit_code == 3
    assert "no such key" in result.stderr
    assert "SECRET" not in result.output


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        ([], {}, "DD_API_KEY"),
        ([], {"DD_API_KEY": "SECRET"}, "DD_APP_KEY"),
        ([], {"DD_BEARER_TOKEN": "SECRET\nSECRET"}, "control"),
        (["--site", "nowhere"], SECRETS, "unknown site"),
        ([], SECRETS | {"DD_SITE": SECRETS["DD_APP_KEY"]}, "unknown site"),
        (["--site", "nowhere"], SECRETS | {"MODELLAB_BASE_URL": "http://[::1]:1"}, "unknown site"),
        (["--base-url", "http://example.com"], SECRETS, "unencrypted"),
        ([], SECRETS | {"MODELLAB_BASE_URL": "ftp://x"}, "base_url"),
    ],
)
async def test_configuration_errors_are_2(
    arguments: list[str], env: dict[str, str], said: str
) -> None:
    """What cannot work is one line that names it, and exit code 2; a typed --site is meant."""
    result = await invoke("runs", "get", 1, *arguments, env=env)

    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert said in result.stderr
    assert "SECRET" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs", "get"],
        ["runs", "nonsense"],
        ["demo", "--rate-limit", "5"],
        ["demo", "--rate-limit", "0/1"],
        ["demo", "--rate-limit", f"{'1' * 5000}/1"],
        ["demo", "--faults", "2"],
        ["demo", "--runs", "0"],
        ["simulate", "--port", "70000"],
    ],
)
async def test_usage_errors_are_2(arguments: list[str]) -> None:
    """A command line that makes no sense is answered with usage and exit code 2."""
    result = await invoke(*arguments, env={})

    assert result.exit_code == 2
    assert "Usage:" in result.stderr


async def test_the_base_url_can_be_an_option(sim: Simulator) -> None:
    """``--base-url`` wins over MODELLAB_BASE_URL."""
    env = settings(sim) | {"MODELLAB_BASE_URL": "http://127.0.0.1:1"}

    result = await invoke("runs", "get", sim.run_ids[0], "--base-url", sim.base_url, env=env)

    assert result.exit_code == 0


async def test_another_failure_is_1(sim: Simulator) -> None:
    """A failure without an exit code of its own is one line and exit code 1."""
    sim.faults.next(Fault.status(400))

    result = await invoke("runs", "get", sim.run_ids[0], env=settings(sim))

    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: run {sim.run_ids[0]}: 400 ")
    assert len(result.stderr.splitlines()) == 1


async def test_demo_accounts_for_every_id() -> None:
    """The demonstration, piped, is one JSON object with exactly one outcome for each id."""
    result = await invoke(
        "demo", "--runs", 120, "--faults", 0.05, "--rate-limit", "none", "--seed", 3, env=SECRETS
    )

    assert (result.exit_code, result.stderr) == (0, "")
    summary = json.loads(result.stdout)
    assert summary["asked"] == summary["outcomes"] == summary["calls"] == 123
    assert summary["one_outcome_each"] is True
    assert summary["ok"] == 120
    assert summary["errors"] == {"NotFoundError": 3}
    assert summary["attempts"] == 123 + summary["retries"]
    assert summary["retries"] > 0
    assert summary["runs_per_second"] > 0


async def test_demo_says_when_it_cannot_keep_its_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id without a run, after all retries, makes the demonstration exit with 1."""
    monkeypatch.setattr(
        "modellab_async.simulator.DEFAULT_FAULTS", (Fault.status(400), Fault.status(409))
    )

    result = await invoke("demo", "--runs", 5, "--faults", 1, "--rate-limit", "none", env={})

    assert result.exit_code == 1
    summary = json.loads(result.stdout)
    assert summary["ok"] == 0
    assert summary["one_outcome_each"] is True
    assert sum(summary["errors"].values()) == 8
