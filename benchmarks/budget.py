"""Which constants a retry budget needs: the real client in virtual time, under faults.

``python -m benchmarks.budget`` prints the two tables of docs/explanation/retries-and-limits.md in
two minutes, always the same ones.
"""

from __future__ import annotations

import asyncio

import virtual
from harness import table

from modellab_async import ModelLabError, budget

EARNINGS = (0.1, 0.2, 0.5, 1.0)
SHARES = (0.05, 0.1, 0.3, 0.4, 0.5, 0.6)
CALLS = 10_000


async def sustained(rate: float) -> tuple[float, float]:
    """The share that succeeds of calls that all start at once, and requests for each call."""
    server = virtual.Server(rate=rate)
    ask = virtual.asker(server.client())
    ends = await asyncio.gather(*(ask() for _ in range(CALLS)), return_exceptions=True)
    return ends.count(b"{}") / CALLS, len(server.log) / CALLS


async def outage(seconds: float, tasks: int) -> tuple[int, int, float]:
    """Calls asked for and requests seen in an outage, and the seconds to the first success."""
    server = virtual.Server(latency=0.2)
    lab = server.client()
    ask = virtual.asker(lab)
    asked = 0
    going = True

    async def task() -> None:
        nonlocal asked
        while going:
            asked += 1
            try:
                await ask()
            except ModelLabError:
                continue

    tasks_ = [asyncio.create_task(task()) for _ in range(tasks)]
    await asyncio.sleep(2)
    lab._budget._saved = budget.SAVINGS
    server.down, server.log, asked = True, [], 0
    await asyncio.sleep(seconds)
    counted = asked, len(server.log)
    server.down, over = False, virtual.now()
    await asyncio.sleep(2)
    going = False
    await asyncio.gather(*tasks_)
    first = next(at for at, status in server.log if at >= over and status == 200)
    return *counted, first - over


def main() -> None:
    rows = []
    for earned in EARNINGS:
        budget.EARNED = earned  # type: ignore[misc]
        row = [f"{earned:g}"]
        for rate in SHARES:
            good, sent = virtual.run(sustained(rate))
            row.append(f"{good:.2%}, {sent:.2f}")
        rows.append(row)
    print(table(["earned", *(f"{share:.0%} faults" for share in SHARES)], rows))
    budget.EARNED = 0.5  # type: ignore[misc]
    rows = []
    for savings in (10.0, 50.0, 200.0, 1e9):
        budget.SAVINGS = savings  # type: ignore[misc]
        named = f"{savings:g}" if savings < 1e6 else "no budget"
        for tasks in (20, 200):
            asked, seen, first = virtual.run(outage(60, tasks))
            rows.append(
                [named, f"{tasks}", f"{asked:,}", f"{seen:,}", f"{seen / asked:.3f}",
                 f"{first:.2f} s"]
            )  # fmt: skip
    head = ["savings", "tasks", "calls asked for", "requests seen", "ratio", "first success after"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
