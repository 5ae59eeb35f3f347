"""A local server that speaks the Model Lab API, for tests, demonstrations and load.

It shares no code with the client, so that its record of what a client does is independent.

Example:
    ```python
    from modellab_async import ModelLabClient
    from modellab_async.simulator import Fault, RateLimit, Simulator

    async with Simulator(rate_limit=RateLimit(limit=100, period=10)) as sim:
        sim.faults.next(Fault.status(503), Fault.reset())
        async with ModelLabClient(
            base_url=sim.base_url, api_key=sim.api_key, app_key=sim.app_key
        ) as lab:
            await lab.runs.get(70158)
        assert sim.counts.by_status == {503: 1, None: 1, 200: 1}
    ```
"""

from __future__ import annotations

from modellab_async.simulator.faults import DEFAULT_FAULTS, Fault, Faults
from modellab_async.simulator.fixtures import ABSENT
from modellab_async.simulator.handler import Counts, RequestRecord
from modellab_async.simulator.limits import RateLimit
from modellab_async.simulator.server import DEFAULT_SEED, Simulator
from modellab_async.simulator.times import ManualClock

__all__ = [
    "ABSENT",
    "DEFAULT_FAULTS",
    "DEFAULT_SEED",
    "Counts",
    "Fault",
    "Faults",
    "ManualClock",
    "RateLimit",
    "RequestRecord",
    "Simulator",
]
