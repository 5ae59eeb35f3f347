"""What a call costs if tenacity makes its first attempt: ``python -m benchmarks.first_attempt``.

Prints the CPU time of a call whose attempts are all made inside tenacity, over that of a call as
the client makes it: the median and the quartiles of paired rounds.
"""

from __future__ import annotations

import asyncio
import functools
import time
from statistics import quantiles
from typing import Any

import attrs

from benchmarks.server import running_server
from modellab_async import ModelLabClient
from modellab_async.calls import Caller
from modellab_async.resources import Runs
from modellab_async.retry import CallState, retrying

ROUNDS, CALLS = 40, 500


@attrs.frozen(eq=False, repr=False)
class InsideTenacity(Caller):
    """Makes every attempt inside tenacity."""

    async def _send(self, state: CallState) -> Any:
        self.counters.calls += 1
        retries = retrying(
            state,
            self.policy,
            self.clock,
            sleep=self._back_off,
            before_sleep=functools.partial(self._note_retry, state),
        )
        async for attempt in retries:
            with attempt:
                return await self._attempt(state)
        return None


async def cpu(runs: Runs) -> float:
    start = time.process_time()
    for run_id in range(10_000, 10_000 + CALLS):
        await runs.get(run_id)
    return time.process_time() - start


async def main() -> None:
    with running_server(size="1.1") as server:
        async with ModelLabClient(base_url=server.url, api_key="a", app_key="b") as lab:
            caller = lab._caller
            names = [field.name for field in attrs.fields(Caller)]
            inside = InsideTenacity(**{name: getattr(caller, name) for name in names})
            arms = [lab.runs, lab.runs.with_caller(inside)]
            ratios = []
            for number in range(ROUNDS + 1):
                order = arms if number % 2 else arms[::-1]
                seconds = {runs: await cpu(runs) for runs in order}
                ratios.append(seconds[arms[1]] / seconds[arms[0]])
    low, middle, high = quantiles(ratios[1:], n=4)  # the first round warms up
    print(f"{middle:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    asyncio.run(main())
