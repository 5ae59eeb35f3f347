"""A simulator in a process of its own, which is told what to do and reports what it saw.

``async with running_simulator(runs=1000, rate=0.3) as sim`` starts it; ``sim.down(503)`` begins an
outage, ``sim.up()`` ends it, and ``sim.seen()`` is what it has seen so far.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from attrs import field, frozen

from benchmarks import ROOT
from modellab_async import ModelLabClient
from modellab_async.simulator import Fault, Faults, RateLimit, Simulator

LONGEST_LINE = 64 * 1024 * 1024


@frozen
class Setup:
    """What the simulator is like."""

    runs: int = 65_614
    seed: int = 0
    """Of the faults."""
    rate: float = 0.0
    limit: int | None = None
    period: int = 10
    rounding: str = "ceil"
    latency: float = 0.0


@frozen
class Seen:
    """What the simulator has seen so far."""

    requests: int
    refused: int
    """Answered with 429 for want of quota."""
    arrivals: list[tuple[float, int | None]] = field(repr=False)
    """When each request arrived (seconds since the epoch), and its status."""


class SimulatorProcess:
    """The other end of the pipe."""

    def __init__(self, process: asyncio.subprocess.Process, hello: dict[str, Any]) -> None:
        self._process = process
        self.base_url: str = hello["base_url"]
        self.ids: list[int] = hello["ids"]

    def client(self, **options: Any) -> ModelLabClient:
        return ModelLabClient(
            base_url=self.base_url, api_key="sim-api-key", app_key="sim-app-key", **options
        )

    async def down(self, how: int | str) -> None:
        """Begin an outage: a status for every request, ``reset``, or ``refused`` connections."""
        await self._tell("down", how)

    async def up(self) -> None:
        await self._tell("up")

    async def seen(self) -> Seen:
        return Seen(**await self._tell("seen"))

    async def _tell(self, order: str, argument: Any = None) -> Any:
        assert self._process.stdin
        self._process.stdin.write(json.dumps([order, argument]).encode() + b"\n")
        return await _read(self._process)


@asynccontextmanager
async def running_simulator(**setup: Any) -> AsyncIterator[SimulatorProcess]:
    """Start a simulator; the fields of ``Setup`` say which."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.simulator_process", json.dumps(setup)),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LONGEST_LINE,
    )
    try:
        yield SimulatorProcess(process, await _read(process))
    finally:
        assert process.stdin
        process.stdin.close()
        await process.wait()


async def _read(process: asyncio.subprocess.Process) -> Any:
    assert process.stdout
    line = await process.stdout.readline()
    assert line, "the simulator's process has ended"
    return json.loads(line)


async def serve(setup: Setup) -> None:
    """Obey the orders that come by standard input, until it ends."""
    limit = None
    if setup.limit is not None:
        limit = RateLimit(limit=setup.limit, period=setup.period, rounding=setup.rounding)  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]  # kept, to come back to after an outage
    simulator = Simulator(
        runs=setup.runs,
        port=port,
        faults=Faults(rate=setup.rate, seed=setup.seed),
        rate_limit=limit,
        latency=setup.latency,
        record=300_000 if setup.limit else 0,
    )
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    await simulator.start()
    say(base_url=simulator.base_url, ids=list(simulator.run_ids))
    refused = False
    while line := await orders.readline():
        order, argument = json.loads(line)
        if order == "seen":
            arrivals = [(record.time, record.status) for record in simulator.requests]
            limited = [
                record
                for record in simulator.requests
                if record.status == 429 and record.fault is None
            ]
            say(
                requests=simulator.counts.requests,
                refused=len(limited),
                arrivals=arrivals,
            )
        elif order == "down":
            refused = argument == "refused"
            if refused:
                await simulator.close()
            else:
                fault = Fault.reset() if argument == "reset" else Fault.status(argument)
                simulator.faults.always(fault)
            say()
        elif order == "up":
            simulator.faults.clear()
            if refused:
                await simulator.start()
            say()
    await simulator.close()


def say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(Setup(**json.loads(sys.argv[1]))))
