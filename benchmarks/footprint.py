"""What the client costs besides time on the wire: decoding, memory, collector pauses, its import.

Each function measures one section of the results; ``bench.py --only`` runs it by its name.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import cycle, islice, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import harness
import plots
from arms import BATCH, HAND, OFFICIAL, SINGLE, Arm
from payload import SHAPES, Catalogue
from sections import Section, Settings
from server import Server, running_server
from worker import FIRST_ID, Report, Sample, measure, running_worker

from modellab_async import Run, Tag, from_json, make_converter

PAUSED = f"{BATCH.name}, in large_results()"

IMPORTS = {
    "aiohttp, attrs, cattrs, tenacity": "import aiohttp, attrs, cattrs, tenacity",
    "the same again (control)": "import aiohttp, attrs, cattrs, tenacity",
    "… and msgspec": "import aiohttp, attrs, cattrs, tenacity, msgspec",
    "modellab_async": "import modellab_async",
    "datadog-api-client[async]": (
        "import datadog_api_client, aiosonic; from datadog_api_client.v2.api import "
        "model_lab_api_api; from datadog_api_client.v2.model import model_lab_run_response"
    ),
}
TIMED = "import time; wall, cpu = time.perf_counter(), time.process_time(); {}; \
print(time.perf_counter() - wall, time.process_time() - cpu)"


def decode(settings: Settings) -> Section:
    """From bytes to models, without any network."""
    rows, times = [], defaultdict[str, list[float]](list)
    for size in SHAPES:
        for result in _decode(size, settings):
            rows.append([size, result.name, f"{result.cpu * 1e6:.1f}", f"{result.cpu_gain:.2f}"])
            times[result.name].append(result.cpu * 1e6)
    plot = plots.bars(
        "Decoding a run, without any network",
        [f"{size} KB" for size in SHAPES],
        {name: own for name, own in times.items() if not name.startswith("datadog")},
        y_label="µs of CPU time per run",
        x_label="size of a run",
    )
    return Section(
        "Decoding",
        "From the bytes of a run: to plain dicts by `json.loads`, and to models by the others.",
        ["KB", "decoder", "CPU µs/run", "CPU gain"],
        rows,
        {"decode": plot},
    )


def _decode(size: str, settings: Settings) -> list[harness.Result]:
    import official  # noqa: PLC0415 - weighs on whatever else this process measures

    hooked = make_converter()
    hooked.register_structure_hook(Tag, lambda pair, _: Tag(pair["key"], pair["value"]))
    # So many that a client cannot have seen the values of the one it decodes: they differ in part.
    catalogue, ids = Catalogue(size), range(FIRST_ID, FIRST_ID + 5_000)
    resources = [catalogue.run(b"%d" % run_id) for run_id in ids]

    def decoding(read: Callable[[bytes], Any]) -> harness.Measure:
        endless = cycle(resources)

        async def fetch(ids: Sequence[int]) -> None:
            for resource in islice(endless, len(ids)):
                read(resource)

        return lambda runs: asyncio.run(measure(fetch, runs))

    decoders = {
        "json.loads": decoding(json.loads),
        "modellab_async": decoding(lambda resource: from_json(resource, Run)),
        "modellab_async, a hook of the user's": decoding(
            lambda resource: from_json(resource, Run, converter=hooked)
        ),
        OFFICIAL.name: decoding(lambda resource: official.deserialize(b'{"data":%b}' % resource)),
    }
    return harness.compare(decoders, dict.fromkeys(decoders, 100), settings)


def hold(settings: Settings) -> Section:
    """For how long a page of 100 runs keeps the event loop's other tasks waiting."""
    rows = []
    for size in SHAPES:
        with running_server(size=size) as server:
            longest = asyncio.run(_longest_holds(server.url, settings.rounds * 3))
        rows.append([size, f"{median(longest) * 1e3:.1f}", f"{max(longest) * 1e3:.1f}"])
    return Section(
        "How long a page holds the event loop",
        "The longest time between two turns of another task while a page of 100 runs is fetched, "
        "as the median and the worst of many pages. It is CPU time, since other processes hold "
        "nothing.",
        ["KB", "median ms", "worst ms"],
        rows,
    )


async def _longest_holds(url: str, pages: int) -> list[float]:
    turns: list[float] = []

    async def take_turns() -> None:
        while True:
            turns.append(time.thread_time())
            await asyncio.sleep(0)

    holds = []
    async with BATCH.open(url, 1) as fetch:
        await fetch(range(FIRST_ID - BATCH.page, FIRST_ID))
        other = asyncio.create_task(take_turns())
        for page in range(pages):
            turns.clear()
            first = FIRST_ID + BATCH.page * page
            await fetch(range(first, first + BATCH.page))
            turns.append(time.thread_time())
            holds.append(max(after - before for before, after in pairwise(turns)))
        other.cancel()
    return holds


def stream(settings: Settings) -> Section:
    """Peak memory of streaming ids, above the idle client."""
    rows = []
    with running_server(size="1.1") as server:
        for arm, runs, places in (
            (BATCH, 1_000_000, 10),
            (SINGLE, 100_000, 32),
            (HAND, 100_000, 32),
        ):
            count = runs // settings.scale
            for name, package in checkouts(arm, settings):
                with running_worker(server, places, package=package) as worker:
                    report = worker.weigh(arm, count)
                rows.append(
                    [
                        name,
                        f"{count:,}",
                        f"{report.peak_bytes / 1e6:.1f}",
                        f"{report.seconds:.1f}",
                        f"{count / report.seconds:,.0f}",
                    ]
                )
    return Section(
        "Streaming",
        "Runs of 1.1 KB, each dropped when its outcome has been seen; "
        "the peak is what the process grew by above the same client opened and idle.",
        ["client", "runs", "peak MB", "s", "runs/s"],
        rows,
    )


