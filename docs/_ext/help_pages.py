"""The page of the command line: what ``--help`` says, of every command there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import typer.main

from modellab_async.cli import app as commands

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

PAGE = "reference/command-line"
WIDTH = 84


def each_command(group: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """The paths of a command and of all below it, in the order of ``--help``."""
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from each_command(command, *path, name)


def help_of(path: tuple[str, ...]) -> str:
    """What a command says of itself on a terminal."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("FORCE_", "CLI"))
    }
    answer = subprocess.run(
        [sys.executable, "-m", "modellab_async", *path, "--help"],
        env={**environment, "NO_COLOR": "1", "TERMINAL_WIDTH": str(WIDTH), "COLUMNS": str(WIDTH)},
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=60,
    )
    lines = textwrap.dedent(answer.stdout).strip().splitlines()
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in lines))


def page() -> str:
    """All commands in Markdown, a section for each."""
    sections = []
    for path in each_command(typer.main.get_command(commands)):
        name = " ".join(("modellab", *path))
        sections.append(f"\n## {name}\n\n```text\n{help_of(path)}\n```\n")
    return "".join(sections)


def _complete(_app: Sphinx, name: str, source: list[str]) -> None:
    if name == PAGE:
        source[0] += page()


def setup(app: Sphinx) -> dict[str, bool]:
    """The page's beginning is written by hand; its sections follow when it is read."""
    app.connect("source-read", _complete)
    return {"parallel_read_safe": True}
