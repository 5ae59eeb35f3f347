"""Interleaved measurement: every arm in turn, compared with the others' turns of the same round.

A machine that is busy for a while slows all arms of a round, so the figures to trust are ratios
within a round; a control arm, the baseline against itself, shows how far even those scatter.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any

from arms import Arm
from attrs import frozen
from sections import Settings
from server import Server
from worker import Sample, Worker, running_worker

MOST_RUNS = 50_000

Measure = Callable[[int], Sample]
"""Has an arm fetch so many runs."""


@frozen
class Result:
    """One arm's samples over all rounds, and those of the first arm, the baseline."""

    name: str
    samples: Sequence[Sample]
    baseline: Sequence[Sample]

    @property
    def wall(self) -> float:
        """Median seconds per run."""
        return median(sample.wall for sample in self.samples)

    @property
    def cpu(self) -> float:
        """Median seconds of CPU time per run, the client's own."""
        return median(sample.cpu for sample in self.samples)

    @property
    def rate(self) -> float:
        """Runs per second."""
        return 1 / self.wall

    @property
    def wall_gain(self) -> float:
        """Median over the rounds of how many times as fast as the baseline."""
        return gain(self.samples, self.baseline, "wall")

    @property
    def cpu_gain(self) -> float:
        """Median over the rounds of how many times less CPU time than the baseline."""
        return gain(self.samples, self.baseline, "cpu")

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles of ``cpu_gain``, relative to it."""
        gains = sorted(_ratios(self.samples, self.baseline, "cpu"))
        quarter = len(gains) // 4
        return (gains[-1 - quarter] - gains[quarter]) / 2 / median(gains)


def gain(own: Sequence[Sample], other: Sequence[Sample], clock: str) -> float:
    """Median over the rounds of how many times less time than another arm's, wall or CPU."""
    return median(_ratios(own, other, clock))


def _ratios(own: Sequence[Sample], other: Sequence[Sample], clock: str) -> list[float]:
    return [
        getattr(theirs, clock) / getattr(mine, clock)
        for mine, theirs in zip(own, other, strict=True)
    ]


def race(
    server: Server,
    arms: Sequence[Arm],
    settings: Settings,
    *,
    concurrency: int,
    speed: Sequence[Arm] = (),
) -> list[Result]:
    """Measure arms against a server, the first of them being the baseline of the gains.

    ``speed`` are arms to measure on uvloop and isal too. If the settings name another checkout,
    the package's own arms are measured with its code as well.
    """
    with ExitStack() as stack:

        def lanes(names: Mapping[str, Arm], **options: Any) -> dict[str, tuple[Worker, Arm]]:
            if not names:
                return {}
            worker = stack.enter_context(running_worker(server, concurrency, **options))
            return {name: (worker, arm) for name, arm in names.items()}

        every = lanes({arm.name: arm for arm in arms if not arm.apart})
        every |= lanes({arm.name: arm for arm in arms if arm.apart})
        every |= lanes({f"{arm.name}, speed": arm for arm in speed}, speed=True)
        if baseline := settings.baseline:
            former = {baseline.name(arm.name): arm for arm in arms if arm.ours}
            every |= lanes(former, package=baseline.path)
        return compare(
            {name: partial(worker.measure, arm) for name, (worker, arm) in every.items()},
            {name: arm.page * concurrency for name, (_, arm) in every.items()},
            settings,
        )


def compare(
    measures: Mapping[str, Measure], waves: Mapping[str, int], settings: Settings
) -> list[Result]:
    """Measure in a new order each round; each gets as many runs as take it about one turn."""
    runs = {
        name: calibrate(measure, waves[name], settings.seconds)
        for name, measure in measures.items()
    }
    order, samples = list(measures), {name: [] for name in measures}
    shuffle = random.Random(0).shuffle
    for _ in range(settings.rounds):
        shuffle(order)
        for name in order:
            samples[name].append(measures[name](runs[name]))
    baseline = next(iter(samples.values()))
    return [Result(name, own, baseline) for name, own in samples.items()]


def calibrate(measure: Measure, wave: int, seconds: float) -> int:
    """How many runs take about so many seconds, at least two full waves; all have been asked."""
    measure(wave)
    waves = max(2, round(seconds / (measure(wave).wall * wave)))
    runs = min(waves * wave, max(MOST_RUNS, 2 * wave))
    measure(runs)
    return runs


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
