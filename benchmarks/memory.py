"""Peak memory and collector pauses of one client that streams or keeps runs, printed as JSON.

A process of its own, since a peak never falls again. ``spawn`` starts it; by hand, ``python -m
benchmarks.memory '{"url": "http://127.0.0.1:1234", "client": "hand", "runs": 1000}'``.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import arms
from attrs import asdict, define, field, frozen
from harness import FIRST_ID

import modellab_async

PAUSE = "large_results"
"""The package's context manager for keeping many runs without the collector's pauses."""
PAUSING = f"in {PAUSE}()"
CLIENTS = {"hand": arms.HAND, "single": arms.SINGLE, "batch": arms.BATCH}


@frozen
class Task:
    """What the process does; ``keep`` holds on to every run, ``paused`` does so in ``PAUSE``."""

    url: str
    client: str
    runs: int
    keep: bool = False
    paused: bool = False
    concurrency: int = 10


@frozen
class Report:
    """What it cost, above the same client opened and idle."""

    peak_bytes: int
    seconds: float
    collecting: float
    """Seconds that the collector ran, and nothing else did."""
    pauses: list[tuple[int, float]]
    """Each full collection: runs kept at that moment, and its seconds."""
    tracked: int
    """Objects that the collector has to visit."""


@define
class PauseClock:
    """Times every collection while it is entered."""

    kept: list[Any]
    total: float = 0
    full: list[tuple[int, float]] = field(factory=list)
    _since: float = 0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._since = time.perf_counter()
            return
        took = time.perf_counter() - self._since
        self.total += took
        if info["generation"] == 2:
            self.full.append((len(self.kept), took))


def spawn(**task: Any) -> Report:
    """Run a task in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", json.dumps(task)]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=root)
    return Report(**json.loads(done.stdout))


async def perform(task: Task) -> Report:
    """Do the task in this process."""
    kept: list[Any] = []
    clock = PauseClock(kept)
    async with _client(task.client).open(task.url, task.concurrency) as fetch:
        gc.collect()
        idle, tracked, started = _peak_bytes(), _tracked(), time.perf_counter()
        gc.callbacks.append(clock)
        with getattr(modellab_async, PAUSE)() if task.paused else nullcontext():
            await fetch(range(FIRST_ID, FIRST_ID + task.runs), kept if task.keep else None)
        seconds = time.perf_counter() - started
        gc.callbacks.remove(clock)
        return Report(
            peak_bytes=_peak_bytes() - idle,
            seconds=seconds,
            collecting=clock.total,
            pauses=clock.full,
            tracked=_tracked() - tracked,
        )


def _client(name: str) -> arms.Arm:
    if name == "official":
        # Only here: its import would weigh on the others.
        import official  # noqa: PLC0415

        return official.ASYNC
    return CLIENTS[name]


def _tracked() -> int:
    gc.collect()
    return len(gc.get_objects()) + gc.get_freeze_count()


def _peak_bytes() -> int:
    """This process's peak resident memory.

    Where Linux offers it, the high-water mark of its own address space: ``ru_maxrss`` starts from
    the peak of the process that spawned it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(perform(Task(**json.loads(sys.argv[1])))))))
