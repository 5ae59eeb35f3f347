"""A process that runs arms when told to, and reports what each fetch cost.

Arms that take turns in one process are compared most fairly; memory wants a new process each time,
since a peak never falls again.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from benchmarks import ROOT
from benchmarks.arms import ARMS, Arm, Fetch
from benchmarks.server import Server
from modellab_async import large_results, speed

FIRST_ID = 100_000


@frozen
class Report:
    """What a fetch cost."""

    wall: float
    """Microseconds a run."""
    cpu: float
    """Microseconds of this process's CPU time a run."""
    peak: float
    """Megabytes by which the peak of memory rose above that of the open, idle client."""
    pause: float
    """Milliseconds of the longest garbage collection."""


@frozen
class Worker:
    """The other end of the pipe."""

    process: subprocess.Popen[str]

    def fetch(self, arm: Arm, runs: int, *, keep: bool = False, large: bool = False) -> Report:
        """Fetch runs once, and keep them or not, in ``large_results()`` or not."""
        self.start(arm, runs, keep=keep, large=large)
        return self.finish()

    def start(self, arm: Arm, runs: int, *, keep: bool = False, large: bool = False) -> None:
        """Begin a fetch that `finish` waits for."""
        self.process.stdin.write(json.dumps([arm.name, runs, keep, large]) + "\n")
        self.process.stdin.flush()

    def finish(self) -> Report:
        if not (line := self.process.stdout.readline()):
            raise RuntimeError("the worker's process has ended")
        return Report(**json.loads(line))


@contextmanager
def running_worker(
    server: Server, concurrency: int = 10, *, fast: bool = False
) -> Iterator[Worker]:
    """Start a worker, under `speed.run` if ``fast``; it ends on leaving, whatever happens."""
    command = [sys.executable, "-m", "benchmarks.worker", server.url, str(concurrency), str(fast)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = os.environ | server.environment
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:
        try:
            process.stdout.readline()  # it is ready
            yield Worker(process)
        finally:
            process.kill()


async def measure(fetch: Fetch, runs: int, *, keep: bool, large: bool) -> Report:
    """The cost of one fetch; garbage of earlier ones is not counted."""
    kept: list[Any] | None = [] if keep else None
    pauses = [0.0]

    def watch(phase: str, _: object) -> None:
        now = time.perf_counter()
        pauses.append(now if phase == "start" else now - pauses.pop())

    gc.collect()
    idle = _peak()
    gc.callbacks.append(watch)
    wall, cpu = time.perf_counter(), time.process_time()
    with large_results() if large else nullcontext():
        await fetch(range(FIRST_ID, FIRST_ID + runs), kept)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    gc.callbacks.remove(watch)
    return Report(wall / runs * 1e6, cpu / runs * 1e6, _peak() - idle, max(pauses) * 1e3)


def _peak() -> float:
    """This process's peak of resident memory, in megabytes.

    On Linux that of its address space: ``ru_maxrss`` starts at the peak of the parent process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


async def serve(url: str, concurrency: int) -> None:
    """Obey the orders on standard input until it ends; an arm is opened once."""
    fetches: dict[str, Fetch] = {}
    print("ready", flush=True)
    async with AsyncExitStack() as stack:
        # Reading blocks the event loop, so that a worker that waits for its turn costs nothing.
        for line in sys.stdin:
            name, runs, keep, large = json.loads(line)
            if name not in fetches:
                opened = ARMS[name].open(url, concurrency)
                fetches[name] = await stack.enter_async_context(opened)
            report = await measure(fetches[name], runs, keep=keep, large=large)
            print(json.dumps(asdict(report)), flush=True)


if __name__ == "__main__":
    url, concurrency, fast = sys.argv[1:]
    run = speed.run if fast == "True" else asyncio.run
    run(serve(url, int(concurrency)))
