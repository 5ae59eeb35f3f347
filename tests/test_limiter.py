"""Who may send a request now: concurrency, the server's quota, and what both learn from answers."""

from __future__ import annotations

import asyncio

import pytest
from conftest import FakeClock, client_for, settled
from hypothesis import given, settings
from hypothesis import strategies as st
from modellab_async.quota import OPENING, Quota

from modellab_async import RateLimit, RateLimitedError, RetryPolicy
from modellab_async.limiter import Limiter, QuotaWaitError
from modellab_async.simulator import Fault, Simulator
from modellab_async.simulator import RateLimit as ServerLimit


def said(
    remaining: int | None, reset: float | None, *, period: float | None = 10.0, name: str = "x"
) -> RateLimit:
    return RateLimit(name=name, limit=100, period=period, remaining=remaining, reset=reset)


def answered(quota: Quota, limit: RateLimit | None, *, now: float, status: int = 200) -> None:
    quota.learn(status, limit, now=now, jitter=lambda: 0.5)


class TestQuota:
    """The pure part: what the headers of answers say of a period."""

    def test_an_unknown_quota_opens_with_few_and_then_costs_nothing(self):
        """Until the first good answer only a few may be in flight; without headers, no bound."""
        quota = Quota()
        quota.in_flight = OPENING - 1
        assert quota.admits(0)
        quota.in_flight = OPENING
        assert not quota.admits(0)
        answered(quota, None, now=0)
        quota.in_flight = 100_000
        assert quota.admits(0)

    @pytest.mark.parametrize("status", [401, 403, 500, 503])
    def test_a_bad_first_answer_opens_nothing(self, status):
        """Neither a refusal nor a server's failure shows that more requests make sense."""
        quota = Quota()
        answered(quota, None, now=0, status=status)
        quota.in_flight = OPENING
        assert not quota.admits(0)

    def test_no_more_are_in_flight_than_remain(self):
        """What is in flight is counted against what the last answer said remained."""
        quota = Quota()
        answered(quota, said(3, 7), now=0)
        quota.in_flight = 2
        assert quota.admits(0)
        quota.in_flight = 3
        assert not quota.admits(0)
        assert quota.closed(0)

    def test_nothing_remaining_on_a_200_closes_until_the_reset(self):
        """A 200 that says 0 remain is as good as a 429."""
        quota = Quota()
        answered(quota, said(0, 7), now=100)
        assert not quota.admits(106.99)
        assert quota.admits(107)

    def test_a_new_period_opens_with_one_probe(self):
        """After a pause one request goes out, and its answer opens the way for more."""
        quota = Quota()
        answered(quota, said(0, 7), now=0)
        assert quota.admits(7)
        quota.in_flight = 1
        assert not quota.admits(7)
        answered(quota, said(9, 10), now=7.1)
        quota.in_flight = 0
        assert [quota_in_flight(quota, n) for n in (0, 1, 2)] == [True, True, False]

    def test_a_straggler_does_not_hold_up_the_probe(self):
        """A request that is still on its way from the last period does not block the next."""
        quota = Quota()
        quota.in_flight = 1
        answered(quota, said(0, 7), now=0)
        assert quota.admits(7)

    def test_late_answers_do_not_bring_quota_back(self):
        """Answers of one period arrive in any order; the smallest remainder counts."""
        quota = Quota()
        for remaining in (50, 48, 49):
            answered(quota, said(remaining, 7), now=0)
        quota.in_flight = 47
        assert not quota.closed(0)
        quota.in_flight = 48
        assert quota.closed(0)

    def test_an_answer_of_the_last_period_is_ignored_in_the_next(self):
        """A late answer that names an end long past says nothing of this period."""
        quota = Quota()
        answered(quota, said(80, 10), now=10)
        answered(quota, said(0, 0), now=10.2)
        assert quota.admits(10.2)

    def test_a_period_that_turned_is_counted_anew(self):
        """More remaining and a later end: the next period has begun."""
        quota = Quota()
        answered(quota, said(1, 1), now=9)
        answered(quota, said(99, 10), now=10)
        quota.in_flight = 98
        assert not quota.closed(10)

    def test_the_latest_named_time_is_waited_for_while_rounding_is_unknown(self):
        """No attempt is made before any time that the server named."""
        quota = Quota()
        answered(quota, said(1, 7), now=0)
        answered(quota, said(0, 7), now=0.9)
        assert quota.opens_at == pytest.approx(7.9)

    def test_a_probe_that_came_too_early_teaches_that_times_are_rounded_down(self):
        """After one 429 on a probe, a full second is allowed for the rounding."""
        quota = Quota()
        answered(quota, said(0, 7), now=0)
        assert quota.admits(7)
        quota.in_flight = 1
        answered(quota, said(0, 0), now=7.05, status=429)
        quota.in_flight = 0
        assert quota.opens_at == pytest.approx(8.0, abs=0.06)

    def test_a_probe_that_finds_a_whole_period_teaches_that_times_are_rounded_up(self):
        """Then the earliest time named in a period is the truest."""
        quota = Quota()
        answered(quota, said(0, 7), now=0)
        assert quota.admits(7)
        answered(quota, said(99, 10), now=7.1)
        answered(quota, said(0, 10), now=7.9)
        assert quota.opens_at == pytest.approx(17.1)

    def test_refusals_that_name_no_time_are_asked_less_and_less_often(self):
        """Each blind pause is longer than the last, up to a minute, and jittered."""
        quota = Quota()
        now, pauses = 0.0, []
        for _ in range(10):
            answered(quota, None, now=now, status=429)
            pauses.append(quota.opens_at - now)
            now = quota.opens_at
            assert quota.admits(now)
        assert pauses[0] == pytest.approx(0.375)
        assert pauses == sorted(pauses)
        assert pauses[-1] <= 60

    def test_one_or_two_429s_that_name_no_time_are_let_pass_amid_good_answers(self):
        """Only the third without a good answer between closes; those of one pause count once."""
        quota = Quota()
        for _ in range(3):
            answered(quota, None, now=0)
            answered(quota, None, now=0, status=429)
            answered(quota, None, now=0, status=429)
            assert quota.admits(0)
        answered(quota, None, now=0, status=429)
        assert not quota.admits(0)
        opens_at = quota.opens_at
        for _ in range(50):
            answered(quota, None, now=0.01, status=429)
        assert quota.opens_at == opens_at

    def test_what_others_use_is_left_to_them(self):
        """Where every fourth of the requests counted is ours, part of our quarter is in flight."""
        quota = Quota()
        for remaining in range(99, 19, -4):
            answered(quota, said(remaining, 7), now=0)
        quota.in_flight = 2
        assert quota.admits(0)
        quota.in_flight = 3
        assert not quota.admits(0)
        answered(quota, said(2, 7), now=0)
        quota.in_flight = 0
        assert not quota.admits(0)

    def test_alone_every_request_of_a_period_is_used(self):
        """Answers that explain all that was used, in whatever order, leave the last one to us."""
        quota = Quota()
        for remaining in (99, 96, 98, 97, *range(95, 0, -1)):
            answered(quota, said(remaining, 7), now=0)
        assert quota.admits(0)
        answered(quota, said(0, 7), now=0)
        assert not quota.admits(0)

    def test_requests_used_before_our_first_are_no_sign_of_others(self):
        """A period that was nearly used up before we came is ours for the rest."""
        quota = Quota()
        for remaining in (9, 8, 7):
            answered(quota, said(remaining, 7), now=0)
        quota.in_flight = 6
        assert quota.admits(0)

    def test_a_429_closes_whatever_its_headers_claim(self):
        """A refusal with quota left is still a refusal."""
        quota = Quota()
        answered(quota, said(50, 7), now=0, status=429)
        assert not quota.admits(6)

    def test_a_429_that_names_an_earlier_time_is_believed(self):
        """The last word of the server counts, not an end that it named before."""
        quota = Quota()
        answered(quota, said(50, 60, period=60), now=0)
        answered(quota, said(0, 2), now=1, status=429)
        assert quota.opens_at == pytest.approx(3)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from([200, 404, 429, 500, 503]),
                st.one_of(
                    st.none(),
                    st.builds(
                        RateLimit,
                        remaining=st.one_of(st.none(), st.integers(0, 1000)),
                        reset=st.one_of(st.none(), st.floats(0, 86_400)),
                        period=st.one_of(st.none(), st.floats(0.1, 86_400)),
                    ),
                ),
                st.floats(0, 100),
            ),
            max_size=30,
        )
    )
    @settings(max_examples=200, deadline=None)
    def test_whatever_is_said_a_quota_opens_again(self, answers):
        """No sequence of answers closes a quota for longer than a day and a second."""
        quota, now = Quota(), 0.0
        for status, limit, pause in answers:
            now += pause
            quota.learn(status, limit, now=now, jitter=lambda: 0.5)
            assert quota.opens_at <= now + 86_402
            assert quota.admits(now + 86_403)


