"""What a client must survive: each function is a row of the published soak results.

All run the client against a simulator in a process of its own (``simulator_process``), seeded.
``Scale`` says how large; ``SHORT`` shows in seconds that a row works, and is what the tests run.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from attrs import frozen

from benchmarks.attacks import blips, bursts, churn, limits, shards
from benchmarks.figures import Figure
from benchmarks.simulator_process import SimulatorProcess, running_simulator
from modellab_async import ModelLabError, RetryPolicy

LATENCY = 0.02
SLOW = 0.1
"""Seconds of latency where a rate is measured: it must not be the machine's that is."""


@frozen
class Scale:
    """How large the rows are."""

    ids: int
    many: int
    outage: float
    tasks: int
    limit: int
    period: int
    asked: int
    policy: RetryPolicy
    kills: int
    synced: int
    walks: int
    waiting: int
    sharded: int


FULL = Scale(
    65_614, 1_000_000, 60.0, 200, 200, 10, 1_000, RetryPolicy(), 30, 20_000, 40, 5_000, 4_000
)
SHORT = Scale(
    300, 4_000, 1.5, 200, 50, 2, 100, RetryPolicy(base=0.02, cap=0.2), 3, 1_000, 3, 1_000, 1_000
)


@frozen
class _Fetched:
    good: int
    lost: int
    repeated: int
    seconds: float
    grown: float
    attempts: int
    seen: int


async def _fetch(sim: SimulatorProcess, route: Any, policy: RetryPolicy) -> _Fetched:
    """Fetch all runs of a simulator; nothing but the ids still missing is kept."""
    missing, good, repeated, early = set(sim.ids), 0, 0, 0.0
    async with sim.client(retry=policy) as lab:
        started = time.perf_counter()
        async with lab.runs.fetch(sim.ids, route=route) as outcomes:
            async for outcome in outcomes:
                repeated += outcome.run_id not in missing
                missing.discard(outcome.run_id)
                good += outcome.ok
                if not early and len(missing) < 0.8 * len(sim.ids):
                    early = _peak()
        seconds = time.perf_counter() - started
        seen = (await sim.seen()).requests
        return _Fetched(
            good, len(missing), repeated, seconds, _peak() - early, lab.stats.attempts, seen
        )