def checkouts(arm: Arm, settings: Settings) -> list[tuple[str, Path | None]]:
    """What an arm is to be measured with: its name in tables, and whose code it runs."""
    named: list[tuple[str, Path | None]] = [(arm.name, None)]
    if arm.ours and (baseline := settings.baseline):
        named.append((baseline.name(arm.name), baseline.path))
    return named


def keep(settings: Settings) -> Section:
    """10,000 production-size runs kept: memory, speed and what the collector does."""
    runs = 10_000 // settings.scale
    arms = [
        (HAND.name, HAND, runs, {}),
        *((name, BATCH, runs, {"package": path}) for name, path in checkouts(BATCH, settings)),
        (OFFICIAL.name, OFFICIAL, runs // 10, {}),
        (PAUSED, BATCH, runs, {"paused": True}),
    ]
    rows, sizes = [], defaultdict[str, list[float]](list)
    with running_server() as server:
        for distinct in (False, True):
            server.configure(distinct=distinct)
            reports = defaultdict[str, list[Report]](list)
            for _ in range(3 if settings.scale == 1 else 1):
                for name, arm, count, options in arms:
                    reports[name].append(_kept(server, arm, count, **options))
            for name, _, count, _ in arms:
                own = sorted(reports[name], key=lambda report: report.seconds)
                report = own[len(own) // 2]
                size = report.peak_bytes / count / 1e3
                sizes[name].append(size)
                rows.append(
                    [
                        "all distinct" if distinct else "as in a project",
                        name,
                        f"{count:,}",
                        f"{size:.1f}",
                        f"{report.tracked / count:.0f}",
                        f"{count / report.seconds:,.0f}",
                        f"{report.collecting / report.seconds:.0%}",
                        f"{max((took for _, took in report.pauses), default=0) * 1e3:,.0f}",
                    ]
                )
    plot = plots.bars(
        "Memory of a run of 8.9 KB that is kept",
        ["values as in a project", "all values distinct"],
        sizes,
        y_label="KB per run (peak above idle)",
        x_label="what the runs hold",
    )
    return Section(
        "Keeping runs",
        "Runs of 8.9 KB, all kept, 10 requests in flight; each client in a separate process.",
        [
            "values",
            "client",
            "runs",
            "KB/run",
            "tracked objects/run",
            "runs/s",
            "collecting",
            "longest pause ms",
        ],
        rows,
        {"keep": plot},
    )


def _kept(
    server: Server, arm: Arm, runs: int, *, package: Path | None = None, paused: bool = False
) -> Report:
    """Keep so many runs in a process of its own."""
    with running_worker(server, package=package) as worker:
        return worker.weigh(arm, runs, keep=True, paused=paused)


def pauses(settings: Settings) -> Section:
    """How long the collector stops everything, by how many runs are kept."""
    arms = [
        (HAND.name, HAND, 20_000, False),
        (BATCH.name, BATCH, 50_000, False),
        (PAUSED, BATCH, 50_000, True),
    ]
    rows, lines = [], {}
    with running_server() as server:
        for name, arm, runs, paused in arms:
            count = runs // settings.scale
            report = _kept(server, arm, count, paused=paused)
            points = [(kept, took * 1e3) for kept, took in report.pauses if kept]
            if points:
                lines[name] = points
            rows.append(
                [
                    name,
                    f"{count:,}",
                    f"{len(points)}",
                    f"{max((took for _, took in points), default=0):,.0f}",
                    f"{report.collecting:.2f}",
                    f"{report.seconds:.2f}",
                ]
            )
    drawn = {}
    if lines:
        drawn["pauses"] = plots.lines(
            "Full collections while runs of 8.9 KB are kept",
            lines,
            y_label="pause of the whole process, ms",
            x_label="runs kept so far",
        )
    return Section(
        "Collector pauses",
        "Each full collection visits every object that is kept, and nothing else runs meanwhile.",
        ["client", "runs kept", "full collections", "longest ms", "collecting s", "s in all"],
        rows,
        drawn,
    )


def imports(settings: Settings) -> Section:
    """What an import takes in a fresh process, interleaved."""
    samples: dict[str, list[Sample]] = {name: [] for name in IMPORTS}
    for _ in range(settings.rounds + 2):
        for name, statement in IMPORTS.items():
            command = [sys.executable, "-c", TIMED.format(statement)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            wall, cpu = map(float, done.stdout.split())
            samples[name].append(Sample(wall, cpu))
    baseline = next(iter(samples.values()))
    rows = []
    for name, own in samples.items():
        result = harness.Result(name, own, baseline)
        rows.append(
            [
                name,
                f"{result.wall * 1e3:.0f}",
                f"{result.cpu * 1e3:.0f}",
                f"{1 / result.wall_gain:.2f}",
            ]
        )
    return Section(
        "Import time",
        "In a fresh process each, against importing what the library cannot do without.",
        ["imported", "wall ms", "CPU ms", "times the first"],
        rows,
    )
