"""Measure this client against its peers, by size, concurrency, latency, quota and memory.

``python -m pip install -e '.[speed]' --group bench`` installs what is needed, and then:

``python -m benchmarks.bench``
    measures everything in some fifteen minutes and writes the published results into ``docs/``.
``python -m benchmarks.bench --only table,wire``
    measures these sections, and leaves the others of the published results as they are.
``python -m benchmarks.bench --only table --print``
    measures the promised figures in three minutes and only prints them;
    with ``--quick`` in one minute, and less exactly.
``python -m benchmarks.bench --baseline PATH``
    measures another checkout of the package beside this one, such as the last release's, made by
    ``git worktree add PATH TAG``. It runs in a process of its own and takes turns with the others.

Trust a ratio that was measured while the machine had nothing else to do; by CPU time it is the most
robust. A machine of two cores has one for the client and one for the server.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import footprint
import promises
import throughput
from attrs import evolve
from harness import table
from sections import FULL, QUICK, Checkout, Section, Settings, publish, published

SECTIONS: dict[str, Callable[[Settings], Section]] = {
    section.__name__: section
    for section in (
        promises.table,
        throughput.single,
        throughput.batch,
        throughput.concurrency,
        throughput.places,
        throughput.wire,
        throughput.speed,
        throughput.quota,
        footprint.decode,
        footprint.hold,
        footprint.stream,
        footprint.keep,
        footprint.pauses,
        footprint.imports,
    )
}

DOCS = Path(__file__).parent.parent / "docs"
PAGE = Path("explanation/measurements/speed.md")
IMAGES = Path("_static")
PACKAGES = (
    "aiohttp",
    "attrs",
    "cattrs",
    "msgspec",
    "tenacity",
    "uvloop",
    "isal",
    "datadog-api-client",
    "aiosonic",
)
INTRODUCTION = """# Measurements: speed and memory

`python -m benchmarks.bench` writes this page.
Client and server are two processes of one machine, over loopback;
the server answers with prebuilt bytes and is never the bottleneck.

Trust the ratios, not the times.
*CPU gain* and *wall gain* say how many times better a client is than the first of its table,
as the median of the ratios within each round, since all clients take turns;
*±* is half the distance between the quartiles of the CPU gains.
The control is the hand-written loop measured against itself.
The hand-written loop is aiohttp and `json.loads` with one worker per request in flight:
it checks no field, builds no model and gives up on the first failure other than a 429.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, comma-separated")
    parser.add_argument("--quick", action="store_true", help="short, and not worth publishing")
    parser.add_argument("--print", action="store_true", help="print, and write nothing")
    parser.add_argument("--baseline", type=Path, help="another checkout of the package")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder to write into")
    chosen = parser.parse_args()
    names = chosen.only.split(",")
    if unknown := set(names) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    settings = QUICK if chosen.quick else FULL
    if chosen.baseline:
        settings = evolve(settings, baseline=Checkout.at(chosen.baseline))

    page = chosen.docs / PAGE
    parts = published(page, "section")
    for name in names:
        started = time.perf_counter()
        section = SECTIONS[name](settings)
        parts[name] = markdown(section)
        print(f"{parts[name]}\n({time.perf_counter() - started:.0f} s)\n", flush=True)
        if not chosen.print:
            for plot, svg in section.plots.items():
                image = chosen.docs / IMAGES / f"performance-{plot}.svg"
                image.parent.mkdir(parents=True, exist_ok=True)
                image.write_text(svg)
    if not chosen.print:
        publish(page, "section", parts, SECTIONS, INTRODUCTION, environment())


def markdown(section: Section) -> str:
    """A section as a part of the page of results."""
    lines = [f"## {section.title}\n", *section.text.replace(". ", ".\n").splitlines(), ""]
    for name, svg in section.plots.items():
        title = svg.partition("<title>")[2].partition("</title>")[0]
        lines.append(f"![{title}](../../_static/performance-{name}.svg)\n")
    return "\n".join([*lines, table(section.head, section.rows), ""])


def environment() -> str:
    """The machine and the versions, in a sentence."""
    versions = [f"{name} {version(name)}" for name in PACKAGES if installed(name)]
    return (
        f"Measured with Python {platform.python_version()} on {platform.system()} "
        f"{platform.machine()} with {os.cpu_count()} cores;\n{', '.join(versions)}.\n"
    )


def installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main()
