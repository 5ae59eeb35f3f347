"""What keeps the project consistent: docstrings, and what two of its files both name."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
WORKFLOW = (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
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


def requirements(*, extras: bool = True) -> set[str]:
    """Every requirement of the package and of its checks, as pyproject.toml has it."""
    groups = PYPROJECT["dependency-groups"].values()
    listed = [one for group in groups for one in group if isinstance(one, str)]
    listed += PYPROJECT["project"]["dependencies"]
    if extras:
        for extra in PYPROJECT["project"]["optional-dependencies"].values():
            listed += extra
    return {one for one in listed if not one.startswith("modellab_async")}


def normalized(requirement: str) -> str:
    """The distribution's name, as constraints have it."""
    [name] = re.findall(r"^[\w.-]+", requirement)
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(file: str) -> dict[str, set[str]]:
    """The versions of each distribution in a file of constraints; several with markers."""
    pins: dict[str, set[str]] = {}
    for line in (ROOT / file).read_text("utf-8").splitlines():
        if not line.startswith("#"):
            name, version = line.partition(" ;")[0].split("==")
            pins.setdefault(name, set()).add(version)
    return pins


def test_the_workflow_runs_what_nox_runs():
    """Continuous integration has a job for each session of the default run, and the long ones."""
    noxfile = (ROOT / "noxfile.py").read_text("utf-8")
    listed = re.search(r"nox\.options\.sessions = (\[.*?\])", noxfile, flags=re.DOTALL)
    jobs = set(re.findall(r"session: ([\w.-]+)", WORKFLOW))
    assert listed is not None
    assert jobs == {*ast.literal_eval(listed[1]), "lowest", "coverage"}


def test_the_workflow_tests_every_python_and_system_that_is_claimed():
    """The suite runs on each Python of the classifiers, and on three systems."""
    classifiers = "\n".join(PYPROJECT["project"]["classifiers"])
    tested = re.findall(r'session: tests, python: "([\d.]+)"(?:, os: (\w+))?', WORKFLOW)
    assert {python for python, _ in tested} == set(re.findall(r":: (3\.\d+)", classifiers))
    assert "OS Independent" in classifiers
    assert {system for _, system in tested} == {"", "macos", "windows"}


def test_everything_that_checks_is_pinned():
    """The constraints have a version of all that a session installs, and name no index or host."""
    pins = pinned("constraints.txt")
    assert {normalized(one) for one in requirements()} <= pins.keys()
    for file in ("constraints.txt", "constraints-lowest.txt"):
        assert re.findall(r"--|://", (ROOT / file).read_text("utf-8")) == []


def test_lower_bounds_are_the_versions_that_are_tried():
    """What the session `lowest` installs is the lower bound of each dependency and extra."""
    bounds = {
        normalized(one): one.partition(">=")[2].partition(";")[0].strip()
        for one in requirements() - requirements(extras=False)
    }
    bounds |= {
        normalized(one): one.partition(">=")[2] for one in PYPROJECT["project"]["dependencies"]
    }
    pins = pinned("constraints-lowest.txt")
    assert all(bounds.values())
    for name, bound in bounds.items():
        assert [release(version) for version in pins[name]] == [release(bound)], name


def release(version: str) -> list[int]:
    """The numbers of a version without zeros at its end: 3.1.0 is 3.1."""
    numbers = [int(number) for number in version.split(".")]
    while numbers[-1] == 0:
        numbers.pop()
    return numbers


def test_the_extra_all_installs_every_other():
    """It requires what the other extras do; a requirement may have a marker of its own."""
    extras = PYPROJECT["project"]["optional-dependencies"]

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
    """The pre-commit hooks have the versions of the constraints."""
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    pins = pinned("constraints.txt")
    used = set(re.findall(r"additional_dependencies: \[(\S+)\]", hooks))
    linters = {normalized(one) for one in PYPROJECT["dependency-groups"]["lint"]}
    assert used == {f"{name}=={version}" for name in linters for version in pins[name]}


def test_actions_are_pinned():
    """Every action of a workflow is named by a commit, with its version as a comment."""
    uses = [
        line.partition("uses: ")[2]
        for file in (ROOT / ".github/workflows").glob("*.yml")
        for line in file.read_text("utf-8").splitlines()
        if "uses: " in line
    ]
    assert [one for one in uses if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", one)] == []
