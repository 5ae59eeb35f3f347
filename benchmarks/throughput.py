"""How fast runs come: by route, size, concurrency and latency, compressed, and under a quota.

Each function measures one section of the results; ``bench.py --only`` runs it by its name.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial

import harness
import official
import plots
from arms import BATCH, COMMON, CONTROL, HAND, SINGLE, Arm, Fetch
from attrs import evolve
from payload import SHAPES
from sections import Effort, Section
from server import running_server


def single(effort: Effort) -> Section:
    """One request per run, by size, on asyncio's own loop and on uvloop."""
    rows, gains = [], defaultdict[str, list[float]](list)
    with running_server() as server:
        for size in SHAPES:
            server.configure(size=size)
            for use_uvloop in (False, True):
                arms = [HAND, CONTROL, COMMON, SINGLE]
                arms += [] if use_uvloop else [official.ASYNC, official.THREADED]
                for result in _measure(server.url, arms, 32, effort, use_uvloop=use_uvloop):
                    rows.append(
                        [size, "uvloop" if use_uvloop else "asyncio", *harness.result_row(result)]
                    )
                    if not use_uvloop and result.name != CONTROL.name:
                        gains[result.name].append(result.wall_gain)
    plot = _gains("One request per run, 32 in flight", gains)
    return Section(
        "Single route",
        "One `GET /runs/{id}` per run, 32 in flight, no latency added.",
        ["KB", "loop", *harness.RESULT_HEAD],
        rows,
        {"single": plot},
    )


def batch(effort: Effort) -> Section:
    """Up to 100 runs per request, by size."""
    arms = [HAND, COMMON, SINGLE, BATCH, official.ASYNC]
    rows, gains = [], defaultdict[str, list[float]](list)
    with running_server() as server:
        for size in SHAPES:
            server.configure(size=size)
            for result in _measure(server.url, arms, 10, effort):
                rows.append([size, *harness.result_row(result)])
                gains[result.name].append(result.wall_gain)
        assert server.stats()["pages"], "the batch route asked for no page"
    plot = _gains("100 runs per request, 10 in flight", gains)
    return Section(
        "Batch route",
        "Pages of 100 runs against one request per run, 10 requests in flight, no latency added.",
        ["KB", *harness.RESULT_HEAD],
        rows,
        {"batch": plot},
    )


def _gains(title: str, gains: Mapping[str, Sequence[float]]) -> str:
    """A plot of how fast clients are by size, against the hand-written loop."""
    return plots.bars(
        f"{title}: speed against a hand-written loop",
        [f"{size} KB" for size in SHAPES],
        gains,
        y_label="times the runs per second of the loop",
        x_label="size of a run",
        reference=1,
    )


def concurrency(effort: Effort) -> Section:
    """From one request in flight to 400, with and without latency."""
    rows, drawn = [], {}
    # Longer turns: with latency, the first and the last wave of a fetch would count for too much.
    effort = evolve(effort, rounds=min(effort.rounds, 5), seconds=2 * effort.seconds)
    with running_server(size="2.2") as server:
        for latency in (0, 50):
            server.configure(latency_ms=latency)
            lines = defaultdict[str, list[tuple[float, float]]](list)
            for places in effort.places:
                arms = [HAND, SINGLE, BATCH, official.ASYNC]
                for result in _measure(server.url, arms, places, effort):
                    rows.append([f"{latency}", f"{places}", *harness.result_row(result)])
                    lines[result.name].append((places, result.rate))
            drawn[f"concurrency-{latency}ms"] = plots.lines(
                f"Runs of 2.2 KB, {latency} ms of latency added by the server",
                lines,
                y_label="runs per second",
                x_label="requests in flight",
            )
    return Section(
        "Concurrency and latency",
        "Runs of 2.2 KB; the official asynchronous client opens 30 connections at most.",
        ["ms", "in flight", *harness.RESULT_HEAD],
        rows,
        drawn,
    )


