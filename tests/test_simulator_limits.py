"""Rate limits: windows of the clock, headers on every answer, limits that are shared."""

from __future__ import annotations

import pytest
from simulator_client import Reply, asking

from modellab_async.simulator import ManualClock, RateLimit, Simulator


def told(reply: Reply) -> dict[str, str]:
    """The rate-limit headers of an answer, without their common prefix."""
    prefix = "x-ratelimit-"
    return {
        name.lower().removeprefix(prefix): value
        for name, value in reply.headers.items()
        if name.lower().startswith(prefix)
    }


def limited(limit: RateLimit | dict[str, RateLimit], clock: ManualClock) -> Simulator:
    return Simulator(runs=3, rate_limit=limit, clock=clock)


async def test_without_a_limit_there_are_no_headers() -> None:
    """A simulator without a limit says nothing of limits."""
    async with asking(Simulator(runs=1)) as ask:
        assert told(await ask("/runs")) == {}


async def test_every_answer_tells_of_the_limit() -> None:
    """Successes, refusals and errors alike count, and carry all five headers."""
    clock = ManualClock(now=1_003.0)
    async with asking(limited(RateLimit(limit=3, period=10, name="lab"), clock)) as ask:
        common = {"limit": "3", "period": "10", "reset": "7", "name": "lab"}
        assert told(await ask("/runs")) == {**common, "remaining": "2"}
        assert told(await ask("/runs/1")) == {**common, "remaining": "1"}
        assert told(await ask("/runs", {"sort": "x"})) == {**common, "remaining": "0"}
        refused = await ask("/runs")
    assert (refused.status, refused.json) == (429, {"errors": ["Too many requests"]})
    assert told(refused) == {**common, "remaining": "0"}


async def test_windows_start_at_multiples_of_the_period() -> None:
    """A window ends by the calendar, not a period after the first request."""
    clock = ManualClock(now=1_009.5)
    async with asking(limited(RateLimit(limit=1, period=10), clock)) as ask:
        assert (await ask("/runs")).status == 200
        assert (await ask("/runs")).status == 429
        clock.advance(0.5)
        assert (await ask("/runs")).status == 200
        clock.advance(9.999)
        assert (await ask("/runs")).status == 429


@pytest.mark.parametrize(
    ("now", "floor", "ceil"), [(1_000.0, "10", "10"), (1_006.5, "3", "4"), (1_009.5, "0", "1")]
)
async def test_seconds_left_are_whole(now: float, floor: str, ceil: str) -> None:
    """The seconds left are rounded as chosen; a full window has a whole period left."""
    down = RateLimit(limit=9, period=10, rounding="floor")
    up = RateLimit(limit=9, period=10, rounding="ceil")
    for limit, expected in ((down, floor), (up, ceil)):
        async with asking(limited(limit, ManualClock(now=now))) as ask:
            assert told(await ask("/runs"))["reset"] == expected


@pytest.mark.parametrize("lines", [("garbage",), ("-3",), ("1779000000",), ("7, 7",), ("7", "7")])
async def test_reset_can_be_any_text(lines: tuple[str, ...]) -> None:
    """`X-RateLimit-Reset` can be overridden, and be sent more than once."""
    limit = RateLimit(limit=9, period=10, raw_reset=lines)
    async with asking(limited(limit, ManualClock())) as ask:
        reply = await ask("/runs")
    assert tuple(reply.headers.getall("X-RateLimit-Reset")) == lines


async def test_limits_of_the_same_name_are_shared() -> None:
    """Operations draw on the window of their limit's name; others have their own."""
    shared = RateLimit(limit=2, period=10, name="runs")
    own = RateLimit(limit=1, period=10, name="rest")
    limits = {"get_run": shared, "list_runs": shared, "*": own}
    simulator = limited(limits, ManualClock())
    run = f"/runs/{simulator.run_ids[0]}"
    async with asking(simulator) as ask:
        assert told(await ask(run))["remaining"] == "1"
        assert told(await ask("/runs"))["remaining"] == "0"
        assert (await ask(run)).status == 429
        assert told(await ask("/projects")) | {"reset": ""} == {
            "limit": "1", "period": "10", "remaining": "0", "reset": "", "name": "rest",
        }  # fmt: skip
        assert (await ask("/project-facet-keys")).status == 429


async def test_operations_without_a_limit_go_free() -> None:
    """With limits for some operations only, the others send no headers."""
    simulator = limited({"get_run": RateLimit(limit=1, period=10)}, ManualClock())
    async with asking(simulator) as ask:
        assert told(await ask("/runs")) == {}


async def test_other_processes_use_up_the_window() -> None:
    """What `spend` takes is missing until the window ends, and never more than there is."""
    clock = ManualClock(now=1_000.0)
    simulator = limited(RateLimit(limit=10, period=10), clock)
    async with asking(simulator) as ask:
        simulator.limits.spend(8)
        assert told(await ask("/runs"))["remaining"] == "1"
        simulator.limits.spend(8)
        assert (await ask("/runs")).status == 429
        clock.advance(10)
        assert told(await ask("/runs"))["remaining"] == "9"


async def test_the_limit_can_be_replaced() -> None:
    """Another limit holds from the next request on; None ends all limits."""
    simulator = limited(RateLimit(limit=1, period=10), ManualClock())
    async with asking(simulator) as ask:
        await ask("/runs")
        simulator.limits.replace(RateLimit(limit=5, period=10))
        assert told(await ask("/runs"))["remaining"] == "3"
        simulator.limits.replace(None)
        assert told(await ask("/runs")) == {}


async def test_a_wrong_key_uses_nothing_up() -> None:
    """Requests without the right keys are not counted against the limit."""
    simulator = limited(RateLimit(limit=1, period=10), ManualClock())
    async with asking(simulator) as ask:
        assert told(await ask("/runs", headers={})) == {}
        assert (await ask("/runs")).status == 200
