"""Raw results on disk, and how they become pages of the documentation."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MEASUREMENTS = Path("explanation/measurements")
PACKAGES = ("aiohttp", "attrs", "cattrs", "msgspec", "tenacity", "uvloop", "isal", "duckdb")


def load(file: Path) -> dict[str, Any]:
    """The results of an earlier run by section, if this environment measured them."""
    results = json.loads(file.read_text("utf-8")) if file.exists() else {}
    here = environment()
    return results if results.get("environment") == here else {"environment": here}


def save(file: Path, results: dict[str, Any]) -> None:
    """Write results with a line for each section."""
    lines = [f"{json.dumps(name)}: {json.dumps(result)}" for name, result in results.items()]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


def environment() -> str:
    """The machine and the versions, in a sentence."""
    packages = [f"{name} {found}" for name in PACKAGES if (found := _installed(name))]
    return (
        f"Measured with Python {platform.python_version()} on {platform.system()} "
        f"{platform.machine()} with {os.cpu_count()} cores; {', '.join(packages)}."
    )


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is readable as plain text too: numbers right, words left."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(cell[:1].isdigit() for cell in column[1:]) for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (width - 1) + "-:"[right] for width, right in zip(widths, numeric, strict=True)]
    return "\n".join([line(head), line(rule), *map(line, rows)])