def quota_in_flight(quota: Quota, in_flight: int) -> bool:
    quota.in_flight = in_flight
    return quota.admits(7.1)


class TestLimiter:
    """The gate that tasks wait at."""

    async def test_no_more_than_the_cap_are_in_flight(self, fake: FakeClock):
        """The cap holds, and each place given back lets in the next in line."""
        limiter = Limiter(3, fake.clock())
        order: list[int] = []

        async def one(number: int) -> None:
            quota = await limiter.enter("op")
            order.append(number)
            assert limiter.in_flight <= 3
            await asyncio.sleep(0)
            limiter.leave(quota)

        await asyncio.gather(*(one(number) for number in range(50)))
        assert order == list(range(50))
        assert limiter.in_flight == 0

    async def test_a_retry_goes_before_those_who_never_tried(self, fake: FakeClock):
        """A retry keeps its place ahead of first attempts."""
        limiter = Limiter(1, fake.clock())
        place = await limiter.enter("op")
        order: list[str] = []

        async def wait(name: str, *, again: bool) -> None:
            quota = await limiter.enter("op", again=again)
            order.append(name)
            limiter.leave(quota)

        tasks = [asyncio.create_task(wait("first", again=False))]
        await settled(1)
        tasks.append(asyncio.create_task(wait("retry", again=True)))
        await settled(1)
        limiter.leave(place)
        await asyncio.gather(*tasks)
        assert order == ["retry", "first"]

    async def test_a_cancelled_waiter_leaves_its_place_to_the_next(self, fake: FakeClock):
        """Cancelling in the line, or in the moment of being let in, loses no place."""
        limiter = Limiter(1, fake.clock())
        place = await limiter.enter("op")
        in_line = asyncio.create_task(limiter.enter("op"))
        let_in = asyncio.create_task(limiter.enter("op"))
        last = asyncio.create_task(limiter.enter("op"))
        await settled(1)
        in_line.cancel()
        await settled(1)
        limiter.leave(place)
        let_in.cancel()
        limiter.leave(await last)
        assert limiter.in_flight == 0
        assert in_line.cancelled()
        assert let_in.cancelled()

    async def test_one_operation_does_not_starve_another(self, fake: FakeClock):
        """Operations that wait take turns."""
        limiter = Limiter(1, fake.clock())
        place = await limiter.enter("many")
        order: list[str] = []

        async def one(operation: str) -> None:
            quota = await limiter.enter(operation)
            order.append(operation)
            limiter.leave(quota)

        tasks = [asyncio.create_task(one("many")) for _ in range(10)]
        tasks.append(asyncio.create_task(one("lone")))
        await settled(1)
        limiter.leave(place)
        await asyncio.gather(*tasks)
        assert order.index("lone") <= 2

    async def test_operations_of_one_limit_pause_together(self, fake: FakeClock):
        """Operations whose answers carry the same limit's name share what is left of it."""
        limiter = Limiter(10, fake.clock())
        for operation in ("one", "other"):
            quota = await limiter.enter(operation)
            limiter.learn(operation, 200, said(5, 7, name="shared"))
            limiter.leave(quota)
        quota = await limiter.enter("one")
        limiter.learn("one", 429, said(0, 7, name="shared"))
        limiter.leave(quota)
        with pytest.raises(QuotaWaitError):
            await limiter.enter("other", longest_pause=1)
        unrelated = await limiter.enter("unrelated", longest_pause=1)
        limiter.leave(unrelated)

    async def test_those_who_cannot_wait_so_long_are_told_at_once(self, fake: FakeClock):
        """A pause that is too long for a call ends its waiting when the pause begins."""
        limiter = Limiter(1, fake.clock())
        place = await limiter.enter("op")
        impatient = asyncio.create_task(limiter.enter("op", longest_pause=5))
        patient = asyncio.create_task(limiter.enter("op", longest_pause=50))
        await settled(1)
        limiter.learn("op", 429, said(0, 7))
        limiter.leave(place)
        with pytest.raises(QuotaWaitError) as caught:
            await impatient
        assert caught.value.seconds == pytest.approx(7)
        limiter.leave(await patient)
        assert 7 <= fake.now < 7.1

    async def test_the_window_narrows_under_overload_and_recovers(self, fake: FakeClock):
        """After rounds of 503 hardly anything is let out; after good answers all is again."""
        limiter = Limiter(100, fake.clock())

        async def rounds(number: int, *, overloaded: bool) -> int:
            peak = 0
            for _ in range(number):
                places = []
                while limiter.in_flight < limiter.window:
                    places.append(await limiter.enter("op"))
                    limiter.learn("op", 200, None)
                peak = len(places)
                for place in places:
                    limiter.leave(place, overloaded=overloaded)
            return peak

        assert await rounds(1, overloaded=False) == 100
        assert await rounds(20, overloaded=True) == 1
        assert await rounds(8, overloaded=False) == 100

    async def test_a_sprinkle_of_503_is_no_overload(self, fake: FakeClock):
        """One failure in twenty leaves the window wide."""
        limiter = Limiter(100, fake.clock())
        for number in range(1_000):
            place = await limiter.enter("op")
            limiter.learn("op", 200, None)
            limiter.leave(place, overloaded=number % 20 == 0)
        assert limiter.window == 100


