"""A process that runs arms when told to, and reports what each cost.

``with running_worker(server) as worker`` starts one; ``worker.measure(arm, runs)`` has it fetch.
The package that it imports is this checkout's, or that of ``package``, another checkout: this is
how an earlier version is measured beside this one. Arms that take turns in one process are compared
most fairly; memory wants a new process each time, since a peak never falls again.
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

from arms import ARMS, Arm, Fetch
from attrs import asdict, define, field, frozen
from server import Server

import modellab_async

ROOT = Path(__file__).parent.parent
FIRST_ID = 100_000


@frozen
class Sample:
    """One arm's turn, in seconds per run."""

    wall: float
    cpu: float


@frozen
class Report:
    """What fetching many runs costs, above the same client opened and idle."""

    peak_bytes: int
    seconds: float
    collecting: float
    """Seconds that the collector ran, and nothing else did."""
    pauses: list[tuple[int, float]]
    """Each full collection: runs kept at that moment, and its seconds."""
    tracked: int
    """Objects that the collector has to visit."""


@define
class Worker:
    """The other end of the pipe."""

    process: subprocess.Popen[str]

    def measure(self, arm: Arm, runs: int) -> Sample:
        """Fetch that many runs once."""
        self.start(arm, runs)
        return self.finish()

    def start(self, arm: Arm, runs: int) -> None:
        """Begin what ``finish`` waits for."""
        self._tell("measure", arm=arm.name, runs=runs)

    def finish(self) -> Sample:
        return Sample(**self._hear())

    def weigh(self, arm: Arm, runs: int, *, keep: bool = False, paused: bool = False) -> Report:
        """Fetch that many runs once, keep them or not, in ``large_results()`` or not."""
        self._tell("weigh", arm=arm.name, runs=runs, keep=keep, paused=paused)
        return Report(**self._hear())

    def _tell(self, order: str, **arguments: Any) -> None:
        self.process.stdin.write(json.dumps([order, arguments]) + "\n")
        self.process.stdin.flush()

    def _hear(self) -> Any:
        if not (line := self.process.stdout.readline()):
            raise RuntimeError("the worker's process has ended")
        return json.loads(line)


@contextmanager
def running_worker(
    server: Server, concurrency: int = 10, *, package: Path | None = None, speed: bool = False
) -> Iterator[Worker]:
    """Start a worker, on uvloop and isal if ``speed``; it ends on leaving, whatever happens."""
    environment = os.environ | {"PYTHONPATH": str(package or ROOT)} | server.environment
    setup = json.dumps({"url": server.url, "concurrency": concurrency, "speed": speed})
    command = [sys.executable, __file__, setup]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Worker(process)
        finally:
            process.kill()


@define
class PauseClock:
    """Times every collection while it is in ``gc.callbacks``."""

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


async def measure(fetch: Fetch, runs: int) -> Sample:
    """Time and CPU time of one fetch; the garbage of whoever was before is not counted."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    await fetch(range(FIRST_ID, FIRST_ID + runs))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Sample(wall / runs, cpu / runs)


async def weigh(fetch: Fetch, runs: int, *, keep: bool, paused: bool) -> Report:
    """Peak memory and collections of one fetch."""
    kept: list[Any] = []
    clock = PauseClock(kept)
    gc.collect()
    idle, tracked, started = _peak_bytes(), _tracked(), time.perf_counter()
    gc.callbacks.append(clock)
    with modellab_async.large_results() if paused else nullcontext():
        await fetch(range(FIRST_ID, FIRST_ID + runs), kept if keep else None)
    seconds = time.perf_counter() - started
    gc.callbacks.remove(clock)
    return Report(
        peak_bytes=_peak_bytes() - idle,
        seconds=seconds,
        collecting=clock.total,
        pauses=clock.full,
        tracked=_tracked() - tracked,
    )


def _tracked() -> int:
    gc.collect()
    return len(gc.get_objects()) + gc.get_freeze_count()


def _peak_bytes() -> int:
    """This process's peak resident memory.

    On Linux this is the high-water mark of its own address space: ``ru_maxrss`` starts from the
    peak of the process that spawned it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


async def serve(url: str, concurrency: int) -> None:
    """Obey the orders on standard input until it ends; an arm is opened once."""
    fetches: dict[str, Fetch] = {}
    async with AsyncExitStack() as stack:
        # Reading blocks the event loop, so that a worker that waits for its turn costs nothing.
        for line in sys.stdin:
            order, arguments = json.loads(line)
            name, runs = arguments.pop("arm"), arguments.pop("runs")
            if name not in fetches:
                opened = ARMS[name].open(url, concurrency)
                fetches[name] = await stack.enter_async_context(opened)
            work = measure if order == "measure" else weigh
            _say(**asdict(await work(fetches[name], runs, **arguments)))


def _say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


def main(setup: dict[str, Any]) -> None:
    if setup.pop("speed"):
        from modellab_async import speed  # noqa: PLC0415 - an older package has none

        speed.run(serve(**setup))
    else:
        asyncio.run(serve(**setup))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
