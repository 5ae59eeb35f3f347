"""Random cancellations by the thousand: many pieces of work at once on one client.

``python tests/cancellations.py 15000 7`` runs so many from that seed, with ``eager`` after it on
Python 3.12 and later with eager tasks.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from conftest import TASK_FACTORIES, client_for, eventually, settled
from test_cancellation import FILES, PROJECT, RUN, SLOW, SLOWER, WORK, tasks_of_ours

from modellab_async import Clock, ModelLabError
from modellab_async.limiter import AdaptiveLimiter
from modellab_async.simulator import Simulator

AT_ONCE: Final = 20
LONGEST: Final = 0.3
"""Seconds after which every piece of work is cancelled."""

PIECES: Final = tuple(name for name in WORK if name != "gets that wait for quota")


def cancel_at_random(count: int, seed: int, factory: str = "lazy") -> Counter[str]:
    """Begin so many pieces of work, and cancel each after a random time.

    Returns:
        How many ended how.

    Raises:
        AssertionError: if one of them leaves something behind.
    """
    complaints: list[dict[str, Any]] = []
    dice = random.Random(seed)

    async def main() -> Counter[str]:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, told: complaints.append(told))
        loop.set_task_factory(TASK_FACTORIES[factory])
        ends: Counter[str] = Counter()
        while (left := count - ends.total()) > 0:
            ends += await _on_one_client(dice, min(left, 25 * AT_ONCE))
        return ends

    ends = asyncio.run(main())
    gc.collect()
    assert complaints == []
    return ends


async def _on_one_client(dice: random.Random, count: int) -> Counter[str]:
    ends: Counter[str] = Counter()
    async with Simulator(runs=120, projects=3) as sim:
        sim.insert_run(RUN, project_id=PROJECT, artifacts=FILES)
        for run_id, seconds in ((SLOW, 3_600), (SLOWER, 7_200)):
            sim.insert_run(run_id, timeline=[(0, "running"), (seconds, "completed")])
        limiter = AdaptiveLimiter(8, Clock())
        async with client_for(sim, limiter=limiter) as lab:
            before = tasks_of_ours()
            while (left := count - ends.total()) > 0:
                with tempfile.TemporaryDirectory() as directory:
                    tasks = [
                        _begin(dice, lab, sim, Path(directory, str(number)))
                        for number in range(min(left, AT_ONCE))
                    ]
                    await asyncio.wait(tasks)
                    ends.update(map(_end, tasks))
                    await settled(10)
                    assert tasks_of_ours() == before
                assert limiter.in_flight == 0
                sim.faults.clear()
            await eventually(lambda: sim.counts.in_flight == 0)
            assert (await lab.runs.get(RUN)).id == RUN
        await eventually(lambda: sim.counts.connections == 0)
    return ends


def _begin(dice: random.Random, lab: Any, sim: Simulator, directory: Path) -> asyncio.Task[Any]:
    work = WORK[dice.choice(PIECES)]
    delay = dice.choice((0.0, 0.001, 0.01, 0.05, LONGEST)) * dice.random()
    task: asyncio.Task[Any] = asyncio.ensure_future(work(lab, sim, directory))
    asyncio.get_running_loop().call_later(delay, task.cancel)
    return task


def _end(task: asyncio.Task[Any]) -> str:
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    assert error is None or isinstance(error, ModelLabError), repr(error)
    return "done" if error is None else "documented error"


if __name__ == "__main__":
    began = time.perf_counter()
    ended = cancel_at_random(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
    seconds = time.perf_counter() - began
    print(f"{sys.argv[1]} pieces of work in {seconds:.1f} s: {dict(ended)}")  # noqa: T201
