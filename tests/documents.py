"""Runs what documents show: Python by Sybil, with ``await`` as in a notebook, and shell lines.

A fenced block ``output`` after a Python block is what that must print; ``...`` stands for anything.
A shell block is run where all its lines are commands of ``modellab``. A comment
``<!-- not run: reason -->`` before a block leaves it out.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import functools
import inspect
import io
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sybil import Document, Example, Region
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer

from modellab_async.simulator import Simulator

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(
        page
        for page in (ROOT / "docs").rglob("*.md")
        # The page on Ray needs a cluster, and is run by tests/cluster.py.
        if "_build" not in page.parts and page.name != "ray.md"
    ),
]
LANGUAGES = "python|output|sh"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
COMMAND = f"{sys.executable} -m modellab_async"


class Examples:
    """Evaluates the examples of one document after each other, in one namespace and one loop."""

    def __init__(self, runner: asyncio.Runner, directory: Path) -> None:
        self._runner = runner
        self._directory = directory
        self._printed = ""

    def parse(self, document: Document) -> Iterator[Region]:
        """A Sybil parser for fenced blocks."""
        for region in FencedCodeBlockLexer(LANGUAGES)(document):
            before = document.text[: region.start].rstrip()
            if re.search(r"<!-- not run: [^>]+-->$", before):
                continue
            region.parsed = region.lexemes["source"]
            lines = region.parsed.splitlines()
            language = document.text[region.start : region.end].lstrip()[3:].split("\n", 1)[0]
            if language.strip() == "sh" and not all(line.startswith("modellab ") for line in lines):
                continue
            region.evaluator = getattr(self, f"_run_{language.strip()}")
            yield region

    def _run_python(self, example: Example) -> None:
        source = "\n" * (example.line + example.parsed.line_offset) + example.parsed
        code = compile(
            source, example.path, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
        )
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if code.co_flags & inspect.CO_COROUTINE:
                self._runner.run(eval(code, example.namespace))
            else:
                exec(code, example.namespace)
        self._printed = printed.getvalue()

    def _run_output(self, example: Example) -> str | None:
        if doctest.OutputChecker().check_output(example.parsed, self._printed, FLAGS):
            return None
        return f"printed:\n{self._printed}instead of:\n{example.parsed}"

    def _run_sh(self, example: Example) -> str | None:
        lines = [
            re.sub(r"\bmodellab ", f"{COMMAND} ", line) for line in example.parsed.splitlines()
        ]
        # The last line keeps bash from giving its place to the one before: completion asks for it.
        answer = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join([*lines, ":"])],
            cwd=self._directory,
            env={**os.environ, "HOME": str(self._directory)},
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )
        return f"exit {answer.returncode}: {answer.stderr}" if answer.returncode else None


def evaluate(path: Path, examples: Examples, namespace: dict[str, Any]) -> dict[str, Any]:
    """Run every example of a page or of a module's docstrings; returns the final namespace."""
    kind = PythonDocStringDocument if path.suffix == ".py" else Document
    document = kind.parse(str(path), examples.parse)
    document.evaluators.clear()  # Sybil would import a module once more, by its path
    document.namespace.update(namespace)
    for example in document.examples():
        example.evaluate()
    return document.namespace


@contextlib.contextmanager
def simulator_in_a_thread() -> Iterator[Simulator]:
    """A simulator that goes on while an example has a loop of its own, or none."""
    simulator = Simulator()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    run = functools.partial(asyncio.run_coroutine_threadsafe, loop=loop)
    try:
        run(simulator.start()).result(60)
        yield simulator
    finally:
        run(simulator.close()).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()
