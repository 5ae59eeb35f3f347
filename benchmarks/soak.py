"""Measure what the client survives; write docs/explanation/measurements/soak.md.

It takes some fifteen minutes. The raw results are in benchmarks/raw/soak.json. ``--only
storm,outage`` runs these rows and keeps the others; ``--short --print`` only shows that all works.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from itertools import chain

from attrs import asdict

from benchmarks import ROOT, results
from benchmarks.endurance import FULL, ROWS, SHORT
from benchmarks.figures import Figure, figures_table

RAW = ROOT / "benchmarks/raw/soak.json"
PAGE = ROOT / "docs" / results.MEASUREMENTS / "soak.md"
INTRODUCTION = """# Measurements: the soak

`nox -s soak` measures all of this in some fifteen minutes, and writes this page.
{environment}
Client and simulator are processes on one machine, over loopback (`benchmarks/endurance.py`).
The rows from the listings on run in virtual time (`benchmarks/attacks.py`).
*Must* is the promise, *aim* the goal; the verdict says which of them is reached.

Requests that the server never saw were written to a connection as the server closed it.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help=f"rows, comma-separated, of {', '.join(ROWS)}")
    parser.add_argument("--short", action="store_true", help="small, and not worth publishing")
    parser.add_argument("--print", action="store_true", help="print, and write nothing")
    chosen = parser.parse_args()
    names = list(ROWS) if chosen.only is None else [*filter(None, chosen.only.split(","))]
    if unknown := set(names) - set(ROWS):
        parser.error(f"no such row: {', '.join(unknown)}")
    raw = {} if chosen.print else results.load(RAW)
    for name in names:
        started = time.perf_counter()
        raw[name] = list(map(asdict, asyncio.run(ROWS[name](SHORT if chosen.short else FULL))))
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
        if not chosen.print:
            results.save(RAW, raw)
    figures = [Figure(**one) for one in chain(*(raw[name] for name in ROWS if name in raw))]
    print(text := figures_table(figures))
    if not chosen.print:
        environment = raw["environment"]
        PAGE.write_text(f"{INTRODUCTION.format(environment=environment)}{text}\n", "utf-8")
    raise SystemExit(not all(figure.holds for figure in figures))


if __name__ == "__main__":
    main()
