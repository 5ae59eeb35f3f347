"""Interleaved measurement: every arm in turn, compared with the others' turns of the same round.

A machine that is busy for a while slows all arms of a round, so ratios within a round are what to
trust.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import median, quantiles

from attrs import frozen

from benchmarks.arms import OFFICIAL_PAGES, Arm
from benchmarks.server import Server
from benchmarks.worker import Worker, running_worker

MAX_RUNS = 50_000

Samples = Mapping[str, Sequence[Sequence[float]]]
"""By the name of an arm: wall time and CPU time of each round, in microseconds a run."""


@frozen
class Settings:
    """How long to measure."""

    rounds: int
    seconds: float
    """What one arm's turn in a round takes."""
    scale: int
    """What large numbers are divided by."""


QUICK = Settings(rounds=3, seconds=0.05, scale=20)
FULL = Settings(rounds=9, seconds=0.25, scale=1)


def race(
    server: Server, arms: Sequence[Arm], settings: Settings, *, concurrency: int, fast: bool = False
) -> Samples:
    """Measure arms against a server; if ``fast``, also under `speed.run`, as "name, speed.run"."""
    with ExitStack() as stack:

        def start(fast: bool = False) -> Worker:
            return stack.enter_context(running_worker(server, concurrency, fast=fast))

        shared = start()
        lanes = {arm.name: (start() if arm.separate else shared, arm) for arm in arms}
        if fast:
            faster = start(fast=True)
            lanes |= {f"{arm.name}, speed.run": (faster, arm) for arm in arms}
        runs = {
            name: _calibrate(worker, arm, _wave(arm, concurrency), settings.seconds)
            for name, (worker, arm) in lanes.items()
        }
        order, samples = list(lanes), {name: [] for name in lanes}
        shuffle = random.Random(0).shuffle
        for _ in range(settings.rounds):
            shuffle(order)
            for name in order:
                worker, arm = lanes[name]
                report = worker.fetch(arm, runs[name])
                samples[name].append([round(report.wall, 2), round(report.cpu, 2)])
        return samples


def _wave(arm: Arm, concurrency: int) -> int:
    """How many runs are in flight at a time."""
    return arm.page if arm is OFFICIAL_PAGES else arm.page * concurrency  # it takes long for one


def _calibrate(worker: Worker, arm: Arm, wave: int, seconds: float) -> int:
    """How many runs take about so many seconds, in whole waves of requests in flight."""
    worker.fetch(arm, wave)
    waves = max(1, round(seconds / (worker.fetch(arm, wave).wall / 1e6 * wave)))
    return min(waves * wave, max(MAX_RUNS, wave))


def wall(samples: Samples, arm: str) -> float:
    """Median microseconds a run."""
    return median(wall for wall, _ in samples[arm])


def cpu(samples: Samples, arm: str) -> float:
    """Median microseconds of CPU time a run."""
    return median(cpu for _, cpu in samples[arm])


def gain(samples: Samples, arm: str, other: str) -> float:
    """Median over the rounds of how many times less CPU time than another arm."""
    return median(_ratios(samples, arm, other))


def spread(samples: Samples, arm: str, other: str) -> float:
    """Half the distance between the quartiles of the ratios, relative to the median."""
    low, middle, high = quantiles(_ratios(samples, arm, other), n=4)
    return (high - low) / 2 / middle


def _ratios(samples: Samples, arm: str, other: str) -> list[float]:
    pairs = zip(samples[arm], samples[other], strict=True)
    return [theirs / ours for (_, ours), (_, theirs) in pairs]