class TestOverASocket:
    """The same with a client, a server, and time that passes when it is waited for."""

    async def test_a_thousand_tasks_behind_one_429_make_one_pause(
        self, sim: Simulator, fake: FakeClock
    ):
        """All tasks of a limit pause once, until the time named, and then all succeed."""
        sim.faults.next(Fault.rate_limited(reset="30"))
        async with client_for(sim, clock=fake.clock()) as lab:
            runs = await asyncio.gather(*(lab.runs.get(sim.run_ids[n]) for n in range(1_000)))
            assert [run.id for run in runs] == list(sim.run_ids[:1_000])
            assert lab._limiter.pauses == 1
            assert lab.stats.rate_limited == 1
            assert 30 <= fake.now < 31
            assert lab.stats.attempts == 1_001 == sim.counts.requests

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

    @pytest.mark.parametrize("rounding", ["floor", "ceil"])
    async def test_a_quota_is_used_up_and_hardly_ever_overdrawn(
        self, fake: FakeClock, rounding: str
    ):
        """Of 500 runs under 100 per 10 s, at most one request is refused, and no window is lost."""
        fake.now = 3.3
        fake.settle = 0.25  # time must not jump while answers are on their way
        limit = ServerLimit(100, 10, rounding=rounding)  # type: ignore[arg-type]
        async with (
            Simulator(runs=600, rate_limit=limit, clock=fake.time, record=0) as sim,
            client_for(sim, clock=fake.clock()) as lab,
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

    async def test_a_body_that_streams_does_not_hold_up_the_others(self, sim: Simulator):
        """An answer's headers open the way, though its place is kept until its body is read."""
        sim.insert_run(5, project_id=9_080, artifacts={"big.bin": 50_000_000, "a.txt": b"a"})
        async with client_for(sim) as lab:
            root = (await lab.runs.artifacts(5)).path_in_project
            lab._limiter._quotas["artifacts.content"] = quota = Quota()
            lab._limiter._queues[quota] = type(next(iter(lab._limiter._queues.values())))()
            quota._allowed = 1
            async with lab.artifacts.stream(9_080, f"{root}/big.bin") as body:
                await anext(body)
                async with asyncio.timeout(5):
                    assert await lab.artifacts.read(9_080, f"{root}/a.txt") == b"a"

    async def test_a_retry_past_its_deadline_is_not_sent(self, sim: Simulator):
        """Calls that queue for a place while the server stalls all end by their deadline."""
        sim.faults.always(Fault.stall())
        policy = RetryPolicy(deadline=0.5, base=0.01)
        async with client_for(sim, max_concurrency=2, timeout=0.3, retry=policy) as lab:
            async with asyncio.timeout(10):
                results = await asyncio.gather(
                    *(lab.runs.get(sim.run_ids[n]) for n in range(6)), return_exceptions=True
                )
        assert {type(result).__name__ for result in results} == {"RequestTimeoutError"}
