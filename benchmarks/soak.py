"""The whole soak: every row at full size, into docs/explanation/measurements/soak.md.

``python -m benchmarks.soak`` takes some fifteen minutes. ``--short`` only shows that all works;
``--only storm,processes`` runs those rows and leaves the others of the published page as they are.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

from bench import environment
from endurance import FULL, ROWS, SHORT
from figures import Figure
from harness import table
from sections import publish, published

PAGE = Path(__file__).parent.parent / "docs/explanation/measurements/soak.md"
INTRODUCTION = """# Measurements: the soak

`nox -s soak` writes this page: `benchmarks/endurance.py` holds the rows, all seeded.
Client and simulator are processes of one machine, over loopback;
`benchmarks/attacks.py` holds those that run on a clock that never waits.
*Must* is what the project promises, *aim* what it strives for; a verdict says which of them holds.

Requests that the server never saw were written to a kept-alive connection
at the moment in which the server closed it:
the client counts what it sends, and cannot know that nobody read it.
A machine that has other work shows in the times: a ratio below 1 is its noise, not a gain.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(ROWS), help="rows, comma-separated")
    parser.add_argument("--short", action="store_true", help="small, and not worth publishing")
    parser.add_argument("--page", type=Path, default=PAGE, help="the file to write")
    chosen = parser.parse_args()
    names = chosen.only.split(",")
    if unknown := set(names) - set(ROWS):
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    parts = published(chosen.page, "rows")
    missed = False
    for name in names:
        started = time.perf_counter()
        figures = asyncio.run(ROWS[name](SHORT if chosen.short else FULL))
        missed |= not all(figure.holds for figure in figures)
        parts[name] = shown(figures)
        print(f"{parts[name]}({time.perf_counter() - started:.0f} s)\n", flush=True)
        publish(chosen.page, "rows", parts, ROWS, INTRODUCTION, environment())
    raise SystemExit(1 if missed else 0)


def shown(figures: list[Figure]) -> str:
    """Figures as Markdown: a heading and a table for each row."""
    lines = []
    for row in dict.fromkeys(figure.row for figure in figures):
        own = [figure for figure in figures if figure.row == row]
        cells = [
            [
                figure.what,
                number(figure.measured, figure.unit),
                bound(figure, figure.must),
                bound(figure, figure.aim),
                "" if figure.must is figure.aim is None else figure.verdict,
            ]
            for figure in own
        ]
        head = ["figure", "measured", "must", "aim", "verdict"]
        lines.append(f"## {row[0].upper()}{row[1:]}\n\n{table(head, cells)}\n")
    return "\n".join(lines)


def bound(figure: Figure, value: float | None) -> str:
    if value is None:
        return ""
    sign = "" if value == 0 else "≥ " if figure.at_least else "≤ "
    return sign + number(value, figure.unit)


def number(value: float, unit: str) -> str:
    whole = value >= 1000 or value == round(value)
    digits = f"{value:,.0f}" if whole else f"{value:.6g}" if unit == "%" else f"{value:.3g}"
    return f"{digits} {unit}".strip()


if __name__ == "__main__":
    main()
