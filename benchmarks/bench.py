"""The whole suite: this client against its peers by size, concurrency, latency, quota and memory.

``python -m benchmarks.bench`` takes some ten minutes and writes the published results into
``docs/``. ``--quick`` only shows that all works; ``--only single,batch`` measures those sections
and leaves the others of the published results as they are.
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
import throughput
from harness import table
from sections import FULL, QUICK, Effort, Section, publish, published

SECTIONS: dict[str, Callable[[Effort], Section]] = {
    section.__name__: section
    for section in (
        throughput.single,
        throughput.batch,
        throughput.concurrency,
        throughput.places,
        throughput.gzip,
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
PAGE = Path("explanation/performance-results.md")
IMAGES = Path("_static")
PACKAGES = (
    "aiohttp",
    "attrs",
    "cattrs",
    "msgspec",
    "tenacity",
    "uvloop",
    "datadog-api-client",
    "aiosonic",
)
INTRODUCTION = """# Performance: the measured results

`python -m benchmarks.bench` writes this page.
Client and server are two processes of one machine, over loopback;
the server answers with prebuilt bytes and is never the bottleneck.

Trust the ratios, not the times.
*CPU gain* and *wall gain* say how many times better a client is than the first of its table,
as the median of the ratios within each round, since all clients take turns in one process;
*±* is half the distance between the quartiles of the CPU gains.
The control is the hand-written loop measured against itself.
The hand-written loop is aiohttp and `json.loads` with one worker per request in flight:
it checks no field, builds no model and gives up on the first failure other than a 429.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, comma-separated")
    parser.add_argument("--quick", action="store_true", help="short, and not worth publishing")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder to write into")
    chosen = parser.parse_args()
    names = chosen.only.split(",")
    if unknown := set(names) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")

    parts = published(chosen.docs / PAGE, "section")
    for name in names:
        started = time.perf_counter()
        section = SECTIONS[name](QUICK if chosen.quick else FULL)
        parts[name] = write(section, chosen.docs)
        print(f"{parts[name]}\n({time.perf_counter() - started:.0f} s)\n", flush=True)
    publish(chosen.docs / PAGE, "section", parts, SECTIONS, INTRODUCTION, environment())


def write(section: Section, docs: Path) -> str:
    """Write a section's plots; gives its Markdown."""
    lines = [f"## {section.title}\n", *section.text.replace(". ", ".\n").splitlines(), ""]
    folder = docs / IMAGES
    folder.mkdir(parents=True, exist_ok=True)
    for name, plot in section.plots.items():
        file = folder / f"performance-{name}.svg"
        file.write_text(plot)
        title = plot.partition("<title>")[2].partition("</title>")[0]
        lines.append(f"![{title}]({Path(os.path.relpath(file, docs / PAGE.parent)).as_posix()})\n")
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
