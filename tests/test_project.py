"""What keeps the project consistent: docstrings, and versions and sessions that two files name."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted([*(ROOT / "modellab_async").rglob("*.py"), *ROOT.glob("_modellab_async_*.py")])


def documented(node: ast.AST, *, prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """Each public class and function that is not within a function, and its docstring."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if child.name.startswith("_"):
                continue
            yield prefix + child.name, ast.get_docstring(child)
            if isinstance(child, ast.ClassDef):
                yield from documented(child, prefix=f"{child.name}.")
        elif not isinstance(child, ast.expr):
            yield from documented(child, prefix=prefix)


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_public_name_has_a_docstring(file: Path):
    """A module, and each class, function and method of it that is public, says what it is."""
    tree = ast.parse(file.read_text("utf-8"))
    assert ast.get_docstring(tree)
    assert [name for name, said in documented(tree) if not said] == []


@pytest.mark.parametrize("file", sorted((ROOT / "tests").glob("*.py")), ids=lambda file: file.name)
def test_every_test_says_what_it_expects(file: Path):
    """A test begins with a sentence that states the behaviour it expects."""
    tree = ast.parse(file.read_text("utf-8"))
    said = {
        name: (docstring or "").partition("\n\n")[0].strip()
        for name, docstring in documented(tree)
        if name.rpartition(".")[2].startswith("test")
    }
    assert [name for name, first in said.items() if not first.endswith((".", ":"))] == []


def test_the_workflow_runs_what_nox_runs():
    """Continuous integration has a job for each session of the default run, and the long ones."""
    noxfile = (ROOT / "noxfile.py").read_text("utf-8")
    listed = re.search(r"nox\.options\.sessions = (\[.*?\])", noxfile, flags=re.DOTALL)
    workflow = (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
    jobs = {name.partition("-")[0] for name in re.findall(r"session: ([\w.-]+)", workflow)}
    assert listed is not None
    sessions = {name.partition("-")[0] for name in ast.literal_eval(listed[1])}
    assert jobs == sessions | {"lowest", "coverage"}


def test_the_extra_all_installs_every_other():
    """It requires what the other extras do; a requirement may have a marker of its own."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]

    def required(extra: str) -> Iterator[str]:
        for requirement in extras[extra]:
            own = re.fullmatch(r"modellab_async\[([\w,]+)\]", requirement)
            if own:
                for other in own[1].split(","):
                    yield from required(other)
            else:
                yield requirement.partition(";")[0]

    assert set(required("all")) == {
        requirement for extra in extras if extra != "all" for requirement in required(extra)
    }


def test_hooks_run_the_linters_of_the_lint_session():
    """The pre-commit hooks pin the versions that pyproject.toml pins."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    pinned = set(re.findall(r"additional_dependencies: \[(\S+)\]", hooks))
    assert pinned == set(pyproject["dependency-groups"]["lint"])
