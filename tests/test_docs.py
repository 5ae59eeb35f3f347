"""The documentation names what exists, and its links lead somewhere."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main
from documents import PAGES, ROOT

import modellab_async
import modellab_async.export
import modellab_async.frames
import modellab_async.raydata
import modellab_async.simulator
import modellab_async.store
from modellab_async import ModelLabClient, endpoints
from modellab_async.cli import app
from modellab_async.cli.common import ExitCode
from modellab_async.endpoints import Call

REFERENCE = ROOT / "docs/reference"
ROW = re.compile(r"^\| [^|`]+ \| `(\w+) ([^`]+)` \| `([\w.]+)` \|", flags=re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def described() -> set[str]:
    """The full names that the reference has a directive for."""
    names: set[str] = set()
    for page in sorted(REFERENCE.glob("*.md")):
        module = ""
        for directive, name in re.findall(
            r"^\.\. (currentmodule|auto\w+):: ([\w.]+)$",
            page.read_text("utf-8"),
            flags=re.MULTILINE,
        ):
            if directive == "currentmodule":
                module = name
            else:
                names |= {name, f"{module}.{name}"}
    return names


@pytest.mark.parametrize(
    "package",
    [
        modellab_async,
        modellab_async.simulator,
        modellab_async.frames,
        modellab_async.export,
        modellab_async.raydata,
        modellab_async.store,
    ],
)
def test_the_reference_has_every_public_name(package: ModuleType):
    """Each exported name has its place on a page of docs/reference."""
    names = {f"{package.__name__}.{name}" for name in package.__all__}
    assert names - described() == set()


def built_calls() -> dict[str, Call]:
    """A call of each builder in endpoints.py, by its operation."""
    values = {"facet_type": "tag", "facet_name": "team", "artifact_path": "a.bin"}
    calls = {}
    for name, builder in inspect.getmembers(endpoints, inspect.isfunction):
        signature = inspect.signature(builder)
        if name.startswith("_") or signature.return_annotation != Call.__name__:
            continue
        required = [
            parameter
            for parameter in signature.parameters.values()
            if parameter.default is inspect.Parameter.empty
        ]
        call = builder(*(values.get(parameter.name, 7) for parameter in required))
        if isinstance(call, Call):  # parse_id is no builder
            calls[call.operation] = call
    return calls


def test_the_table_of_endpoints_is_what_endpoints_py_builds():
    """All sixteen operations are there, with the method and path that are sent."""
    table = {
        (method, re.sub(r"\{\w+\}", "7", path))
        for method, path, _ in ROW.findall((REFERENCE / "endpoints.md").read_text("utf-8"))
    }
    assert table == {(call.method, call.path) for call in built_calls().values()}
    assert len(table) == 16


def test_the_table_of_endpoints_names_our_methods():
    """Each row names a method that exists, and that is the row's operation."""
    calls = built_calls()
    lab = ModelLabClient(api_key="a", app_key="b")
    for method, path, ours in ROW.findall((REFERENCE / "endpoints.md").read_text("utf-8")):
        resource, name = ours.split(".")
        assert callable(getattr(getattr(lab, resource), name))
        call = calls["artifacts.content" if ours == "artifacts.read" else ours]
        assert (call.method, call.path) == (method, re.sub(r"\{\w+\}", "7", path))


def test_the_exit_codes_are_those_of_the_command_line():
    """The page of the command line lists each exit code once."""
    page = (REFERENCE / "command-line.md").read_text("utf-8")
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", page, flags=re.MULTILINE)] == [
        code.value for code in ExitCode
    ]


def helped(group: Any) -> Iterator[str]:
    """Each line under "Examples" in the help of a command and of all below it."""
    _, _, lines = (group.epilog or "").partition("Examples[/dim]")
    yield from (line.replace(r"\[", "[") for line in lines.split("\n\n") if line.strip())
    for command in getattr(group, "commands", {}).values():
        yield from helped(command)


COMMAND: Any = typer.main.get_command(app)


@pytest.mark.parametrize("line", sorted(set(helped(COMMAND))))
def test_the_examples_of_the_help_are_commands(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each example in a ``--help`` names a command, and options and arguments that it takes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ids.txt").write_text("70158\n")
    words = shlex.split(re.split(r" [|>] ", line[line.index("modellab ") :])[0])[1:]
    command = COMMAND
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert command.make_context(line, words).args == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_to_files(page: Path):
    """Every relative link, also from the pages outside the site, leads to something."""
    links = [link for link in LINK.findall(page.read_text("utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