def _peak() -> float:
    """The most memory that this process ever held, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def faults(scale: Scale) -> list[Figure]:
    """Every kind of fault, 30 % of requests, on both routes."""
    figures = []
    for route in ("single", "batch"):
        async with running_simulator(runs=scale.ids, rate=0.3) as sim:
            done = await _fetch(sim, route, scale.policy)
        row = f"{scale.ids:,} ids under 30 % mixed faults, {route} route"
        figures += [
            Figure(row, "ids without exactly one outcome", done.lost + done.repeated, 0, 0),
            Figure(row, "fetched", 100 * done.good / scale.ids, 99.9, 100, "%", at_least=True),
            Figure(
                row,
                "requests sent that the server never saw",
                100 * (done.attempts - done.seen) / done.attempts,
                None,
                unit="%",
            ),
        ]
    return figures


async def million(scale: Scale) -> list[Figure]:
    """Many ids under 5 % faults: memory, and time against the same without faults."""
    row = f"{scale.many:,} ids under 5 % mixed faults, batch route"
    async with running_simulator(runs=scale.many) as sim:
        calm = await _fetch(sim, "batch", scale.policy)
    async with running_simulator(runs=scale.many, rate=0.05) as sim:
        done = await _fetch(sim, "batch", scale.policy)
    return [
        Figure(row, "ids lost", scale.many - done.good, 0, 0),
        Figure(row, "outcomes repeated", done.repeated, 0, 0),
        Figure(row, "peak memory gained after the first fifth", done.grown, 16, 4, "MB"),
        Figure(row, "time against no faults", done.seconds / calm.seconds, None, 1.2, "x"),
    ]


async def outage(scale: Scale) -> list[Figure]:
    """No request succeeds for a while, and everybody goes on asking."""
    return [figure for how in (503, "reset", "refused") for figure in await _outage(scale, how)]


async def _outage(scale: Scale, how: int | str) -> list[Figure]:
    asked, good, going = 0, list[float](), True
    async with running_simulator(runs=scale.tasks, latency=SLOW) as sim, sim.client() as lab:

        async def task(run_id: int) -> None:
            nonlocal asked
            while going:
                asked += 1
                try:
                    await lab.runs.get(run_id)
                except ModelLabError:
                    continue
                good.append(time.perf_counter())

        tasks = [asyncio.create_task(task(run_id)) for run_id in sim.ids]
        await asyncio.sleep(1 + min(2, scale.outage))
        former = sum(at > time.perf_counter() - 1 for at in good)
        asked_before, before = asked, await sim.seen()
        await sim.down(how)
        await asyncio.sleep(scale.outage)
        asked_during, during = asked - asked_before, await sim.seen()
        await sim.up()
        over = time.perf_counter()
        await asyncio.sleep(4)
        going = False
        await asyncio.gather(*tasks)
    after = [at - over for at in good if at > over]
    back = next(
        (k / 10 for k in range(1, 40) if sum(k / 10 - 0.5 < at <= k / 10 for at in after)
         >= 0.9 * former * 0.5),
        math.inf,
    )  # fmt: skip
    row = f"outage of {scale.outage:g} s ({how}), {scale.tasks} tasks asking all the time"
    figures = [
        Figure(row, "first success after it", min(after, default=math.inf), 1, 0.3, "s"),
        Figure(row, "90 % of the former rate after", back, 2, 1, "s"),
    ]
    if how != "refused":
        # Each call may be sent once, those under way when it began included; 50 repeats are saved
        # up, and one a second is free.
        allowed = asked_during + scale.tasks + 50 + scale.outage
        sent = during.requests - before.requests
        what = "requests seen, against those allowed"
        figures.append(Figure(row, what, sent / allowed, 1.1, 1.05, "x"))
    return figures


async def storm(scale: Scale) -> list[Figure]:
    """All tasks start at once on a quota that grants a fifth of them."""
    figures = []
    for rounding in ("ceil", "floor"):
        setup = {"limit": scale.limit, "period": scale.period, "rounding": rounding}
        async with (
            running_simulator(runs=scale.asked, latency=LATENCY, **setup) as sim,
            sim.client() as lab,
        ):
            await asyncio.sleep((0.2 - time.time()) % scale.period)
            began = time.time()
            runs = await asyncio.gather(*map(lab.runs.get, sim.ids))
            seconds = time.time() - began
            seen = await sim.seen()
        window = began // scale.period
        late = sum(
            status == 429 and at // scale.period > window for at, status in seen.arrivals
        )  # fmt: skip
        # Until the period in which the quota grants the last request.
        periods = math.ceil(scale.asked / scale.limit) - 1
        least = (window + periods) * scale.period - began
        row = f"429 storm, {scale.limit} per {scale.period} s, Reset by {rounding}"
        figures += [
            Figure(row, "calls failed", scale.asked - len(runs), 0, 0),
            Figure(row, "refused after the first window", 100 * late / scale.asked, 1, 0, "%"),
            Figure(row, "refused in all", 100 * seen.refused / scale.asked, None, 0, "%"),
            Figure(row, "time against the least possible", seconds / least, 1.15, 1.03, "x"),
            _after_window(row, seen.arrivals, scale.period, window),
        ]
    return figures


def _after_window(row: str, arrivals: list[Any], period: int, window: float) -> Figure:
    """How long after the turn of a window the first success of it came, at the worst."""
    first: dict[float, float] = {}
    for at, status in arrivals:
        if status == 200 and at // period > window:
            first[at // period] = min(first.get(at // period, period), at % period)
    return Figure(row, "first success after a window's turn", max(first.values()), 1, 0.3, "s")


async def kills(scale: Scale) -> list[Figure]:
    """`modellab sync` killed at random moments, then once left to finish."""
    chance = random.Random(30)
    async with running_simulator(runs=scale.synced, latency=LATENCY) as sim:
        with tempfile.TemporaryDirectory() as directory:
            calm, killed = Path(directory, "calm.duckdb"), Path(directory, "killed.duckdb")
            started = time.perf_counter()
            assert await (await _sync(sim, calm)).wait() == 0
            took = time.perf_counter() - started
            for _ in range(scale.kills):
                process = await _sync(sim, killed)
                await asyncio.sleep(chance.random() * took)
                if process.returncode is None:
                    process.kill()
                await process.wait()
            assert await (await _sync(sim, killed)).wait() == 0
            different = _differences(calm, killed)
    row = f"{scale.kills} kills of a sync of {scale.synced:,} runs"
    return [Figure(row, f"rows of {name} lost, repeated or different", count, 0, 0)
            for name, count in different.items()]  # fmt: skip


async def _sync(sim: SimulatorProcess, database: Path) -> asyncio.subprocess.Process:
    keys = {"DD_API_KEY": "sim-api-key", "DD_APP_KEY": "sim-app-key"}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "modellab_async", "sync", str(database)),
        env={**os.environ, **keys, "MODELLAB_BASE_URL": sim.base_url},
        stdout=asyncio.subprocess.DEVNULL,
    )


def _differences(one: Path, other: Path) -> dict[str, int]:
    """How many rows of each table only one of two databases has, repeats counted."""
    import duckdb  # noqa: PLC0415  # of an extra that no other row needs

    with duckdb.connect(one, read_only=True) as connection:
        connection.execute(f"ATTACH '{other}' AS other (READ_ONLY)")
        counts = {}
        for name in ("runs", "params", "tags", "metrics", "failures"):
            rows = (
                f"SELECT * EXCLUDE (sync) FROM {{}}{name}" if name == "runs" else f"FROM {{}}{name}"
            )
            left, right = rows.format(""), rows.format("other.")
            query = (
                f"SELECT count(*) FROM (({left} EXCEPT ALL {right})"
                f" UNION ALL ({right} EXCEPT ALL {left}))"
            )
            [(counts[name],)] = connection.execute(query).fetchall()
        return counts


ROWS = {
    row.__name__: row
    for row in (
        *(faults, million, outage, storm, kills),
        *(churn, bursts, blips, shards, limits),
    )
}
