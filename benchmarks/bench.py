"""Measure this client against its peers; write docs/explanation/measurements/speed.md.

``python -m pip install -e '.[speed]' --group bench`` installs what is needed. The raw results are
in benchmarks/raw/speed.json; the page and its plots are generated from them. ``--only
speed,kept`` measures these sections and keeps the others. ``--quick --print`` shows in two minutes
that all works. ``--only ''`` writes the page again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import ROOT, plots, results
from benchmarks.arms import BATCH, DICTS, LOOP, MODELS, OFFICIAL, OFFICIAL_PAGES, SINGLE
from benchmarks.figures import figures_table
from benchmarks.harness import FULL, QUICK, cpu, gain, spread, wall
from benchmarks.measures import MEASURES
from benchmarks.payload import SHAPES, TAGS_PER_PARAM
from benchmarks.promises import promises

RAW = ROOT / "benchmarks/raw/speed.json"
INTRODUCTION = """# Measurements: speed and memory

`nox -s bench` measures all of this in some ten minutes, and writes this page.
{environment}
[Performance](../performance.md) says what is compared and how.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help=f"sections, comma-separated, of {', '.join(MEASURES)}")
    parser.add_argument("--quick", action="store_true", help="short, and not worth publishing")
    parser.add_argument("--print", action="store_true", help="print, and write nothing")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="the folder to write into")
    chosen = parser.parse_args()
    names = list(MEASURES) if chosen.only is None else [*filter(None, chosen.only.split(","))]
    if unknown := set(names) - set(MEASURES):
        parser.error(f"no such section: {', '.join(unknown)}")
    raw = {} if chosen.print else results.load(RAW)
    for name in names:
        started = time.perf_counter()
        raw[name] = MEASURES[name](QUICK if chosen.quick else FULL)
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
        if not chosen.print:
            results.save(RAW, raw)
    print(text := page(raw))
    if not chosen.print:
        (chosen.docs / results.MEASUREMENTS / "speed.md").write_text(text, "utf-8")
        draw(raw, chosen.docs / "_static")


def page(raw: Mapping[str, Any]) -> str:
    """The page of the sections that were measured."""
    environment = raw.get("environment", results.environment())
    parts = [INTRODUCTION.format(environment=environment), promised(raw)]
    parts += [TABLES[name](raw[name]) for name in TABLES if name in raw]
    return "\n".join(parts)


def promised(raw: Mapping[str, Any]) -> str:
    figures = list(promises(raw))
    missed = sum(not figure.holds for figure in figures)
    return f"""## What is promised

*Must* is the promise, *aim* the goal; the verdict says which of them is reached.
Speeds are ratios of CPU time for runs whose params all differ, each dropped when it was seen.
**{missed} of {len(figures)} are missed.**

{figures_table(figures)}
"""


def speed(races: Any) -> str:
    rows = [
        [size, name, f"{cpu(samples, name):,.1f}", *_against(samples, name)]
        for size in SHAPES
        for samples in [races[size]["100"]]
        for name in samples
    ]
    others = [f"against {arm.name}" for arm in (LOOP, MODELS)]
    shares = [
        [size, f"{share} %", *(_times(samples, BATCH.name, arm.name) for arm in (MODELS, DICTS))]
        for size in SHAPES
        for share in TAGS_PER_PARAM
        for samples in [races[size][str(share)]]
    ]
    return f"""## CPU time of a run

Ten requests in flight, over loopback, each run dropped when it was seen.
± is half the distance between the quartiles of the ratios to the loop of models.

![Speed against hand-written loops, by the size of a run](../../_static/performance-speed.svg)

{results.table(["KB", "client", "µs", *others, "±"], rows)}

The batch route against the page loops, by the share of params that differ from run to run.
In recorded responses it was 74 %.

{results.table(["KB", "differing", "against models", "against dicts"], shares)}
"""


def _against(samples: Any, name: str) -> list[str]:
    ratios = [_times(samples, name, other.name) for other in (LOOP, MODELS)]
    return [*ratios, f"{spread(samples, name, MODELS.name):.0%}".replace("%", " %")]


def _times(samples: Any, name: str, other: str) -> str:
    return f"{gain(samples, name, other):.2f}x"


def kept(kept: Any) -> str:
    rows = []
    for name, samples in kept["samples"].items():
        microseconds, peak, pause = map(median, zip(*samples, strict=True))
        rows.append([name, f"{microseconds:,.0f}", f"{peak:,.0f}", f"{pause:,.0f}"])
    return f"""## Keeping runs

{kept["runs"]:,} runs of 8.9 KB, all kept, each time in a new process.

{results.table(["client", "µs", "peak over idle, MB", "longest collection, ms"], rows)}
"""


def wire(races: Any) -> str:
    rows = []
    for size, samples in races.items():
        for arm in (LOOP, MODELS, SINGLE, BATCH):
            fast = f"{arm.name}, speed.run"
            times = [f"{cpu(samples, name):,.1f}" for name in (arm.name, fast)]
            rows.append([size, arm.name, *times, _times(samples, fast, arm.name)])
    return f"""## TLS and gzip

CPU time of a run over TLS with compressed bodies, with `asyncio.run` and with `speed.run`.

{results.table(["KB", "client", "asyncio.run, µs", "speed.run, µs", "gain"], rows)}
"""


def latency(races: Any) -> str:
    names = list(next(iter(races.values())))
    rows = [
        [count, *(f"{1e6 / wall(samples, name):,.0f}" for name in names)]
        for count, samples in races.items()
    ]
    return f"""## Latency

Runs of 2.2 KB per second at 50 ms of latency, by requests in flight.
Datadog's client has at most 30 in flight.

![Runs per second by requests in flight](../../_static/performance-latency.svg)

{results.table(["in flight", *names], rows)}
"""


TABLES = {"speed": speed, "kept": kept, "wire": wire, "latency": latency}


def draw(raw: Mapping[str, Any], folder: Path) -> None:
    """The plots of the sections that were measured."""
    if races := raw.get("speed"):
        panels = {
            "one run a request, against the loop": (LOOP, (SINGLE, OFFICIAL)),
            "100 runs a request, against the loop of models": (
                MODELS,
                (DICTS, BATCH, OFFICIAL_PAGES),
            ),
        }
        bars = {
            title: {
                arm.name: [gain(races[size]["100"], arm.name, other.name) for size in SHAPES]
                for arm in arms
            }
            for title, (other, arms) in panels.items()
        }
        plots.speeds(folder / "performance-speed.svg", list(SHAPES), bars)
    if races := raw.get("latency"):
        names, counts = next(iter(races.values())), [int(count) for count in races]
        points = {
            name: (counts, [1e6 / wall(samples, name) for samples in races.values()])
            for name in names
        }
        plots.rates(folder / "performance-latency.svg", points)


if __name__ == "__main__":
    main()
