"""Interleaved measurement: every arm in turn in one process, compared with the baseline per round.

Separate processes on one machine differ by more than the arms do, so the figures to trust are the
ratios within a round; a control arm, the baseline against itself, shows how far even those scatter.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from statistics import median
from typing import Any, TypeVar

from arms import Arm, Fetch
from attrs import frozen

try:
    import uvloop
except ImportError:
    uvloop = None

T = TypeVar("T")
FIRST_ID = 100_000
MOST_RUNS = 50_000


@frozen
class Sample:
    """One arm in one round, in seconds per run."""

    wall: float
    cpu: float


@frozen
class Result:
    """One arm over all rounds: medians, and ratios to the baseline of the same round."""

    name: str
    wall: float
    """Median seconds per run."""
    cpu: float
    """Median seconds of this process's CPU time per run."""
    wall_gain: float
    """Median over the rounds of how many times as fast as the baseline."""
    cpu_gain: float
    """Median over the rounds of how many times less CPU time than the baseline."""
    spread: float
    """Half the distance between the quartiles of ``cpu_gain``, relative to it."""

    @property
    def rate(self) -> float:
        """Runs per second."""
        return 1 / self.wall


def run(main: Coroutine[Any, Any, T], *, use_uvloop: bool = False) -> T:
    """Run a benchmark on a fresh loop of the kind asked for."""
    factory = uvloop.new_event_loop if use_uvloop else None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


async def interleave(
    url: str, arms: Sequence[Arm], *, concurrency: int, rounds: int, seconds: float = 0.25
) -> list[Result]:
    """Measure the arms in a new order each round; the first of ``arms`` is the baseline.

    Each arm keeps one open client and gets as many runs per round as take it about ``seconds``.
    """
    async with AsyncExitStack() as stack:
        fetches = {
            arm.name: await stack.enter_async_context(arm.open(url, concurrency)) for arm in arms
        }
        runs = {
            arm.name: await calibrate(fetches[arm.name], arm.step * concurrency, seconds)
            for arm in arms
        }
        return await compare(fetches, runs, rounds=rounds)


async def compare(
    fetches: Mapping[str, Fetch], runs: Mapping[str, int], *, rounds: int
) -> list[Result]:
    """Measure prepared arms, each fetching its own number of runs per round."""
    order, samples = list(fetches), {name: [] for name in fetches}
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            samples[name].append(await measure(fetches[name], runs[name]))
    baseline = samples[next(iter(fetches))]
    return [summarise(name, own, baseline) for name, own in samples.items()]


async def measure(fetch: Fetch, runs: int) -> Sample:
    """Fetch that many runs once; the garbage of whoever was before is not counted."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    await fetch(range(FIRST_ID, FIRST_ID + runs))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Sample(wall / runs, cpu / runs)


async def calibrate(fetch: Fetch, wave: int, seconds: float) -> int:
    """How many runs take about so many seconds: warm up first, then at least two full waves."""
    await measure(fetch, wave)
    probe = await measure(fetch, wave)
    waves = max(2, round(seconds / (probe.wall * wave)))
    return min(waves * wave, max(MOST_RUNS, 2 * wave))


def summarise(name: str, own: Sequence[Sample], baseline: Sequence[Sample]) -> Result:
    """An arm's samples, paired with the baseline's of the same rounds."""
    cpu_gains = sorted(base.cpu / mine.cpu for base, mine in zip(baseline, own, strict=True))
    quarter = len(cpu_gains) // 4
    return Result(
        name=name,
        wall=median(sample.wall for sample in own),
        cpu=median(sample.cpu for sample in own),
        wall_gain=median(base.wall / mine.wall for base, mine in zip(baseline, own, strict=True)),
        cpu_gain=median(cpu_gains),
        spread=(cpu_gains[-1 - quarter] - cpu_gains[quarter]) / 2 / median(cpu_gains),
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is readable as plain text too: numbers right, words left."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(cell[:1].isdigit() for cell in column[1:]) for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * (width - right) + ":" * right for width, right in zip(widths, numeric, strict=True)
    ]
    return "\n".join([line(head), line(rule), *map(line, rows)])


RESULT_HEAD = ("client", "CPU µs/run", "wall µs/run", "runs/s", "CPU gain", "± %", "wall gain")


def result_row(result: Result) -> list[str]:
    """A result as cells under ``RESULT_HEAD``."""
    return [
        result.name,
        f"{result.cpu * 1e6:,.1f}",
        f"{result.wall * 1e6:,.1f}",
        f"{result.rate:,.0f}",
        f"{result.cpu_gain:.2f}",
        f"{result.spread * 100:.0f}",
        f"{result.wall_gain:.2f}",
    ]
