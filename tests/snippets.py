"""Every documented Python example as a type checker sees it; run by ``nox -s typing``.

The examples of a page become one module, each line where it stands on the page, which knows `lab`
and `sim` as the pages do. From the first bare ``await`` on, they are the body of a coroutine.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from documents import PAGES, ROOT
from sybil import Document
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer

KNOWN = (
    "from __future__ import annotations; from modellab_async import ModelLabClient as _Client;"
    " from modellab_async.simulator import Simulator as _Simulator;"
    " lab = _Client(); sim = _Simulator()"
)
COROUTINE = "async def page(lab: _Client, sim: _Simulator) -> None:"


def module_of(path: Path, text: str) -> str | None:
    """The examples of a page, or of a module's docstrings, as a module; None if it has none."""
    kind = PythonDocStringDocument if path.suffix == ".py" else Document
    lines = [KNOWN] + [""] * text.count("\n")
    found, indent = False, ""
    for region in FencedCodeBlockLexer("python")(kind(text, str(path))):
        if re.search(r"<!-- not run: [^>]+-->$", text[: region.start].rstrip()):
            continue
        source = region.lexemes["source"]
        fence = text.count("\n", 0, region.start)
        if not indent and awaits(source):
            lines[fence], indent = COROUTINE, "    "
        for number, line in enumerate(source.splitlines(), start=fence + 1):
            lines[number] = indent + line if line else ""
        found = True
    return "\n".join([*lines, ""]) if found else None


def awaits(source: str) -> bool:
    """Whether an example needs a coroutine around it."""
    flag = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(source, "example", "exec", flag, dont_inherit=True)
    return bool(code.co_flags & inspect.CO_COROUTINE)


def write_modules(directory: Path) -> list[Path]:
    """A module for each page and each module with examples."""
    written = []
    for path in [*PAGES, *sorted((ROOT / "modellab_async").rglob("*.py"))]:
        module = module_of(path, path.read_text("utf-8"))
        if module is not None:
            name = re.sub(r"\W", "_", str(path.relative_to(ROOT).with_suffix("")))
            written.append(directory / f"{name}.py")
            written[-1].write_text(module, "utf-8")
    return written


Check = Callable[[Path], subprocess.CompletedProcess[str]]


def mypy(directory: Path) -> subprocess.CompletedProcess[str]:
    """Check the modules of a directory as ``mypy --strict`` does."""
    settings = ("--config-file", str(ROOT / "pyproject.toml"), "--strict")
    return run("mypy", *settings, "--no-warn-unreachable", str(directory))


def pyright(directory: Path) -> subprocess.CompletedProcess[str]:
    """Check the modules of a directory as pyright does by default."""
    settings = {"include": ["."], "typeCheckingMode": "standard", "pythonVersion": "3.11"}
    (directory / "pyrightconfig.json").write_text(json.dumps(settings), "utf-8")
    return run("pyright", "--pythonpath", sys.executable, "--project", str(directory))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a module of this interpreter's environment."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        cwd=ROOT,
    )


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a module for each page."""
    directory = tmp_path_factory.mktemp("snippets")
    assert len(write_modules(directory)) > 20
    text = "# Page\n\n```python\nrun = await lab.runs.get(7)\nprint(run.nonsense)\n```\n"
    module = module_of(directory / "wrong.md", text)
    assert module is not None
    (directory / "wrong.py").write_text(module, "utf-8")
    return directory


@pytest.mark.parametrize("check", [mypy, pyright])
def test_every_documented_example(check: Check, modules: Path):
    """A checker refuses an example with a mistake, by its line on the page, and no other."""
    checked = check(modules)
    assert checked.returncode == 1
    [error] = re.findall(r"^.*\berror: .*$", checked.stdout, re.MULTILINE)
    assert re.search(r"wrong\.py:5:.*\bnonsense\b", error)


def test_examples_may_be_left_out(tmp_path: Path):
    """A comment leaves an example out, as it does where examples run."""
    text = "<!-- not run: why -->\n```python\n1 / 0\n```\n"
    assert module_of(tmp_path / "page.md", text) is None
