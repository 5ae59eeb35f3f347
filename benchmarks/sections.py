"""What a section of the published results is, and how it is measured.

Nothing is measured here; ``promises.py``, ``throughput.py`` and ``footprint.py`` hold the sections.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from attrs import field, frozen


@frozen
class Section:
    """One part of the results: a heading, what was done, a table, and plots by file name."""

    title: str
    text: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    plots: dict[str, str] = field(factory=dict)


@frozen
class Checkout:
    """Where another version of the package is, and which one."""

    path: Path
    version: str

    @classmethod
    def at(cls, path: Path) -> Checkout:
        """Ask the package itself, as a worker will import it."""
        code = "import modellab_async; print(modellab_async.__version__, modellab_async.__file__)"
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(path.resolve())},
        )
        version, file = done.stdout.split(maxsplit=1)
        if not Path(file.strip()).is_relative_to(path.resolve()):
            raise ValueError(f"{path} is no checkout of the package: {file.strip()} was imported")
        return cls(path.resolve(), version)

    def name(self, arm: str) -> str:
        """An arm's name in tables when it runs this version."""
        return arm.replace("modellab_async", f"modellab_async {self.version}")


@frozen
class Settings:
    """How to measure; ``QUICK`` shows that all works, ``FULL`` is worth publishing."""

    rounds: int
    seconds: float
    """What one arm's turn in a round takes."""
    scale: int
    """What the large numbers are divided by."""
    places: Sequence[int]
    """Requests in flight, where that is what varies."""
    baseline: Checkout | None = None
    """Another checkout of the package, to be measured beside this one."""


QUICK = Settings(rounds=3, seconds=0.08, scale=20, places=(1, 40, 400))
FULL = Settings(rounds=9, seconds=0.25, scale=1, places=(1, 10, 50, 100, 200, 400))


def published(page: Path, label: str) -> dict[str, str]:
    """The parts that a page of results already has, by name."""
    if not page.exists():
        return {}
    pieces = re.split(rf"<!-- {label}: (\w+) -->\n", page.read_text("utf-8"))[1:]
    return {
        name: text.strip("\n") + "\n" for name, text in zip(pieces[::2], pieces[1::2], strict=True)
    }


def publish(
    page: Path, label: str, parts: Mapping[str, str], order: Iterable[str], *opening: str
) -> None:
    """Write a page of results: its opening, then the parts there are, as `published` reads them."""
    marked = [f"<!-- {label}: {name} -->\n{parts[name]}" for name in order if name in parts]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join([*opening, *marked]), "utf-8")
