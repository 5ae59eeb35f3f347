"""A module imports only modules of its own layer or below, so that it can be read without the rest.

``docs/explanation/architecture.md`` says what each module holds.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "modellab_async"

LAYERS = {
    "basics": "_version clock collector display idset notebook pydantic_schema ratelimit stats",
    "models": "models errors closing extras",
    "pure": "comparison config converter endpoints frames localpaths parsing responses run_list",
    "one request": "hooks limiter retry transport",
    "many requests": "bulk downloads pagination waiting",
    "client": "resources client",
    "on the client": "export otel raydata speed store",
    "command line": "cli __main__",
}
"""Each module and subpackage, from the lowest layer up. The simulator stands apart."""

LEVELS = {module: level for level, layer in enumerate(LAYERS.values()) for module in layer.split()}
THE_CLIENT = LEVELS["client"]  # `from modellab_async import X` needs all up to here

FILES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(PACKAGE.rglob("*.py"))
}


@functools.cache
def imports(file: Path) -> tuple[str, ...]:
    """The modules of the package that a file imports anywhere, also for type checkers only."""
    return tuple(_imports(ast.parse(file.read_text("utf-8"))))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.partition(".")[0] == PACKAGE.name:
                yield name if name in FILES else name.rpartition(".")[0]


def part_of(module: str) -> str:
    """The module or subpackage directly below the package; empty for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def test_every_module_is_in_one_layer():
    """A new module is entered above, one that is gone is taken out."""
    assert {part_of(module) for module in FILES} == {*LEVELS, "simulator", ""}


def test_modules_import_only_their_own_layer_or_below():
    """What is imported within functions or for type checkers only counts as well."""
    upward = [
        f"{module} imports {imported}"
        for module, file in FILES.items()
        for imported in imports(file)
        if part_of(module) in LEVELS and part_of(imported) != "simulator"
        if LEVELS.get(part_of(imported), THE_CLIENT) > LEVELS[part_of(module)]
    ]
    assert upward == []


def test_only_the_command_line_uses_the_simulator():
    """It serves ``modellab demo`` and ``modellab simulate``; the client does without it."""
    users = {
        part_of(module)
        for module, file in FILES.items()
        if "simulator" in map(part_of, imports(file))
    }
    assert users == {"cli", "simulator"}


def test_the_simulator_imports_nothing_of_the_client():
    """An independent implementation of the API shares no code with what it tests."""
    used = {
        imported
        for module, file in FILES.items()
        if part_of(module) == "simulator"
        for imported in imports(file)
    }
    assert {part_of(module) for module in used} == {"simulator"}


def test_no_modules_import_each_other():
    """There is an order to read the modules in (graphlib raises CycleError if there is none)."""
    graph = {module: set(imports(file)) - {module} for module, file in FILES.items()}
    assert len(tuple(TopologicalSorter(graph).static_order())) == len(FILES)
