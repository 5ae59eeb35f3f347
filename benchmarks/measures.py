"""What `bench` measures: each function takes the settings and returns raw results as JSON."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import aiohttp

from benchmarks.arms import (
    BATCH,
    DICTS,
    HEADERS,
    LOOP,
    MODELS,
    OFFICIAL,
    OFFICIAL_PAGES,
    PAGE,
    RUNS,
    SINGLE,
)
from benchmarks.harness import Settings, race
from benchmarks.payload import SHAPES, TAGS_PER_PARAM
from benchmarks.server import Server, running_server
from benchmarks.worker import FIRST_ID, running_worker


def speed(settings: Settings) -> Any:
    """CPU time by the size of a run and by how many of its params differ from other runs'."""
    every = [LOOP, DICTS, MODELS, SINGLE, BATCH, OFFICIAL, OFFICIAL_PAGES]
    results: Any = {size: {} for size in SHAPES}
    with running_server() as server:
        for size in SHAPES:
            for differing in TAGS_PER_PARAM:
                server.configure(size=size, differing=differing)
                arms = every if differing == 100 else [DICTS, MODELS, BATCH]
                results[size][str(differing)] = race(server, arms, settings, concurrency=10)
    return results


def wire(settings: Settings) -> Any:
    """Over TLS with compressed bodies, also under `speed.run`."""
    results = {}
    with running_server(tls=True, gzip=True) as server:
        for size in ("2.2", "8.9"):
            server.configure(size=size)
            arms = [LOOP, MODELS, SINGLE, BATCH]
            results[size] = race(server, arms, settings, concurrency=10, fast=True)
    return results


def latency(settings: Settings) -> Any:
    """Runs of 2.2 KB at 50 ms of latency, by the number of requests in flight."""
    arms = [LOOP, SINGLE, BATCH, OFFICIAL]
    few = Settings(min(settings.rounds, 3), 2 * settings.seconds, settings.scale)
    counts = (10, 25, 50, 100, 400) if settings.scale == 1 else (10, 100)
    with running_server(size="2.2", latency_ms=50) as server:
        return {str(count): race(server, arms, few, concurrency=count) for count in counts}


def kept(settings: Settings) -> Any:
    """Large runs that are all kept, each time in a new process: CPU time, memory, pauses."""
    runs = 10_000 // settings.scale
    cases = {
        DICTS.name: (DICTS, False, False),
        MODELS.name: (MODELS, False, False),
        BATCH.name: (BATCH, False, False),
        f"{BATCH.name}, large_results()": (BATCH, False, True),
        f"{MODELS.name}, speed.run": (MODELS, True, False),
        f"{BATCH.name}, speed.run": (BATCH, True, False),
    }
    samples: dict[str, list[Any]] = {name: [] for name in cases}
    with running_server(size="8.9") as server:
        for _ in range(min(settings.rounds, 5)):
            for name, (arm, fast, large) in cases.items():
                with running_worker(server, fast=fast) as worker:
                    report = worker.fetch(arm, runs, keep=True, large=large)
                figures = (report.cpu, report.peak, report.pause)
                samples[name].append([round(figure, 1) for figure in figures])
    return {"runs": runs, "samples": samples}


def stream(settings: Settings) -> Any:
    """Small runs that are dropped: memory."""
    runs = 1_000_000 // settings.scale
    with running_server(size="1.1") as server, running_worker(server) as worker:
        report = worker.fetch(BATCH, runs)
    return {"runs": runs, "peak": report.peak, "wall": report.wall}


def hold(settings: Settings) -> Any:
    """How long another task waits for its turn while a page arrives, in milliseconds of CPU time.

    CPU time, since whatever else the machine does holds no event loop.
    """
    with running_server(size="8.9") as server:
        return asyncio.run(_longest_holds(server.url, settings.rounds * 3))


async def _longest_holds(url: str, count: int) -> list[float]:
    turns: list[float] = []

    async def take_turns() -> None:
        while True:
            turns.append(time.thread_time())
            await asyncio.sleep(0)

    holds = []
    async with BATCH.open(url, 1) as fetch:
        other = asyncio.create_task(take_turns())
        for page in range(count):
            turns.clear()
            first = FIRST_ID + PAGE * page
            await fetch(range(first, first + PAGE), None)
            turns.append(time.thread_time())
            holds.append(round(max(b - a for a, b in pairwise(turns)) * 1e3, 2))
        other.cancel()
    return holds


def quota(settings: Settings) -> Any:
    """All runs of a large organization; several processes; and a neighbor, all at the same time."""
    limit, period = (100, 10) if settings.scale == 1 else (20, 1)
    runs = 65_614 if settings.scale == 1 else 6_561
    cases = {"all": (1, BATCH, runs), "neighbor": (1, SINGLE, 5 * limit)}
    cases |= {str(count): (count, SINGLE, 4 * limit) for count in (2, 4, 8)}
    with ExitStack() as stack:
        servers, workers = {}, {}
        for name, (count, _, _) in cases.items():
            server = running_server(size="1.1", limit=limit, period=period)
            servers[name] = stack.enter_context(server)
            workers[name] = [
                stack.enter_context(running_worker(servers[name], 100)) for _ in range(count)
            ]
        time.sleep(-time.time() % period)
        for name, (count, arm, runs) in cases.items():
            for worker in workers[name]:
                worker.start(arm, runs // count)
        its_refused = asyncio.run(_neighbor(servers["neighbor"], period * 4 / limit, limit))
        found = {}
        for name, (count, arm, runs) in cases.items():
            seconds = max(worker.finish().wall for worker in workers[name]) / 1e6 * runs / count
            requests = math.ceil(runs / arm.page)
            least = (math.ceil(requests / limit) - 1) * period
            refused = servers[name].stats()["refused"] - (name == "neighbor") * its_refused
            found[name] = {
                "runs": runs,
                "time": round(seconds / least, 3),
                "refused": round(100 * refused / requests, 1),
            }
    neighbor = found.pop("neighbor") | {"its_refused": round(100 * its_refused / limit, 1)}
    return {
        "limit": limit,
        "period": period,
        "all": found.pop("all"),
        "neighbor": neighbor,
        "processes": found,
    }


async def _neighbor(server: Server, interval: float, requests: int) -> int:
    """Ask steadily, whatever happens, and count what is refused."""
    refused = 0
    async with aiohttp.ClientSession(headers=HEADERS) as session:
        for _ in range(requests):
            async with session.get(f"{server.url}{RUNS}/{FIRST_ID}") as response:
                refused += response.status == 429
            await asyncio.sleep(interval)
    return refused


MEASURES = {
    measure.__name__: measure for measure in (speed, kept, stream, hold, wire, latency, quota)
}