def places(effort: Effort) -> Section:
    """What ``max_concurrency`` is worth, near and far: the default is chosen by this."""
    rows, drawn = [], defaultdict[str, list[tuple[float, float]]](list)
    with running_server(size="1.1") as server:
        for latency in (2, 50, 200):
            server.configure(latency_ms=latency)
            for most in (25, 50, 100, 200, 400):
                bound = most / latency * 1e3
                seconds = max(4 * effort.seconds, 10 * latency / 1e3)
                (result,) = _measure(
                    server.url, [SINGLE], most, evolve(effort, rounds=3, seconds=seconds)
                )
                rows.append(
                    [
                        f"{latency}",
                        f"{most}",
                        f"{result.rate:,.0f}",
                        f"{result.rate / bound:.2f}",
                        f"{result.cpu / result.wall:.2f}",
                    ]
                )
                drawn[f"{latency} ms"].append((most, result.rate))
    plot = plots.lines(
        "One request per run, by the cap on what is in flight",
        drawn,
        y_label="runs per second",
        x_label="max_concurrency",
    )
    return Section(
        "The cap on what is in flight",
        "Single route, runs of 1.1 KB. "
        "*Of the bound* compares with what latency alone allows: the cap divided by the latency.",
        ["ms", "max_concurrency", "runs/s", "of the bound", "cores used"],
        rows,
        {"places": plot},
    )


def gzip(effort: Effort) -> Section:
    """What compression costs, and the bytes it saves that loopback cannot show."""
    rows = []
    with running_server() as plain, running_server(gzip=True) as packed:
        for size in SHAPES:
            plain.configure(size=size)
            packed.configure(size=size)
            for arm in (SINGLE, BATCH):
                moved = Arm(f"{arm.name}, gzip", partial(_elsewhere, arm, packed.url), arm.step)
                results = _measure(plain.url, [arm, moved], 10, effort)
                for result, server in zip(results, (plain, packed), strict=True):
                    sent = server.reset()
                    row = harness.result_row(result)
                    rows.append([size, *row, f"{sent['bytes'] / sent['runs']:,.0f}"])
    return Section(
        "Compression",
        "Gains are against the same client without compression. "
        "Loopback shows what it costs, not what the bytes saved are worth on a real network.",
        ["KB", *harness.RESULT_HEAD, "bytes/run"],
        rows,
    )


def quota(effort: Effort) -> Section:
    """100 requests per 10 s: how many runs come through, and how many requests are refused."""
    limit, period = (100, 10) if effort.scale == 1 else (20, 2)
    runs = 65_614 if effort.scale == 1 else 13_123
    tries = [(BATCH, runs, 10), *((arm, 3 * limit, 32) for arm in [HAND, SINGLE, official.ASYNC])]

    async def spend(arm: Arm, count: int, places: int) -> list[str]:
        with running_server(size="1.1", limit=limit, period=period) as server:
            async with arm.open(server.url, places) as fetch:
                await asyncio.sleep(period - time.time() % period)
                started = time.perf_counter()
                await fetch(range(harness.FIRST_ID, harness.FIRST_ID + count))
                seconds = time.perf_counter() - started
            sent = server.stats()
        refused = sent["rate_limited"]
        counts = (count, sent["requests"], refused, count // (sent["requests"] - refused))
        return [arm.name, *(f"{n:,}" for n in counts), f"{seconds:.1f}", f"{count / seconds:,.1f}"]

    async def spend_all() -> list[list[str]]:
        # At once: each has a server of its own, and all they do is wait.
        return list(await asyncio.gather(*(spend(*each) for each in tries)))

    return Section(
        "Under a quota",
        f"{limit} requests per {period} s, from the start of a period. "
        "The hand-written loop sleeps until the period ends when it meets a 429; "
        "the official client retries as it does by itself. "
        "Each begins with a whole period's requests at once, so that the shorter fetches seem "
        f"faster than the {limit // period} requests per second that all come down to.",
        ["client", "runs", "requests", "429s", "runs per request granted", "s", "runs/s"],
        harness.run(spend_all()),
    )


def _measure(
    url: str, arms: Sequence[Arm], places: int, effort: Effort, *, use_uvloop: bool = False
) -> list[harness.Result]:
    measuring = harness.interleave(
        url, arms, concurrency=places, rounds=effort.rounds, seconds=effort.seconds
    )
    return harness.run(measuring, use_uvloop=use_uvloop)


def _elsewhere(arm: Arm, url: str, _: str, places: int) -> AbstractAsyncContextManager[Fetch]:
    """Open an arm at another server than the one it is given."""
    return arm.open(url, places)
