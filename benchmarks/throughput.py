"""How fast runs come: by route, size, concurrency, latency and wire, and under a quota.

Each function measures one section of the results; ``bench.py --only`` runs it by its name.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import harness
import plots
from arms import BATCH, COMMON, CONTROL, HAND, OFFICIAL, PAGES, SINGLE, THREADS, Arm
from attrs import evolve
from harness import race
from payload import SHAPES
from sections import Section, Settings
from server import running_server
from worker import running_worker


def single(settings: Settings) -> Section:
    """One request per run, by size."""
    rows, gains = _by_size([HAND, CONTROL, COMMON, SINGLE, OFFICIAL, THREADS], 32, settings)
    return Section(
        "Single route",
        "One `GET /runs/{id}` per run, 32 in flight, no latency added.",
        ["KB", *harness.RESULT_HEAD],
        rows,
        {"single": _gains("One request per run, 32 in flight", gains)},
    )


def batch(settings: Settings) -> Section:
    """Up to 100 runs per request, by size."""
    rows, gains = _by_size([HAND, COMMON, PAGES, SINGLE, BATCH, OFFICIAL], 10, settings)
    return Section(
        "Batch route",
        "Pages of 100 runs against one request per run, 10 requests in flight, no latency added.",
        ["KB", *harness.RESULT_HEAD],
        rows,
        {"batch": _gains("100 runs per request, 10 in flight", gains)},
    )


def _by_size(
    arms: Sequence[Arm], places: int, settings: Settings
) -> tuple[list[list[str]], dict[str, list[float]]]:
    """Rows for all arms, and the gains in wall time of those that a plot shows."""
    rows, gains = [], {arm.name: list[float]() for arm in arms if arm is not CONTROL}
    with running_server() as server:
        for size in SHAPES:
            server.configure(size=size)
            for result in race(server, arms, settings, concurrency=places):
                rows.append([size, *harness.result_row(result)])
                if result.name in gains:
                    gains[result.name].append(result.wall_gain)
    return rows, gains


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


def concurrency(settings: Settings) -> Section:
    """From one request in flight to 400, with and without latency."""
    rows, drawn = [], {}
    # Longer turns: with latency, the first and the last wave of a fetch would count for too much.
    settings = evolve(
        settings, rounds=min(settings.rounds, 5), seconds=2 * settings.seconds, baseline=None
    )
    with running_server(size="2.2") as server:
        for latency in (0, 50):
            server.configure(latency_ms=latency)
            lines = defaultdict[str, list[tuple[float, float]]](list)
            for places in settings.places:
                arms = [HAND, SINGLE, BATCH, OFFICIAL]
                for result in race(server, arms, settings, concurrency=places):
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


def places(settings: Settings) -> Section:
    """What ``max_concurrency`` is worth, near and far: the default is chosen by this."""
    rows, drawn = [], defaultdict[str, list[tuple[float, float]]](list)
    with running_server(size="1.1") as server:
        for latency in (2, 50, 200):
            server.configure(latency_ms=latency)
            for most in (25, 50, 100, 200, 400):
                bound = most / latency * 1e3
                seconds = max(4 * settings.seconds, 10 * latency / 1e3)
                long = evolve(settings, rounds=3, seconds=seconds, baseline=None)
                (result,) = race(server, [SINGLE], long, concurrency=most)
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


def wire(settings: Settings) -> Section:
    """As in production: over TLS, with compressed bodies, near and far."""
    rows = []
    arms = [HAND, PAGES, SINGLE, BATCH, OFFICIAL]
    for latency in (0, 50):
        with running_server(tls=True, gzip=True, latency_ms=latency) as server:
            for size in SHAPES:
                server.configure(size=size)
                for result in race(server, arms, settings, concurrency=32):
                    rows.append([f"{latency}", size, *harness.result_row(result)])
    return Section(
        "A wire as in production",
        "TLS and gzip, 32 requests in flight, with 0 and 50 ms of latency added by the server. "
        "The hand-written loop of pages has ten in flight.",
        ["ms", "KB", *harness.RESULT_HEAD],
        rows,
    )


def speed(settings: Settings) -> Section:
    """What uvloop and isal win, which the extra `speed` installs."""
    rows = []
    arms = [HAND, SINGLE, BATCH]
    for name, options in (("HTTP", {}), ("TLS, gzip", {"tls": True, "gzip": True})):
        with running_server(**options) as server:
            for size in SHAPES:
                server.configure(size=size)
                for result in race(server, arms, settings, concurrency=32, speed=arms):
                    rows.append([name, size, *harness.result_row(result)])
    return Section(
        "The extra speed",
        "The same clients as they are and under `modellab_async.speed.run`, 32 requests in flight, "
        "no latency added.",
        ["wire", "KB", *harness.RESULT_HEAD],
        rows,
    )


def quota(settings: Settings) -> Section:
    """100 requests per 10 s: how many runs come through, and how many requests are refused."""
    limit, period = (100, 10) if settings.scale == 1 else (20, 2)
    runs = 65_614 if settings.scale == 1 else 13_123
    tries = [(BATCH, runs, 10), *((arm, 3 * limit, 32) for arm in (HAND, SINGLE, OFFICIAL))]
    rows = []
    with ExitStack() as stack:
        # At once: each has a server of its own, and all they do is wait.
        servers = [
            stack.enter_context(running_server(size="1.1", limit=limit, period=period))
            for _ in tries
        ]
        workers = [
            stack.enter_context(running_worker(server, places))
            for server, (_, _, places) in zip(servers, tries, strict=True)
        ]
        time.sleep(-time.time() % period)
        for worker, (arm, count, _) in zip(workers, tries, strict=True):
            worker.start(arm, count)
        for worker, server, (arm, count, _) in zip(workers, servers, tries, strict=True):
            seconds = worker.finish().wall * count
            sent = server.stats()
            refused = sent["rate_limited"]
            counts = (count, sent["requests"], refused, count // (sent["requests"] - refused))
            rows.append(
                [
                    arm.name,
                    *(f"{n:,}" for n in counts),
                    f"{seconds:.1f}",
                    f"{count / seconds:,.1f}",
                ]
            )
    return Section(
        "Under a quota",
        f"{limit} requests per {period} s, from the start of a period. "
        "The hand-written loop sleeps until the period ends when it meets a 429; "
        "the official client retries as it does by default. "
        "Each begins with a whole period's requests at once, so that the shorter fetches seem "
        f"faster than the {limit // period} requests per second that all come down to.",
        ["client", "runs", "requests", "429s", "runs per request granted", "s", "runs/s"],
        rows,
    )
