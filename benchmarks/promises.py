"""The figures that the project promises, each beside what it must be and what it aims at.

``python -m benchmarks.bench --only table`` prints them in about three minutes, and with ``--quick``
in one; ``--baseline PATH`` measures another checkout of the package beside this one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from arms import BATCH, HAND, OFFICIAL, PAGES, SINGLE, Arm
from attrs import frozen
from harness import gain, race
from sections import Section, Settings
from server import running_server
from worker import running_worker

SPEEDS: dict[tuple[Arm, Arm], dict[str, tuple[float, float]]] = {
    (SINGLE, HAND): {"8.9": (0.95, 1.1), "1.1": (0.85, 0.95)},
    (BATCH, HAND): {"8.9": (3, 4), "2.2": (7.5, 12), "1.1": (10, 16)},
    (BATCH, PAGES): {"8.9": (1.3, 1.5), "2.2": (0.85, 1.1), "1.1": (0.7, 1.0)},
    (SINGLE, OFFICIAL): {"8.9": (16, 20), "1.1": (5, 6)},
    (BATCH, OFFICIAL): {"8.9": (50, 70), "1.1": (60, 100)},
}
"""How many times as fast as another arm, by the size of a run: what it must be, and the aim."""


@frozen
class Row:
    """A figure beside its bounds."""

    name: str
    must: float
    aim: float
    measured: Sequence[float]
    """This checkout's figure, and the baseline's if there is one."""
    cpu: Sequence[float | None] = (None, None)
    """The same by CPU time, which other work on the machine disturbs less than wall time."""
    unit: str = "x"
    at_least: bool = True

    def cells(self) -> list[str]:
        sign = "≥ " if self.at_least else "≤ "
        return [
            self.name,
            sign + self._show(self.must),
            sign + self._show(self.aim),
            *map(self._show, self.measured),
            "aim" if self._within(self.aim) else "must" if self._within(self.must) else "misses",
            *map(self._show, self.cpu[: len(self.measured)]),
        ]

    def _within(self, bound: float) -> bool:
        measured = self.measured[0]
        return measured >= bound if self.at_least else measured <= bound

    def _show(self, value: float | None) -> str:
        if value is None:
            return ""
        if self.unit != "x":
            return f"{value:,.3g} {self.unit}".strip()
        return f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"


def table(settings: Settings) -> Section:
    """What the project promises."""
    versions = ["measured", *([settings.baseline.version] if settings.baseline else [])]
    head = ["row", "must", "aim", *versions, "verdict", *(f"{name}, CPU" for name in versions)]
    rows = [row for part in (speeds, quota, memory) for row in part(settings)]
    return Section(
        "What is promised",
        "How many times as fast as another client, as the median of the ratios within each round; "
        "ten requests in flight, over loopback without TLS and compression, each run dropped as "
        "soon as it has been seen. *CPU* is the ratio of the CPU time, which counts if the machine "
        "is busy. Memory is the peak above the same client opened and idle.",
        head,
        [row.cells() for row in rows],
    )


def speeds(settings: Settings) -> Iterator[Row]:
    """Each promised speed; those of one size come from the same rounds."""
    for size in ("8.9", "2.2", "1.1"):
        wanted = {pair: bounds[size] for pair, bounds in SPEEDS.items() if size in bounds}
        arms = list(dict.fromkeys(arm for own, other in wanted for arm in (other, own)))
        with running_server(size=size) as server:
            results = race(server, arms, settings, concurrency=10)
        samples = {result.name: result.samples for result in results}
        for (own, other), (must, aim) in wanted.items():
            names = [own.name, *([settings.baseline.name(own.name)] if settings.baseline else [])]
            wall, cpu = (
                [gain(samples[name], samples[other.name], clock) for name in names]
                for clock in ("wall", "cpu")
            )
            yield Row(f"{own.name}, against {other.name}, {size} KB", must, aim, wall, cpu)


def quota(settings: Settings) -> Iterator[Row]:
    """All runs of a large project under a quota, each checkout on a server of its own at once."""
    limit, period = (100, 10) if settings.scale == 1 else (20, 2)
    runs = 65_614 if settings.scale == 1 else 13_123
    least = (math.ceil(runs / BATCH.page / limit) - 1) * period
    with ExitStack() as stack:
        servers, workers = [], []
        for package in checkouts(settings):
            server = running_server(size="1.1", limit=limit, period=period)
            servers.append(stack.enter_context(server))
            worker = running_worker(servers[-1], package=package)
            workers.append(stack.enter_context(worker))
        time.sleep(-time.time() % period)
        for worker in workers:
            worker.start(BATCH, runs)
        times = [worker.finish().wall * runs / least for worker in workers]
        refused = [server.stats()["rate_limited"] for server in servers]
    what = f"{runs:,} runs, {limit} requests per {period} s"
    bound = 1 + 0.02 * 60 / least  # of the full size, which takes a minute
    yield Row(f"{what}: time against the quota's minimum", bound, bound, times, at_least=False)
    yield Row(f"{what}: requests refused", 0, 0, refused, unit="", at_least=False)


def memory(settings: Settings) -> Iterator[Row]:
    """Peaks of keeping and of streaming, each in a new process."""
    for name, size, runs, keep, must, aim in (
        ("10,000 runs of 8.9 KB, all kept", "8.9", 10_000, True, 200, 130),
        ("1,000,000 ids streamed, 1.1 KB", "1.1", 1_000_000, False, 30, 10),
    ):
        peaks = []
        with running_server(size=size) as server:
            for package in checkouts(settings):
                with running_worker(server, package=package) as worker:
                    peaks.append(worker.weigh(BATCH, runs, keep=keep).peak_bytes / 1e6)
        yield Row(f"{name}: peak", must, aim, peaks, unit="MB", at_least=False)


def checkouts(settings: Settings) -> list[Path | None]:
    """This checkout, and the baseline's path if there is one."""
    return [None, *([settings.baseline.path] if settings.baseline else [])]
