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
from statistics import median
from typing import Any

import harness
import memory
import official
import plots
from arms import BATCH, HAND, Fetch
from payload import SHAPES, Catalogue
from sections import QUICK, Effort, Section
from server import running_server

import modellab_async
from modellab_async import Run, Tag, from_json, make_converter
from modellab_async import converter as conversion

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


def decode(effort: Effort) -> Section:
    """From bytes to models, without any network."""
    rows, times = [], defaultdict[str, list[float]](list)
    for size in SHAPES:
        for result in harness.run(_decode(size, effort)):
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
        "From the bytes of a run: to plain dicts by `json.loads`, and to models by the others.\n"
        "Equal params and tags become one object.",
        ["KB", "decoder", "CPU µs/run", "CPU gain"],
        rows,
        {"decode": plot},
    )


async def _decode(size: str, effort: Effort) -> list[harness.Result]:
    hooked = make_converter()
    hooked.register_structure_hook(Tag, lambda pair, _: Tag(pair["key"], pair["value"]))
    # So many that a client cannot have seen the values of the one it decodes: they differ in part.
    catalogue, ids = Catalogue(size), range(harness.FIRST_ID, harness.FIRST_ID + 5_000)
    resources = [catalogue.run(b"%d" % run_id) for run_id in ids]
    converter = make_converter()

    def decoding(read: Callable[[bytes], Any]) -> Fetch:
        endless = cycle(resources)

        async def fetch(ids: Sequence[int]) -> None:
            for resource in islice(endless, len(ids)):
                read(resource)

        return fetch

    decoders = {
        "json.loads": decoding(json.loads),
        "modellab_async": decoding(
            lambda resource: conversion.decode(b'{"data":%s}' % resource, Run, converter)
        ),
        "modellab_async, a hook of the user's": decoding(
            lambda resource: from_json(resource, Run, converter=hooked)
        ),
        official.ASYNC.name: decoding(
            lambda resource: official.deserialize(b'{"data":%b}' % resource)
        ),
    }
    counts = {
        name: await harness.calibrate(own, 100, effort.seconds) for name, own in decoders.items()
    }
    return await harness.compare(decoders, counts, rounds=effort.rounds)


def hold(effort: Effort) -> Section:
    """For how long decoding a page of 100 runs keeps the event loop's other tasks waiting."""
    rows = []
    for size in SHAPES:
        catalogue, longest = Catalogue(size), []
        for page in range(effort.rounds * 3):
            first = harness.FIRST_ID + 100 * page
            runs = b",".join(catalogue.run(b"%d" % run_id) for run_id in range(first, first + 100))
            longest.append(asyncio.run(_longest_hold(b'{"data":[%b]}' % runs)))
        rows.append([size, f"{median(longest) * 1e3:.1f}", f"{max(longest) * 1e3:.1f}"])
    return Section(
        "How long a page holds the event loop",
        "The longest time between two turns of another task while a page of 100 runs is decoded, "
        "as the median and the worst of many pages.",
        ["KB", "median ms", "worst ms"],
        rows,
    )


async def _longest_hold(page: bytes) -> float:
    turns: list[float] = []

    async def take_turns() -> None:
        while True:
            turns.append(time.perf_counter())
            await asyncio.sleep(0)

    other = asyncio.create_task(take_turns())
    await asyncio.sleep(0)
    await conversion.decode_page(page, Run, make_converter())
    turns.append(time.perf_counter())
    other.cancel()
    return max(after - before for before, after in pairwise(turns))


def stream(effort: Effort) -> Section:
    """Peak memory of streaming ids, above the idle client."""
    tasks = [("batch", 1_000_000, 10), ("single", 100_000, 32), ("hand", 100_000, 32)]
    rows = []
    with running_server(size="1.1") as server:
        for client, runs, places in tasks:
            count = runs // effort.scale
            report = memory.spawn(url=server.url, client=client, runs=count, concurrency=places)
            rows.append(
                [
                    memory.CLIENTS[client].name,
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


def keep(effort: Effort) -> Section:
    """10,000 production-size runs kept: memory, speed and what the collector does."""
    runs = 10_000 // effort.scale
    arms = [
        (HAND.name, "hand", runs, False),
        (BATCH.name, "batch", runs, False),
        (official.ASYNC.name, "official", runs // 10, False),
    ]
    if hasattr(modellab_async, memory.PAUSE):
        arms.append((f"{BATCH.name}, {memory.PAUSING}", "batch", runs, True))
    rows, sizes = [], defaultdict[str, list[float]](list)
    with running_server() as server:
        for distinct in (False, True):
            server.configure(distinct=distinct)
            reports = defaultdict[str, list[memory.Report]](list)
            for _ in range(1 if effort is QUICK else 3):
                for name, client, count, paused in arms:
                    report = memory.spawn(
                        url=server.url, client=client, runs=count, keep=True, paused=paused
                    )
                    reports[name].append(report)
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
        "Runs of 8.9 KB, all kept, 10 requests in flight; each client in a process of its own.",
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


def pauses(effort: Effort) -> Section:
    """How long the collector stops everything, by how many runs are kept."""
    arms = [
        (HAND.name, "hand", 20_000, False),
        (BATCH.name, "batch", 50_000, False),
    ]
    if hasattr(modellab_async, memory.PAUSE):
        arms.append((f"{BATCH.name}, {memory.PAUSING}", "batch", 50_000, True))
    rows, lines = [], {}
    with running_server() as server:
        for name, client, runs, paused in arms:
            count = runs // effort.scale
            report = memory.spawn(
                url=server.url, client=client, runs=count, keep=True, paused=paused
            )
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


def imports(effort: Effort) -> Section:
    """What an import takes in a fresh process, interleaved."""
    samples: dict[str, list[harness.Sample]] = {name: [] for name in IMPORTS}
    for _ in range(effort.rounds + 2):
        for name, statement in IMPORTS.items():
            command = [sys.executable, "-c", TIMED.format(statement)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            wall, cpu = map(float, done.stdout.split())
            samples[name].append(harness.Sample(wall, cpu))
    baseline = next(iter(samples.values()))
    rows = []
    for name, own in samples.items():
        result = harness.summarise(name, own, baseline)
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
