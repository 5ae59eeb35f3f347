"""When a request may be sent: concurrency, the server's quotas, and what responses say of both."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import virtual
from conftest import PATIENCE, THOROUGH, FakeClock, client_for, settled
from virtual import Limit

from modellab_async import ConfigError, ModelLabClient, RateLimit, RateLimitedError, RetryPolicy
from modellab_async.limiter import (
    AdaptiveLimiter,
    Pause,
    Permit,
    PermitRequest,
    QuotaExhaustedError,
    Window,
)
from modellab_async.quota import SLOW_START
from modellab_async.simulator import Fault, Simulator
from modellab_async.simulator import RateLimit as ServerLimit


def described(
    remaining: int | None, reset: float | None, *, period: float | None = 10.0, name: str = "x"
) -> RateLimit:
    return RateLimit(name=name, limit=100, period=period, remaining=remaining, reset=reset)


def permitted(limiter: AdaptiveLimiter, operation: str = "op", **options: Any) -> Any:
    """An awaitable permit."""
    return limiter.acquire(PermitRequest(operation, **options))


class TestLimiter:
    """What tasks wait for."""

    async def test_no_more_than_the_maximum_are_in_flight(self, fake: FakeClock):
        """The maximum holds, and each permit that is released goes to the next in line."""
        limiter = AdaptiveLimiter(3, fake.clock())
        order: list[int] = []

        async def one(number: int) -> None:
            permit = await permitted(limiter)
            order.append(number)
            assert limiter.in_flight <= 3
            await asyncio.sleep(0)
            permit.release()

        await asyncio.gather(*(one(number) for number in range(50)))
        assert order == list(range(50))
        assert limiter.in_flight == 0

    async def test_a_few_are_sent_before_the_first_response(self, fake: FakeClock):
        """And as many as the window holds after it."""
        limiter = AdaptiveLimiter(50, fake.clock())
        tasks = [asyncio.create_task(permitted(limiter)) for _ in range(100)]
        await settled(1)
        assert limiter.in_flight == SLOW_START
        permit = await tasks[0]
        permit.update(200, None)
        permit.release()
        assert limiter.in_flight == 50
        for task in tasks[1:]:
            (await task).release()

    async def test_a_retry_goes_before_first_attempts(self, fake: FakeClock):
        """Retries are ahead of first attempts, in their own order."""
        limiter = AdaptiveLimiter(1, fake.clock())
        permit = await permitted(limiter)
        order: list[str] = []

        async def wait(name: str, *, is_retry: bool) -> None:
            permit = await permitted(limiter, is_retry=is_retry)
            order.append(name)
            permit.release()

        tasks = []
        for name in ("first", "retry 1", "retry 2"):
            tasks.append(asyncio.create_task(wait(name, is_retry=name != "first")))
            await settled(1)
        permit.release()
        await asyncio.gather(*tasks)
        assert order == ["retry 1", "retry 2", "first"]

    async def test_a_cancelled_waiter_loses_no_permit(self, fake: FakeClock):
        """Cancelling in the queue, or at the moment of being admitted, passes the permit on."""
        limiter = AdaptiveLimiter(1, fake.clock())
        permit = await permitted(limiter)
        in_line = asyncio.create_task(permitted(limiter))
        admitted = asyncio.create_task(permitted(limiter))
        last = asyncio.create_task(permitted(limiter))
        await settled(1)
        in_line.cancel()
        await settled(1)
        permit.release()
        admitted.cancel()
        (await last).release()
        assert limiter.in_flight == 0
        assert in_line.cancelled()
        assert admitted.cancelled()

    async def test_one_operation_does_not_starve_another(self, fake: FakeClock):
        """Operations that wait take turns."""
        limiter = AdaptiveLimiter(1, fake.clock())
        permit = await permitted(limiter, "many")
        order: list[str] = []

        async def one(operation: str) -> None:
            permit = await permitted(limiter, operation)
            order.append(operation)
            permit.release()

        tasks = [asyncio.create_task(one("many")) for _ in range(10)]
        tasks.append(asyncio.create_task(one("lone")))
        await settled(1)
        permit.release()
        await asyncio.gather(*tasks)
        assert order.index("lone") <= 2

    async def test_operations_of_one_limit_pause_together(self, fake: FakeClock):
        """Operations whose responses carry the same limit's name share what is left of it."""
        limiter = AdaptiveLimiter(10, fake.clock())
        for operation in ("one", "other"):
            permit: Permit = await permitted(limiter, operation)
            permit.update(200, described(5, 7, name="shared"))
            permit.release()
        fake.now = 0.1
        permit = await permitted(limiter, "one")
        permit.update(429, described(0, 7, name="shared"))
        permit.release()
        with pytest.raises(QuotaExhaustedError):
            await permitted(limiter, "other", max_wait=1)
        (await permitted(limiter, "unrelated", max_wait=1)).release()

    async def test_a_request_that_cannot_wait_so_long_is_told_at_once(self, fake: FakeClock):
        """A pause that is too long for a request ends its waiting as soon as the pause begins."""
        limiter = AdaptiveLimiter(1, fake.clock())
        permit = await permitted(limiter)
        short = asyncio.create_task(permitted(limiter, max_wait=5))
        long = asyncio.create_task(permitted(limiter, max_wait=50))
        await settled(1)
        permit.update(429, described(0, 7))
        permit.release()
        with pytest.raises(QuotaExhaustedError) as caught:
            await short
        assert caught.value.seconds == pytest.approx(7)
        assert caught.value.rate_limit == described(0, 7)
        (await long).release()
        assert 7 <= fake.now < 7.1

    async def test_a_pause_is_told_and_counted_once(self, fake: FakeClock):
        """Requests, errors and whoever asked hear of the limit; waits at the same time add once."""
        pauses: list[Pause] = []
        limiter = AdaptiveLimiter(1, fake.clock(), pauses.append)
        fake.now, limit = 100.0, described(0, 7)
        permit = await permitted(limiter)
        before = PermitRequest("op")
        tasks = [asyncio.create_task(limiter.acquire(before))]
        await settled(1)
        permit.update(429, limit)
        permit.release()
        after = [PermitRequest("op") for _ in range(3)]
        tasks += [asyncio.create_task(limiter.acquire(request)) for request in after]
        await settled(1)
        with pytest.raises(QuotaExhaustedError) as caught:
            await permitted(limiter, max_wait=1)
        assert caught.value.args == (limit, 7)
        assert (caught.value.rate_limit, caught.value.seconds) == (limit, 7)
        for waiting in tasks:
            (await waiting).release()
        assert pauses == [Pause("op", limit, 7)]
        assert limiter.pauses == 1
        assert limiter.paused_seconds == pytest.approx(7, abs=0.1)
        assert fake.timers == 0
        for request in (before, *after):
            assert request.queued
            assert request.paused
            assert request.paused_by == limit

    async def test_a_pause_ends_for_the_client_when_nobody_waits_any_more(self, fake: FakeClock):
        """Nothing is left to wake up for, and no more seconds are counted."""
        limiter = AdaptiveLimiter(1, fake.clock())
        fake.settle = 60.0  # the pause never ends by itself
        permit = await permitted(limiter)
        permit.update(429, described(0, 30))
        permit.release()
        waiting = asyncio.create_task(permitted(limiter))
        await settled(1)
        fake.now = 10.0
        waiting.cancel()
        await asyncio.wait([waiting])
        assert fake.timers == 0
        fake.now = 20.0
        assert limiter.paused_seconds == 10

    async def test_waiting_for_a_place_is_no_pause(self, fake: FakeClock):
        """A request is told that it waited, though not for quota."""
        limiter = AdaptiveLimiter(1, fake.clock())
        first = PermitRequest("op")
        permit = await limiter.acquire(first)
        assert not first.queued
        request = PermitRequest("op")
        waiting = asyncio.create_task(limiter.acquire(request))
        await settled(1)
        permit.release()
        (await waiting).release()
        assert request.queued
        assert not request.paused
        assert limiter.pauses == 0
        assert limiter.paused_seconds == 0

    async def test_a_pause_of_less_than_a_second_ends_too(self, fake: FakeClock):
        """It is waited for like a longer one."""
        limiter = AdaptiveLimiter(1, fake.clock())
        permit = await permitted(limiter)
        permit.update(429, described(0, 0.5))
        permit.release()
        async with asyncio.timeout(PATIENCE):
            (await permitted(limiter)).release()
        assert 0.5 <= fake.now < 0.6

    @pytest.mark.parametrize("names", [("burst", "sustained"), ("sustained", "burst")])
    async def test_of_two_limits_the_longer_pause_is_named(
        self, fake: FakeClock, names: tuple[str, str]
    ):
        """Whichever of them a response described last."""
        limiter = AdaptiveLimiter(10, fake.clock())
        pauses = {"burst": 3.0, "sustained": 50.0}
        permits = [await permitted(limiter) for _ in range(4)]
        for name, permit in zip(names * 2, permits, strict=True):
            permit.update(200, described(50, pauses[name], name=name, period=60))
        for permit in permits:
            permit.release()
        fake.now = 0.1
        permits = [await permitted(limiter) for _ in names]
        for name, permit in zip(names, permits, strict=True):
            permit.update(429, described(0, pauses[name], name=name, period=60))
            permit.release()
        with pytest.raises(QuotaExhaustedError) as caught:
            await permitted(limiter, max_wait=10)
        assert caught.value.seconds == pytest.approx(50)
        assert caught.value.rate_limit is not None
        assert caught.value.rate_limit.name == "sustained"

    async def test_a_retry_waits_for_a_place_until_its_deadline(self, fake: FakeClock):
        """Then it leaves the queue to those behind it; one that is admitted leaves no timer."""
        limiter = AdaptiveLimiter(1, fake.clock())
        permit = await permitted(limiter)
        late = asyncio.create_task(permitted(limiter, is_retry=True, deadline=5))
        behind = asyncio.create_task(permitted(limiter, is_retry=True, deadline=500))
        with pytest.raises(TimeoutError):
            await late
        assert fake.now == 5
        permit.release()
        (await behind).release()
        assert limiter.in_flight == 0
        assert fake.timers == 0

    async def test_the_window_bounds_what_is_in_flight(self, fake: FakeClock):
        """After rounds of 503 hardly anything is admitted; after successes everything is again."""
        limiter = AdaptiveLimiter(100, fake.clock())

        async def rounds(number: int, *, overloaded: bool) -> int:
            peak = 0
            for _ in range(number):
                permits = []
                while limiter.in_flight < limiter.window:
                    permits.append(await permitted(limiter))
                    permits[-1].update(200, None)
                peak = len(permits)
                for permit in permits:
                    permit.release(overloaded=overloaded)
            return peak

        assert await rounds(1, overloaded=False) == 100
        assert await rounds(20, overloaded=True) == 1
        assert await rounds(8, overloaded=False) == 100


