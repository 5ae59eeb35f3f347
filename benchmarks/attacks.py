"""Rows of the soak that need no real time: rules of a hostile server, and listings under churn.

The servers and the clock are those of the tests (``tests/virtual.py``): the client is the real one,
and seconds are those of its clock, so that the figures are the same on every machine.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import virtual
from virtual import Limit, Server

from benchmarks.figures import Figure
from modellab_async import ModelLabClient
from modellab_async.simulator import Simulator

if TYPE_CHECKING:
    from benchmarks.endurance import Scale

Rule = Callable[[float], tuple[int, Mapping[str, str]]]


async def churn(scale: Scale) -> list[Figure]:
    """Runs are deleted and inserted while listings are read, so that their total stays equal."""
    figures = []
    for options in ({}, {"verify": True}):
        wrong = unknown = lost = 0
        for seed in range(scale.walks):
            survivors, listed, complete = await _walk(random.Random(seed), options)
            missing = len(survivors - listed)
            lost += missing
            wrong += complete is True and missing > 0
            unknown += complete is None
        row = f"{scale.walks} listings of 1,000 runs that change meanwhile"
        row += ", verified" if options else ""
        bound = 0 if options else None
        figures += [
            Figure(row, "called complete although a run was missed", wrong, 0, 0),
            Figure(row, "runs missed", lost, None, bound),
            Figure(row, "listings not known to be complete or not", unknown, None, bound),
        ]
    return figures


async def _walk(dice: random.Random, options: Any) -> tuple[set[int], set[int], bool | None]:
    """The runs that were there throughout, those that were listed, and what is known of them."""
    async with Simulator(runs=1_000, projects=3) as sim:
        survivors, listed = set(sim.run_ids), set[int]()
        keys = {"api_key": sim.api_key, "app_key": sim.app_key}
        async with ModelLabClient(base_url=sim.base_url, **keys) as lab:
            pager = lab.runs.list(page_size=20, sort="created_at", **options)
            async for run in pager:
                listed.add(run.id)
                if dice.random() < 0.05:
                    gone = dice.choice(sorted(survivors))
                    sim.delete_run(gone)
                    survivors.discard(gone)
                    sim.insert_run()
        return survivors, listed, pager.complete


async def bursts(_: Scale) -> list[Figure]:
    """A quota whose resets are rounded in any way, for one process and three."""
    figures = []
    for limit, period, calls in ((50, 1, 450), (50, 2, 300), (100, 10, 300)):
        worst, refused = 0.0, 0
        for rounding in ("floor", "ceil", "exact"):
            for clients in (1, 3):
                quota = Limit(limit, period, rounding=rounding)
                seconds, server = await _gathered(_by(quota), calls=calls, clients=clients)
                worst = max(worst, seconds / ((calls / limit - 1) * period))
                refused = max(refused, server.by_status[429])
        row = f"{calls} calls on {limit} per {period} s, Reset by floor, ceil or exact"
        figures += [
            Figure(row, "time against the least possible, at worst", worst, 1.3, 1.1, "x"),
            Figure(row, "refused, at worst", 100 * refused / calls, 10, 1, "%"),
        ]
    return figures


async def blips(scale: Scale) -> list[Figure]:
    """Every request fails for a moment, while thousands of calls wait."""
    figures = []
    for outage in (1, 3, 10):
        began: list[float] = []

        def answer(now: float, outage: float = outage, began: list[float] = began) -> Any:
            began.append(now)
            return (503 if 0.02 <= now - began[0] < 0.02 + outage else 200), {}

        _, server = await _gathered(answer, calls=scale.waiting)
        row = f"503s for {outage} s under {scale.waiting:,} concurrent calls"
        figures += [
            Figure(row, "calls failed", scale.waiting - server.by_status[200], 0, 0),
            Figure(
                row,
                "requests seen meanwhile, per call asked for",
                server.by_status[503] / scale.waiting,
                1.1,
                1,
            ),
        ]
    return figures


async def shards(scale: Scale) -> list[Figure]:
    """Some ids always fail: the others must not wait for them."""
    ids = range(1, scale.sharded + 1)
    calm = await _last_run(Server(latency=0.05, jitter=0.01), ids)
    figures = []
    for percent in (1, 2, 5):
        broken = set(random.Random(5).sample(ids, percent * len(ids) // 100))
        server = Server(latency=0.05, jitter=0.01, broken=broken)
        last = await _last_run(server, ids)
        row = f"{percent} % of {len(ids):,} ids always answer 503, single route"
        good = len(ids) - len(broken) - server.by_status[200]
        figures += [
            Figure(row, "other runs lost", good, 0, 0),
            Figure(row, "last run, against no failures", last / calm, 3, 1.2, "x"),
        ]
    return figures


async def limits(_: Scale) -> list[Figure]:
    """A limit that changes its name, and two limits on one operation."""
    old, new, until = Limit(100, 1, name="old"), Limit(100_000, 10, name="new"), list[float]()

    def renamed(now: float) -> tuple[int, Mapping[str, str]]:
        until.append(now + 1)
        return _by(old if now < until[0] else new)(now)

    both = [Limit(20, 1, name="burst"), Limit(100, 10, name="sustained")]

    def two(now: float) -> tuple[int, Mapping[str, str]]:
        for limit in reversed(both):
            if not limit.allows(now):
                return 429, limit.headers(now)
        for limit in both:
            limit.used += 1
        return 200, min(both, key=lambda limit: limit.limit - limit.used).headers(now)

    figures = []
    for row, rule, calls, least in (
        ("a limit that changes its name during a pause, 2,000 calls", renamed, 2_000, 1.4),
        ("20 per 1 s and 100 per 10 s on one operation, 300 calls", two, 300, 24.0),
    ):
        seconds, server = await _gathered(rule, calls=calls)
        refused = server.by_status[429]
        figures += [
            Figure(row, "time against the least possible", seconds / least, 1.3, 1.1, "x"),
            Figure(row, "refused", refused, 20, 5),
        ]
    return figures


def _by(limit: Limit) -> Rule:
    def answer(now: float) -> tuple[int, Mapping[str, str]]:
        allowed = limit.allows(now)
        limit.used += allowed
        return (200 if allowed else 429), limit.headers(now)

    return answer


async def _gathered(rule: Rule, *, calls: int, clients: int = 1) -> tuple[float, Server]:
    """Seconds that concurrent calls take altogether."""
    server = Server(latency=0.01, jitter=0.002, rule=rule)

    async def main() -> float:
        await asyncio.sleep(-virtual.EPOCH % 60)
        began = virtual.now()
        labs = [server.client() for _ in range(clients)]
        calls_made = (lab.runs.get(1) for lab in labs for _ in range(calls // clients))
        await asyncio.gather(*calls_made, return_exceptions=True)
        return virtual.now() - began

    return await asyncio.to_thread(virtual.run, main()), server


async def _last_run(server: Server, ids: range) -> float:
    """When the last run of a fetch came."""

    async def main() -> None:
        async for _outcome in server.client().runs.fetch(ids, route="single"):
            pass

    await asyncio.to_thread(virtual.run, main())
    return max(at for at, status in server.log if status == 200)
