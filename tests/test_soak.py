"""The rows of the published soak, small or in virtual time; benchmarks/ holds them at full size."""

from __future__ import annotations

import asyncio
import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import virtual

from modellab_async import ModelLabClient, ModelLabError, Run
from modellab_async.simulator import RateLimit

ROOT = Path(__file__).parent.parent


@pytest.fixture
def endurance(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The rows themselves, over sockets."""
    pytest.importorskip("resource", reason="memory is measured as POSIX does")
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.endurance")


@pytest.mark.parametrize("row", ["million", "churn", "bursts", "blips", "shards", "limits"])
async def test_a_row_holds_in_short(endurance: ModuleType, row: str):
    """Over a socket or in virtual time, each figure is what it must be."""
    figures = await endurance.ROWS[row](endurance.SHORT)
    assert figures
    assert [figure for figure in figures if not figure.holds] == []


async def test_faults_are_overcome_and_counted(endurance: ModuleType):
    """Under every kind of fault all ids arrive, and the server sees as many requests as counted."""
    figures = await endurance.faults(endurance.SHORT)
    assert [figure for figure in figures if not figure.holds] == []
    unseen = [figure.measured for figure in figures if "never saw" in figure.what]
    assert unseen == [0, 0]


def gathered(
    server: virtual.Server, processes: int, calls: int, phase: float
) -> tuple[float, list[Any]]:
    """Calls of some clients that all start at once: seconds taken, and how each ended."""

    async def main() -> tuple[float, list[Any]]:
        assert server.limit is not None
        await asyncio.sleep((phase - virtual.EPOCH) % server.limit.period)
        began = virtual.now()
        labs = [server.client() for _ in range(processes)]
        ends = await asyncio.gather(
            *(lab.runs.get(1) for lab in labs for _ in range(calls)), return_exceptions=True
        )
        return virtual.now() - began, ends

    seconds, ends = virtual.run(main())
    return seconds, ends


@pytest.mark.parametrize(("rounding", "latency"), [("ceil", 0.1), ("floor", 0.02)])
def test_a_storm_of_429s_is_weathered(rounding: Any, latency: float):
    """1,000 tasks on 200 per 10 s: at most 1 % wasted, within 1.15 of the quota's minimum."""
    server = virtual.Server(limit=RateLimit(200, 10, rounding=rounding), latency=latency)
    seconds, ends = gathered(server, 1, 1_000, 0.2)
    assert [end for end in ends if not isinstance(end, Run)] == []
    assert server.by_status[429] <= 10
    assert seconds <= 1.15 * 39.8


@pytest.mark.parametrize(("rounding", "phase"), [("ceil", 4.3), ("floor", 0.2)])
def test_four_processes_share_a_quota(rounding: Any, phase: float):
    """All calls of four clients succeed, with at most 3 % of them refused on the way."""
    server = virtual.Server(limit=RateLimit(200, 10, rounding=rounding), latency=0.02, jitter=0.01)
    _, ends = gathered(server, 4, 250, phase)
    assert [end for end in ends if not isinstance(end, Run)] == []
    assert server.by_status[429] <= 30


def test_a_process_that_is_left_alone_takes_the_whole_quota_again():
    """Two periods after the others ended, all that remains is used by the one that is left."""
    server = virtual.Server(limit=RateLimit(200, 10), latency=0.02)

    async def main() -> None:
        await asyncio.sleep((0.2 - virtual.EPOCH) % 10)
        lab, *others = [server.client() for _ in range(4)]
        calls = [other.runs.get(1) for other in others for _ in range(50)]
        await asyncio.gather(*calls, *(lab.runs.get(1) for _ in range(900)))

    virtual.run(main())
    first = math.floor((virtual.EPOCH + server.log[0][0]) / 10)
    used = [0] * 8
    for at, status in server.log:
        used[math.floor((virtual.EPOCH + at) / 10) - first] += status == 200
    assert used[3] >= 198


def test_an_outage_is_not_multiplied_and_is_recovered_from():
    """200 tasks ask all the time: 50 repeats at the most; after two seconds all is as before."""
    server = virtual.Server(latency=0.2)
    asked, going = 0, True

    async def task(lab: ModelLabClient) -> None:
        nonlocal asked
        while going:
            asked += 1
            try:
                await lab.runs.get(1)
            except ModelLabError:
                continue

    async def main() -> tuple[int, int, float]:
        nonlocal asked, going
        lab = server.client()
        tasks = [asyncio.create_task(task(lab)) for _ in range(200)]
        await asyncio.sleep(2)
        server.down, server.log, asked = True, [], 0
        await asyncio.sleep(10)
        counted, seen = asked, len(server.log)
        server.down, server.log, over = False, [], virtual.now()
        await asyncio.sleep(3)
        going = False
        await asyncio.gather(*tasks)
        return counted, seen, over

    counted, seen, over = virtual.run(main())
    # The 200 calls under way when it began were asked for before.
    assert seen <= counted + 200 + 50
    good = [at - over for at, status in server.log if status == 200]
    assert good[0] <= 1
    assert sum(2 < at <= 3 for at in good) >= 0.9 * 100 / 0.2


def test_faults_that_go_on_are_paid_for():
    """Under 30 % faults at least 99.9 % of calls succeed, and the budget is never empty."""
    server = virtual.Server(rate=0.3)
    lab: Any = None

    async def main() -> list[Any]:
        nonlocal lab
        lab = server.client()
        calls = (lab.runs.get(1) for _ in range(2_000))
        return await asyncio.gather(*calls, return_exceptions=True)

    ends = virtual.run(main())
    assert sum(isinstance(end, Run) for end in ends) >= 1_998
    assert lab.stats.retries_refused == 0
    assert len(server.log) == 2_000 + lab.stats.retries
