"""The house as docs/explanation/architecture.md draws it."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "modellab_async"
MODULES = sorted([*PACKAGE.rglob("*.py"), *ROOT.glob("_modellab_async_*.py")])


def drawn_rooms() -> list[str]:
    """The rooms of the table, from facts to edges."""
    page = (ROOT / "docs/explanation/architecture.md").read_text("utf-8")
    rows = re.findall(r"^\|[^|]*\|([^|]*)\|", page, flags=re.MULTILINE)
    return [
        room.removesuffix(".py").removesuffix("/")
        for row in rows
        for room in re.findall(r"`([\w./]+)`", row)
    ]


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def runtime_imports(tree: ast.AST) -> Iterator[str]:
    """Modules that are imported when a file runs; those for type checkers only are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from runtime_imports(node)


def edges() -> Iterator[tuple[str, str]]:
    """Which room imports which."""
    rooms = {room_of(file) for file in PACKAGE.rglob("*.py")}
    for file in PACKAGE.rglob("*.py"):
        for module in runtime_imports(ast.parse(file.read_text("utf-8"))):
            parts = module.split(".")
            if parts[0] == "modellab_async" and len(parts) > 1 and parts[1] in rooms:
                yield room_of(file), parts[1]


def test_every_room_is_drawn_and_every_drawn_room_exists():
    """The table of the architecture page lists the rooms there are."""
    rooms = {room_of(file) for file in PACKAGE.rglob("*.py")} - {"__init__"}
    assert rooms == set(drawn_rooms())


def test_the_package_says_how_it_is_laid_out():
    """The comment at the top of the package names the same rooms as the table."""
    comment = re.findall(
        r"^#   (\w+(?:, \w+)*)  ", (PACKAGE / "__init__.py").read_text("utf-8"), re.MULTILINE
    )
    named = {room for line in comment for room in line.split(", ")}
    assert named == {room for room in drawn_rooms() if not room.startswith("_")}


def test_rooms_import_only_rooms_above_them():
    """No import points down the table, so there is no circle."""
    order = {room: number for number, room in enumerate(drawn_rooms())}
    inward = [
        (room, imported)
        for room, imported in edges()
        if room not in {"__init__", imported} and order[imported] >= order[room]
    ]
    assert inward == []


def test_the_simulator_is_an_independent_witness():
    """It imports nothing of the other rooms."""
    assert {imported for room, imported in edges() if room == "simulator"} <= {"simulator"}


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
    assert jobs == sessions | {"lowest"}


def test_hooks_run_the_linters_of_the_lint_session():
    """The pre-commit hooks pin the versions that pyproject.toml pins."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    pinned = set(re.findall(r"additional_dependencies: \[(\S+)\]", hooks))
    assert pinned == set(pyproject["dependency-groups"]["lint"])
