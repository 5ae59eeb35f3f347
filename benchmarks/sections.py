"""What a section of the published results is, and how long its measurements take.

Nothing is measured here; ``throughput.py`` and ``footprint.py`` hold the sections.
"""

from __future__ import annotations

import re
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
class Effort:
    """How long to measure; ``QUICK`` shows that all works, ``FULL`` is worth publishing."""

    rounds: int
    seconds: float
    """What one arm's turn in a round takes."""
    scale: int
    """What the large numbers are divided by."""
    places: Sequence[int]
    """Requests in flight, where that is what varies."""


QUICK = Effort(rounds=3, seconds=0.08, scale=20, places=(1, 40, 400))
FULL = Effort(rounds=9, seconds=0.25, scale=1, places=(1, 10, 50, 100, 200, 400))


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