class TestWindow:
    """How many requests may be in flight, by how well the server copes."""

    @pytest.mark.parametrize("retries", [0, 1, 2])
    def test_calls_that_fail_again_and_again_are_no_overload(self, retries: int):
        """One failing id in twenty, and all of its repeats, leave the window as it is."""
        window = Window(100)
        for number in range(1_000):
            bad = number % 20 == 0
            for attempt in range(1 + retries * bad):
                window.count(overloaded=bad, is_retry=attempt > 0)
        assert window.size == 100

    def test_an_outage_in_which_only_retries_are_left_narrows_the_window(self):
        """If hardly any first attempts are made, the retries show that the server is overloaded."""
        window = Window(100)
        for _ in range(500):
            window.count(overloaded=True, is_retry=True)
        assert window.size < 10

    @pytest.mark.parametrize(("first_attempts", "size"), [(20, 100), (19, 70)])
    def test_first_attempts_decide_while_they_are_a_fifth_of_a_round(
        self, first_attempts: int, size: float
    ):
        """Otherwise retries count beside them."""
        window = Window(100)
        for number in range(100):
            is_retry = number >= first_attempts
            window.count(overloaded=is_retry, is_retry=is_retry)
        assert window.size == size

    def test_the_window_grows_back_to_where_trouble_began_and_slowly_from_there(self):
        """A round in which only some responses are late shows how much the server can cope with."""
        window = Window(64)
        sizes = []
        for overloaded_part in (0.5, 1, 0, 0, 0):
            responses = math.ceil(window.size)
            for number in range(responses):
                window.count(overloaded=number < overloaded_part * responses, is_retry=False)
            sizes.append(window.size)
        assert sizes == pytest.approx([44.8, 31.36, 44.8, 46.8, 48.8])

    def test_retries_that_succeed_are_no_overload(self):
        """If only retries are made and all succeed, the window stays as wide as it is."""
        window = Window(10)
        for _ in range(50):
            window.count(overloaded=False, is_retry=True)
        assert window.size == 10


