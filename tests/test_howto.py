"""The examples of the how-to pages on notebooks and the shell, run as they stand."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import shutil
import sys
from pathlib import Path

import pytest
from conftest import client_for
from shells import Shell, finish, with_command

import modellab_async
from modellab_async.simulator import Simulator

PAGES = Path(__file__).parents[1] / "docs/how-to"


def blocks(page: str, language: str) -> list[str]:
    text = (PAGES / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


async def run_cell(source: str, names: dict[str, object]) -> object:
    """Run a cell as a notebook does; gives the value of its last line."""
    tree = ast.parse(source)
    last = tree.body[-1]
    if isinstance(last, ast.Expr):
        tree.body[-1] = ast.copy_location(
            ast.Assign([ast.Name("_", ast.Store())], last.value), last
        )
    code = compile(
        ast.fix_missing_locations(tree), "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    )
    names.pop("_", None)
    outcome = eval(code, names)
    if inspect.isawaitable(outcome):
        await outcome
    return names.get("_")


async def test_the_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell of the page runs, and three of them show a table."""
    cells = blocks("notebooks.md", "python")
    names: dict[str, object] = {}
    shown = []
    async with Simulator() as sim:
        monkeypatch.setattr(modellab_async, "ModelLabClient", functools.partial(client_for, sim))
        for cell in cells:
            shown.append(await run_cell(cell, names))

    tables = [value for value in shown if hasattr(value, "_repr_html_")]
    assert [type(value).__name__ for value in tables] == ["Page", "Run", "Comparison"]
    assert all("<table>" in value._repr_html_() for value in tables)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX")
async def test_the_shell(shell: Shell, tmp_path: Path) -> None:
    """Every block of the page runs as a script, without a stack trace."""
    pytest.importorskip("typer")
    bash = shutil.which("bash") or "/bin/sh"
    outputs = []
    async with Simulator() as sim:
        env = with_command(tmp_path, sim)
        for script in blocks("shell.md", "sh"):
            process = await shell.run(bash, "-euc", f"cd\n{script}:", env=env)
            code, stdout, stderr = await finish(process)
            assert (script, code) == (script, 0), stderr
            assert "Traceback" not in stderr
            outputs.append(stdout)

    everything = "".join(outputs)
    for expected in (
        "all is well",
        "exit code 4",
        '"eval_loss"',
        "Examples",
        "completion installed",
    ):
        assert expected in everything
    assert (tmp_path / "run.json").read_text().startswith('{"id":"70158"')