Rule = Callable[[float], tuple[int, dict[str, str]]]


def counted(limit: Limit) -> Rule:
    """Count each request against a limit."""

    def answer(now: float) -> tuple[int, dict[str, str]]:
        allowed = limit.allows(now)
        limit.used += allowed
        return (200 if allowed else 429), limit.headers(now)

    return answer


QUOTAS = [
    (*limit, rounding)
    for limit in [(50, 1, 450), (50, 2, 300), (100, 10, 300)]
    for rounding in ["floor", "ceil", "exact"]
]
CLIENTS = [1, 3]
# In the sample, each limit and each rounding meets both numbers of clients.
QUOTA_CASES = [
    *(itertools.product(QUOTAS, CLIENTS) if THOROUGH else zip(QUOTAS, itertools.cycle(CLIENTS)))
]


class TestInVirtualTime:
    """Whole clients against a server that answers by rule, in time that passes by itself."""

    @staticmethod
    def gathered(rule: Rule, *, calls: int, clients: int = 1) -> tuple[float, int]:
        """Seconds that concurrent calls take altogether, and how many requests are refused."""
        server = virtual.Server(latency=0.01, jitter=0.002, rule=rule)

        async def main() -> float:
            await asyncio.sleep(-virtual.EPOCH % 60)
            began = virtual.now()
            labs = [server.client() for _ in range(clients)]
            await asyncio.gather(
                *(lab.runs.get(1) for lab in labs for _ in range(calls // clients))
            )
            return virtual.now() - began

        return virtual.run(main()), server.by_status[429]

    @pytest.mark.parametrize(("quota", "clients"), QUOTA_CASES)
    def test_a_quota_is_used_up_in_every_period(
        self, quota: tuple[int, int, int, str], clients: int
    ):
        """However the server rounds, the time is within 1.3 of the ideal, few are refused."""
        limit, period, calls, rounding = quota
        server = Limit(limit, period, rounding=rounding)

        seconds, refused = self.gathered(counted(server), calls=calls, clients=clients)
        assert seconds <= 1.3 * (calls / limit - 1) * period
        assert refused <= 0.1 * calls

    @pytest.mark.parametrize(("processes", "refused"), [(1, 0), (2, 3), (4, 9), (8, 21)])
    def test_equal_processes_share_a_quota(self, processes: int, refused: int):
        """At the end of each period all but one process send one request too many, no more.

        400 requests fit into four periods, of which the first three are used up.
        """
        seconds, actual = self.gathered(counted(Limit(100, 10)), calls=400, clients=processes)
        assert seconds <= 1.05 * 30
        assert actual <= refused

    @pytest.mark.parametrize(("interval", "least", "most"), [(0.0, 0.85, 0.95), (1 / 7, 0.0, 0.0)])
    def test_a_steady_neighbor(self, interval: float, least: float, most: float):
        """It is refused once a period is used up, but not if requests are spaced to leave it room.

        It sends a quarter of the quota, evenly; the client makes calls for ten periods.
        """
        limit, refusals = Limit(100, 10), list[bool]()
        answer = counted(limit)
        server = virtual.Server(latency=0.02, jitter=0.002, rule=answer)

        async def neighbor() -> None:
            while True:
                status, _ = answer(virtual.EPOCH + virtual.now())
                refusals.append(status == 429)
                await asyncio.sleep(0.4)

        async def main() -> None:
            await asyncio.sleep(-virtual.EPOCH % 60)
            lab, task = server.client(), asyncio.create_task(neighbor())
            calls: list[asyncio.Task[Any]] = []
            while len(refusals) < 250 and len(calls) < 1_000:
                calls.append(asyncio.create_task(lab.runs.get(1)))
                await asyncio.sleep(interval)
            await asyncio.gather(*calls)
            task.cancel()

        virtual.run(main())
        assert least <= sum(refusals) / len(refusals) <= most

    @pytest.mark.parametrize(
        "headers",
        [
            {"x-ratelimit-reset": "0"},
            {"retry-after": "0"},
            {"x-ratelimit-reset": "0", "x-ratelimit-period": "10", "x-ratelimit-remaining": "0"},
        ],
    )
    def test_a_burst_of_refusals_without_a_time_stops_the_client_for_a_second(
        self, headers: dict[str, str]
    ):
        """A second of 429s that name 0 seconds costs about a second, not one per refusal."""
        began: list[float] = []

        def answer(now: float) -> tuple[int, dict[str, str]]:
            began.append(now)
            refused = 0.05 <= now - began[0] < 1.0
            return (429, headers) if refused else (200, {})

        seconds, _ = self.gathered(answer, calls=400)
        assert seconds <= 1.5

    def test_a_limit_may_change_its_name_during_a_pause(self):
        """The old limit's pause is waited out, and then forgotten."""
        old = Limit(100, 1, name="old")
        new = Limit(100_000, 10, name="new")
        until: list[float] = []

        def answer(now: float) -> tuple[int, dict[str, str]]:
            until.append(now + 1)
            limit = old if now < until[0] else new
            allowed = limit.allows(now)
            limit.used += allowed
            return (200 if allowed else 429), limit.headers(now)

        seconds, refused = self.gathered(answer, calls=2_000)
        assert seconds <= 1.3 * 1.4
        assert refused <= 10

    @pytest.mark.parametrize("tightest_only", [True, False])
    def test_one_operation_may_count_against_two_limits(self, tightest_only: bool):
        """Both are kept, whichever of them a response describes."""
        limits = [Limit(20, 1, name="burst"), Limit(100, 10, name="sustained")]
        answers = 0

        def answer(now: float) -> tuple[int, dict[str, str]]:
            nonlocal answers
            answers += 1
            for limit in reversed(limits):
                if not limit.allows(now):
                    return 429, limit.headers(now)
            for limit in limits:
                limit.used += 1
            tightest = min(limits, key=lambda limit: limit.limit - limit.used)
            told = tightest if tightest_only else limits[answers % 2]
            return 200, told.headers(now)

        seconds, refused = self.gathered(answer, calls=300)
        assert seconds <= 1.3 * 24
        assert refused <= 20


class TestOverASocket:
    """The same with a client, a server, and time that passes when it is waited for."""

    async def test_many_tasks_behind_one_429_make_one_pause(self, sim: Simulator, fake: FakeClock):
        """All tasks of a limit pause once, until the time named, and then all succeed."""
        sim.faults.next(Fault.rate_limited(reset="30"))
        pauses: list[Any] = []
        limiter = AdaptiveLimiter(100, fake.clock(), pauses.append)
        fake.busy = lambda: limiter.in_flight > 0
        async with client_for(sim, clock=fake.clock(), limiter=limiter) as lab:
            runs = await asyncio.gather(*(lab.runs.get(sim.run_ids[n]) for n in range(400)))
            assert [run.id for run in runs] == list(sim.run_ids[:400])
            assert [pause.seconds for pause in pauses] == [30]
            assert lab.stats.rate_limited == 1
            assert 30 <= fake.now < 31
            assert lab.stats.attempts == 401 == sim.counts.requests

    async def test_nothing_is_sent_before_the_time_named(self, sim: Simulator, fake: FakeClock):
        """Between a 429 and its reset the server sees no request of that limit."""
        seen: list[float] = []
        sim.faults.matching("*", *[None] * 4, Fault.rate_limited(reset="30"))
        async with client_for(sim, clock=fake.clock(), max_concurrency=1) as lab:
            for number in range(8):
                await lab.runs.get(sim.run_ids[number])
                seen.append(fake.now)
        assert seen[3] == 0
        assert all(moment >= 30 for moment in seen[4:])

    async def test_a_quota_is_used_up_and_hardly_ever_overdrawn(self, fake: FakeClock):
        """Of 500 runs under 100 per 10 s, at most one request is refused, and no window is lost."""
        fake.now = 3.3
        fake.settle = 0.25  # time must not jump while answers are on their way
        limit = ServerLimit(100, 10, rounding="floor")
        limiter = AdaptiveLimiter(100, fake.clock())
        fake.busy = lambda: limiter.in_flight > 0
        async with (
            Simulator(runs=600, size="small", rate_limit=limit, clock=fake.time, record=0) as sim,
            client_for(sim, clock=fake.clock(), limiter=limiter) as lab,
        ):
            runs = await lab.runs.get_many(sim.run_ids[:500], route="single")
            assert len(runs) == 500
            assert lab.stats.rate_limited <= 1
            assert fake.now < 42.5  # windows end at 10, 20, 30 and 40
            assert lab.stats.rate_limit_wait_s > 30

    @pytest.mark.parametrize(
        "reset", ["7", "7, 7", "7.5", "0", "-1", "1779000007", "1e30", "soon", "", "nan", "9" * 400]
    )
    async def test_any_reset_gives_a_finite_wait(self, sim: Simulator, fake: FakeClock, reset: str):
        """Whatever the server says, the call waits for a while and then succeeds."""
        sim.faults.next(Fault.rate_limited(reset=reset), Fault.rate_limited(reset=reset))
        async with client_for(sim, clock=fake.clock()) as lab:
            run = await lab.runs.get(sim.run_ids[0])
            assert run.id == sim.run_ids[0]
            assert fake.now < 60
            if reset.startswith("7"):
                assert fake.now >= 14

    async def test_waiting_for_quota_is_bounded_by_choice(self, sim: Simulator, fake: FakeClock):
        """max_rate_limit_wait turns a longer wait into an immediate, clear error."""
        policy = RetryPolicy(max_rate_limit_wait=5)
        async with client_for(sim, clock=fake.clock(), retry=policy) as lab:
            sim.faults.next(Fault.rate_limited(reset="6"))
            with pytest.raises(RateLimitedError, match="max_rate_limit_wait"):
                await lab.runs.get(sim.run_ids[0])
            with pytest.raises(RateLimitedError, match=r"another 6\.0 s"):
                await lab.runs.get(sim.run_ids[1])  # asks nobody
            patient = lab.with_options(retry=RetryPolicy())
            assert (await patient.runs.get(sim.run_ids[2])).id == sim.run_ids[2]
            assert sim.counts.requests == 2

    async def test_a_hundred_thousand_tasks_wait_without_time_outs(self, fake: FakeClock):
        """Waiting for a place is not a slow server: the time-out starts after admission."""
        async with (
            Simulator(runs=50, record=0, latency=0.05) as sim,
            client_for(sim, timeout=1.0, max_concurrency=16, retry=RetryPolicy.none()) as lab,
        ):
            waiting = [lab.runs.get(sim.run_ids[0]) for _ in range(400)]
            runs = await asyncio.gather(*waiting)  # 25 rounds of 50 ms: longer than the time-out
            assert len(runs) == 400
            assert sim.counts.connections_made <= 16

    async def test_closing_the_client_ends_all_waiting(self, sim: Simulator, fake: FakeClock):
        """Tasks in the line are told that the client was closed."""
        sim.faults.next(Fault.rate_limited(reset="60"))
        slow = FakeClock()
        slow.settle = 60.0  # the pause never ends by itself
        lab = client_for(sim, clock=slow.clock())
        tasks = [asyncio.create_task(lab.runs.get(sim.run_ids[n])) for n in range(20)]
        while lab.stats.rate_limited == 0:
            await asyncio.sleep(0.001)
        await lab.aclose()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result).__name__ for result in results} <= {"ClientClosedError", "Run"}
        assert any(type(result).__name__ == "ClientClosedError" for result in results)

    async def test_streams_that_are_only_read_hold_up_no_call(self, sim: Simulator):
        """With as many streams open as there are places, a call inside each still succeeds."""
        sim.insert_run(5, project_id=9_080, artifacts={"big.bin": 5_000_000})
        async with client_for(sim, max_concurrency=2) as lab:
            root = (await lab.runs.artifacts(5)).path_in_project

            async def one() -> int:
                async with lab.artifacts.stream(9_080, f"{root}/big.bin") as body:
                    await anext(body)
                    return (await lab.runs.get(5)).id

            async with asyncio.timeout(PATIENCE):
                assert await asyncio.gather(*(one() for _ in range(6))) == [5] * 6

    async def test_bulk_work_waits_out_a_pause_longer_than_the_deadline(
        self, sim: Simulator, fake: FakeClock, caplog: pytest.LogCaptureFixture
    ):
        """An hour's pause is waited for by a fetch, a listing and get_many, and told beforehand."""
        told: list[Any] = []
        hooks = SimpleNamespace(on_pause=told.append)
        caplog.set_level("INFO", "modellab_async")
        async with client_for(sim, clock=fake.clock(), hooks=hooks) as lab:
            sim.faults.next(Fault.rate_limited(reset="3600"))
            outcomes = [outcome async for outcome in lab.runs.fetch(sim.run_ids[:200])]
            assert all(outcome.ok for outcome in outcomes)
            sim.faults.next(Fault.rate_limited(reset="3600"))
            assert len((await lab.runs.list()).items) == 25
        assert 7_200 <= fake.now < 7_210
        assert [round(pause.seconds) for pause in told] == [3600, 3600]
        assert told[0].operation == "runs.list"
        assert told[0].until == pytest.approx(fake.time() - fake.now + 3600, abs=1)
        assert "waits for quota until 2026-" in caplog.text

    async def test_a_single_call_does_not_wait_longer_than_its_deadline(
        self, sim: Simulator, fake: FakeClock
    ):
        """It fails at once, with the reset in its error."""
        sim.faults.next(Fault.rate_limited(reset="3600"))
        async with client_for(sim, clock=fake.clock()) as lab:
            with pytest.raises(RateLimitedError, match=r"another 3600\.0 s") as caught:
                await lab.runs.get(sim.run_ids[0])
        assert caught.value.reset == 3600
        assert fake.now == 0

    async def test_a_limiter_of_the_users_own_decides(self, sim: Simulator):
        """Every attempt of every view and resource asks the limiter that was given."""
        asked: list[str] = []

        class OneAtATime:
            max_concurrency = 1
            paused_seconds = 0.0

            def __init__(self) -> None:
                self._lock = asyncio.Lock()

            async def acquire(self, request: PermitRequest) -> Any:
                asked.append(request.operation)
                await self._lock.acquire()
                return self

            def update(self, status: int, rate_limit: RateLimit | None) -> None:
                assert status == 200

            def release(self, *, overloaded: bool | None = None) -> None:
                self._lock.release()

            def close(self, error: Exception) -> None:
                pass

        async with client_for(sim, limiter=OneAtATime()) as lab:
            await lab.with_options(timeout=5).runs.get(sim.run_ids[0])
            await lab.runs.get_many(sim.run_ids[:250], route="single")
            await lab.runs.list()
        assert asked == ["runs.get"] * 251 + ["runs.list"]

    def test_a_limiter_and_a_maximum_exclude_each_other(self, sim: Simulator):
        """A limiter has a maximum of its own, so that giving both is refused."""
        limiter = AdaptiveLimiter(3, FakeClock().clock())
        with pytest.raises(ConfigError, match="limiter"):
            ModelLabClient(api_key="a" * 32, app_key="b" * 40, limiter=limiter, max_concurrency=3)

    @pytest.mark.virtual_time
    async def test_a_retry_past_its_deadline_is_not_sent(self, sim: Simulator):
        """Calls that queue for a place while the server stalls all end by their deadline."""
        sim.faults.always(Fault.stall())
        policy = RetryPolicy(deadline=0.5, base=0.01)
        async with client_for(
            sim, max_concurrency=2, timeout=0.3, retry=policy, clock=virtual.clock()
        ) as lab:
            async with asyncio.timeout(PATIENCE):
                results = await asyncio.gather(
                    *(lab.runs.get(sim.run_ids[n]) for n in range(6)), return_exceptions=True
                )
        assert {type(result).__name__ for result in results} == {"RequestTimeoutError"}
